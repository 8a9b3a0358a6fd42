"""The log of nodes on which something came free: who was refused is tried again on these alone.

A group that found no room notes how long the log was. What was released before can't help it, as placing only takes away;
so a look at what came since is as good as a search. The log is short: who was refused before it begins is searched for anew.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.queue import Group

RELEASES_KEPT = 4096
"""Releases that are noted."""


class Releases:
    """Nodes of ``pool`` in the order of releases. At most ``retry_bound`` of them are tried one by one for a group."""

    def __init__(self, pool: Pool, retry_bound: int) -> None:
        self._pool = pool
        self._retry_bound = retry_bound
        self.nodes: list[int] = []
        self.before = 0
        """How many releases were forgotten."""
        self.seen = 0
        """How many releases there were when all groups were looked at last."""

    def end(self) -> int:
        """Return how many releases there were."""
        return self.before + len(self.nodes)

    def extend(self, nodes: Iterable[int]) -> None:
        """Note that these nodes can be used again."""
        self.nodes.extend(nodes)
        self.trim()

    def trim(self) -> None:
        """Forget the oldest, if there are too many."""
        excess = len(self.nodes) - RELEASES_KEPT // 2
        if excess > RELEASES_KEPT // 2:
            del self.nodes[:excess]
            self.before += excess

    def may_help(self, group: Group) -> bool:
        """Tell whether releases since the refusal of ``group`` can have made room for it."""
        fresh = group.refused_at - self.before
        released = self.nodes
        if fresh == len(released):
            return False
        if fresh < 0 or len(released) - fresh > self._retry_bound:
            group.refused_at = -1
            return True
        need = group.need
        if need.follows or need.chosen:
            return True
        if not (need.scatters or need.exclusive):
            return self.node_for(group) >= 0
        pool = self._pool
        count, least, least_cores = pool.count, need.least, need.least_cores
        for node in released[fresh:]:
            # Most nodes have too few cores, which is seen soonest.
            if count[node] >= least_cores and (fit := pool.capacity(need, node)) >= least:
                group.missing -= fit
        group.refused_at = self.before + len(released)
        return group.missing <= 0

    def node_for(self, group: Group) -> int:
        """Return the first node released since the refusal of ``group`` that has room for it, or -1.

        Only nodes before that one are done with: it stays the next to be looked at, as it may have room for more.
        """
        pool = self._pool
        need = group.need
        released = self.nodes
        only = None if group.index is None else group.index.only
        count, memory, state = pool.count, pool.memory, pool.state
        least_cores, least_memory = need.cores, need.memory
        for place in range(group.refused_at - self.before, len(released)):
            node = released[place]
            if count[node] < least_cores or memory[node] < least_memory or state[node]:
                continue
            if (need.cpu_only or pool.capacity(need, node)) and (only is None or node in only):
                group.refused_at = self.before + place
                return node
        group.refused_at = self.before + len(released)
        return -1
