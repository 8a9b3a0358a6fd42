"""Whose turn it is: the order of arrival, within a priority, with backfill. Policies share this and differ in ``Search``.

How it decides:

* Groups are looked at in the order of their first tasks. What fits is placed, as many tasks of the group at a time as the
  order allows. What does not fit is passed over, and later ones may go first (backfill), for ``look_ahead`` groups.
* A refused group isn't searched for again until a release may help: it is tried on the nodes released since, only (see
  ``releases``).
* A task that is passed over for too long gets a reservation (see ``reservation``). On reserved nodes runs meanwhile what is
  declared to end in time (see ``backfill``).
* In the order `first_come` nobody is passed over, nor are priorities looked at; in `backfill` only these are not.
* Groups that can run nowhere any more are set aside as *stranded*: nodes were lost or given away, or the tasks, whose
  duration is declared, would not end before the pilot does.
* Tasks whose slots the user has chosen wait for just these (see ``slots``); in all else they are like others.
* Tasks of a gang wait for each other, and have one turn together (see ``gangs``).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

from pilotage.core.scheduling import waits
from pilotage.core.scheduling.gangs import Gang, Gangs
from pilotage.core.scheduling.lateness import Lateness
from pilotage.core.scheduling.limits import Limits
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.openings import Openings
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.policy import OVERTAKE, Assignment, Demand, FreeSummary, GroupKey
from pilotage.core.scheduling.pool import ABSENT, CLOSED, LOST, OPEN, SUSPENDED, Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.releases import RELEASES_KEPT, Releases
from pilotage.core.scheduling.report import demand, free_summary, sum_faults
from pilotage.core.scheduling.reservation import Reservations
from pilotage.core.scheduling.search import Search
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import Order
from pilotage.model.resources import Node, Placement, Request

NO_GROUPS: Mapping[str, Sequence[str]] = MappingProxyType({})


class Scheduler:
    """All policies but one (see ``Policy`` for the contract and the head of this module for the rules).

    ``search`` makes the way of choosing nodes. ``present``: the indices of the nodes that may be used now (None: all).
    ``groups`` are names for sets of nodes. ``latest``: when tasks of declared duration have to end.

    ``look_ahead`` bounds the groups that are passed over in one ``schedule``, ``search_bound`` the nodes that are looked at
    in one search, ``overtake_limit`` (tasks) and ``patience_s`` how long the first task is passed over before it gets a
    reservation, ``retry_bound`` the released nodes that are tried one by one for a refused group.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        search: Callable[[Pool, int], Search] = Search,
        order: Order = "priority",
        present: Iterable[int] | None = None,
        groups: Mapping[str, Sequence[str]] = NO_GROUPS,
        latest: float = math.inf,
        look_ahead: int = 64,
        search_bound: int = 256,
        overtake_limit: int = OVERTAKE,
        patience_s: float = 60.0,
        retry_bound: int = 64,
    ) -> None:
        if order == "first_come":
            look_ahead, patience_s, overtake_limit = 0, math.inf, sys.maxsize
        self._pool = Pool(nodes)
        self._queue = WaitingQueue(priorities=order == "priority")
        self._releases = Releases(self._pool, retry_bound)
        self._openings = Openings(self._pool, self._releases)
        nodes_search = search(self._pool, search_bound)
        self._placing = Placing(self._pool, self._queue, nodes_search, self._releases, self._openings)
        self._gangs = Gangs(
            self._pool,
            self._queue,
            self._releases,
            nodes_search,
            lambda pool: search(pool, search_bound),
            self._placing.places,
            self._line_up,
        )
        self._placing.gangs = self._gangs
        self._reservations = Reservations(self._pool, self._placing, self._releases, overtake_limit, patience_s)
        self._place = self._placing.place
        self._look_ahead = look_ahead
        self._overtake = 0 if order == "first_come" else OVERTAKE + 1
        self._now = -math.inf
        self._awaited: dict[TaskUid, dict[GroupKey, Group]] = {}
        """Groups that are set aside, by the task beside which they are to run, which is not placed."""
        self._closed_idle: list[int] = []
        if present is not None:
            for index in set(range(len(nodes))).difference(present):
                self._pool.set_state(index, ABSENT)
        self._limits = Limits(self._pool, groups, latest)
        self._lateness = Lateness()

    # Who waits.

    def refusal(self, request: Request) -> str | None:
        """Return why no set of the nodes can ever satisfy ``request`` (value, limit, remedy), or None if one can."""
        return self._limits.refusal(Need(request))

    def enqueue(self, task: TaskUid, group: GroupKey, now: float) -> None:
        """Let ``task`` wait as the last of all. Raises InvariantViolated if it waits already."""
        found = self._queue.find(group)
        if found is None or found.stranded is not None:
            found = self._renewed(group)
            if found.need.gang:
                self._join(found, [task])
                return
        self._queue.append(found, task)
        if self._awaited:
            self._end_awaiting([task])

    def enqueue_many(self, tasks: Sequence[TaskUid], group: GroupKey, now: float) -> None:
        """Let ``tasks`` wait as the last of all, in their order. Raises InvariantViolated if one waits already."""
        found = self._queue.find(group)
        if found is None or found.stranded is not None:
            found = self._renewed(group)
            if found.need.gang:
                self._join(found, tasks)
                return
        self._queue.extend(found, tasks)
        if self._awaited:
            self._end_awaiting(tasks)

    def withdraw(self, task: TaskUid) -> bool:
        """Take a waiting task out; return False if it does not wait here."""
        group = self._queue.group_of(task)
        if group is None:
            return False
        first = group.tasks[0] == task
        self._queue.withdraw(task)
        if self._awaited:
            self._end_awaiting([task])
        if group.need.gang:
            self._settle(self._gangs.of(group))
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
            if group.live and group.stranded
        ]

    def too_late_from(self) -> float:
        """Return from when on tasks that wait, of declared duration, would end too late; infinity if there are none.

        Gangs that can never start are too late at once.
        """
        return 0.0 if self._gangs.misfits else self._lateness.next()

    def too_late(self, now: float) -> list[tuple[list[TaskUid], str]]:
        """Return, once, the tasks that wait and would end too late, with the reason; they wait until they are withdrawn."""
        found = [(self._queue.tasks_of(lead), lead.stranded or "") for lead in self._gangs.take_misfits()]
        for group in self._lateness.due(now):
            reason = self._limits.too_late(group, now)
            self._set_aside(group, reason)
            found.append((self._queue.tasks_of(group), reason))
        return found

    # What is placed.

    def schedule(self, now: float, limit: int) -> list[Assignment]:
        """Open up to ``limit`` lanes, each with one task, and take what they hold. ``now`` is in seconds."""
        out: list[Assignment] = []
        if limit < 1:
            return out
        reservations = self._reservations
        self._now = reservations.now = now
        if reservations.current is not None:
            self._serve_reservation(now, out)
        queue = self._queue
        position = turn = 0
        while len(out) < limit and position <= self._look_ahead + turn:
            group = queue.peek(position)
            if group is None:
                break
            if position > turn and group.refused_at >= self._releases.seen:
                # Most groups are passed over here, as nothing that was released since could be enough for them.
                cores, memory = self._openings.bounds()
                ahead = queue.pass_over(
                    position,
                    self._look_ahead + turn + 1,
                    self._releases.seen,
                    self._releases.end(),
                    cores,
                    memory,
                )
                if ahead != position:
                    position = ahead
                    continue
            if now > group.latest:
                self._set_aside(group, self._limits.too_late(group, now))
                continue
            if group.refused_at < 0 or self._placing.may_help(group):
                placed = self._place(group, limit - len(out), queue.turn_before(position, group), out)
                if placed:
                    reservations.note_placed(group, placed, out)
                if group.stranded is not None:
                    self._note_stranded(group)
                    continue
                if placed:
                    continue
            if position == turn:
                if reservations.is_walled(group):
                    turn += 1
                elif reservations.age(group, now):
                    reservations.serve(out)
                    continue
            position += 1
        if len(out) < limit:
            self._openings.clear()
        if reservations.current is not None:
            self._backfill(now, limit, out)
        if self._awaited and out and self._end_awaiting([lane.tasks[0] for lane in out]):
            out += self.schedule(now, limit - len(out))
        return out

    def draw(self, group: GroupKey, count: int, node: int = -1) -> list[TaskUid]:
        """Return up to ``count`` waiting tasks of ``group`` to run one after another on a lane that begins on ``node``.

        A task is drawn only while it is not more than ``OVERTAKE`` arrivals younger than the oldest waiting task of any
        other group of the same priority (not younger at all in the order `first_come`); none is drawn while a group of
        higher priority or a reservation waits.
        """
        found = self._queue.find(group)
        if found is None or not found.live or self._reservations.current is not None or self._now > found.latest:
            return []
        if found.need.gang:
            return []
        turn = self._queue.oldest_other(found)
        if turn is None:
            before = found.arrivals[-1] + 1
        else:
            before = turn + self._overtake
        tasks = self._queue.take(found, count, before)
        if tasks:
            self._reservations.note_placed(found, len(tasks))
            if node >= 0:
                self._placing.places.note(tasks, node)
            if self._awaited:
                self._end_awaiting(tasks)
        return tasks

    def release(self, placement: Placement, request: Request) -> None:
        """Give back what a lane held; what lies on lost nodes is dropped. Raises InvariantViolated if it was free."""
        if self._reservations.knows:
            self._reservations.note_released(placement)
        pool = self._pool
        released = self._releases.nodes
        for share in placement:
            state = pool.give_back(share)
            if state < LOST:
                released.append(share.node)
                if state:
                    self._released_apart(share.node)
        if len(released) > RELEASES_KEPT:
            self._releases.trim()

    def _released_apart(self, node: int) -> None:
        """Something came free on a node that is not open."""
        self._reservations.note_freed()
        if self._pool.state[node] == CLOSED and self._pool.is_idle(node):
            self._pool.set_state(node, ABSENT)
            self._closed_idle.append(node)

    def occupy(self, placement: Placement, request: Request, tasks: Iterable[TaskUid] = (), *, service: bool = False) -> None:
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
        if placement and tasks:
            self._placing.places.note(tasks, placement[0].node)
        if service:
            self._reservations.note_service(placement)

    def remember(self, places: Iterable[TaskUid | int]) -> None:
        """Know where tasks were placed, the oldest first: names of tasks, each run of them followed by their first node."""
        self._placing.places.recent.extend(places)

    # Nodes that come and go.

    def remove_node(self, index: int) -> None:
        """Place nothing more on this node, which is lost; what is released on it later is dropped."""
        if self._pool.state[index] != LOST:
            self._take_away(index, LOST)

    def close_node(self, index: int) -> bool:
        """Place nothing more on this node; it is absent once nothing is held there. Return whether that is so now."""
        if self._pool.state[index] < CLOSED:
            self._take_away(index, ABSENT if self._pool.is_idle(index) else CLOSED)
        return self._pool.state[index] >= LOST

    def closed_idle(self) -> list[int]:
        """Return the nodes that were closed while something was held there, and became absent since this was asked last."""
        idle, self._closed_idle = self._closed_idle, []
        return idle

    def add_nodes(self, indices: Iterable[int]) -> None:
        """Use these nodes from now on: absent ones, which come idle, or closed ones. Raises InvariantViolated if it is lost."""
        added = list(indices)
        for index in added:
            if self._pool.state[index] == LOST:
                raise InvariantViolated(f"node {index} is to be used, but it is lost")
            if self._pool.state[index] >= CLOSED:
                self._pool.set_state(index, OPEN)
        self._releases.extend(added)
        self._reconsider()

    def suspend_nodes(self, indices: Iterable[int]) -> None:
        """Place nothing on these nodes, as far as they are in use, until they are resumed."""
        for index in indices:
            if self._pool.state[index] < SUSPENDED:
                self._unreserve(index)
                self._pool.set_state(index, SUSPENDED)

    def resume_nodes(self, indices: Iterable[int]) -> None:
        """Use these nodes again, as far as they are suspended."""
        resumed = [index for index in indices if self._pool.state[index] == SUSPENDED]
        for index in resumed:
            self._pool.set_state(index, OPEN)
        if resumed:
            # For the refused these nodes are as good as released.
            self._releases.extend(resumed)
            self._reservations.note_nodes()

    def suspended(self) -> list[int]:
        """Return the nodes that are suspended."""
        return [index for index, state in enumerate(self._pool.state) if state == SUSPENDED]

    def name_of(self, index: int) -> str:
        """Return the name of a node."""
        return self._pool.nodes[index].name

    def _unreserve(self, index: int) -> None:
        """Keep this node for nobody."""
        current = self._reservations.current
        if current is not None and index in current.nodes:
            self._reservations.end()

    def _take_away(self, index: int, state: int) -> None:
        self._unreserve(index)
        self._pool.set_state(index, state)
        self._placing.forget_node(index)
        self._reconsider()

    def _reconsider(self) -> None:
        """The nodes are others: find out who can run at all, and search anew for all of them."""
        self._limits.count()
        self._reservations.note_nodes()
        for group in self._queue.groups.values():
            group.refused_at = -1
            group.stranded = self._limits.refusal(group.need)
            if group.need.gang and group.stranded is None:
                group.stranded = ""
            self._queue.line_up(group)
        self._gangs.settle_anew()
        # What runs nowhere now may do so when nodes come back.
        self._gangs.take_misfits()
        current = self._reservations.current
        if current is not None and (current.group.stranded is not None or current.group.need.gang):
            self._reservations.end()

    # What is told.

    def free(self) -> FreeSummary:
        """Return what is free now, on reserved nodes too."""
        return free_summary(self._pool)

    def demand(self) -> Demand:
        """Return what the tasks ask for that wait and can run."""
        return demand(self._queue.groups.values(), self._limits.shapes)

    def why(self, subject: TaskUid | GroupKey) -> str:
        """Return in a sentence why the task, or the first of the group, waits."""
        group = self._queue.find(subject) if isinstance(subject, GroupKey) else self._queue.group_of(subject)
        if group is None or not group.live:
            return waits.NOTHING_WAITS
        if group.need.gang and not group.stranded and (missing := self._gangs.describe(group)):
            return missing
        task = group.tasks[0] if isinstance(subject, GroupKey) else subject
        before = self._queue.before(group, task)
        return waits.why(task, group, before, self._pool, self._placing, self._reservations)

    def check(self, held: Iterable[Placement] | None = None) -> None:
        """Raise InvariantViolated unless the books balance, and sum up with all ``held`` placements if they are given."""
        faults = self._pool.faults() + self._queue.faults() + self._reservations.faults() + self._gangs.faults()
        if held is not None:
            faults += sum_faults(self._pool, held)
        if faults:
            raise InvariantViolated("the scheduler's books do not balance: " + "; ".join(faults))

    def _renewed(self, key: GroupKey) -> Group:
        """Return the group of this key, with what limits it found out anew."""
        group = self._queue.group(key)
        if not group.live or group.need.follows:
            self._limits.apply(group, self._queue.groups.values())
            self._lateness.note(group)
            if group.need.gang and group.stranded is None:
                group.stranded = ""
        return group

    def _join(self, group: Group, tasks: Sequence[TaskUid]) -> None:
        """Let tasks of a gang wait."""
        self._queue.extend(group, tasks)
        if self._awaited:
            self._end_awaiting(tasks)
        self._settle(self._gangs.of(group))

    def _settle(self, gang: Gang) -> None:
        """Members of a gang came, left or were placed: who leads has its turn."""
        current = self._reservations.current
        if current is not None and current.group is gang.lead:
            self._reservations.end()
        self._gangs.settle(gang)

    def _line_up(self, lead: Group) -> None:
        """Give a gang its turn."""
        self._queue.line_up(lead)

    def _serve_reservation(self, now: float, out: list[Assignment]) -> None:
        current = self._reservations.current
        if current is not None and now > current.group.latest:
            self._set_aside(current.group, self._limits.too_late(current.group, now))
        else:
            self._reservations.serve(out)

    def _backfill(self, now: float, limit: int, out: list[Assignment]) -> None:
        """Fill reserved nodes with tasks that end before these are needed, in the order of their turns."""
        reservations, position = self._reservations, 0
        while len(out) < limit and position <= self._look_ahead:
            current = reservations.current
            if current is None or not current.gaps.are_open(now):
                return
            group = self._queue.peek(position)
            if group is None:
                return
            if not reservations.fill(group, out):
                position += 1

    def _set_aside(self, group: Group, reason: str) -> None:
        """Strand a group; the queue takes it out of the order of turns when it is next looked at."""
        group.stranded = reason
        self._note_stranded(group)

    def _note_stranded(self, group: Group) -> None:
        beside = group.need.request.beside
        if beside:
            self._awaited.setdefault(TaskUid(beside), {})[group.key] = group
        current = self._reservations.current
        if current is not None and current.group is group:
            self._reservations.end()

    def _end_awaiting(self, tasks: Sequence[TaskUid]) -> bool:
        """These tasks came, were placed or withdrawn: who wants to run beside one is looked at again. Tell if there are any."""
        found = False
        for task in tasks:
            for group in self._awaited.pop(task, {}).values():
                group.stranded = self._limits.refusal(group.need)
                group.refused_at = -1
                self._queue.line_up(group)
                found = True
        return found
