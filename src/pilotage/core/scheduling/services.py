"""What services hold: it comes free when somebody ends them, which may be never, so nobody is to wait for it.

All else that runs ends by itself. A reservation counts on that, and so it asks here what a node will have at the most.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.model.resources import GPU_SHARES, NodeShare, Placement


class ServiceHoldings:
    """The placements of services that run on nodes of ``pool``."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.held: dict[NodeShare, None] = {}
        """Shares; no two are equal, as each has cores of its own."""
        self._on: dict[int, list[NodeShare]] = {}

    def note(self, placement: Placement) -> None:
        """A service holds this from now on."""
        for share in placement:
            self.held[share] = None
            self._on.setdefault(share.node, []).append(share)

    def end(self, placement: Placement) -> bool:
        """Whoever held this has ended; tell whether it was a service."""
        if not placement or placement[0] not in self.held:
            return False
        for share in placement:
            del self.held[share]
            self._on[share.node].remove(share)
            if not self._on[share.node]:
                del self._on[share.node]
        return True

    def on(self, node: int) -> bool:
        """Tell whether services hold anything on this node."""
        return node in self._on

    def cores_on(self, node: int) -> int:
        """Return how many cores of this node services hold."""
        return sum([int.from_bytes(share.cores, "little").bit_count() for share in self._on.get(node, ())])

    def room(self, need: Need, node: int) -> int:
        """Return how many ranks of ``need`` the node can take once all but the services have ended."""
        shape = self._pool.shape[node]
        if node not in self._on:
            return need.capacity(shape)
        if need.exclusive:
            return 0
        cores, gpus, memory, disk = self._left(node)
        room = cores.bit_count() // need.cores
        if need.whole:
            room = min(room, gpus.count(GPU_SHARES) // need.whole)
        elif need.share:
            room = min(room, sum([free // need.share for free in gpus]))
        if need.memory:
            room = min(room, memory // need.memory)
        if need.disk:
            room = min(room, disk // need.disk)
        return room

    def leave(self, chosen: Iterable[NodeShare]) -> bool:
        """Tell whether all of these shares, one for each node, are free once all but the services have ended."""
        for share in chosen:
            if share.node not in self._on:
                continue
            cores, gpus, memory, disk = self._left(share.node)
            for gpu, parts in share.gpus:
                gpus[gpu] -= parts
            taken = int.from_bytes(share.cores, "little") & ~cores
            if taken or share.memory > memory or share.disk > disk or min(gpus, default=0) < 0:
                return False
        return True

    def _left(self, node: int) -> tuple[int, list[int], int, int]:
        """Return the cores (a bit mask), the 64ths of each GPU, the memory and the disk that services do not hold."""
        shape = self._pool.shape[node]
        cores, gpus, memory, disk = (1 << shape.cores) - 1, [GPU_SHARES] * shape.gpus, shape.memory, shape.disk
        for share in self._on[node]:
            cores &= ~int.from_bytes(share.cores, "little")
            for gpu, parts in share.gpus:
                gpus[gpu] -= parts
            memory -= share.memory
            disk -= share.disk
        return cores, gpus, memory, disk
