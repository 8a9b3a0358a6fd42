"""Nodes for the tasks of one group: the way from a group whose turn it is to assignments.

There are four ways. Tasks of one core, the plainest and most frequent, go the shortest. *Narrow* tasks run on one node each,
and are placed as many at a time as it holds. *Wide* ones may lie on several nodes. Tasks whose slots the user has chosen
take just these. What no room was found for is *refused*: its group notes how far the log of releases was.

Tasks that ``colocate`` follow the first of their tag to its node, or choose anew when that node is lost.
"""

from __future__ import annotations

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots
from pilotage.core.scheduling.policy import Assignment
from pilotage.core.scheduling.pool import LOST, OPEN, Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.search import Layout, Search
from pilotage.errors import InvariantViolated

_THOROUGH_EVERY = 64
"""Of the searches that were cut short, every so many is followed by one without a bound."""


class Placing:
    """Takes tasks from ``queue`` and resources from ``pool``, where ``search`` and ``releases`` say that there are some."""

    def __init__(self, pool: Pool, queue: WaitingQueue, search: Search, releases: Releases) -> None:
        self._pool = pool
        self._queue = queue
        self._search = search
        self._releases = releases
        self._last_node = -1
        self._cuts = 0
        self.node_of_tag: dict[str, int] = {}

    def place(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place up to ``limit`` tasks that arrived before number ``before``, as long as there is room; return how many."""
        need = group.need
        if need.one_core:
            return self._place_cores(group, limit, before, out)
        if need.chosen:
            return self.place_chosen(group, OPEN, out)
        if need.scatters or need.exclusive:
            return self._place_wide(group, limit, before, out)
        return self._place_narrow(group, limit, before, out)

    def forget_node(self, node: int) -> None:
        """Bind no tag to this node any more."""
        for tag in [tag for tag, bound in self.node_of_tag.items() if bound == node]:
            del self.node_of_tag[tag]

    def _place_cores(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks that ask for one core and nothing else: what ``_place_narrow`` does, by the shortest way."""
        pool = self._pool
        key = group.key
        first = len(out)
        left = limit
        while left:
            node = self._core_node(group)
            if node < 0:
                group.refused_at = self._releases.end()
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
        return len(out) - first

    def _core_node(self, group: Group) -> int:
        """Return an open node with a free core: the last one used, or one in use that was just released, or a search's."""
        pool = self._pool
        node = self._last_node
        if node >= 0 and pool.count[node] and not pool.state[node]:
            return node
        if self._releases.nodes:
            node = self._releases.nodes[-1]
            if 0 < pool.count[node] < pool.shape[node].cores and not pool.state[node]:
                self._last_node = node
                return node
        node = self._search.core() if group.refused_at < 0 else self._releases.node_for(group)
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
                self.node_of_tag[need.colocate] = node
            if len(tasks) < wanted or not group.live or group.arrivals[0] >= before:
                break
        if placed:
            self._search.thorough = False
        return placed

    def _node_for(self, group: Group) -> int:
        need = group.need
        if not need.colocate:
            refused = group.refused_at >= 0
            if need.share or need.whole:
                return self._releases.node_for(group) if refused else self._search.node(need)
            # Going on where the last task went saves most searches. GPUs want the tightest fit instead.
            node = self._last_node
            if node >= 0 and not self._pool.state[node] and self._pool.capacity(need, node):
                return node
            node = self._releases.node_for(group) if refused else self._search.node(need)
            if node >= 0:
                self._last_node = node
            return node
        bound = self.node_of_tag.get(need.colocate)
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
            self.place_on(group, layout, before, out)
            placed += 1
        if placed:
            self._search.thorough = False
        return placed

    def _layout_for(self, group: Group) -> Layout | None:
        if group.need.colocate:
            node = self._node_for(group)
            return None if node < 0 else [(node, group.need.ranks)]
        return self._search.nodes(group.need)

    def place_on(self, group: Group, layout: Layout, before: int, out: list[Assignment]) -> None:
        """Place the first task of the group, which arrived before ``before``, on this layout."""
        pool = self._pool
        need = group.need
        placement = tuple([pool.carve(need, node, ranks) for node, ranks in layout])
        out.append(Assignment(group.key, self._queue.take(group, 1, before), placement))
        if need.colocate:
            self.node_of_tag[need.colocate] = layout[0][0]

    def place_chosen(self, group: Group, state: int, out: list[Assignment]) -> int:
        """Place the first task on the slots chosen for it, if they are free on nodes of this state; return how many."""
        if not slots.are_free(self._pool, group.need.chosen, state):
            group.refused_at = self._releases.end()
            return 0
        placement = group.key.request.slots
        for slot in placement:
            self._pool.occupy(slot)
        out.append(Assignment(group.key, self._queue.take(group, 1, group.arrivals[0] + 1), placement))
        return 1

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
        group.refused_at = self._releases.end()
        group.missing = search.missing
        return False

    def _is_idle(self) -> bool:
        pool = self._pool
        return all(
            count == shape.cores or state == LOST
            for count, shape, state in zip(pool.count, pool.shape, pool.state, strict=True)
        )
