"""What a head's client is told when there is time: what the partitions tell of their tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pilotage.agent.client_link import ClientLink
from pilotage.agent.progress import News, Ready, Started, Unloading
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.partitions import Load


class HeadProgress(News):
    """What is new of tasks that run in partitions, as far as these have told."""

    def __init__(self, core: MetaschedulerCore, link: ClientLink, load: Callable[[], Load]) -> None:
        super().__init__(link, load)
        self._core = core
        self._started: dict[TaskUid, tuple[Attempt, float]] = {}
        self._unloading: dict[TaskUid, Attempt] = {}
        self._ready: dict[TaskUid, None] = {}

    def tasks_started(self, tasks: Iterable[tuple[TaskUid, Attempt, float]]) -> None:
        """These run."""
        self._started.update((uid, (attempt, at)) for uid, attempt, at in tasks)
        self._want()

    def outputs_begun(self, tasks: Iterable[tuple[TaskUid, Attempt]]) -> None:
        """The output of these is being staged."""
        self._unloading.update(tasks)
        self._want()

    def service_ready(self, service: TaskUid) -> None:
        """This one is ready."""
        self._ready[service] = None
        self._want()

    def _hold_again(self) -> bool:
        core = self._core
        self._started.update((uid, (attempt, at)) for uid, _, attempt, at in core.running())
        self._unloading.update((uid, attempt) for uid, _, attempt in core.unloading())
        self._ready.update((uid, None) for uid, *_ in core.ready_services())
        return bool(self._started or self._unloading or self._ready)

    def _take(self) -> tuple[Started, Ready, Unloading]:
        tasks, unloading = self._core.state.tasks, self._unloading
        started = [
            (uid, tasks[uid].binding, attempt, at)
            for uid, (attempt, at) in self._started.items()
            if uid in tasks and uid not in unloading
        ]
        staged = [(uid, tasks[uid].binding, attempt) for uid, attempt in unloading.items() if uid in tasks]
        ready = [service for service in self._core.ready_services() if service[0] in self._ready] if self._ready else []
        self._started, self._unloading, self._ready = {}, {}, {}
        return started, ready, staged
