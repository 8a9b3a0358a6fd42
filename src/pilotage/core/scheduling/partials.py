"""Nodes that have a GPU of which a part is in use, by how much of it is free: where a share of a GPU is looked for first."""

from __future__ import annotations

from collections.abc import Collection

from pilotage.model.resources import GPU_SHARES

_SEEN = 256
"""Nodes that are looked at in one search."""


class StartedGpus:
    """For each of so many ``nodes`` the largest free part of a GPU in use, in 64ths, as it was last noted; 0: there is none."""

    def __init__(self, nodes: int) -> None:
        self.noted = [0] * nodes
        self._nodes: list[dict[int, None]] = [{} for _ in range(GPU_SHARES)]
        self._sizes = 0

    def note(self, node: int, part: int) -> None:
        """Note the largest part that is free there now."""
        noted = self.noted[node]
        if noted:
            del self._nodes[noted][node]
            if not self._nodes[noted]:
                self._sizes ^= 1 << noted
        if part:
            self._nodes[part][node] = None
            self._sizes |= 1 << part
        self.noted[node] = part

    def nodes(self, share: int, only: Collection[int] | None = None) -> list[int]:
        """Return nodes of which a GPU in use has ``share`` 64ths free, tightest first, a bounded number of them."""
        if only is not None:
            noted = self.noted
            started = [node for node in sorted(only) if noted[node] >= share]
            return sorted(started, key=noted.__getitem__)[:_SEEN]
        nodes: list[int] = []
        sizes = self._sizes >> share << share
        while sizes and len(nodes) < _SEEN:
            lowest = sizes & -sizes
            nodes.extend(self._nodes[lowest.bit_length() - 1])
            sizes ^= lowest
        return nodes[:_SEEN]

    def faults(self) -> list[str]:
        """Return what is inconsistent in the lists (test aid)."""
        return [
            f"node {node} is listed under a part of {part}, noted is {self.noted[node]}"
            for part, nodes in enumerate(self._nodes)
            for node in nodes
            if self.noted[node] != part
        ]
