"""A million tasks of all shapes on a whole machine of 9,408 nodes, simulated: in processes of their own, with peak memory.

Tasks have from one core to 128 nodes, with GPUs, shares of GPUs and memory, and half of them declare how long they take. The
real cores of client and agent and the real scheduler decide about each, over links with real messages. As a program:
``python -m pilotage.bench.simulation TASKS NODES SEED client|plain`` prints the row's figures as JSON, and with the name or
file of a workload, such as ``machine-scale``, those of what ``pilotage sim`` does with it where starting tasks costs nothing.
"""

from __future__ import annotations

import itertools
import json
import random
import resource
import subprocess
import sys
import time
from array import array
from collections.abc import Iterator

from pilotage.bench.measure import Row, row
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import GPU_SHARES, NodeShape, Request, blocks
from pilotage.model.workload import Row as TaskRow
from pilotage.model.workload import Template
from pilotage.sim.model import IDEAL, Arrival, Machine
from pilotage.sim.plans import Plan, described_workload, settle
from pilotage.sim.result import Result
from pilotage.sim.world import World

SHAPE = NodeShape(cores=56, gpus=8, memory=blocks(512 * 1024))
MACHINE = Machine(name="node", description="as large as Frontier", nodes=9408, shape=SHAPE, source="made for the benchmark")
WIDEST = 128
ARRIVE_TOGETHER = 2000
DURATIONS_S = (30, 600)
DECLARED_S = (60.0, 120.0, 240.0, 600.0)
SHIPPED = "machine-scale"
"""The workload of as many tasks that ships, with longer ones, nearly half of them functions."""

Shape = tuple[float, Request]
"""How often, and what."""

NARROW: tuple[Shape, ...] = (
    (40.0, Request()),
    (8.0, Request(memory=blocks(4 * 1024))),
    (6.0, Request(cores=4, memory=blocks(16 * 1024))),
    (4.0, Request(cores=14, memory=blocks(64 * 1024))),
    (2.0, Request(cores=28)),
    (18.0, Request(cores=7, gpu_shares=GPU_SHARES)),
    (8.0, Request(gpu_shares=GPU_SHARES // 4)),
    (4.0, Request(ranks=8, cores=7, gpu_shares=GPU_SHARES)),
    (2.0, Request(ranks=16, cores=7, gpu_shares=GPU_SHARES)),
)
"""On one node or two."""


def shapes() -> list[Shape]:
    """Return all shapes; of whole nodes there are fewer, the more they are."""
    wide = [2**power for power in range(WIDEST.bit_length())]
    whole = [(4.0 / nodes, Request(ranks=nodes * 8, cores=7, gpu_shares=GPU_SHARES, ranks_per_node=8)) for nodes in wide]
    return [*NARROW, *whole]


class Heterogeneous:
    """So many tasks, all at the begin, by a seed; a ``Workload``."""

    def __init__(self, count: int, seed: int) -> None:
        self._count = count
        self._chance = random.Random(seed)
        self._durations = array("H")
        self._weights: list[float] = []
        self._longest: list[int] = []
        self.templates: dict[TemplateId, Template] = {}
        for weight, request in shapes():
            # Half of the tasks of each shape say how long they take at the most, in one of a few round figures.
            for declared in (0.0, *DECLARED_S):
                number = TemplateId(len(self.templates) + 1)
                self.templates[number] = Template(executable="/bin/true", request=request, duration_s=declared)
                self._weights.append(weight * (0.5 if not declared else 0.5 / len(DECLARED_S)))
                self._longest.append(int(declared) or DURATIONS_S[1])

    def arrivals(self) -> Iterator[Arrival]:
        chance, numbers = self._chance, list(self.templates)
        weights = list(itertools.accumulate(self._weights))
        for first in range(0, self._count, ARRIVE_TOGETHER):
            names = range(first, min(first + ARRIVE_TOGETHER, self._count))
            drawn = chance.choices(numbers, cum_weights=weights, k=len(names))
            self._durations.extend([chance.randint(DURATIONS_S[0], self._longest[number - 1]) for number in drawn])
            yield Arrival(
                0.0, [TaskRow(TaskUid(f"task.{name:07d}"), number) for name, number in zip(names, drawn, strict=True)]
            )

    def duration_s(self, task: TaskUid) -> float:
        return self._durations[int(task[5:])]

    def follow(self, outcome: Outcome, time_s: float) -> None:
        return None


def mean_nodes() -> float:
    """Return how many nodes a task takes, on average; one that fits a node takes the larger part of its cores or GPUs."""
    total = sum(weight for weight, _ in shapes())
    return sum(weight * _nodes(request) for weight, request in shapes()) / total


def _nodes(request: Request) -> float:
    gpus = request.ranks * request.gpu_shares / GPU_SHARES
    return max(request.ranks * request.cores / SHAPE.cores, gpus / SHAPE.gpus, request.ranks * request.memory / SHAPE.memory)


def measure(tasks: int, nodes: int, seed: int, client: bool) -> dict[str, float]:
    """Simulate in this process, and return the figures."""
    began, cpu = time.perf_counter(), time.process_time()
    result = World(MACHINE, Heterogeneous(tasks, seed), nodes=nodes, seed=seed, client=client).finish()
    return _figures(result, tasks, time.perf_counter() - began, time.process_time() - cpu)


def measure_workload(name: str) -> dict[str, float]:
    """Simulate the workload of this name or file, as ``pilotage sim`` does, in this process, and return the figures.

    To make its tasks is part of it.
    """
    began, cpu = time.perf_counter(), time.process_time()
    run = settle(Plan(launcher=IDEAL.name), described_workload(name)).run()
    return _figures(run.result, run.demand.tasks, time.perf_counter() - began, time.process_time() - cpu)


def _figures(result: Result, tasks: int, seconds: float, cpu_s: float) -> dict[str, float]:
    if result.outcomes != {Ending.DONE: tasks}:
        raise RuntimeError(f"of {tasks} simulated tasks these are done, and others not: {result.outcomes}")
    return {
        "tasks": tasks,
        "seconds": seconds,
        "cpu_s": cpu_s,
        "core_cpu_s": result.core_cpu_s,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "makespan_s": result.makespan_s,
        "utilization": result.utilization,
        "steps": result.steps,
    }


def simulation(quick: bool = False) -> list[Row]:
    """A million tasks on 9,408 nodes, with the client and without; and the workload that ships, whose size is its file's."""
    count, nodes = 20_000 if quick else 1_000_000, MACHINE.nodes
    case = f"simulated: {count:,} tasks of {mean_nodes():.2f} nodes on average, on {nodes:,} nodes"
    rows = _rows(case, [str(count), str(nodes), "7", "client"])
    rows += _rows(f"{case}, without the client's core", [str(count), str(nodes), "7", "plain"])
    return rows if quick else rows + _rows(f"simulated: workload {SHIPPED}", [SHIPPED])


def _rows(case: str, arguments: list[str]) -> list[Row]:
    command = [sys.executable, "-m", "pilotage.bench.simulation", *arguments]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [
        row(case, found["tasks"] / found["seconds"], "tasks/s"),
        row(f"{case}: time", found["seconds"], "s", target="< 60 s for a million"),
        row(f"{case}: CPU of the cores", found["core_cpu_s"] / found["cpu_s"] * 100, "% of all"),
        row(f"{case}: peak memory of the process", found["peak_mib"], "MiB", target="< 1024 MiB for a million"),
        row(f"{case}: virtual time", found["makespan_s"], "s"),
        row(f"{case}: utilization of cores", found["utilization"] * 100, "%"),
    ]


if __name__ == "__main__":
    if len(sys.argv) == 2:
        figures = measure_workload(sys.argv[1])
    else:
        figures = measure(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "client")
    sys.stdout.write(json.dumps(figures))
