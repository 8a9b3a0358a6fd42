"""What the client is told when there is time: tasks that run or whose output is staged, services that are ready, what its
user should know, and, if it asked for that, how busy the pilot is.

Messages of progress are plain ones, which may be lost with a connection. So what holds on (tasks that run, or whose output is
staged, services, a lack of room) is told again after each hello; for the load a client asks again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable

from pilotage.agent.client_link import ClientLink
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.partitions import Load
from pilotage.wire.messages import Progress as ProgressMessage

PROGRESS_S = 0.05
"""What is new is made known after this time, all together; tasks that have ended by then are left out."""

NOTICES_KEPT = 20
"""What the user should know is kept until a client is there, the last of it."""

Started = list[tuple[TaskUid, Binding, Attempt, float]]
Unloading = list[tuple[TaskUid, Binding, Attempt]]
Ready = list[tuple[TaskUid, Binding, Attempt, str]]


class News(ABC):
    """Collects what is new; ``tell`` is due at ``due``. ``load`` returns how busy the pilot is."""

    def __init__(self, link: ClientLink, load: Callable[[], Load]) -> None:
        self._link = link
        self._load = load
        self._load_every_s = 0.0
        self._load_told: Load | None = None
        self._load_told_at = 0.0
        self._load_due: float | None = None
        self._news_due: float | None = None
        self._lasting = ""
        self._notices: list[str] = []

    @abstractmethod
    def _hold_again(self) -> bool:
        """Collect all that holds on, for a client that may have missed it; tell whether there is anything."""

    @abstractmethod
    def _take(self) -> tuple[Started, Ready, Unloading]:
        """Return what was collected and still holds, and forget it."""

    @property
    def due(self) -> float | None:
        """When ``tell`` has something to tell (seconds since the epoch)."""
        if self._news_due is None or self._load_due is None:
            return self._news_due if self._load_due is None else self._load_due
        return min(self._news_due, self._load_due)

    def ask_load(self, every_s: float) -> None:
        """The client wants to know the load: now, and, unless this is 0.0, when it has changed, ``every_s`` at the most."""
        self._load_every_s = every_s
        self._load_told = None
        self._load_due = time.time()

    def changed(self) -> None:
        """Something has happened; the load may be another one now."""
        if self._load_every_s and self._load_due is None:
            self._load_due = self._load_told_at + self._load_every_s

    def notice(self, text: str, *, lasting: bool) -> None:
        """Let the user know; what is ``lasting`` is told to each client that comes, until there is another notice."""
        if text not in self._notices:
            self._notices = [*self._notices, text][-NOTICES_KEPT:]
        self._lasting = text if lasting else ""
        self._want()

    def greeted(self) -> None:
        """A client said hello: it may have missed what was told, and has not asked for the load."""
        self._load_every_s, self._load_due = 0.0, None
        if self._lasting and not self._notices:
            self._notices = [self._lasting]
        if self._hold_again() or self._notices:
            self._want()

    def tell(self) -> None:
        """Tell what is new, if a client is there."""
        self._news_due = None
        started, ready, unloading = self._take()
        notices: list[str] = []
        if self._link.connected:
            notices, self._notices = self._notices, []
        load = self._new_load()
        first = notices.pop(0) if notices else ""
        if started or ready or first or unloading or load is not None:
            self._link.send(ProgressMessage(started, ready, first, unloading, load))
        for notice in notices:
            self._link.send(ProgressMessage([], notice=notice))

    def _new_load(self) -> Load | None:
        """Return the load, if it is time to tell it and it is another one than was told last."""
        now = time.time()
        if self._load_due is None or now < self._load_due:
            return None
        self._load_due, self._load_told_at = None, now
        load = self._load()
        if load == self._load_told:
            return None
        self._load_told = load
        return load

    def _want(self) -> None:
        if self._news_due is None:
            self._news_due = time.time() + PROGRESS_S


class Progress(News):
    """What is new of tasks that run here, as the agent's core knows them."""

    def __init__(self, state: AgentState, link: ClientLink, load: Callable[[], Load]) -> None:
        super().__init__(link, load)
        self._state = state
        self._started: dict[TaskUid, None] = {}
        self._unloading: dict[TaskUid, None] = {}
        self._ready: dict[TaskUid, None] = {}

    def tasks_started(self, tasks: Iterable[TaskUid]) -> None:
        """These run."""
        self._started.update(dict.fromkeys(tasks))
        self._want()

    def outputs_begun(self, tasks: Iterable[TaskUid]) -> None:
        """The output of these is staged from now on."""
        self._unloading.update(dict.fromkeys(tasks))
        if self._unloading:
            self._want()

    def service_ready(self, service: TaskUid) -> None:
        """This one is ready."""
        self._ready[service] = None
        self._want()

    def _hold_again(self) -> bool:
        for lane in self._state.lanes.values():
            self._started.update(lane.tasks)
        self._unloading.update(dict.fromkeys(self._state.outputs))
        self._ready.update(dict.fromkeys(self._state.services))
        return bool(self._started or self._unloading or self._ready)

    def _take(self) -> tuple[Started, Ready, Unloading]:
        tasks, outputs = self._state.tasks, self._state.outputs
        started = [
            (uid, tasks[uid].binding, tasks[uid].attempt, tasks[uid].started)
            for uid in self._started
            if uid in tasks and tasks[uid].started and uid not in outputs
        ]
        unloading = [
            (uid, tasks[uid].binding, tasks[uid].attempt)
            for uid in self._unloading
            if uid in outputs and (extra := tasks[uid].row.extra) is not None and extra.output_staging
        ]
        ready = [
            (uid, tasks[uid].binding, tasks[uid].attempt, info)
            for uid in self._ready
            if (info := self._state.services.get(uid)) is not None and uid in tasks
        ]
        self._started.clear()
        self._unloading.clear()
        self._ready.clear()
        return started, ready, unloading
