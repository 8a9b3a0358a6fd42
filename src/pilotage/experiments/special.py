"""E10: a scheduler for tasks that are all alike, against one for tasks of any shape, on Titan."""

from __future__ import annotations

import time

from pilotage.core.scheduling import GroupKey
from pilotage.core.scheduling.policies import make_policy
from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.simulations import SYSTEMS, run, workload
from pilotage.experiments.titan import CORES_PER_NODE, TASK_CORES, WEAK, orte, ttx_s
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import PolicyName, PolicySpec
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.sim.files import read_launcher
from pilotage.sim.model import IDEAL

_KINDS: tuple[tuple[str, str, PolicyName], ...] = (
    ("general", "orte", "continuous"),
    ("special", "orte-special", "homogeneous"),
)
_AT_ONCE = 64


def _compared(quick: bool, say: Say) -> Findings:
    findings = Findings()
    for kind, base, policy in _KINDS:
        rates = read_launcher(base).schedules_per_s
        for cores in (1024, 8192) if quick else WEAK:
            say(f"{kind}: {cores:,} cores")
            tasks = cores // TASK_CORES
            for system in SYSTEMS:
                findings.values.append(Value(f"ttx-{kind}", cores, system, _ttx_s(cores, system, base, policy)))
            if rates is not None:
                findings.values.append(Value(f"cost-{kind}", cores, "modelled", 1e6 / rates.of(cores)))
            cost = min(placement_us(policy, cores, tasks) for _ in range(2 if quick else 5))
            findings.values.append(Value(f"cost-{kind}", cores, "measured", cost))
    return findings


def _ttx_s(cores: int, system: System, base: str, policy: PolicyName) -> float:
    tasks = cores // TASK_CORES
    launcher = IDEAL if system == "ideal" else orte(tasks, base)
    result = run(
        "titan",
        workload("generations", count=tasks),
        nodes=cores // CORES_PER_NODE,
        launcher=launcher,
        scheduler=PolicySpec(policy=policy),
    )
    return ttx_s(result, system)


def placement_us(policy: PolicyName, cores: int, tasks: int) -> float:
    """Return the CPU time of placing a task of 32 cores, and of giving back what it held, in microseconds.

    Two generations of so many tasks go through a pilot that one generation fills, in parts of 64.
    """
    nodes = [Node(index, f"node{index}", NodeShape(CORES_PER_NODE)) for index in range(cores // CORES_PER_NODE)]
    scheduler = make_policy(PolicySpec(policy=policy), nodes)
    request = Request(ranks=2, cores=TASK_CORES // 2)
    names = [TaskUid(f"task.{number:06d}") for number in range(2 * tasks)]
    began = time.process_time()
    scheduler.enqueue_many(names, GroupKey("executable", request), 0.0)
    held = []
    while opened := scheduler.schedule(0.0, _AT_ONCE):
        held += opened
    placed = len(held)
    while held:
        for assignment in held[:_AT_ONCE]:
            scheduler.release(assignment.placement, request)
        del held[:_AT_ONCE]
        opened = scheduler.schedule(0.0, _AT_ONCE)
        placed += len(opened)
        held += opened
    spent = time.process_time() - began
    if placed != 2 * tasks:
        raise RuntimeError(f"{policy} placed {placed} of {2 * tasks} tasks")
    return 1e6 * spent / placed


def _measure(name: str, title: str, unit: str, *points: Point, source: str = "") -> Measure:
    return Measure(name=name, title=title, unit=unit, x="cores", published=points, source=source)


E10 = Experiment(
    uid="E10",
    title="A special-purpose scheduler for tasks that are all alike",
    paper="P18",
    place="section 5.3, figure 12",
    kind="simulated",
    takes="20 s",
    measures=(
        _measure(
            "cost-general",
            "scheduling of a task, any shape",
            "us/task",
            Point(8192, 90e6 / 8192, about=True),
            Point(131072, 1e6 / 6.0, about=True),
            source="computed: 8,192 tasks in 90 s (section 5.2), and 6 tasks/s before it was improved (2021, section IV-D)",
        ),
        _measure("cost-special", "scheduling of a task, all alike", "us/task"),
        _measure("ttx-general", "time to completion, scheduler for any shape", "s"),
        _measure("ttx-special", "time to completion, scheduler for tasks that are all alike", "s"),
    ),
    panels=(
        Panel(title="scheduling of a task", measures=("cost-general", "cost-special"), y_logarithmic=True, y_label="us/task"),
        Panel(title="time to completion", measures=("ttx-general", "ttx-special"), y_label="s"),
    ),
    run=_compared,
)
