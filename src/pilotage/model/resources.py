"""What tasks ask for and what nodes have, in the units in which they are matched.

Cores are whole; the smallest is one hardware thread. Shares of GPUs are counted in 64ths, memory and node-local disk in
blocks of 64 MiB, both rounded up, so that requests fall into few shapes and arithmetic is exact.
"""

from __future__ import annotations

import msgspec

GPU_SHARES = 64
"""Parts into which one GPU can be divided."""

BLOCK_MIB = 64
"""Size in MiB of the block in which memory and node-local disk are matched."""


def gpu_shares(gpus: float) -> int:
    """Return how many 64ths of a GPU are asked for by ``gpus``, to the nearest, so that three thirds fit on one GPU.

    >>> gpu_shares(0.5), gpu_shares(2), gpu_shares(0.001), gpu_shares(1 / 3)
    (32, 128, 1, 21)
    """
    return max(1, round(gpus * GPU_SHARES)) if gpus else 0


def blocks(mebibytes: float) -> int:
    """Return how many blocks of 64 MiB hold ``mebibytes`` (rounded up).

    >>> blocks(0), blocks(1), blocks(64), blocks(65)
    (0, 1, 1, 2)
    """
    return -int(-mebibytes // BLOCK_MIB)


class NodeShape(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What one node offers to tasks: ``cores``, whole ``gpus``, ``memory`` and ``disk`` in blocks of 64 MiB."""

    cores: int
    gpus: int = 0
    memory: int = 0
    disk: int = 0


class Node(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A node of a pilot. ``index`` counts from 0; ``domain`` is the number of cores in one NUMA domain (0: unknown)."""

    index: int
    name: str
    shape: NodeShape
    domain: int = 0


class NodeShare(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a placement takes of one node.

    ``cores`` is a bit mask of core indices as little-endian bytes (a node may have more than 64 cores), ``gpus`` pairs of
    (GPU index, 64ths taken), one per rank and GPU in rank order, ``memory`` and ``disk`` blocks of 64 MiB. The ranks on the
    node take ``cores`` in ascending order, each as many as the request asks for.
    """

    node: int
    ranks: int
    cores: bytes
    gpus: tuple[tuple[int, int], ...] = ()
    memory: int = 0
    disk: int = 0


class Request(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The shape of what a task asks for. Hashable: tasks that ask for the same share one queue.

    Per rank: ``cores`` (at least 1), ``gpu_shares`` in 64ths (a multiple of 64 means whole GPUs, less than 64 a share of
    one GPU), ``memory`` and ``disk`` in blocks of 64 MiB. ``ranks_per_node`` of 0 leaves the spread to the scheduler.
    ``colocate`` names a group whose members all run on the node of the first; ``exclusive`` takes whole nodes. ``slots``: the
    user has chosen the placement, which is taken as it is; a share for each rank, in rank order, that names its cores.
    ``pinned`` names nodes and groups of nodes: all ranks run on these. ``beside`` names an earlier task, on whose first node
    all ranks run. ``gang``: ``gang_size`` tasks of this name start together or not at all.
    """

    ranks: int = 1
    cores: int = 1
    gpu_shares: int = 0
    memory: int = 0
    disk: int = 0
    ranks_per_node: int = 0
    colocate: str = ""
    exclusive: bool = False
    slots: tuple[NodeShare, ...] = ()
    pinned: tuple[str, ...] = ()
    beside: str = ""
    gang: str = ""
    gang_size: int = 0

    @property
    def party(self) -> str:
        """A name that all tasks share which have to be in the same place as this one; empty if there are none."""
        return self.colocate or (f"gang {self.gang}" if self.gang else "")


Placement = tuple[NodeShare, ...]
"""The shares of all nodes that one task, or one lane, holds; ranks are numbered in this order.

A node has one share, or, where the user has chosen the slots, one for each rank there.
"""


def core_indices(mask: bytes) -> list[int]:
    """Return the core indices set in a little-endian bit mask, ascending.

    >>> core_indices(bytes([0b00000101]))
    [0, 2]
    """
    bits = int.from_bytes(mask, "little")
    found = []
    while bits:
        low = bits & -bits
        found.append(low.bit_length() - 1)
        bits ^= low
    return found


def core_mask(indices: int) -> bytes:
    """Return the integer bit mask ``indices`` as little-endian bytes, as short as it can be."""
    return indices.to_bytes((indices.bit_length() + 7) >> 3 or 1, "little")
