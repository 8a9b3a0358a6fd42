"""A large machine and a campaign of all kinds of tasks, by one seed. As a program: ``simulated_campaign.py NODES TASKS``."""

from __future__ import annotations

import random
import sys
import time

from pilotage.core.scheduling import Scheduler
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.workload import Batch, Row, Template
from pilotage.testing.virtual_pilot import Report, VirtualPilot

SHAPE = NodeShape(cores=56, gpus=8, memory=8192, disk=30_000)


def machine(count: int) -> list[Node]:
    return [Node(index, f"node{index:05d}", SHAPE, domain=7) for index in range(count)]


def requests(chance: random.Random, widest: int) -> list[Request]:
    """Of one core, of shares of GPUs, of some memory, of whole nodes, up to ``widest`` of them."""
    found = [Request(), Request(cores=7, gpu_shares=64), Request(gpu_shares=16), Request(memory=chance.randint(1, 4000))]
    found += [Request(cores=chance.randint(1, 56), memory=chance.randint(0, 8000)) for _ in range(8)]
    found += [Request(ranks=chance.choice((2, 8, 16, 64)), cores=chance.choice((1, 7)), gpu_shares=64) for _ in range(4)]
    wide = 1
    while wide <= widest:
        found.append(Request(ranks=wide, cores=56, gpu_shares=8 * 64, ranks_per_node=1))
        wide *= 2
    return found


def campaign(nodes: int, tasks: int, seed: int = 7) -> tuple[VirtualPilot, Report]:
    """Run it to its end."""
    chance = random.Random(seed)
    shapes = requests(chance, min(128, nodes // 4))
    templates = {TemplateId(number): Template(executable="/bin/true", request=shape) for number, shape in enumerate(shapes, 1)}
    weights = [30.0, 10, 10, 10, *[4.0] * 8, *[2.0] * 4, *(3.0 / 2**power for power in range(len(shapes) - 16))]
    durations: dict[TaskUid, float] = {}
    nodes_there = machine(nodes)
    pilot = VirtualPilot(Scheduler(nodes_there), nodes_there, durations.__getitem__, note_history=tasks <= 20_000)
    for first in range(0, tasks, 2000):
        rows = []
        for number in range(first, min(first + 2000, tasks)):
            uid = TaskUid(f"task.{number:06d}")
            durations[uid] = chance.choice((5.0, 60.0, 300.0)) * (0.5 + chance.random())
            rows.append(Row(uid, chance.choices(list(templates), weights)[0]))
        pilot.submit(Batch(templates if first == 0 else {}, rows))
    return pilot, pilot.run()


if __name__ == "__main__":
    began = time.process_time()
    pilot, report = campaign(int(sys.argv[1]), int(sys.argv[2]))
    pilot.policy.check()
    print(f"{len(report.outcomes)} tasks in {time.process_time() - began:.1f} s of CPU, {report.steps} steps;", end=" ")
    print(f"{report.makespan_s:.0f} virtual seconds, utilization {report.utilization:.3f}")
