"""A large machine and a campaign of all kinds of tasks, by one seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.resources import NodeShape, Request
from pilotage.model.workload import Row, Template
from pilotage.sim.model import Arrival, Machine
from pilotage.sim.result import Result
from pilotage.sim.world import World

SHAPE = NodeShape(cores=56, gpus=8, memory=8192, disk=30_000)
MACHINE = Machine(name="node", description="", nodes=10_000, shape=SHAPE, source="made for tests")


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


class Campaign:
    """Tasks of all shapes, all at the begin."""

    def __init__(self, nodes: int, tasks: int, seed: int) -> None:
        self._chance = random.Random(seed)
        shapes = requests(self._chance, min(128, nodes // 4))
        self.templates = {
            TemplateId(number): Template(executable="/bin/true", request=shape) for number, shape in enumerate(shapes)
        }
        self._weights = [30.0, 10, 10, 10, *[4.0] * 8, *[2.0] * 4, *(3.0 / 2**power for power in range(len(shapes) - 16))]
        self._tasks = tasks
        self._durations: dict[TaskUid, float] = {}

    def arrivals(self) -> Iterator[Arrival]:
        for first in range(0, self._tasks, 2000):
            rows = []
            for number in range(first, min(first + 2000, self._tasks)):
                uid = TaskUid(f"task.{number:06d}")
                self._durations[uid] = self._chance.choice((5.0, 60.0, 300.0)) * (0.5 + self._chance.random())
                rows.append(Row(uid, self._chance.choices(list(self.templates), self._weights)[0]))
            yield Arrival(0.0, rows)

    def duration_s(self, task: TaskUid) -> float:
        return self._durations[task]

    def follow(self, outcome: Outcome, time_s: float) -> None:
        return None


def campaign(nodes: int, tasks: int, seed: int = 7) -> tuple[World, Result]:
    """Run it to its end."""
    world = World(MACHINE, Campaign(nodes, tasks, seed), nodes=nodes, note_history=tasks <= 20_000)
    return world, world.finish()
