"""How ranks are spread over nodes, as launchers can be told: pure arithmetic on slots."""

from __future__ import annotations

from typing import NamedTuple

from pilotage.errors import BackendError
from pilotage.launchers.method import LaunchRequest, refuse


class Block(NamedTuple):
    """Consecutive ranks on one node."""

    node: int
    name: str
    ranks: int


class Spread(NamedTuple):
    """The ranks of a request in blocks, in rank order.

    ``together``: each node's ranks are one block. ``ascending``: nodes come in the order of the allocation.
    """

    blocks: list[Block]
    together: bool
    ascending: bool

    @property
    def even(self) -> bool:
        """Whether each node has one block, and all are of one size."""
        ranks = self.blocks[0].ranks
        return self.together and all(block.ranks == ranks for block in self.blocks)

    @property
    def filled(self) -> bool:
        """Whether each node has one block, and all but the last are of one size, which the last does not exceed."""
        ranks = self.blocks[0].ranks
        return self.together and all(block.ranks == ranks for block in self.blocks[:-1]) and self.blocks[-1].ranks <= ranks

    @property
    def most(self) -> int:
        """How many ranks the fullest node has."""
        if self.together:
            return max(block.ranks for block in self.blocks)
        on: dict[int, int] = {}
        for block in self.blocks:
            on[block.node] = on.get(block.node, 0) + block.ranks
        return max(on.values())

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return len(self.blocks) if self.together else len({block.node for block in self.blocks})

    def counted(self) -> str:
        """Return the blocks as ``name:ranks``, separated by commas."""
        return ",".join([f"{block.name}:{block.ranks}" for block in self.blocks])

    def names(self) -> str:
        """Return the names of the blocks' nodes, separated by commas."""
        return ",".join([block.name for block in self.blocks])

    def line_per_rank(self) -> str:
        """Return a file that has the node of each rank on a line."""
        return "".join([f"{block.name}\n" * block.ranks for block in self.blocks])


def spread_of(request: LaunchRequest) -> Spread:
    """Return how the ranks of a request are spread.

    Raises:
        BackendError: a node has no name, or there is no rank.
    """
    slots, names = request.slots, request.node_names
    try:
        previous = first = slots[0].node
    except IndexError:
        raise BackendError("there is no rank to launch; ask for one rank at least") from None
    blocks: list[Block] = []
    try:
        begin, ascending = 0, True
        for rank, slot in enumerate(slots):
            node = slot.node
            if node != previous:
                blocks.append(Block(previous, names[previous], rank - begin))
                ascending = ascending and node > previous
                begin, previous = rank, node
        blocks.append(Block(previous, names[previous], len(slots) - begin))
    except KeyError as error:
        raise BackendError(f"node {error.args[0]} of the pilot has no name; names are known of {len(names)} nodes") from None
    together = ascending or len({block.node for block in blocks}) == len(blocks)
    return Spread(blocks, together, ascending or previous == first)


def require_order(method: str, spread: Spread, *, uneven: bool = False) -> None:
    """Refuse a spread for which a method cannot keep rank *n* on the node of slot *n*: one that goes by nodes in their order.

    ``uneven``: nodes may have any numbers of ranks; else all the same, but for the last, which may have fewer.

    Raises:
        BackendError: ranks go to nodes in another order, or unevenly.
    """
    if not spread.ascending or not spread.together:
        refuse(
            method,
            "numbers ranks by the nodes in the order of the allocation, and these go elsewhere",
            "take the ranks' slots in the order of nodes",
        )
    if not uneven and not spread.filled:
        counts = ", ".join(str(block.ranks) for block in spread.blocks[:8])
        refuse(
            method,
            f"starts the same number of ranks on each node, and fewer only on the last; asked for are {counts}",
            "ask for as many ranks on each node, or use srun, jsrun, mpiexec of MPICH or OpenMPI, or flux",
        )


def gpus_per_rank(request: LaunchRequest) -> int:
    """Return how many GPUs each rank has (the most, where they differ)."""
    return max([len(slot.gpus) for slot in request.slots])


def cores_per_rank(request: LaunchRequest) -> int:
    """Return how many cores each rank has (the most, where they differ), one at least."""
    return max(1, max([len(slot.cores) for slot in request.slots]))
