"""Sums over the books of a pool: what is free, and whether free and held are together what there is."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pilotage.core.scheduling.pool import LOST, Pool
from pilotage.model.resources import GPU_SHARES, Placement


class FreeSummary(msgspec.Struct, frozen=True, gc=False):
    """What is free on all nodes together: ``gpu_shares`` in 64ths, ``memory`` and ``disk`` in blocks of 64 MiB."""

    nodes: int
    idle_nodes: int
    cores: int
    gpu_shares: int
    memory: int
    disk: int


def free_summary(pool: Pool) -> FreeSummary:
    """Return what is free now, on reserved nodes too."""
    return FreeSummary(
        nodes=sum(state != LOST for state in pool.state),
        idle_nodes=sum(
            state != LOST and count == shape.cores
            for state, count, shape in zip(pool.state, pool.count, pool.shape, strict=True)
        ),
        cores=sum(pool.count),
        gpu_shares=sum(map(sum, pool.gpus)),
        memory=sum(pool.memory),
        disk=sum(pool.disk),
    )


def sum_faults(pool: Pool, held: Iterable[Placement]) -> list[str]:
    """Return where what is ``held`` and what is free do not sum up to what the nodes have."""
    cores = list(pool.cores)
    gpus = [list(free) for free in pool.gpus]
    memory = list(pool.memory)
    disk = list(pool.disk)
    faults = []
    for share in (share for placement in held for share in placement if pool.state[share.node] != LOST):
        mask = int.from_bytes(share.cores, "little")
        if cores[share.node] & mask:
            faults.append(f"node {share.node}: cores of {share} are free or held twice")
        cores[share.node] |= mask
        for gpu, parts in share.gpus:
            gpus[share.node][gpu] += parts
        memory[share.node] += share.memory
        disk[share.node] += share.disk
    for node, shape in enumerate(pool.shape):
        total = ((1 << shape.cores) - 1, [GPU_SHARES] * shape.gpus, shape.memory, shape.disk)
        actual = (cores[node], gpus[node], memory[node], disk[node])
        if pool.state[node] != LOST and actual != total:
            faults.append(f"node {node}: held and free are together {actual}, not {total}")
    return faults
