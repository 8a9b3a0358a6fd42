"""Nodes for the tasks of one group: the way from a group whose turn it is to assignments.

There are six ways. Tasks of one core, the plainest and most frequent, go the shortest. *Small* ones, of one rank of cores
and memory, go on where the last one went; if they were refused before, to the tightest node of those released since (see
``openings``). *Narrow* tasks run on one node each, and are placed as many at a time as it holds. *Wide* ones may lie on
several nodes. Tasks whose slots the user has chosen take just these. Those of a *gang*
are placed all at once (see ``gangs``). What no room was found for is *refused*: its group
notes how far the log of releases was.

Tasks that ``colocate`` follow the first of their tag to its node, or choose anew when that node is lost. A task that runs
``beside`` an earlier one waits until that is placed, and can't run when its node is gone, or when nothing is known of it.
"""

from __future__ import annotations

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots
from pilotage.core.scheduling.gangs import Gangs
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.openings import Openings
from pilotage.core.scheduling.policy import Assignment
from pilotage.core.scheduling.pool import CLOSED, LOST, OPEN, Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.search import Layout, Search
from pilotage.core.scheduling.tags import PLACES_KEPT, Places
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid

_THOROUGH_EVERY = 64
"""Of the searches that were cut short, every so many is followed by one without a bound."""


class Placing:
    """Takes tasks from ``queue`` and resources from ``pool``, where ``search`` and ``releases`` say that there are some."""

    gangs: Gangs
    """Set by who makes this."""

    def __init__(self, pool: Pool, queue: WaitingQueue, search: Search, releases: Releases, openings: Openings) -> None:
        self._pool = pool
        self._queue = queue
        self._search = search
        self._releases = releases
        self._openings = openings
        self._last_node = -1
        self._cuts = 0
        self.node_of_tag: dict[str, int] = {}
        self.places = Places()

    def place(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place up to ``limit`` tasks that arrived before number ``before``, as long as there is room; return how many.

        A gang counts for as many members as it has: neither limit cuts it.
        """
        need = group.need
        if need.one_core and self._search.fills:
            return self._place_cores(group, limit, before, out)
        if need.small and self._search.fills:
            return self._place_small(group, limit, before, out)
        if need.gang:
            return self.gangs.place(group, out)
        if need.chosen:
            return self.place_chosen(group, OPEN, out)
        if need.scatters or need.exclusive:
            return self._place_wide(group, limit, before, out)
        return self._place_narrow(group, limit, before, out)

    def may_help(self, group: Group) -> bool:
        """Tell whether it is worth trying to place the group, which was refused: releases since may have made room for it."""
        return (group.need.small and self._search.fills) or self._releases.may_help(group)

    def forget_node(self, node: int) -> None:
        """Bind no tag to this node any more."""
        for tag in [tag for tag, bound in self.node_of_tag.items() if bound == node]:
            del self.node_of_tag[tag]

    def _place_cores(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks that ask for one core and nothing else: what ``_place_narrow`` does, by the shortest way."""
        pool = self._pool
        key = group.key
        recent = self.places.recent
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
            recent.extend(tasks)
            recent.append(node)
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
        node = self._openings.find(1, 0) if self._is_refused(group) else self._search.core()
        if node >= 0:
            self._last_node = node
        return node

    def _is_refused(self, group: Group) -> bool:
        """Tell whether it is certain that a small group has no room but on what came free since all were looked at."""
        if group.refused_at < 0:
            return False
        self._openings.catch_up()
        if group.refused_at < self._releases.seen:
            group.refused_at = -1
            return False
        return True

    def _place_small(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks of one rank that asks for cores and memory: what ``_place_narrow`` does, by a short way."""
        pool = self._pool
        need = group.need
        key = group.key
        cores, memory = need.cores, need.memory
        carve, count, free_memory = pool.carve, pool.count, pool.memory
        recent = self.places.recent
        refused = group.refused_at >= 0 and self._is_refused(group)
        first = len(out)
        left = limit
        while left:
            if refused:
                node = self._openings.find(cores, memory)
            else:
                # Going on where the last task went saves most searches.
                node = self._last_node
                if node < 0 or count[node] < cores or free_memory[node] < memory or pool.state[node]:
                    node = self._search.node(need)
            if node < 0:
                if refused:
                    group.refused_at = self._releases.end()
                elif self._search_again(group):
                    continue
                break
            self._last_node = node
            wanted = count[node] // cores
            if memory and wanted * memory > free_memory[node]:
                wanted = free_memory[node] // memory
            if not wanted:
                raise InvariantViolated(f"node {node} was found for {need.request}, but has no room for it")
            if wanted > left:
                wanted = left
            tasks = self._queue.take(group, wanted, before)
            recent.extend(tasks)
            recent.append(node)
            if len(tasks) == 1:
                out.append(Assignment(key, tasks, (carve(need, node, 1),)))
            else:
                for task in tasks:
                    out.append(Assignment(key, [task], (carve(need, node, 1),)))
            left -= len(tasks)
            if len(tasks) < wanted or not group.live or group.arrivals[0] >= before:
                break
        if not refused and left < limit:
            self._search.thorough = False
        return len(out) - first

    def _place_narrow(self, group: Group, limit: int, before: int, out: list[Assignment]) -> int:
        """Place tasks of one node each until ``limit`` or ``before`` is reached or nothing has room; return how many."""
        pool = self._pool
        need = group.need
        key = group.key
        if need.follows:
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
            if not self._search.fills:
                wanted = 1
            tasks = self._queue.take(group, wanted, before)
            for task in tasks:
                out.append(Assignment(key, [task], (pool.carve(need, node, need.ranks),)))
            self.places.note(tasks, node)
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
        search = self._search
        if need.follows:
            return self._followed_node(group)
        refused = group.refused_at >= 0
        if need.share or need.whole or group.index is not None or not search.fills:
            return self._releases.node_for(group) if refused and search.fills else search.node(need, group.index)
        # Going on where the last task went saves most searches. GPUs want the tightest fit instead.
        node = self._last_node
        if node >= 0 and not self._pool.state[node] and self._pool.capacity(need, node):
            return node
        node = self._releases.node_for(group) if refused else search.node(need)
        if node >= 0:
            self._last_node = node
        return node

    def settled_node(self, need: Need) -> int | None:
        """Return the node that an earlier task settled for one that follows it, or None if there is none yet."""
        return self.node_of_tag.get(need.colocate) if need.colocate else self.places.node_of(TaskUid(need.request.beside))

    def _followed_node(self, group: Group) -> int:
        need = group.need
        pool = self._pool
        node = self.settled_node(need)
        if node is None:
            if need.colocate:
                return self._search.node(need, group.index)
            earlier = TaskUid(need.request.beside)
            if self._queue.group_of(earlier) is None:
                group.stranded = (
                    f"task={earlier!r} is to say on which node it runs, but no placement of that task is known here (the last "
                    f"{PLACES_KEPT:,} are); submit it after=[{earlier!r}] and soon, or leave the tag out"
                )
            elif not self._queue.is_before(earlier, group):
                group.stranded = (
                    f"task={earlier!r} is to say on which node it runs, but that task came later; submit it first, or "
                    "leave the tag out"
                )
            else:
                group.stranded = ""
            return -1
        name = pool.nodes[node].name
        tag = f"colocate={need.colocate!r}" if need.colocate else f"task={need.request.beside!r}"
        if pool.state[node] >= CLOSED:
            gone = "is lost" if pool.state[node] == LOST else "is no longer of this partition"
            group.stranded = f"{tag} keeps it on node {name}, which {gone}; leave the tag out"
        elif need.capacity(pool.shape[node]) < need.ranks:
            group.stranded = f"{tag} keeps it on node {name}, which is too small for {needs.describe(need)}"
        elif group.index is not None and node not in group.index.bucket_of:
            group.stranded = f"{tag} keeps it on node {name}, which is not one of {', '.join(need.pinned)}; leave one tag out"
        elif pool.state[node] == OPEN and pool.capacity(need, node) >= need.ranks:
            return node
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
        if group.need.follows:
            node = self._followed_node(group)
            return None if node < 0 else [(node, group.need.ranks)]
        return self._search.nodes(group.need, group.index)

    def place_on(self, group: Group, layout: Layout, before: int, out: list[Assignment]) -> None:
        """Place the first task of the group, which arrived before ``before``, on this layout."""
        pool = self._pool
        need = group.need
        placement = tuple([pool.carve(need, node, ranks) for node, ranks in layout])
        tasks = self._queue.take(group, 1, before)
        self.places.note(tasks, layout[0][0])
        out.append(Assignment(group.key, tasks, placement))
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
        tasks = self._queue.take(group, 1, group.arrivals[0] + 1)
        self.places.note(tasks, placement[0].node)
        out.append(Assignment(group.key, tasks, placement))
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
            count == shape.cores or state >= CLOSED
            for count, shape, state in zip(pool.count, pool.shape, pool.state, strict=True)
        )
