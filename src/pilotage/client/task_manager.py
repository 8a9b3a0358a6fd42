"""``TaskManager``: submits tasks to its pilots and looks after them."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, overload

from pilotage.client.adapting import Adaptation, require_adaptable
from pilotage.client.callbacks import Callbacks, TaskNews, WaitingNews
from pilotage.client.constants import TASK_STATE, TMGR_METRICS, WAIT_QUEUE_SIZE
from pilotage.client.managers import Manager, chosen, listed, require_timeout
from pilotage.client.pilot import Pilot
from pilotage.client.resources import Resources, resources_of
from pilotage.client.task import Task
from pilotage.core.client import events
from pilotage.core.client.facts import ManagerKind, TaskScheduler
from pilotage.core.client.state import TaskRecord
from pilotage.errors import InvalidRequest, nearest
from pilotage.model.ids import Attempt, PilotUid, TaskUid, TemplateId
from pilotage.model.payload import Payload
from pilotage.model.resources import Node, Placement
from pilotage.model.states import FINAL
from pilotage.model.workload import Template

if TYPE_CHECKING:
    from pilotage.client.session import Session
    from pilotage.client.task_description import TaskDescription
    from pilotage.client.task_output import TaskOutput

SCHEDULERS: tuple[TaskScheduler, ...] = ("round_robin", "backfilling")

_READY = "READY"
_READY_OR_OVER = frozenset((_READY, *FINAL))


class _Service:
    """A service, as one waits for it to be ready."""

    def __init__(self, record: TaskRecord, info: Mapping[TaskUid, str]) -> None:
        self._record = record
        self._info = info

    @property
    def state(self) -> str:
        """Ready, or the state of the task."""
        return _READY if self._record.row.uid in self._info else self._record.state


class TaskManager(Manager):
    """Submits tasks to the pilots that were added to it, waits for them, and cancels them.

    ``scheduler`` says how it chooses pilots. ``round_robin``: each task is bound at once to the next pilot that can ever hold
    it, also to pilots that are not active yet. ``backfilling``: tasks wait here, and active pilots get as many as they can use
    soon, by what the tasks ask for. None: with one pilot tasks are bound to it at once, with several as ``backfilling``.

    Raises:
        InvalidRequest: there is no such scheduler; names the nearest one.
    """

    KIND: ManagerKind = "tasks"
    PREFIX = "tmgr"

    def __init__(self, session: Session, uid: str | None = None, scheduler: str | None = None, cfg: Any = None) -> None:
        del cfg
        if scheduler is not None and scheduler not in SCHEDULERS:
            known = ", ".join(SCHEDULERS)
            hint = nearest(str(scheduler), SCHEDULERS)
            raise InvalidRequest(f"there is no scheduler {scheduler!r:.60}{hint}; known are {known}")
        self.waiting_callbacks = Callbacks()
        super().__init__(session, uid, scheduler)

    @property
    def scheduler(self) -> str | None:
        """How it chooses pilots for tasks: ``round_robin``, ``backfilling`` or None."""
        return self._session.state.managers[self._uid].scheduler or None

    # pilots

    def add_pilots(self, pilots: Pilot | str | Iterable[Pilot | str]) -> None:
        """Let this manager use pilots; those that it has already are passed over.

        Raises:
            InvalidRequest: there is no such pilot in the session.
        """
        self._require_open()
        self._session.step(events.PilotsAttached(time.time(), self._uid, self._pilot_uids(pilots)))

    def remove_pilots(self, pilots: Pilot | str | Iterable[Pilot | str], drain: bool = False) -> None:
        """Give pilots no more tasks; they keep those that they have."""
        del drain
        self._require_open()
        self._session.step(events.PilotsDetached(time.time(), self._uid, self._pilot_uids(pilots)))

    def list_pilots(self) -> list[str]:
        """Return the uids of the pilots that this manager may use."""
        return list(self._session.state.managers[self._uid].pilots)

    def get_pilots(self) -> list[Pilot]:
        """Return handles of the pilots that this manager may use."""
        pilots = self._session.state.pilots
        return [self._session.get_pilot_managers(pilots[PilotUid(uid)].manager).get_pilots(uid) for uid in self.list_pilots()]

    def _pilot_uids(self, pilots: Pilot | str | Iterable[Pilot | str]) -> list[PilotUid]:
        given = [pilots] if isinstance(pilots, (Pilot, str)) else listed(pilots, "pilots are named by handles or uids (str)")
        known = self._session.state.pilots
        uids = []
        for one in given:
            uid = one.uid if isinstance(one, Pilot) else one
            if uid not in known or (isinstance(one, Pilot) and one.pmgr.session is not self._session):
                raise InvalidRequest(f"session {self._session.uid} has no pilot {uid!r}{nearest(str(uid), known)}")
            uids.append(PilotUid(uid))
        return uids

    # tasks

    @overload
    def submit_tasks(self, descriptions: TaskDescription | Mapping[str, Any]) -> Task: ...

    @overload
    def submit_tasks(self, descriptions: Iterable[TaskDescription | Mapping[str, Any]]) -> list[Task]: ...

    def submit_tasks(self, descriptions: Any) -> Any:
        """Submit tasks: a handle for one description (or dict), a list of handles for several.

        When it returns the tasks survive the death of this program. A list is accepted as a whole or not at all; a generator
        is read and accepted part by part. A known uid with the same description gives the existing task.

        Raises:
            InvalidTask: a description cannot be accepted; names the task, the value, the limit and the remedy.
            SerializationError: a function or an argument cannot be pickled.
            SessionClosed: the session is over.
            SessionForked: called in a forked child.
        """
        self._require_open()
        return self._session.submissions.submit(self, descriptions)

    def list_tasks(self) -> list[str]:
        """Return the uids of its tasks."""
        return [uid for uid, record in self._session.state.tasks.copy().items() if record.manager == self._uid]

    def get_tasks(self, uids: str | Iterable[str] | None = None) -> Any:
        """Return handles: one for a uid, else a list (None: all of this manager)."""
        found = [Task(self, record) for record in self._records(uids)]
        return found[0] if isinstance(uids, str) else found

    def wait_tasks(
        self,
        uids: str | Iterable[str] | None = None,
        state: str | Collection[str] | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Wait until tasks are in (or past) one of these states, or final; at most ``timeout`` seconds.

        Return their states then: one for a uid, else a list. Without uids all tasks of this manager are meant but services,
        which run until their pilot ends.

        Raises:
            WaitInCallback: called in a callback.
            SessionClosed: the session was closed meanwhile.
        """
        records = self._records(uids) if uids is not None else self._all_but_services()
        self.wait_for(records, state, timeout)
        states = [record.state for record in records]
        return states[0] if isinstance(uids, str) else states

    def cancel_tasks(self, uids: str | Iterable[str] | None = None) -> None:
        """Ask for tasks to be cancelled (None: all of this manager); final ones stay as they are. Does not wait."""
        tasks = [TaskUid(record.row.uid) for record in self._records(uids)]
        self._session.step(events.CancelRequested(time.time(), tasks))

    def _records(self, uids: str | Iterable[str] | None) -> list[TaskRecord]:
        tasks = self._session.state.tasks
        if uids is None:
            return [record for record in tasks.copy().values() if record.manager == self._uid]
        return [tasks[TaskUid(uid)] for uid in chosen(uids, tasks, "task")]

    def _all_but_services(self) -> list[TaskRecord]:
        services = {number for number, template in self._session.state.templates.copy().items() if template.service is not None}
        records = self._records(None)
        return [record for record in records if record.row.template not in services] if services else records

    # adaptive campaigns

    def resources(self) -> Resources:
        """Return what its active pilots have, what of that is free, and what waits there and here. Asks them, so it is fresh.

        Raises:
            SessionClosed: the session is over.
        """
        self._require_open()
        session = self._session
        manager = session.state.managers[self._uid]
        session.engine.loads.ask(list(manager.pilots))
        with session.engine.lock:
            pilots = [session.state.pilots[uid] for uid in manager.pilots]
            return resources_of(session.state, pilots, session.engine.loads.told, manager)

    def adapt(self, more: Callable[[Resources], Any], *, floor: int = 0, every_s: float = 1.0) -> Adaptation:
        """Have ``more`` called for tasks whenever something is idle, or fewer than ``floor`` of its tasks are unfinished.

        ``more(resources)`` returns descriptions, which are submitted; an empty list for none now; None for none any more. It
        is called on the thread of all callbacks: when cores are free in active pilots and nothing waits, at most once in
        ``every_s`` seconds; and when tasks are missing to the floor (``resources.missing``), as fast as it gives some. What it
        raises is logged, and it is called again later.

        Raises:
            InvalidRequest: ``more`` cannot be called, or a number is none.
            SessionClosed: the session is over.
        """
        self._require_open()
        require_adaptable(more, floor, every_s)
        engine = self._session.engine
        adaptation = Adaptation(self, more, floor, every_s)
        with engine.lock:
            engine.check()
            engine.dispatcher.start()
            engine.adaptations.begin(adaptation)
            engine.start()
            engine.look_again()
        return adaptation

    # for handles

    def template(self, number: TemplateId) -> Template:
        """Return a template of the session."""
        return self._session.state.templates[number]

    def pilot_folder(self, uid: str) -> str:
        """Return the folder of a pilot."""
        return str(self._session.pilot_files.folder(self._session.state.pilots[PilotUid(uid)]))

    def nodes(self, pilot: str) -> list[Node]:
        """Return the nodes of a pilot."""
        return self._session.state.pilots[PilotUid(pilot)].nodes

    def placement(self, record: TaskRecord) -> Placement | None:
        """Return where a task runs, or ran last; None if it was not placed yet, or nothing tells any more."""
        if not record.pilot:
            return None
        placements = self._session.pilot_files.placements(self._session.state.pilots[record.pilot])
        return placements.of(record.row.uid, record.outcome.attempt if record.outcome is not None else Attempt(0))

    def output(self, record: TaskRecord) -> TaskOutput | None:
        """Return what a task has printed; None while no pilot has it."""
        if not record.pilot:
            return None
        outputs = self._session.pilot_files.outputs(self._session.state.pilots[record.pilot])
        attempt = record.outcome.attempt if record.outcome is not None else Attempt(0)
        return outputs.of(self.template(record.row.template), record.row, attempt)

    def service_info(self, record: TaskRecord) -> str | None:
        """Return what is known of a service that is ready."""
        return self._session.state.service_info.get(record.row.uid)

    def wait_service(self, record: TaskRecord, timeout: float | None) -> str | None:
        """Wait until a service is ready or over; return what is known of it, None if it is not ready."""
        if self.service_info(record) is None:
            require_timeout(timeout)
            self._session.wait([_Service(record, self._session.state.service_info)], _READY_OR_OVER, timeout)
        return self.service_info(record)

    def metadata(self, uid: TaskUid) -> Any:
        """Return what the user noted down with a task; a new dict if that was nothing."""
        return self._session.submissions.metadata(uid)

    def load(self, payload: Payload) -> bytes:
        """Return the bytes of a payload."""
        return self._session.submissions.load(payload)

    def open_result(self, payload: Payload) -> Any:
        """Return a result."""
        return self._session.submissions.open_result(payload)

    def watch(self, record: TaskRecord, future: Future[Any]) -> None:
        """Have a future resolved when the task is final."""
        self._session.engine.require_owner()
        self._session.engine.watch(record, future)

    # callbacks

    def register_callback(
        self, cb: Callable[..., Any], cb_data: Any = None, metric: str | None = None, uid: str | Iterable[str] | None = None
    ) -> None:
        """Have a callback called, on the thread of all callbacks, for tasks of this manager (or only those of ``uid``).

        ``metric`` TASK_STATE: ``cb(task, state)`` for each state that a task comes to, those that it skipped included.
        WAIT_QUEUE_SIZE: ``cb(manager, count)`` when the number of tasks that wait for a pilot changes. With ``cb_data`` that
        follows as the last argument. Final states that no callback has heard of yet are told at once.

        Raises:
            InvalidRequest: there is no such metric, or ``cb`` cannot be called.
        """
        self._require_callable(cb)
        if metric is None and isinstance(cb_data, str) and cb_data in TMGR_METRICS:
            metric, cb_data = cb_data, None  # the order of 2018
        if metric not in (None, *TMGR_METRICS):
            raise InvalidRequest(f"there is no metric {metric!r}; known are {TASK_STATE} and {WAIT_QUEUE_SIZE}")
        engine = self._session.engine
        with engine.lock:
            engine.check()
            engine.dispatcher.start()
            self._session.listen(self._uid)
            if metric == WAIT_QUEUE_SIZE:
                self.waiting_callbacks.add(cb, cb_data)
                return
            records = self._records(uid)
            over = [(record, record.state) for record in records if record.outcome is not None]
            if uid is None:
                self.callbacks.add(cb, cb_data)
            else:
                self.callbacks.add(cb, cb_data, [record.row.uid for record in records if record.outcome is None])
            if over:
                alone = Callbacks()
                alone.add(cb, cb_data)
                engine.dispatcher.put(TaskNews(alone, self._handle, over, again=uid is not None))

    def unregister_callback(
        self, cb: Callable[..., Any] | None = None, metric: str | None = None, uid: str | None = None
    ) -> None:
        """Have ``cb`` (or all callbacks) called no more.

        Raises:
            InvalidRequest: it was not registered.
        """
        callbacks = self.waiting_callbacks if metric == WAIT_QUEUE_SIZE else self.callbacks
        removed = callbacks.remove(cb) if uid is None else callbacks.remove(cb, uid)
        if not removed and cb is not None:
            raise InvalidRequest(f"callback {cb!r} is not registered with {self._uid}")

    def register_task_callback(self, task: Task, cb: Callable[..., Any], cb_data: Any, metric: str | None) -> None:
        """Register for one task; if it is final already, its final state is told."""
        self._require_callable(cb)
        if metric not in (None, TASK_STATE):
            raise InvalidRequest(f"a task has no metric {metric!r}; known is {TASK_STATE}")
        self.register_callback(cb, cb_data, uid=task.uid)

    def unregister_task_callback(self, task: Task, cb: Callable[..., Any] | None) -> None:
        """Unregister for one task."""
        self.callbacks.remove(cb, task.uid)

    def _require_callable(self, cb: object) -> None:
        self._require_open()
        if not callable(cb):
            raise InvalidRequest(f"a callback is something to call, not {cb!r:.80} ({type(cb).__name__})")

    def tasks_changed(self, records: Sequence[TaskRecord]) -> None:
        """Tell the callbacks; called with the engine's lock."""
        if self.callbacks and records:
            news = [(record, record.state) for record in records]
            self._session.engine.dispatcher.put(TaskNews(self.callbacks, self._handle, news))

    def waiting_changed(self, count: int) -> None:
        """Tell the callbacks; called with the engine's lock."""
        if self.waiting_callbacks:
            self._session.engine.dispatcher.put(WaitingNews(self.waiting_callbacks, self, count))

    def _handle(self, record: TaskRecord) -> Task:
        return Task(self, record)

    # the names of 2018

    submit_units = submit_tasks
    wait_units = wait_tasks
    cancel_units = cancel_tasks
    get_units = get_tasks
    list_units = list_tasks
