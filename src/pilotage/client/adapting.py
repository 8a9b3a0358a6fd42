"""Campaigns that follow what is free: a callback is asked for more tasks when something is idle, or too few are left.

The engine has each ``Adaptation`` look after every turn, with its lock; looking costs a few sums over pilots. When more tasks
are wanted the callback is called on the thread of all callbacks, where it may submit and cancel like any other, and what it
returns is submitted there. It is called again no sooner than ``every_s`` later; as long as it gives tasks it is called more
often to keep the floor.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pilotage.client.callbacks import Errand
from pilotage.client.loads import Loads
from pilotage.client.managers import require_timeout
from pilotage.client.resources import Resources, are_idle, resources_of
from pilotage.core.client.binding import usable_pilots
from pilotage.core.client.state import ManagerRecord, TaskRecord
from pilotage.errors import InvalidRequest, SessionClosed
from pilotage.model.ids import TaskUid

if TYPE_CHECKING:
    from pilotage.client.task import Task
    from pilotage.client.task_manager import TaskManager

log = logging.getLogger("pilotage")

SHORTEST_PAUSE_S = 0.02
"""Between two calls for the floor; what ends at once would be asked for without a pause."""

LONGEST_PAUSE_S = 60.0
"""A callback that raises each time is called ever less often, down to this."""

_GOES_ON, _OVER = "GOES_ON", "OVER"


class Adaptation:
    """A campaign that is asked for more tasks, as ``TaskManager.adapt`` says; stops when that returns None, or by ``stop``."""

    def __init__(self, manager: TaskManager, more: Callable[[Resources], Any], floor: int, every_s: float) -> None:
        self._manager = manager
        self._engine = manager.session.engine
        self._more = more
        self._floor = floor
        self._every_s = every_s
        self._pause_s = every_s
        self._tasks: list[Task] = []
        self._unfinished: set[TaskUid] = set()
        self._is_called = False
        self._idle_from = self._floor_from = 0.0
        """Before these times it is not called as something is idle, or as tasks are missing."""
        self._due: float | None = None
        self.stopped = False
        """Whether it asks for no more tasks."""

    @property
    def tasks(self) -> list[Task]:
        """The tasks that were submitted for it so far."""
        return list(self._tasks)

    @property
    def unfinished(self) -> int:
        """How many of them are not final yet."""
        return len(self._unfinished)

    @property
    def state(self) -> str:
        """``OVER`` when it asks for no more tasks and all that it has are final; ``GOES_ON`` until then."""
        return _OVER if self.stopped and not self._unfinished and not self._is_called else _GOES_ON

    def stop(self) -> None:
        """Ask for no more tasks; those that were submitted go on."""
        with self._engine.lock:
            self._engine.adaptations.end(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it asks for no more tasks and all that it has are final; return False if that takes longer.

        Raises:
            WaitInCallback: called in a callback.
            SessionClosed: the session was closed meanwhile.
        """
        require_timeout(timeout)
        return self._engine.wait([self], frozenset((_OVER,)), timeout)

    def __repr__(self) -> str:
        return f"<Adaptation of {self._manager.uid}: {len(self._tasks)} tasks, {len(self._unfinished)} unfinished>"

    # with the engine's lock

    def note(self, records: Sequence[TaskRecord]) -> None:
        """These tasks have changed."""
        for record in records:
            if record.outcome is not None:
                self._unfinished.discard(record.row.uid)

    def look(self, now: float) -> None:
        """Have the callback called if more tasks are wanted now (``now``: of the monotonic clock)."""
        self._due = None
        if self.stopped or self._is_called:
            return
        begin = self._begin()
        if begin is None:
            return
        if now < begin:
            self._due = begin
            return
        self._is_called = True
        self._engine.dispatcher.put(Errand(self._call))

    def next_look(self) -> float | None:
        """Return when ``look`` is due even if nothing happens."""
        return self._due

    def _begin(self) -> float | None:
        """Return from when on more tasks are wanted; None if none are."""
        state, manager = self._engine.state, self._record()
        pilots = usable_pilots(state, manager)
        if pilots and len(self._unfinished) < self._floor:
            return self._floor_from
        return self._idle_from if are_idle(pilots, self._engine.loads.told, manager) else None

    def _record(self) -> ManagerRecord:
        return self._engine.state.managers[self._manager.uid]

    # on the thread of callbacks

    def _call(self) -> None:
        given = 0
        with self._engine.lock:
            manager = self._record()
            missing = max(0, self._floor - len(self._unfinished))
            pilots = usable_pilots(self._engine.state, manager)
            told = resources_of(self._engine.state, pilots, self._engine.loads.told, manager, missing)
            is_over = self.stopped
        try:
            described = None if is_over else self._more(told)
            is_over = described is None
            given = self._submit(described) if described is not None else 0
            self._pause_s = self._every_s
        except SessionClosed:
            is_over = True
        except Exception:  # the user's code may raise anything, and what it describes may be refused
            name = getattr(self._more, "__qualname__", repr(self._more))
            log.exception("callback %s raised; it is called again in %g s", name, self._pause_s)
            self._idle_from = self._floor_from = time.monotonic() + self._pause_s
            self._pause_s = max(self._every_s, min(2 * self._pause_s, LONGEST_PAUSE_S))
        else:
            now = time.monotonic()
            self._idle_from = now + self._every_s
            self._floor_from = now + min(SHORTEST_PAUSE_S, self._every_s) if given else self._idle_from
        with self._engine.lock:
            self._is_called = False
            if is_over:
                self._engine.adaptations.end(self)
            self._engine.look_again()

    def _submit(self, described: Any) -> int:
        found = self._manager.submit_tasks(described)
        tasks: list[Task] = found if isinstance(found, list) else [found]
        with self._engine.lock:
            records, before = self._engine.state.tasks, len(self._unfinished)
            self._tasks += tasks
            self._unfinished.update(TaskUid(task.uid) for task in tasks if records[TaskUid(task.uid)].outcome is None)
            return len(self._unfinished) - before


class Adaptations:
    """All that go on in a session. All calls are made with the engine's lock."""

    def __init__(self, loads: Loads, wake: Callable[[], None]) -> None:
        self._loads = loads
        self._wake = wake
        self._all: list[Adaptation] = []
        self._stopped: list[Adaptation] = []
        """Those that ask for no more tasks, and have unfinished ones."""

    def __bool__(self) -> bool:
        return bool(self._all or self._stopped)

    def begin(self, adaptation: Adaptation) -> None:
        """Let one go on."""
        self._all.append(adaptation)
        self._loads.follow(1)

    def end(self, adaptation: Adaptation) -> None:
        """Let one ask for no more; again does nothing."""
        if not adaptation.stopped:
            adaptation.stopped = True
            self._all.remove(adaptation)
            self._stopped.append(adaptation)
            self._loads.follow(-1)
            self._wake()

    def end_all(self) -> None:
        """The session ends."""
        for adaptation in list(self._all):
            self.end(adaptation)

    def note(self, records: Sequence[TaskRecord]) -> None:
        """These tasks have changed."""
        for adaptation in (*self._all, *self._stopped):
            adaptation.note(records)
        self._stopped = [adaptation for adaptation in self._stopped if adaptation.state != _OVER]

    def look(self, now: float) -> None:
        """Have the callbacks called of those that want more tasks now (``now``: of the monotonic clock)."""
        for adaptation in self._all:
            adaptation.look(now)

    def next_look(self) -> float | None:
        """Return when ``look`` is due even if nothing happens."""
        return min((due for adaptation in self._all if (due := adaptation.next_look()) is not None), default=None)


def require_adaptable(more: object, floor: object, every_s: object) -> None:
    """Raise ``InvalidRequest`` unless these can be what ``TaskManager.adapt`` is called with."""
    if not callable(more):
        raise InvalidRequest(f"adapt() takes something to call, not {more!r:.80} ({type(more).__name__})")
    if not isinstance(floor, int) or isinstance(floor, bool) or floor < 0:
        raise InvalidRequest(f"floor={floor!r}: it is a number of tasks, 0 or more; 0 asks only when something is idle")
    if not isinstance(every_s, (int, float)) or isinstance(every_s, bool) or not 0 < every_s < float("inf"):
        raise InvalidRequest(f"every_s={every_s!r}: it is a number of seconds, more than 0; the default is 1.0")
