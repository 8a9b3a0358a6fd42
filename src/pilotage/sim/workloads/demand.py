"""How much a workload asks for, whatever becomes of it: the least time that any plan can take follows from it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pilotage.model.resources import GPU_SHARES, NodeShape, Request


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """All tasks of a workload together. ``core_s`` and ``gpu_s`` are seconds of cores and GPUs.

    ``largest_nodes``: what the task that asks for most of a node's cores or GPUs fills, in nodes.
    """

    tasks: int
    core_s: float
    gpu_s: float
    mean_s: float
    longest_s: float
    largest_nodes: float

    def least_makespan_s(self, nodes: int, shape: NodeShape) -> float:
        """Return how long it takes on so many nodes that are never idle and start tasks in no time; infinity if nothing can."""
        bounds = [self.longest_s, self.core_s / (nodes * shape.cores)]
        if self.gpu_s:
            bounds.append(self.gpu_s / (nodes * shape.gpus) if shape.gpus else float("inf"))
        return max(bounds)


def demand_of(parts: Iterable[tuple[Request, int, float, float]], shape: NodeShape) -> Demand:
    """Return the demand of groups of tasks; each is what one asks for, how many, the sum of durations and the longest."""
    tasks, core_s, gpu_s, total_s, longest_s, largest = 0, 0.0, 0.0, 0.0, 0.0, 0.0
    for request, count, sum_s, most_s in parts:
        tasks += count
        total_s += sum_s
        core_s += request.ranks * request.cores * sum_s
        gpu_s += request.ranks * request.gpu_shares / GPU_SHARES * sum_s
        longest_s = max(longest_s, most_s)
        largest = max(largest, part_of_nodes(request, shape))
    return Demand(
        tasks=tasks,
        core_s=core_s,
        gpu_s=gpu_s,
        mean_s=total_s / tasks if tasks else 0.0,
        longest_s=longest_s,
        largest_nodes=largest,
    )


def part_of_nodes(request: Request, shape: NodeShape) -> float:
    """Return how many nodes' cores or GPUs, whichever is more, a request asks for.

    >>> part_of_nodes(Request(ranks=2, cores=4, gpu_shares=64), NodeShape(cores=8, gpus=1))
    2.0
    """
    cores = request.ranks * request.cores / shape.cores
    gpus = request.ranks * request.gpu_shares / (shape.gpus * GPU_SHARES) if shape.gpus else 0.0
    return max(cores, gpus)
