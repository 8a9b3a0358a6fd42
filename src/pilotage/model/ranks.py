"""Where each rank of a task runs: pure arithmetic on a placement."""

from __future__ import annotations

from typing import NamedTuple

from pilotage.model.resources import GPU_SHARES, Placement, Request, core_indices


class RankSlot(NamedTuple):
    """The place of one rank: node index, rank on that node, core and GPU indices."""

    node: int
    local_rank: int
    cores: tuple[int, ...]
    gpus: tuple[int, ...]


def rank_slots(placement: Placement, request: Request) -> list[RankSlot]:
    """Return the slots of all ranks in rank order.

    The ranks of a node take its cores in ascending order, ``request.cores`` each, and its GPUs in the order in which the
    share names them: one per rank for a fraction of a GPU, else as many as the request asks for.
    """
    gpus_per_rank = 0 if not request.gpu_shares else max(1, request.gpu_shares // GPU_SHARES)
    slots: list[RankSlot] = []
    ranks_on: dict[int, int] = {}
    for share in placement:
        cores = core_indices(share.cores)
        before = ranks_on.get(share.node, 0)
        ranks_on[share.node] = before + share.ranks
        for rank in range(share.ranks):
            first_core, first_gpu = rank * request.cores, rank * gpus_per_rank
            gpus = share.gpus[first_gpu : first_gpu + gpus_per_rank]
            slots.append(
                RankSlot(
                    share.node,
                    before + rank,
                    tuple(cores[first_core : first_core + request.cores]),
                    tuple(index for index, _ in gpus),
                )
            )
    return slots
