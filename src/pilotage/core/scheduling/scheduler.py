"""The policy `continuous`: arrival order within a priority, with backfill, on nodes taken as a line.

How it decides:

* Groups are looked at in the order of their first tasks. What fits is placed, as many tasks of the group at a time as the
  order allows. What does not fit is passed over, and later ones may go first (backfill), for ``look_ahead`` groups.
* A refused group isn't searched for again until a release may help: it is tried on the nodes released since, only.
* When the task whose turn it is has been refused for ``patience_s``, or ``overtake_limit`` tasks were placed meanwhile, the
  nodes that will be free with least loss are *reserved*: nothing else is placed there and no lane draws, until it fits.
  So a large task starts in the end, however many small ones come. There is one reservation at a time, and a task of
  higher priority ends it.
* Tasks that ``colocate`` follow the first of their tag to its node, or choose anew when that node is lost.
* Groups that can run nowhere any more, as nodes were lost, are set aside as *stranded*.
* Tasks whose slots the user has chosen wait for just these (see ``slots``); in all else they are like others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.policy import OVERTAKE, Assignment, GroupKey
from pilotage.core.scheduling.pool import LOST, OPEN, RESERVED, Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.report import FreeSummary, free_summary, sum_faults
from pilotage.core.scheduling.reservation import Reservation, nodes_to_drain
from pilotage.core.scheduling.search import Layout, Search, spread
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid
from pilotage.model.resources import Node, NodeShape, Placement, Request

_RELEASES_KEPT = 4096
"""Releases that are noted for refused groups; who was refused before that is searched for anew."""


_THOROUGH_EVERY = 64
"""Of the searches that were cut short, every so many is followed by one without a bound."""


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
        self._search = Search(self._pool, search_bound)
        self._queue = WaitingQueue()
        self._look_ahead = look_ahead
        self._overtake_limit = overtake_limit
        self._patience_s = patience_s
        self._retry_bound = retry_bound
        self._shapes: dict[NodeShape, int] = Counter(node.shape for node in nodes)
        self._released: list[int] = []
        self._released_before = 0
        self._last_node = -1
        self._seen = 0
        self._placed = 0
        self._cuts = 0
        self._reservation: Reservation | None = None
        self._node_of_tag: dict[str, int] = {}

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
            if self._reservation is not None and self._reservation.group is group:
                self._end_reservation()
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
        if self._reservation is not None:
            self._serve_reservation(out)
        queue = self._queue
        position = seen = cores = memory = 0
        while len(out) < limit and position <= self._look_ahead:
            group = queue.peek(position)
            if group is None:
                break
            if position:
                # Most groups are passed over here, as nothing that was released since could be enough for them.
                if not cores:
                    seen, cores, memory = self._most_released()
                ahead = queue.pass_over(position, self._look_ahead + 1, seen, self._end_of_log(), cores, memory)
                if ahead != position:
                    position = ahead
                    continue
            if group.refused_at < 0 or self._may_help(group):
                before = queue.turn_before(position, group)
                if group.need.one_core:
                    placed = self._place_cores(group, limit - len(out), before, out)
                elif group.need.chosen:
                    placed = self._place_chosen(group, OPEN, out)
                elif group.need.scatters or group.need.exclusive:
                    placed = self._place_wide(group, limit - len(out), before, out)
                else:
                    placed = self._place_narrow(group, limit - len(out), before, out)
                if placed or group.stranded is not None:
                    continue
            if position == 0 and self._age(group, now):
                self._serve_reservation(out)
                continue
            position += 1
        self._seen = self._end_of_log()
        return out

    def draw(self, group: GroupKey, count: int) -> list[TaskUid]:
        """Return up to ``count`` waiting tasks of ``group`` to run one after another on a lane already held.

        A task is drawn only while it is not more than ``OVERTAKE`` arrivals younger than the oldest waiting task of any
        other group of the same priority; none is drawn while a group of higher priority or a reservation waits.
        """
        found = self._queue.find(group)
        if found is None or not found.live or self._reservation is not None:
            return []
        turn = self._queue.oldest_other(found)
        if turn is None:
            before = found.arrivals[-1] + 1
        else:
            before = turn + OVERTAKE + 1
        tasks = self._queue.take(found, count, before)
        if tasks:
            self._placed += len(tasks)
            found.overtaken_from = -1
        return tasks

    def release(self, placement: Placement, request: Request) -> None:
        """Give back what a lane held; what lies on lost nodes is dropped. Raises InvariantViolated if it was free."""
        pool = self._pool
        released = self._released
        for share in placement:
            if pool.give_back(share):
                released.append(share.node)
                if pool.state[share.node] and self._reservation is not None:
                    self._reservation.changed = True
        if len(released) > _RELEASES_KEPT:
            self._trim_released()

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
            self._node_of_tag.setdefault(request.colocate, placement[0].node)

    def remove_node(self, index: int) -> None:
        """Place nothing more on this node; what is released on it later is dropped."""
        if self._pool.state[index] == LOST:
            return
        if self._reservation is not None and index in self._reservation.nodes:
            self._end_reservation()
        self._pool.set_state(index, LOST)
        self._shapes[self._pool.shape[index]] -= 1
        for tag in [tag for tag, node in self._node_of_tag.items() if node == index]:
            del self._node_of_tag[tag]
        for group in self._queue.groups.values():
            group.refused_at = -1
            group.stranded = self._refusal(group.need)
            self._queue.line_up(group)
        if self._reservation is not None and self._reservation.group.stranded is not None:
            self._end_reservation()

    # What is told.

    def free(self) -> FreeSummary:
        """Return what is free now, on reserved nodes too."""
        return free_summary(self._pool)

    def why(self, subject: TaskUid | GroupKey) -> str:
        """Return in a sentence why the task, or the first of the group, waits."""
        group = self._queue.find(subject) if isinstance(subject, GroupKey) else self._queue.group_of(subject)
        if group is None or not group.live:
            return "nothing waits here under this name"
        task = group.tasks[0] if isinstance(subject, GroupKey) else subject
        if group.stranded is not None:
            return f"cannot run any more: {group.stranded}"
        need = group.need
        words = [slots.describe(self._pool, need.chosen)] if need.chosen else self._rooms_in_words(need)
        if need.colocate in self._node_of_tag:
            name = self._pool.nodes[self._node_of_tag[need.colocate]].name
            words.append(f"the tag {need.colocate!r} keeps it on node {name}")
        before = self._queue.before(group, task)
        words.append(f"{_many(before, 'task is', 'tasks are')} before it")
        reservation = self._reservation
        if reservation is not None:
            nodes = _many(len(reservation.nodes), "node", "nodes")
            whose = "it" if reservation.group.tasks[0] == task else f"task {reservation.group.tasks[0]}"
            words.append(f"a reservation for {whose} holds {nodes}")
        return "; ".join(words)

    def _rooms_in_words(self, need: Need) -> list[str]:
        pool = self._pool
        rooms = [pool.capacity(need, node) for node, state in enumerate(pool.state) if state == OPEN]
        nodes = _many(sum(room > 0 for room in rooms), "node has", "nodes have")
        what = "it" if need.ranks == 1 else f"{sum(rooms):,} ranks of it"
        return [f"needs {needs.describe(need)}", f"{nodes} room for {what} now"]

    def check(self, held: Iterable[Placement] | None = None) -> None:
        """Raise InvariantViolated unless the books balance, and sum up with all ``held`` placements if they are given."""
        faults = self._pool.faults() + self._queue.faults()
        reserved = {node for node, state in enumerate(self._pool.state) if state == RESERVED}
        expected = set(self._reservation.nodes) if self._reservation is not None else set()
        if reserved != expected:
            faults.append(f"nodes {sorted(reserved)} are reserved, nodes {sorted(expected)} should be")
        if self._reservation is not None and not self._reservation.group.live:
            faults.append("a reservation stands for a group in which no task waits")
        if held is not None:
            faults += sum_faults(self._pool, held)
        if faults:
            raise InvariantViolated("the scheduler's books do not balance: " + "; ".join(faults))

    # How it is done.

    def _new_group(self, key: GroupKey) -> Group:
        group = self._queue.group(key)
        if not group.live:
            group.stranded = self._refusal(group.need)
        return group

    def _refusal(self, need: Need) -> str | None:
        if need.chosen:
            return slots.refusal(need.request, self._pool.nodes, self._pool.state)
        return needs.refusal(need, self._shapes)

    def _place_cores(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks that ask for one core and nothing else: what ``_place_narrow`` does, by the shortest way."""
        pool = self._pool
        key = group.key
        first = len(out)
        left = limit
        while left:
            node = self._core_node(group)
            if node < 0:
                group.refused_at = self._end_of_log()
                break
            room = pool.count[node]
            if not room:
                raise InvariantViolated(f"node {node} was found for a task of one core, but has none free")
            tasks = self._queue.take(group, left if left < room else room, before)
            if not tasks:
                break
            left -= len(tasks)
            for task, share in zip(tasks, pool.carve_cores(node, len(tasks))):  # noqa: B905 - the keyword is costly here
                out.append(Assignment(key, [task], (share,)))
        placed = len(out) - first
        if placed:
            self._note_placed(group, placed)
        return placed

    def _core_node(self, group: Group) -> int:
        """Return an open node with a free core: the last one used, or one in use that was just released, or a search's."""
        pool = self._pool
        node = self._last_node
        if node >= 0 and pool.count[node] and not pool.state[node]:
            return node
        if self._released:
            node = self._released[-1]
            if 0 < pool.count[node] < pool.shape[node].cores and not pool.state[node]:
                self._last_node = node
                return node
        node = self._search.core() if group.refused_at < 0 else self._released_node(group)
        if node >= 0:
            self._last_node = node
        return node

    def _place_narrow(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks of one node each until ``limit`` or ``before`` is reached or nothing has room; return how many."""
        pool = self._pool
        need = group.need
        key = group.key
        if need.colocate:
            group.refused_at = -1
        placed = 0
        while placed < limit:
            node = self._node_for(group)
            if node < 0:
                # On released nodes, where the group was refused before, nothing more is to be searched.
                if group.stranded is None and group.refused_at < 0 and self._search_again(group):
                    continue
                break
            wanted = min(limit - placed, pool.capacity(need, node) // need.ranks)
            if not wanted:
                raise InvariantViolated(f"node {node} was found for {need.request}, but has no room for it")
            tasks = self._queue.take(group, wanted, before)
            for task in tasks:
                out.append(Assignment(key, [task], (pool.carve(need, node, need.ranks),)))
            placed += len(tasks)
            if need.colocate:
                self._node_of_tag[need.colocate] = node
            if len(tasks) < wanted or not group.live or group.arrivals[0] >= before:
                break
        if placed:
            self._note_placed(group, placed)
        return placed

    def _node_for(self, group: Group) -> int:
        need = group.need
        if not need.colocate:
            refused = group.refused_at >= 0
            if need.share or need.whole:
                return self._released_node(group) if refused else self._search.node(need)
            # Going on where the last task went saves most searches. GPUs want the tightest fit instead.
            node = self._last_node
            if node >= 0 and not self._pool.state[node] and self._pool.capacity(need, node):
                return node
            node = self._released_node(group) if refused else self._search.node(need)
            if node >= 0:
                self._last_node = node
            return node
        bound = self._node_of_tag.get(need.colocate)
        if bound is None:
            return self._search.node(need)
        if need.capacity(self._pool.shape[bound]) < need.ranks:
            group.stranded = (
                f"colocate={need.colocate!r} keeps it on node {self._pool.nodes[bound].name}, which is too small for "
                f"{needs.describe(need)}"
            )
            return -1
        if self._pool.state[bound] == OPEN and self._pool.capacity(need, bound) >= need.ranks:
            return bound
        return -1

    def _place_wide(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks whose ranks may lie on several nodes, as ``_place_narrow`` does."""
        placed = 0
        while placed < limit and group.live and group.arrivals[0] < before:
            layout = self._layout_for(group)
            if layout is None:
                if group.stranded is None and self._search_again(group):
                    continue
                break
            self._place_on(group, layout, before, out)
            placed += 1
        if placed:
            self._note_placed(group, placed)
        return placed

    def _layout_for(self, group: Group) -> Layout | None:
        if group.need.colocate:
            node = self._node_for(group)
            return None if node < 0 else [(node, group.need.ranks)]
        return self._search.nodes(group.need)

    def _place_on(self, group: Group, layout: Layout, before: int, out: list[Assignment]) -> None:
        pool = self._pool
        need = group.need
        placement = tuple([pool.carve(need, node, ranks) for node, ranks in layout])
        out.append(Assignment(group.key, self._queue.take(group, 1, before), placement))
        if need.colocate:
            self._node_of_tag[need.colocate] = layout[0][0]

    def _place_chosen(self, group: Group, state: int, out: list[Assignment]) -> int:
        """Place the first task on the slots that were chosen for it, if they are free on nodes of this state."""
        if not slots.are_free(self._pool, group.need.chosen, state):
            group.refused_at = self._end_of_log()
            return 0
        placement = group.key.request.slots
        for slot in placement:
            self._pool.occupy(slot)
        out.append(Assignment(group.key, self._queue.take(group, 1, group.arrivals[0] + 1), placement))
        self._note_placed(group, 1)
        return 1

    def _note_placed(self, group: Group, count: int) -> None:
        self._placed += count
        self._search.thorough = False
        group.overtaken_from = -1
        if self._reservation is not None and self._reservation.group is group:
            self._end_reservation()

    def _search_again(self, group: Group) -> bool:
        """Remember that no room was found for ``group``; tell if the search must be made again, without a bound.

        A search that was cut short is made again with the next ``schedule``, and now and then without a bound, so that
        nothing is overlooked for ever. On a machine where nothing runs that is done at once: no release will come there.
        """
        search = self._search
        if search.cut:
            search.cut = False
            group.refused_at = -1
            self._cuts += 1
            search.thorough = self._cuts % _THOROUGH_EVERY == 0
            if self._is_idle():
                search.thorough = True
                return True
            return False
        search.thorough = False
        group.refused_at = self._end_of_log()
        group.missing = search.missing
        return False

    def _is_idle(self) -> bool:
        pool = self._pool
        return all(
            count == shape.cores or state == LOST
            for count, shape, state in zip(pool.count, pool.shape, pool.state, strict=True)
        )

    def _may_help(self, group: Group) -> bool:
        """Tell whether releases since the refusal of ``group`` can have made room for it."""
        fresh = group.refused_at - self._released_before
        released = self._released
        if fresh == len(released):
            return False
        if fresh < 0 or len(released) - fresh > self._retry_bound:
            group.refused_at = -1
            return True
        need = group.need
        if need.colocate or need.chosen:
            return True
        if not (need.scatters or need.exclusive):
            return self._released_node(group) >= 0
        for node in released[fresh:]:
            group.missing -= self._pool.capacity(need, node)
        group.refused_at = self._released_before + len(released)
        return group.missing <= 0

    def _end_of_log(self) -> int:
        return self._released_before + len(self._released)

    def _most_released(self) -> tuple[int, int, int]:
        """Return since when, and one more than the most cores, and the most memory that a node released since has free now.

        Groups refused since then need not be tried if they ask for more. Placing takes away only, so it stays true.
        """
        fresh = max(self._seen - self._released_before, 0)
        nodes = self._released[fresh : fresh + self._retry_bound + 1]
        if not nodes or len(nodes) > self._retry_bound:
            return self._end_of_log(), 1, 0
        pool = self._pool
        return (
            self._released_before + fresh,
            max([pool.count[node] for node in nodes]) + 1,
            max([pool.memory[node] for node in nodes]),
        )

    def _released_node(self, group: Group) -> int:
        """Return the first node released since the refusal of ``group`` that has room for it, or -1.

        Only nodes before that one are done with: it stays the next to be looked at, as it may have room for more.
        """
        pool = self._pool
        need = group.need
        released = self._released
        for place in range(group.refused_at - self._released_before, len(released)):
            node = released[place]
            if pool.count[node] < need.cores or pool.memory[node] < need.memory or pool.state[node]:
                continue
            if pool.capacity(need, node):
                group.refused_at = self._released_before + place
                return node
        group.refused_at = self._released_before + len(released)
        return -1

    # Large tasks do not starve.

    def _age(self, group: Group, now: float) -> bool:
        """Count how long the group whose turn it is has been passed over; tell if the reservations changed by that."""
        reservation = self._reservation
        if reservation is not None:
            if reservation.group.key.priority < group.key.priority:
                self._end_reservation()
                return True
            return False
        if group.overtaken_from < 0:
            group.overtaken_from = self._placed
            group.refused_since = now
            return False
        if self._placed - group.overtaken_from < self._overtake_limit and now - group.refused_since < self._patience_s:
            return False
        nodes = self._nodes_to_reserve(group.need)
        if not nodes:
            return False
        for node in nodes:
            self._pool.set_state(node, RESERVED)
        self._reservation = Reservation(group, nodes)
        return True

    def _nodes_to_reserve(self, need: Need) -> list[int]:
        bound = self._node_of_tag.get(need.colocate)
        if bound is not None:
            return [bound]
        if need.chosen:
            return [share.node for share in need.chosen]
        return nodes_to_drain(self._pool, need)

    def _serve_reservation(self, out: list[Assignment]) -> None:
        """Place the task for which nodes are reserved, if it fits there now."""
        reservation = self._reservation
        if reservation is None or not reservation.changed:
            return
        reservation.changed = False
        group = reservation.group
        if group.need.chosen:
            self._place_chosen(group, RESERVED, out)
            return
        rooms = [(node, room) for node in reservation.nodes if (room := self._pool.capacity(group.need, node))]
        layout = spread(rooms, group.need)
        if layout is not None:
            self._place_on(group, layout, group.arrivals[0] + 1, out)
            self._note_placed(group, 1)

    def _end_reservation(self) -> None:
        reservation = self._reservation
        if reservation is None:
            return
        self._reservation = None
        for node in reservation.nodes:
            self._pool.set_state(node, OPEN)
        # For the refused these nodes are as good as released.
        self._released.extend(reservation.nodes)
        self._trim_released()

    def _trim_released(self) -> None:
        excess = len(self._released) - _RELEASES_KEPT // 2
        if excess > _RELEASES_KEPT // 2:
            del self._released[:excess]
            self._released_before += excess


def _many(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
