"""The policy `tagged`: tasks go where their tags say, and others keep out of their way.

All policies but `homogeneous` follow tags: a task that names nodes, or groups of nodes, runs on these, and one that names an
earlier task runs on its node. What this one guarantees beyond that, and beyond the contract of all policies:

* A task without such a tag runs on a node of a group only when no node that is in no group has room for it. So the nodes of
  groups are free for the tasks that name them as long as there is another way, and are never idle for want of one.
* Otherwise nodes are chosen as `continuous` does.
"""

from __future__ import annotations

from collections.abc import Collection

from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.search import Layout, Search


class TaggedSearch(Search):
    """Looks among the nodes that are not ``grouped`` first."""

    def __init__(self, pool: Pool, bound: int, grouped: Collection[int]) -> None:
        super().__init__(pool, bound)
        apart = [index for index in range(len(pool.nodes)) if index not in grouped]
        self._apart = pool.view(apart) if grouped and apart else None
        # Going on where the last task went would go on in a group.
        self.fills = self._apart is None

    def node(self, need: Need, view: NodeIndex | None = None) -> int:
        """Return an open node that can hold all ranks of ``need`` now, or -1."""
        if view is None and self._apart is not None:
            node = super().node(need, self._apart)
            if node >= 0:
                return node
        return super().node(need, view)

    def nodes(self, need: Need, view: NodeIndex | None = None) -> Layout | None:
        """Return open nodes that can hold the ranks of ``need`` together now, or None."""
        if view is None and self._apart is not None:
            layout = super().nodes(need, self._apart)
            if layout is not None:
                return layout
        return super().nodes(need, view)
