"""The policy `continuous`: one node that holds it all, else neighbours, else the tightest choice among the freest.

What it guarantees beyond the contract of all policies:

* Ranks that fit on one node, and need not be spread, run on one; others get idle nodes side by side if there are any, and
  else those that are nearest to each other among the ones with most free.
* A small task goes to the node with least free that has room, so that large ones find room elsewhere: GPUs, then memory,
  then cores count. Tasks without GPUs go on where the last one went, until that node is full; those of one rank that found
  no room go to the node with least cores free that has room, of those on which something came free since.
* A share of a GPU is taken from the GPU in use that has least room for it.

A search looks at a bounded number of nodes. When the bound cut it short, ``cut`` is set, and the answer "none" is not
final. Nodes count as near when their indices are near.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from operator import sub

from pilotage.core.scheduling.index import NodeIndex, lowest_run
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.model.resources import GPU_SHARES

Layout = list[tuple[int, int]]
"""Pairs of a node and ranks there; the ranks are numbered in this order."""


class Search:
    """Searches in ``pool`` that look at no more than about ``bound`` nodes each, unless ``thorough``."""

    def __init__(self, pool: Pool, bound: int) -> None:
        self._pool = pool
        self._index = pool.index
        self._bound = bound
        self._masks: dict[tuple[int, int], tuple[int, int]] = {}
        self.fills = True
        """Whether tasks go on where the last one went, and several alike are put on a node at once."""
        self.thorough = False
        self.cut = False
        self.missing = 0
        """How many ranks found no room in the last search over several nodes."""

    def node(self, need: Need, view: NodeIndex | None = None) -> int:
        """Return an open node, of those in ``view``, that can hold all ranks of ``need`` now, or -1."""
        self._pool.refresh()
        index = view or self._index
        if need.plain:
            return index.first(need.cores * need.ranks, -1)
        if need.exclusive:
            return self._idle_node(need, index)
        ranks = need.ranks
        gpus = need.whole * ranks
        if need.share:
            for node in self._pool.started.nodes(need.share, index.only):
                if self._pool.capacity(need, node) >= ranks:
                    return node
            gpus = -(-ranks // (GPU_SHARES // need.share))
        memory = need.memory * ranks
        certain, maybe = self._levels(gpus, memory)
        cores = need.cores * ranks
        if not need.disk:
            node = index.first(cores, certain)
            if node >= 0 or not maybe & index.levels:
                return node
            return self._look_through(need, cores, maybe, index)
        return self._look_through(need, cores, certain | maybe, index)

    def core(self) -> int:
        """Return an open node with a free core, or -1."""
        self._pool.refresh()
        return self._index.first(1, -1)

    def _levels(self, gpus: int, memory: int) -> tuple[int, int]:
        key = gpus, memory
        masks = self._masks.get(key)
        if masks is None:
            if len(self._masks) >= 65536:
                self._masks.clear()
            masks = self._masks[key] = self._index.masks(gpus, memory)
        return masks

    def _look_through(self, need: Need, cores: int, mask: int, index: NodeIndex) -> int:
        seen = index.members(cores, mask, fullest=True)
        for node in seen if self.thorough else islice(seen, self._bound):
            if self._pool.capacity(need, node) >= need.ranks:
                return node
        if not self.thorough and next(seen, None) is not None:
            self.cut = True
        return -1

    def _idle_node(self, need: Need, index: NodeIndex) -> int:
        for number, shape in enumerate(index.shapes):
            if need.capacity(shape) >= need.ranks:
                idle = index.idle(number)
                if idle:
                    return (idle & -idle).bit_length() - 1
        return -1

    def nodes(self, need: Need, view: NodeIndex | None = None) -> Layout | None:
        """Return open nodes, of those in ``view``, that can hold the ranks of ``need`` together now.

        If there are none it is None, and ``missing`` tells how many ranks find no room.
        """
        self._pool.refresh()
        if need.per_node in (0, need.ranks):
            node = self.node(need, view)
            if node >= 0:
                return [(node, need.ranks)]
            if need.per_node:
                self.missing = need.ranks
                return None
        index = view or self._index
        return self._neighbours(need, index) or self._freest(need, index)

    def _neighbours(self, need: Need, index: NodeIndex) -> Layout | None:
        """Return idle nodes side by side."""
        for number, shape in enumerate(index.shapes):
            each = need.capacity(shape)
            if need.per_node:
                each = need.per_node if each >= need.per_node else 0
            if each:
                length = -(-need.ranks // each)
                start = lowest_run(index.idle(number), length)
                if start >= 0:
                    last = need.ranks - each * (length - 1)
                    return [(start + k, each) for k in range(length - 1)] + [(start + length - 1, last)]
        return None

    def _freest(self, need: Need, index: NodeIndex) -> Layout | None:
        """Return the nodes nearest to each other among those with most free."""
        found: Layout = []
        enough = room = 0
        # Of an even spread each node holds as many ranks, only the last one the remainder.
        least = need.least
        certain, maybe = self._levels(need.whole * least, need.least_memory)
        limit = max(self._bound, 8 * need.ranks)
        freest = index.members(need.least_cores, certain | maybe, fullest=False)
        for seen, node in enumerate(freest, 1):
            fit = self._pool.capacity(need, node)
            if fit >= least:
                found.append((node, fit))
                room += min(fit, need.per_node) if need.per_node else fit
                if room >= need.ranks:
                    # Some more than are needed, to choose near ones among them.
                    enough = enough or 2 * len(found) + 16
                    if len(found) >= enough:
                        break
            if seen >= limit and not self.thorough:
                self.cut = True
                break
        layout = spread(found, need)
        if layout is None:
            # Whole-node limits can make the sum look sufficient: then any release may help.
            self.missing = max(1, need.ranks - room)
        return layout


def spread(rooms: Layout, need: Need) -> Layout | None:
    """Lay the ranks of ``need`` on the nearest of the nodes that have ``rooms`` for ranks, or return None.

    >>> from pilotage.model.resources import Request
    >>> spread([(9, 2), (1, 2), (4, 1), (5, 3)], Need(Request(ranks=4)))
    [(4, 1), (5, 3)]
    """
    rooms = sorted(rooms)
    if need.per_node:
        return _spread_evenly(rooms, need)
    window = tightest([room for _, room in rooms], need.ranks, [node for node, _ in rooms], [node for node, _ in rooms])
    if window is None:
        return None
    left = need.ranks
    layout = []
    for node, room in rooms[window[0] : window[1]]:
        layout.append((node, min(room, left)))
        left -= room
    return layout


def _spread_evenly(rooms: Layout, need: Need) -> Layout | None:
    each = need.per_node
    full, rest = divmod(need.ranks, each)
    whole = [node for node, room in rooms if room >= each]
    length = full + bool(rest)
    window = tightest([1] * len(whole), length, whole, whole)
    if window is not None:
        chosen = whole[window[0] : window[1]]
        return [(node, each) for node in chosen[:full]] + [(node, rest) for node in chosen[full:]]
    if rest and len(whole) == full:
        # The last node may be one with room for the remainder only.
        for node, room in reversed(rooms):
            if rest <= room < each:
                return [(each_node, each) for each_node in whole] + [(node, rest)]
    return None


def tightest(rooms: Sequence[int], wanted: int, begins: Sequence[int], ends: Sequence[int]) -> tuple[int, int] | None:
    """Return the slice of ``rooms`` that sums to ``wanted`` at the least cost, ``ends[last] - begins[first]``, or None."""
    if rooms and (each := rooms[0]) > 0 and rooms.count(each) == len(rooms):
        # All slices that do are of one length, as nearly always on a whole machine.
        length = -(-wanted // each)
        costs = list(map(sub, islice(ends, length - 1, None), begins))
        if not costs:
            return None
        first = costs.index(min(costs))
        return first, first + length
    best: tuple[int, int, int] | None = None
    total = left = 0
    for right, room in enumerate(rooms):
        total += room
        while total - rooms[left] >= wanted:
            total -= rooms[left]
            left += 1
        if total >= wanted:
            cost = (ends[right] - begins[left], left, right + 1)
            if best is None or cost < best:
                best = cost
    return None if best is None else best[1:]
