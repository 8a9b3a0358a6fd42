"""Where something came free since all groups were looked at: tasks of one rank, of cores and memory, that were refused before.

Nodes stand here by how many cores they had free when they were put in; a node that was used since is moved when it is come
upon. So a look for the tightest of them is a few steps, however many were released, and the index of all nodes is neither
read nor mended for it. Nothing is left here once all groups have been looked at.
"""

from __future__ import annotations

from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.releases import RELEASES_KEPT, Releases


class Openings:
    """The nodes of ``pool`` that ``releases`` has noted since ``releases.seen``, and that have a core free."""

    def __init__(self, pool: Pool, releases: Releases) -> None:
        self._pool = pool
        self._releases = releases
        self._nodes: list[list[int]] = [[] for _ in range(max(shape.cores for shape in pool.shape) + 1)]
        """By free cores."""
        self._most = [0] * len(self._nodes)
        """No node there has more memory free than this, by free cores."""
        self._known = 0
        """How many releases there were when they were taken in."""
        self._entered = 0
        self._sizes = 0
        """A bit for each number of free cores for which nodes stand here."""

    def catch_up(self) -> None:
        """Take in what was released since this was last called."""
        releases = self._releases
        end = releases.before + len(releases.nodes)
        if self._known == end:
            return
        if self._known < releases.before or self._entered > RELEASES_KEPT:
            # Whoever was refused before now is searched for anew.
            self.clear()
            return
        fresh = releases.nodes[self._known - releases.before :]
        self._entered += len(fresh)
        self._known = end
        put = self._put
        for node in fresh:
            put(node)

    def clear(self) -> None:
        """All groups have been looked at."""
        self._known = self._releases.seen = self._releases.end()
        self._entered = 0
        sizes = self._sizes
        while sizes:
            lowest = sizes & -sizes
            self._nodes[lowest.bit_length() - 1].clear()
            sizes ^= lowest
        self._sizes = 0

    def bounds(self) -> tuple[int, int]:
        """Return one more than the most cores, and the most memory, that a node here may have free."""
        self.catch_up()
        pool = self._pool
        most = 0
        sizes = self._sizes
        while sizes:
            size = sizes.bit_length() - 1
            sizes ^= 1 << size
            nodes = self._nodes[size]
            if len(nodes) == 1:
                # A node that is alone is looked at, so that few nodes that were used up hold nobody up.
                node = nodes[0]
                if pool.count[node] != size or pool.state[node]:
                    nodes.clear()
                    self._sizes ^= 1 << size
                    if pool.count[node] < size:
                        self._put(node)
                        sizes = self._sizes & ((1 << size) - 1)
                    continue
                self._most[size] = pool.memory[node]
            if self._most[size] > most:
                most = self._most[size]
        return self._sizes.bit_length(), most

    def find(self, cores: int, memory: int) -> int:
        """Return the open node with least cores free of those that have so many cores and blocks of memory, or -1."""
        pool = self._pool
        mask = self._sizes >> cores << cores
        while mask:
            lowest = mask & -mask
            size = lowest.bit_length() - 1
            mask ^= lowest
            if self._most[size] < memory:
                continue
            nodes = self._nodes[size]
            node = nodes[-1]
            if pool.count[node] != size or pool.state[node]:
                nodes.pop()
                if not nodes:
                    self._sizes ^= lowest
                self._put(node)
                mask = self._sizes >> cores << cores
            elif pool.memory[node] >= memory:
                return node
            else:
                node = self._look_through(size, cores, memory)
                if node >= 0:
                    return node
        return -1

    def _put(self, node: int) -> None:
        pool = self._pool
        size = pool.count[node]
        if not size or pool.state[node]:
            return
        memory = pool.memory[node]
        nodes = self._nodes[size]
        if not nodes:
            self._sizes |= 1 << size
            self._most[size] = memory
        elif memory > self._most[size]:
            self._most[size] = memory
        nodes.append(node)

    def _look_through(self, size: int, cores: int, memory: int) -> int:
        """Return a node with enough of both that stands at this size, and put it last there, or return -1."""
        pool = self._pool
        nodes = self._nodes[size]
        most = 0
        for place, node in enumerate(nodes):
            free = pool.memory[node]
            if free >= memory and pool.count[node] >= cores and not pool.state[node]:
                nodes[place], nodes[-1] = nodes[-1], node
                return node
            most = max(most, free)
        self._most[size] = most
        return -1
