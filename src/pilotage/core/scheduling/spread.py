"""The policy `spread`: each task goes to the node that is least loaded, so that tasks get most of what nodes share.

It is for tasks that compete for what is not counted: memory bandwidth, the network, the local disk.

What it guarantees beyond the contract of all policies:

* A task on one node goes to a node with most GPUs free that has room, if it asks for GPUs, and else to one with most cores
  free.
* Tasks alike go to different nodes as long as these are loaded alike.
* Ranks that don't fit on one node are laid on nodes as `continuous` does: near each other.
"""

from __future__ import annotations

from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.search import Search


class SpreadSearch(Search):
    """Finds the node with most free."""

    def __init__(self, pool: Pool, bound: int) -> None:
        super().__init__(pool, bound)
        self.fills = False

    def node(self, need: Need, view: NodeIndex | None = None) -> int:
        """Return the open node with most free that can hold all ranks of ``need`` now, or -1."""
        self._pool.refresh()
        index = self._index if view is None else view
        if need.plain:
            return index.last(need.cores * need.ranks, -1)
        if need.exclusive or need.share:
            return super().node(need, view)
        gpus = need.whole * need.ranks
        cores = need.cores * need.ranks
        certain, maybe = index.masks(gpus, need.memory * need.ranks)
        # Levels ascend with GPUs: the nodes with most of them are at the top.
        for free in range(index.gpus, gpus - 1, -1) if gpus else (-1,):
            row = -1 if free < 0 else ((1 << index.classes) - 1) << free * index.classes
            node = index.last(cores, certain & row)
            if node >= 0 and not need.disk:
                return node
            for node in index.members(cores, (certain | maybe) & row, fullest=False):
                if self._pool.capacity(need, node) >= need.ranks:
                    return node
        return -1
