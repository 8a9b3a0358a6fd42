"""How well a policy packs: the makespan of a bag of mixed tasks on 1,024 nodes of Summit, against a lower bound.

Nodes have 42 cores and 6 GPUs. The bags are those of the experiments of 2021 on Summit: tasks of 1 to 42 cores and 0 to 6
GPUs, 3,098 of them in one generation (600 to 900 s each), or 24,784 in eight (500 to 900 s each). They are made so that all
cores and GPUs can be in use: nodes are cut at random into three tasks, some into four, and the tasks are shuffled.

The lower bound is the longest of: the longest task; all core-seconds over all cores; all GPU-seconds over all GPUs. Time is
virtual, nothing is lost between tasks, and the durations are declared. The figure is the bound over the makespan; the
baseline is `continuous` in the order `first_come`, which knows no durations and lets nobody overtake.
"""

from __future__ import annotations

import heapq
import random
import time
from typing import Any

import msgspec

from pilotage.core.scheduling import GroupKey, Policy, make_policy, rounded_duration
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import PolicySpec
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, Placement, Request

SHAPE = NodeShape(cores=42, gpus=6)
TARGET = 0.98

CASES: tuple[tuple[str, int, float, float], ...] = (
    ("3,098 tasks in one generation", 1, 600.0, 900.0),
    ("24,784 tasks in eight generations", 8, 500.0, 900.0),
)
TASKS_PER_GENERATION = 3098
NODES = 1024


class Piece(msgspec.Struct, frozen=True):
    """One task: what it asks for, and how long it runs."""

    request: Request
    duration_s: float


def bag(nodes: int, generations: int, shortest_s: float, longest_s: float, seed: int) -> list[Piece]:
    """Return the tasks of a bag that could fill so many nodes completely, for so many generations."""
    chance = random.Random(seed)
    fours = (TASKS_PER_GENERATION - 3 * NODES) * nodes // NODES
    pieces = []
    for _ in range(generations):
        for node in range(nodes):
            parts = 4 if node < fours else 3
            cores = _cut(chance, SHAPE.cores, parts, least=1)
            gpus = _cut(chance, SHAPE.gpus, parts, least=0)
            for part_cores, part_gpus in zip(cores, gpus, strict=True):
                request = Request(cores=part_cores, gpu_shares=part_gpus * GPU_SHARES)
                pieces.append(Piece(request, chance.uniform(shortest_s, longest_s)))
    chance.shuffle(pieces)
    return pieces


def _cut(chance: random.Random, whole: int, parts: int, *, least: int) -> list[int]:
    if least:
        marks = sorted(chance.sample(range(1, whole), parts - 1))
    else:
        marks = sorted(chance.randint(0, whole) for _ in range(parts - 1))
    return [end - begin for begin, end in zip([0, *marks], [*marks, whole], strict=True)]


def lower_bound(pieces: list[Piece], nodes: int) -> float:
    """Return a time in seconds below which no schedule of these tasks can end."""
    cores = sum(piece.request.cores * piece.duration_s for piece in pieces) / (nodes * SHAPE.cores)
    gpus = sum(piece.request.gpu_shares * piece.duration_s for piece in pieces) / (nodes * SHAPE.gpus * GPU_SHARES)
    return max(cores, gpus, max(piece.duration_s for piece in pieces))


def makespan(pieces: list[Piece], nodes: int, spec: PolicySpec, *, declared: bool) -> float:
    """Return the time in seconds after which the last of these tasks ends, all of which are there at the begin."""
    policy: Policy = make_policy(spec, [Node(index, f"node{index}", SHAPE) for index in range(nodes)])
    durations: dict[TaskUid, float] = {}
    for number, piece in enumerate(pieces):
        uid = TaskUid(f"task.{number:06d}")
        durations[uid] = piece.duration_s
        known = rounded_duration(piece.duration_s) if declared else 0.0
        policy.enqueue(uid, GroupKey("executable", piece.request, 0, known), 0.0)
    now = 0.0
    number = 0
    running: list[tuple[float, int, Placement, Request]] = []
    while True:
        while policy.waiting() and (placed := policy.schedule(now, 1024)):
            for lane in placed:
                number += 1
                ends = now + durations[lane.tasks[0]]
                heapq.heappush(running, (ends, number, lane.placement, lane.group.request))
        if not running:
            return now
        now, _, placement, request = heapq.heappop(running)
        policy.release(placement, request)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row for each bag: the lower bound over the makespan of `packed`, and of first come, first served."""
    nodes = NODES // 8 if quick else NODES
    rows: list[dict[str, Any]] = []
    for name, generations, shortest_s, longest_s in CASES:
        pieces = bag(nodes, generations, shortest_s, longest_s, seed=1)
        bound = lower_bound(pieces, nodes)
        begin = time.process_time()
        packed = makespan(pieces, nodes, PolicySpec(policy="packed"), declared=True)
        rate = len(pieces) / (time.process_time() - begin)
        first = makespan(pieces, nodes, PolicySpec(order="first_come"), declared=False)
        rows += [
            {
                "case": f"packing: {name}, {nodes:,} nodes",
                "value": round(bound / packed, 4),
                "unit": "lower bound / makespan",
                "baseline": round(bound / first, 4),
                "ratio": round(first / packed, 2),
                "target": None if quick else TARGET,
            },
            {
                "case": f"packing: {name}, placed and released by packed",
                "value": round(rate),
                "unit": "tasks/s of CPU",
                "target": None,
                "ratio": None,
            },
        ]
    return rows
