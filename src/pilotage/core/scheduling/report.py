"""Sums over the books of a pool: what is free, and whether free and held are together what there is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.policy import Demand, FreeSummary
from pilotage.core.scheduling.pool import CLOSED, LOST, Pool
from pilotage.core.scheduling.queue import Group
from pilotage.model.resources import GPU_SHARES, NodeShape, Placement


def free_summary(pool: Pool) -> FreeSummary:
    """Return what is free now, on reserved nodes too, but not on those that are closed."""
    usable = [node for node, state in enumerate(pool.state) if state < CLOSED]
    return FreeSummary(
        nodes=len(usable),
        idle_nodes=sum(map(pool.is_idle, usable)),
        cores=sum([pool.count[node] for node in usable]),
        gpu_shares=sum([sum(pool.gpus[node]) for node in usable]),
        memory=sum([pool.memory[node] for node in usable]),
        disk=sum([pool.disk[node] for node in usable]),
    )


def demand(groups: Iterable[Group], shapes: Mapping[NodeShape, int]) -> Demand:
    """Return what the tasks of these groups ask for, on nodes of these shapes."""
    known = [shape for shape, number in shapes.items() if number]
    tasks = cores = gpu_shares = nodes = 0
    for group in groups:
        if group.live and group.stranded is None:
            request = group.need.request
            tasks += group.live
            cores += group.live * request.ranks * request.cores
            gpu_shares += group.live * request.ranks * request.gpu_shares
            nodes = max(nodes, _least_nodes(group.need, known))
    return Demand(tasks, cores, gpu_shares, nodes)


def _least_nodes(need: Need, shapes: Iterable[NodeShape]) -> int:
    if need.chosen or need.follows:
        return len(need.chosen) or 1
    most = max([need.capacity(shape) for shape in shapes], default=0)
    if need.per_node:
        most = min(most, need.per_node)
    return -(-need.ranks // most) if most else 0


def sum_faults(pool: Pool, held: Iterable[Placement]) -> list[str]:
    """Return where what is ``held`` and what is free do not sum up to what the nodes have."""
    cores = list(pool.cores)
    gpus = [list(free) for free in pool.gpus]
    memory = list(pool.memory)
    disk = list(pool.disk)
    faults = []
    for share in (share for placement in held for share in placement if pool.state[share.node] < LOST):
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
        if pool.state[node] < LOST and actual != total:
            faults.append(f"node {node}: held and free are together {actual}, not {total}")
    return faults
