"""The policy `homogeneous`: bags of like tasks on equal slots, assigned and released in constant time, without a search.

The request of the first task that waits, or is taken back from the log, is the pilot's. All that is free is cut into slots
for it at once, as `continuous` would place one task after another; from then on a task takes the slot that came free last,
whatever the size of the machine. When nodes come or go, what is free then is cut anew.

What it guarantees beyond the contract of all policies:

* Assigning and releasing a task take a time that does not depend on the number of nodes, nor on what runs or waits.
* A task that asks for anything else is refused; so are tags that name places, as slots are all alike. (``exclusive`` tasks
  are possible: then a slot is a node, or several.)
* Nobody is passed over, so there are no reservations: only a higher priority overtakes, where the order lets it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling.limits import Limits
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.openings import Openings
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.policy import Assignment, GroupKey
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.scheduler import NO_GROUPS, Scheduler
from pilotage.core.scheduling.search import Search
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import Order
from pilotage.model.resources import Node, Placement, Request


class SlotLimits(Limits):
    """What can run at all once the first request has come: the same again."""

    def __init__(self, pool: Pool, groups: Mapping[str, Sequence[str]], latest: float) -> None:
        super().__init__(pool, groups, latest)
        self.fixed: Request | None = None

    def fix(self, request: Request) -> None:
        """Let this be the pilot's request, if it is the first that can run."""
        if self.fixed is None and self.refusal(Need(request)) is None:
            self.fixed = request

    def refusal(self, need: Need) -> str | None:
        """Return why no slot can ever satisfy ``need`` (value, limit, remedy), or None if one can."""
        request = need.request
        if request.colocate or request.beside or request.pinned or request.slots:
            return (
                "it names where it is to run, and the policy 'homogeneous' gives it any slot; leave slots and the tags "
                "colocate, node, group and task out, or use scheduler='continuous'"
            )
        if request.gang:
            return (
                f"it is to start together with the others of gang {request.gang!r}, and the policy 'homogeneous' starts one "
                "task after the other; leave gang out, or use scheduler='continuous'"
            )
        fixed = self.fixed
        if fixed is not None and request != fixed:
            return (
                f"it needs {needs.describe(need)}, and all slots of this pilot are for {needs.describe(Need(fixed))}, as its "
                "first task asked for; ask for the same, or use scheduler='continuous'"
            )
        return super().refusal(need)


class SlotPlacing(Placing):
    """Takes slots from a pile."""

    def __init__(self, pool: Pool, queue: WaitingQueue, search: Search, releases: Releases, openings: Openings) -> None:
        super().__init__(pool, queue, search, releases, openings)
        self.free: list[Placement] | None = None
        """The slots that are free; None: what is free is to be cut."""

    def place(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place up to ``limit`` tasks that arrived before number ``before``, as long as there are slots; return how many."""
        free = self.free
        if free is None:
            free = self.free = self._cut(group.need)
        pool = self._pool
        placed = 0
        while placed < limit and free:
            slot = free.pop()
            if any(pool.state[share.node] for share in slot):
                continue
            tasks = self._queue.take(group, 1, before)
            if not tasks:
                free.append(slot)
                break
            for share in slot:
                pool.occupy(share)
            self.places.note(tasks, slot[0].node)
            out.append(Assignment(group.key, tasks, slot))
            placed += 1
        return placed

    def _cut(self, need: Need) -> list[Placement]:
        """Return slots for ``need`` out of all that is free."""
        slots: list[Placement] = []
        search, pool = self._search, self._pool
        search.thorough = True
        while True:
            if need.scatters:
                layout = search.nodes(need)
            else:
                node = search.node(need)
                layout = None if node < 0 else [(node, need.ranks)]
            if layout is None:
                break
            slots.append(tuple([pool.carve(need, node, ranks) for node, ranks in layout]))
        search.thorough = False
        for slot in slots:
            for share in slot:
                pool.give_back(share)
        slots.reverse()
        return slots


class Homogeneous(Scheduler):
    """The policy `homogeneous` (see ``Policy`` for the contract and the head of this module for its rules)."""

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        order: Order = "priority",
        present: Iterable[int] | None = None,
        groups: Mapping[str, Sequence[str]] = NO_GROUPS,
        latest: float = math.inf,
    ) -> None:
        super().__init__(
            nodes,
            order=order,
            present=present,
            groups=groups,
            latest=latest,
            look_ahead=0,
            overtake_limit=sys.maxsize,
            patience_s=math.inf,
        )
        self._limits = self._fixing = SlotLimits(self._pool, groups, latest)
        self._slots = SlotPlacing(self._pool, self._queue, Search(self._pool, 1), self._releases, self._openings)
        self._placing = self._slots
        self._place = self._slots.place

    def enqueue(self, task: TaskUid, group: GroupKey, now: float) -> None:
        """Let ``task`` wait as the last of all. Raises InvariantViolated if it waits already."""
        self._fixing.fix(group.request)
        super().enqueue(task, group, now)

    def enqueue_many(self, tasks: Sequence[TaskUid], group: GroupKey, now: float) -> None:
        """Let ``tasks`` wait as the last of all, in their order. Raises InvariantViolated if one waits already."""
        if tasks:
            self._fixing.fix(group.request)
        super().enqueue_many(tasks, group, now)

    def release(self, placement: Placement, request: Request) -> None:
        """Give back what a lane held; what lies on lost nodes is dropped. Raises InvariantViolated if it was free."""
        super().release(placement, request)
        if self._slots.free is not None:
            self._slots.free.append(placement)

    def occupy(self, placement: Placement, request: Request, tasks: Iterable[TaskUid] = (), *, service: bool = False) -> None:
        """Take exactly ``placement``, as it is read from the log. Raises InvariantViolated if it is not free."""
        super().occupy(placement, request, tasks, service=service)
        self._fixing.fix(request)
        self._slots.free = None

    def suspend_nodes(self, indices: Iterable[int]) -> None:
        """Place nothing on these nodes, as far as they are in use, until they are resumed."""
        super().suspend_nodes(indices)
        self._slots.free = None

    def resume_nodes(self, indices: Iterable[int]) -> None:
        """Use these nodes again, as far as they are suspended."""
        super().resume_nodes(indices)
        self._slots.free = None

    def _reconsider(self) -> None:
        self._slots.free = None
        super()._reconsider()
