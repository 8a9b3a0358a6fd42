"""Rates of the scheduler alone, in pairs of placement and release per second of CPU.

Nodes have 56 cores, 8 GPUs and 512 GiB. Everything is counted: letting a task wait, placing it, giving back. The cases:

* empty: an idle machine; each task is placed and released before the next.
* bulk: an idle machine; tasks wait and are placed 512 at a time, the oldest are released.
* full: a full machine and a long queue; one core at a time becomes free, anywhere, and is given to the next task.
* ranks: 16 ranks of 7 cores and 1 GPU; a quarter of the machine (at least one task) is in use.
* 64 shapes: a full machine and a long queue of tasks of 1 to 8 cores and of 8 sizes of memory, all of which wait at any time;
  64 tasks end at a time, anywhere, and what they free is given to the next.
* full, behind them 64 shapes: as "full", 64 cores at a time; tasks of 64 larger shapes, which find no room, wait behind those
  of one core.
* homogeneous: as "full", with the policy `homogeneous`.
* memory: 100,000 single-core tasks of all-distinct memory, in a shuffled order, placed 512 at a time.
* memory, one at a time: the same on a machine that they fill, one release at a time: the worst there is, as nearly all
  groups are passed over each time. It has no target; the agent releases and schedules many at once.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from pilotage.core.scheduling import GroupKey, Policy, Scheduler, make_policy
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import PolicySpec
from pilotage.model.resources import Node, NodeShape, Placement, Request, blocks

SIZES = (16, 256, 1024, 9408)
SHAPE = NodeShape(cores=56, gpus=8, memory=blocks(512 * 1024), disk=0)
ONE_CORE = Request()
RANKS = Request(ranks=16, cores=7, gpu_shares=64)


def machine(nodes: int) -> Scheduler:
    return Scheduler([Node(index, f"node{index}", SHAPE, domain=28) for index in range(nodes)])


def tasks(count: int) -> list[TaskUid]:
    return [TaskUid(f"task.{number:08d}") for number in range(count)]


def empty(nodes: int, count: int) -> float:
    scheduler = machine(nodes)
    group = GroupKey("executable", ONE_CORE)
    names = tasks(count)
    begin = time.process_time()
    for name in names:
        scheduler.enqueue(name, group, 0.0)
        (lane,) = scheduler.schedule(0.0, 1)
        scheduler.release(lane.placement, ONE_CORE)
    return count / (time.process_time() - begin)


def bulk(nodes: int, count: int) -> float:
    scheduler = machine(nodes)
    return in_bulk(scheduler, [(name, ONE_CORE) for name in tasks(count)], keep=min(nodes * 56 // 2, 4096))


def in_bulk(scheduler: Scheduler, work: list[tuple[TaskUid, Request]], keep: int) -> float:
    running: deque[tuple[Placement, Request]] = deque()
    groups = {request: GroupKey("executable", request) for _, request in work}
    plan = [(name, groups[request]) for name, request in work]
    one_group = len(groups) == 1
    begin = time.process_time()
    for start in range(0, len(plan), 512):
        part = plan[start : start + 512]
        if one_group:
            scheduler.enqueue_many([name for name, _ in part], part[0][1], 0.0)
        else:
            for name, group in part:
                scheduler.enqueue(name, group, 0.0)
        while scheduler.waiting():
            for lane in scheduler.schedule(0.0, 512):
                running.append((lane.placement, lane.group.request))
            while len(running) > keep:
                scheduler.release(*running.popleft())
            if scheduler.waiting():
                for _ in range(min(64, len(running))):
                    scheduler.release(*running.popleft())
    while running:
        scheduler.release(*running.popleft())
    return len(plan) / (time.process_time() - begin)


def homogeneous(nodes: int, count: int) -> float:
    spec = PolicySpec(policy="homogeneous")
    return full(nodes, count, make_policy(spec, [Node(index, f"node{index}", SHAPE, domain=28) for index in range(nodes)]))


def full(nodes: int, count: int, policy: Policy | None = None) -> float:
    scheduler = policy or machine(nodes)
    group = GroupKey("executable", ONE_CORE)
    scheduler.enqueue_many([TaskUid(f"fill.{number}") for number in range(nodes * 56)], group, 0.0)
    held = [lane.placement for lane in scheduler.schedule(0.0, nodes * 56)]
    assert len(held) == nodes * 56
    names = tasks(count)
    chance = random.Random(1)
    order = [chance.randrange(len(held)) for _ in range(count)]
    begin = time.process_time()
    scheduler.enqueue_many(names, group, 0.0)
    for freed in order:
        scheduler.release(held[freed], ONE_CORE)
        (lane,) = scheduler.schedule(0.0, 1)
        held[freed] = lane.placement
    return count / (time.process_time() - begin)


def shapes_of(least_cores: int) -> list[GroupKey]:
    return [
        GroupKey("executable", Request(cores=cores, memory=size))
        for cores in range(least_cores, least_cores + 8)
        for size in (1, 2, 4, 8, 16, 32, 64, 128)
    ]


def full_and_shapes(nodes: int, count: int) -> float:
    scheduler = machine(nodes)
    group = GroupKey("executable", ONE_CORE, priority=1)
    names = iter(tasks(2 * count + 64 * nodes + 64))
    scheduler.enqueue_many(list(islice(names, nodes * 56)), group, 0.0)
    held = [lane.placement for lane in scheduler.schedule(0.0, nodes * 56)]
    assert len(held) == nodes * 56
    for other in shapes_of(56 - 8):
        scheduler.enqueue(next(names), other, 0.0)
    chance = random.Random(1)
    waiting = list(islice(names, count + 64))
    begin = time.process_time()
    scheduler.enqueue_many(waiting, group, 0.0)
    for _ in range(count // 64):
        for _ in range(64):
            place = chance.randrange(len(held))
            held[place], held[-1] = held[-1], held[place]
            scheduler.release(held.pop(), ONE_CORE)
        held += [lane.placement for lane in scheduler.schedule(0.0, 512)]
    taken = time.process_time() - begin
    assert len(held) == nodes * 56
    return count // 64 * 64 / taken


def shapes(nodes: int, count: int) -> float:
    scheduler = machine(nodes)
    groups = shapes_of(1)
    chance = random.Random(4)
    chance.shuffle(groups)
    names = iter(tasks(2 * count + 64 * nodes))

    def refill(number: int) -> None:
        for group in groups:
            scheduler.enqueue_many(list(islice(names, number)), group, 0.0)

    refill(nodes)
    lanes = scheduler.schedule(0.0, 64 * nodes)
    running = [(lane.placement, lane.group.request) for lane in lanes]
    placed = 0
    begin = time.process_time()
    while placed < count:
        if scheduler.waiting() < 64 * 32:
            refill(64)
        for _ in range(64):
            place = chance.randrange(len(running))
            running[place], running[-1] = running[-1], running[place]
            scheduler.release(*running.pop())
        for lane in scheduler.schedule(0.0, 512):
            running.append((lane.placement, lane.group.request))
            placed += 1
    return placed / (time.process_time() - begin)


def ranks(nodes: int, count: int) -> float:
    scheduler = machine(nodes)
    group = GroupKey("executable", RANKS)
    names = tasks(count)
    running: deque[Placement] = deque()
    begin = time.process_time()
    scheduler.enqueue_many(names, group, 0.0)
    while scheduler.waiting():
        for lane in scheduler.schedule(0.0, max(1, nodes // 8)):
            running.append(lane.placement)
        for _ in range(max(1, len(running) // 2)):
            scheduler.release(running.popleft(), RANKS)
    return count / (time.process_time() - begin)


def distinct(count: int) -> list[tuple[TaskUid, Request]]:
    sizes = list(range(1, count + 1))
    random.Random(2).shuffle(sizes)
    return [(name, Request(memory=blocks(mebibytes))) for name, mebibytes in zip(tasks(count), sizes, strict=True)]


def memory(nodes: int, count: int) -> float:
    return in_bulk(machine(nodes), distinct(count), keep=min(nodes * 5, 4096))


def memory_singly(nodes: int, count: int) -> float:
    scheduler = machine(nodes)
    work = [(name, GroupKey("executable", request)) for name, request in distinct(count)]
    chance = random.Random(3)
    running: list[tuple[Placement, Request]] = []
    begin = time.process_time()
    for name, group in work:
        scheduler.enqueue(name, group, 0.0)
    lanes = scheduler.schedule(0.0, count)
    while lanes or running:
        running += [(lane.placement, lane.group.request) for lane in lanes]
        place = chance.randrange(len(running))
        running[place], running[-1] = running[-1], running[place]
        scheduler.release(*running.pop())
        lanes = scheduler.schedule(0.0, 64)
    return count / (time.process_time() - begin)


CASES: tuple[tuple[str, Callable[[int, int], float], int, float | None], ...] = (
    ("empty", empty, 200_000, 300_000),
    ("bulk", bulk, 400_000, 300_000),
    ("full", full, 200_000, 300_000),
    ("full, behind them 64 shapes", full_and_shapes, 200_000, 300_000),
    ("64 shapes", shapes, 100_000, 100_000),
    ("homogeneous", homogeneous, 200_000, 200_000),
    ("ranks", ranks, 40_000, 30_000),
    ("memory", memory, 100_000, 150_000),
    ("memory, one at a time", memory_singly, 100_000, None),
)


def run(quick: bool = False) -> list[dict[str, Any]]:
    """Return one row for each case and size: ``case``, ``nodes``, ``value``, ``unit``, ``target`` (or None), ``ratio``."""
    rows: list[dict[str, Any]] = []
    for name, measure, count, target in CASES:
        for nodes in SIZES:
            value = measure(nodes, count // 10 if quick else count)
            rows.append(
                {
                    "case": f"scheduler: {name}, {nodes:,} nodes",
                    "nodes": nodes,
                    "value": round(value),
                    "unit": "tasks/s of CPU",
                    "target": target,
                    "ratio": round(value / target, 2) if target else None,
                }
            )
    return rows
