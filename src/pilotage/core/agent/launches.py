"""How many launches may be under way at once, where a site's launcher bears but so many.

Tasks whose ranks are started by a launcher are let into the policy's queue as long as no more of them are there, or run, than
launches may be under way; the others wait before it, by priority and then by age. So no more lanes of such tasks are open at
once, and each lane has one launch at a time.

What the launcher bears the partitions of a pilot share: each has as many launches as there are of them for each, and one at
least. When partitions come, those that are there go on with what they have let in.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from pilotage.core.agent.state import AgentState
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.workload import Template


class Launches:
    """The launches of a pilot. ``ceiling``: at once; 0: as many as one likes. ``several_hosts``: it has more than one.

    ``among``: how many partitions share them.
    """

    def __init__(self, state: AgentState, ceiling: int, several_hosts: bool, among: int = 1) -> None:
        self._of_pilot = ceiling
        self.share(among)
        self._state = state
        self._several_hosts = several_hosts
        self._let_in: set[TaskUid] = set()
        """Tasks that are in the policy's queue, or in lanes; some of them may be over."""
        self._queue: list[tuple[int, int, TaskUid]] = []
        """A heap of those that wait, by priority and age; some of them may have been withdrawn."""
        self.waiting: dict[TaskUid, None] = {}
        """Those that wait."""
        self._ages = itertools.count()

    def share(self, among: int) -> None:
        """Let so many partitions have the pilot's launches, of which this is one."""
        self.ceiling = max(1, self._of_pilot // among) if self._of_pilot else 0

    def limits(self, template: Template) -> bool:
        """Return whether tasks of this template count."""
        return self.ceiling > 0 and (template.uses_mpi or (self._several_hosts and template.request.ranks > 1))

    def recover(self) -> None:
        """Count those that are in lanes."""
        templates = self._state.templates
        for lane in self._state.lanes.values():
            if self.limits(templates[lane.template]):
                self._let_in.update(lane.tasks)

    def let_in(self, uids: Sequence[TaskUid], template: TemplateId) -> list[TaskUid]:
        """Return those of these tasks, of one template that counts, that may be queued; the others wait here.

        Those of a gang are all let in, as they start together or not at all.
        """
        described = self._state.templates[template]
        admitted = []
        for uid in uids:
            if described.request.gang or uid in self._let_in or (not self.waiting and self._has_room()):
                self._let_in.add(uid)
                admitted.append(uid)
            elif uid not in self.waiting:
                self.waiting[uid] = None
                heapq.heappush(self._queue, (-described.priority, next(self._ages), uid))
        return admitted

    def next(self) -> list[TaskUid]:
        """Let tasks in as far as others are over, and return them, to be enqueued."""
        admitted: list[TaskUid] = []
        if not self.waiting:
            return admitted
        while self.waiting and self._has_room():
            _, _, uid = heapq.heappop(self._queue)
            if uid in self.waiting:
                del self.waiting[uid]
                self._let_in.add(uid)
                admitted.append(uid)
        return admitted

    def withdraw(self, uid: TaskUid) -> bool:
        """Let a task wait no longer; return False if it does not wait here."""
        if uid not in self.waiting:
            return False
        del self.waiting[uid]
        return True

    def let_out(self, uid: TaskUid) -> None:
        """Count a task no more that was let in, and is not to begin here."""
        self._let_in.discard(uid)

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what a task waits for that waits here."""
        key = next(entry for entry in self._queue if entry[2] == uid)
        before = sum(entry < key and entry[2] in self.waiting for entry in self._queue)
        return (
            f"waits for a launch to end: {self.ceiling:,} may be under way at once, as the launcher bears no more, and so many "
            f"are, or are placed next; {before:,} {'task is' if before == 1 else 'tasks are'} before it"
        )

    def _has_room(self) -> bool:
        if len(self._let_in) >= self.ceiling:
            tasks, outputs = self._state.tasks, self._state.outputs
            self._let_in = {uid for uid in self._let_in if uid in tasks and uid not in outputs}
        return len(self._let_in) < self.ceiling
