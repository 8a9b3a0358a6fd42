"""What the client is told when there is time: tasks that run or whose output is staged, services that are ready, and what
its user should know.

Messages of progress are plain ones, which may be lost with a connection. So what holds on (tasks that run, or whose output is
staged, services, a lack of room) is told again after each hello.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from pilotage.agent.client_link import ClientLink
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import TaskUid
from pilotage.wire.messages import Progress as ProgressMessage

PROGRESS_S = 0.05
"""What is new is made known after this time, all together; tasks that have ended by then are left out."""


class Progress:
    """Collects what is new; ``tell`` is due at ``due``."""

    def __init__(self, state: AgentState, link: ClientLink) -> None:
        self._state = state
        self._link = link
        self._started: dict[TaskUid, None] = {}
        self._unloading: dict[TaskUid, None] = {}
        self._ready: dict[TaskUid, None] = {}
        self._lasting = ""
        self._notice = ""
        self.due: float | None = None
        """When ``tell`` has something to tell (seconds since the epoch)."""

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

    def notice(self, text: str, *, lasting: bool) -> None:
        """Let the user know; what is ``lasting`` is told to each client that comes, until there is another notice."""
        self._notice = text
        self._lasting = text if lasting else ""
        self._want()

    def greeted(self) -> None:
        """A client said hello: it may have missed what was told."""
        for lane in self._state.lanes.values():
            self._started.update(lane.tasks)
        self._unloading.update(dict.fromkeys(self._state.outputs))
        self._ready.update(dict.fromkeys(self._state.services))
        self._notice = self._notice or self._lasting
        if self._started or self._unloading or self._ready or self._notice:
            self._want()

    def tell(self) -> None:
        """Tell what is new, if a client is there."""
        self.due = None
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
        notice, self._notice = self._notice, ""
        self._started.clear()
        self._unloading.clear()
        self._ready.clear()
        if started or ready or notice or unloading:
            self._link.send(ProgressMessage(started, ready, notice, unloading))

    def _want(self) -> None:
        if self.due is None:
            self.due = time.time() + PROGRESS_S
