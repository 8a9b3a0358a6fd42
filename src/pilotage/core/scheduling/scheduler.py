"""Whose turn it is: arrival order within a priority, with backfill. All policies share this; they differ in ``Search``.

How it decides:

* Groups are looked at in the order of their first tasks. What fits is placed, as many tasks of the group at a time as the
  order allows. What does not fit is passed over, and later ones may go first (backfill), for ``look_ahead`` groups.
* A refused group isn't searched for again until a release may help: it is tried on the nodes released since, only (see
  ``releases``).
* A task that is passed over for too long gets a reservation (see ``reservation``).
* Groups that can run nowhere any more, as nodes were lost, are set aside as *stranded*.
* Tasks whose slots the user has chosen wait for just these (see ``slots``); in all else they are like others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots, waits
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.policy import OVERTAKE, Assignment, GroupKey
from pilotage.core.scheduling.pool import LOST, Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.releases import RELEASES_KEPT, Releases
from pilotage.core.scheduling.report import FreeSummary, free_summary, sum_faults
from pilotage.core.scheduling.reservation import Reservations
from pilotage.core.scheduling.search import Search
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid
from pilotage.model.resources import Node, NodeShape, Placement, Request


class Scheduler:
    """The policy `continuous` (see ``Policy`` for the contract and the head of this module for its rules).

    ``look_ahead`` bounds the groups that are passed over in one ``schedule``, ``search_bound`` the nodes that are looked at
    in one search, ``overtake_limit`` (tasks) and ``patience_s`` how long the first task is passed over before it gets a
    reservation, ``retry_bound`` the released nodes that are tried one by one for a refused group.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        look_ahead: int = 64,
        search_bound: int = 256,
        overtake_limit: int = OVERTAKE,
        patience_s: float = 60.0,
        retry_bound: int = 64,
    ) -> None:
        self._pool = Pool(nodes)
        self._queue = WaitingQueue()
        self._releases = Releases(self._pool, retry_bound)
        self._placing = Placing(self._pool, self._queue, Search(self._pool, search_bound), self._releases)
        self._reservations = Reservations(self._pool, self._placing, self._releases, overtake_limit, patience_s)
        self._place = self._placing.place
        self._look_ahead = look_ahead
        self._shapes: dict[NodeShape, int] = Counter(node.shape for node in nodes)

    # Who waits.

    def refusal(self, request: Request) -> str | None:
        """Return why no set of the nodes can ever satisfy ``request`` (value, limit, remedy), or None if one can."""
        return self._refusal(Need(request))

    def enqueue(self, task: TaskUid, group: GroupKey, now: float) -> None:
        """Let ``task`` wait as the last of all. Raises InvariantViolated if it waits already."""
        self._queue.append(self._queue.find(group) or self._new_group(group), task)

    def enqueue_many(self, tasks: Sequence[TaskUid], group: GroupKey, now: float) -> None:
        """Let ``tasks`` wait as the last of all, in their order. Raises InvariantViolated if one waits already."""
        self._queue.extend(self._queue.find(group) or self._new_group(group), tasks)

    def withdraw(self, task: TaskUid) -> bool:
        """Take a waiting task out; return False if it does not wait here."""
        group = self._queue.group_of(task)
        if group is None:
            return False
        first = group.tasks[0] == task
        self._queue.withdraw(task)
        if first:
            group.overtaken_from = -1
            current = self._reservations.current
            if current is not None and current.group is group:
                self._reservations.end()
        return True

    def waiting(self) -> int:
        """Return how many tasks wait, the stranded ones included."""
        return self._queue.count

    def waiting_in(self, group: GroupKey) -> int:
        """Return how many tasks of ``group`` wait."""
        found = self._queue.find(group)
        return found.live if found else 0

    def stranded(self) -> list[tuple[list[TaskUid], str]]:
        """Return the tasks that wait but can run nowhere any more, with the reason; they wait until they are withdrawn."""
        return [
            (self._queue.tasks_of(group), group.stranded)
            for group in self._queue.groups.values()
            if group.live and group.stranded is not None
        ]

    # What is placed.

    def schedule(self, now: float, limit: int) -> list[Assignment]:
        """Open up to ``limit`` lanes, each with one task, and take what they hold. ``now`` is in seconds."""
        out: list[Assignment] = []
        if limit < 1:
            return out
        reservations = self._reservations
        releases = self._releases
        if reservations.current is not None:
            reservations.serve(out)
        queue = self._queue
        position = seen = cores = memory = 0
        while len(out) < limit and position <= self._look_ahead:
            group = queue.peek(position)
            if group is None:
                break
            if position:
                # Most groups are passed over here, as nothing that was released since could be enough for them.
                if not cores:
                    seen, cores, memory = releases.most()
                ahead = queue.pass_over(position, self._look_ahead + 1, seen, releases.end(), cores, memory)
                if ahead != position:
                    position = ahead
                    continue
            if group.refused_at < 0 or releases.may_help(group):
                placed = self._place(group, limit - len(out), queue.turn_before(position, group), out)
                if placed:
                    reservations.note_placed(group, placed)
                if placed or group.stranded is not None:
                    continue
            if position == 0 and reservations.age(group, now):
                reservations.serve(out)
                continue
            position += 1
        releases.seen = releases.before + len(releases.nodes)
        return out

    def draw(self, group: GroupKey, count: int) -> list[TaskUid]:
        """Return up to ``count`` waiting tasks of ``group`` to run one after another on a lane already held.

        A task is drawn only while it is not more than ``OVERTAKE`` arrivals younger than the oldest waiting task of any
        other group of the same priority; none is drawn while a group of higher priority or a reservation waits.
        """
        found = self._queue.find(group)
        if found is None or not found.live or self._reservations.current is not None:
            return []
        turn = self._queue.oldest_other(found)
        if turn is None:
            before = found.arrivals[-1] + 1
        else:
            before = turn + OVERTAKE + 1
        tasks = self._queue.take(found, count, before)
        if tasks:
            self._reservations.note_placed(found, len(tasks))
        return tasks

    def release(self, placement: Placement, request: Request) -> None:
        """Give back what a lane held; what lies on lost nodes is dropped. Raises InvariantViolated if it was free."""
        pool = self._pool
        releases = self._releases
        for share in placement:
            if pool.give_back(share):
                releases.nodes.append(share.node)
                if pool.state[share.node] and self._reservations.current is not None:
                    self._reservations.current.changed = True
        if len(releases.nodes) > RELEASES_KEPT:
            releases.trim()

    def occupy(self, placement: Placement, request: Request) -> None:
        """Take exactly ``placement``, as it is read from the log. Raises InvariantViolated if it is not free."""
        done = []
        try:
            for share in placement:
                self._pool.occupy(share)
                done.append(share)
        except InvariantViolated:
            for share in done:
                self._pool.give_back(share)
            raise
        if request.colocate and placement and self._pool.state[placement[0].node] != LOST:
            self._placing.node_of_tag.setdefault(request.colocate, placement[0].node)

    def remove_node(self, index: int) -> None:
        """Place nothing more on this node; what is released on it later is dropped."""
        if self._pool.state[index] == LOST:
            return
        reservations = self._reservations
        if reservations.current is not None and index in reservations.current.nodes:
            reservations.end()
        self._pool.set_state(index, LOST)
        self._shapes[self._pool.shape[index]] -= 1
        self._placing.forget_node(index)
        for group in self._queue.groups.values():
            group.refused_at = -1
            group.stranded = self._refusal(group.need)
            self._queue.line_up(group)
        if reservations.current is not None and reservations.current.group.stranded is not None:
            reservations.end()

    # What is told.

    def free(self) -> FreeSummary:
        """Return what is free now, on reserved nodes too."""
        return free_summary(self._pool)

    def why(self, subject: TaskUid | GroupKey) -> str:
        """Return in a sentence why the task, or the first of the group, waits."""
        group = self._queue.find(subject) if isinstance(subject, GroupKey) else self._queue.group_of(subject)
        if group is None or not group.live:
            return waits.NOTHING_WAITS
        task = group.tasks[0] if isinstance(subject, GroupKey) else subject
        before = self._queue.before(group, task)
        return waits.why(task, group, before, self._pool, self._placing, self._reservations.current)

    def check(self, held: Iterable[Placement] | None = None) -> None:
        """Raise InvariantViolated unless the books balance, and sum up with all ``held`` placements if they are given."""
        faults = self._pool.faults() + self._queue.faults() + self._reservations.faults()
        if held is not None:
            faults += sum_faults(self._pool, held)
        if faults:
            raise InvariantViolated("the scheduler's books do not balance: " + "; ".join(faults))

    def _new_group(self, key: GroupKey) -> Group:
        group = self._queue.group(key)
        if not group.live:
            group.stranded = self._refusal(group.need)
        return group

    def _refusal(self, need: Need) -> str | None:
        if need.chosen:
            return slots.refusal(need.request, self._pool.nodes, self._pool.state)
        return needs.refusal(need, self._shapes)
