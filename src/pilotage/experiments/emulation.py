"""E28: how long the tasks take that emulate a simulation: as they are generated, and as they run on this machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence

import pilotage as rp
from pilotage.bench.runs import bench_pilot
from pilotage.experiments.definition import Experiment, Findings, Line, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.simulations import run, workload
from pilotage.experiments.titan import CORES_PER_NODE, TASK_CORES
from pilotage.sim.files import read_machine
from pilotage.sim.workloads.generated import GeneratedWorkload

TASKS = 16_384
RANKS = TASK_CORES // CORES_PER_NODE

TIMES_FASTER = 100.0
ASLEEP = 64
"""Tasks that sleep on this machine, all at the same time."""
TOLD_S = (0.25, 1.0, 4.0)
ROUNDS = 7
_CALIBRATED_S = 0.5

_DISTRIBUTION = "durations"
_SHOWN = 101


def durations_s(count: int, seed: int = 0) -> list[float]:
    """Return how long so many tasks of the generated workload take, in seconds."""
    shape = read_machine("titan").shape
    made = GeneratedWorkload(workload("generations", count=count), nodes=1, shape=shape, seed=seed)
    return [made.duration_s(row.uid) for arrival in made.arrivals() for row in arrival.rows]


def compute(steps: int) -> float:
    """Do so many steps of a fixed computation, and return the CPU time that they took, in seconds."""
    begin = time.process_time()
    value = 0.0
    for step in range(steps):
        value = 0.5 * value + step
    return time.process_time() - begin


def steps_per_s() -> float:
    """Return how many steps of ``compute`` this core does in a second of CPU time."""
    steps, spent_s = 50_000, 0.0
    while spent_s < _CALIBRATED_S:
        steps *= 2
        spent_s = compute(steps)
    return steps / spent_s


def _distribution(quick: bool, say: Say) -> Findings:
    findings = Findings()
    tasks = 256 if quick else TASKS
    say(f"{tasks:,} generated tasks")
    generated = durations_s(tasks)
    _note(findings, generated, "modelled")
    say(f"{tasks:,} tasks that run, simulated")
    result = run("titan", workload("generations", count=tasks), nodes=tasks * RANKS // 8)
    findings.values.append(Value("mean", TASK_CORES, "ideal", result.core_s.running / TASK_CORES / result.starts))
    asleep, faster = (4, 2000.0) if quick else (ASLEEP, TIMES_FASTER)
    say(f"{asleep} tasks that sleep")
    with bench_pilot(resource="local.emulated", cores=asleep) as bench:
        told = [seconds / faster for seconds in durations_s(asleep, seed=1)]
        _note(findings, [faster * seconds for seconds in ran_s(bench.run([sleeping(each) for each in told]))], "measured")
    with bench_pilot(cores=1) as bench:
        (calibrated,) = bench.run([calling(steps_per_s)])
        for told_s in (0.01,) if quick else TOLD_S:
            say(f"single tasks of {told_s:g} s")
            steps = round(calibrated.return_value * told_s)
            took: dict[str, list[float]] = {"sleep": [], "compute": [], "cpu": []}
            for _ in range(2 if quick else ROUNDS):
                slept = bench.run([sleeping(told_s)])
                computed = bench.run([calling(compute, steps)])
                took["sleep"] += ran_s(slept)
                took["compute"] += ran_s(computed)
                took["cpu"].append(computed[0].return_value)
            for name, seconds in took.items():
                percent = [100 * each / told_s for each in seconds]
                value = Value(name, told_s, "measured", statistics.median(percent), statistics.stdev(percent))
                findings.values.append(value)
    return findings


def sleeping(seconds: float) -> rp.TaskDescription:
    """Return a task that sleeps for so long, to within a tenth of a millisecond."""
    return rp.TaskDescription(executable="sleep", arguments=[f"{seconds:.4f}"])


def calling(function: Callable[..., float], *arguments: object) -> rp.TaskDescription:
    """Return a task that calls this function."""
    return rp.TaskDescription(mode=rp.TASK_FUNCTION, function=function, args=arguments)


def ran_s(tasks: Sequence[rp.Task]) -> list[float]:
    """Return how long these ran, from the start of their program or call to its end, in seconds."""
    return [task.times.ended - task.times.started for task in tasks]


def _note(findings: Findings, seconds: Sequence[float], system: System) -> None:
    """Note the mean, its standard error, and the standard deviation."""
    deviation = statistics.stdev(seconds)
    findings.values += [
        Value("mean", TASK_CORES, system, statistics.mean(seconds), deviation / math.sqrt(len(seconds))),
        Value("deviation", TASK_CORES, system, deviation),
    ]
    ordered = sorted(seconds)
    shown = [ordered[place * (len(ordered) - 1) // (_SHOWN - 1)] for place in range(_SHOWN)]
    shares = [100 * place / (_SHOWN - 1) for place in range(_SHOWN)]
    findings.lines.append(Line(_DISTRIBUTION, "generated" if system == "modelled" else "slept", system, shown, shares))


def _took(name: str, what: str) -> Measure:
    return Measure(name=name, title=f"{what}, of what it was told", unit="%", x="seconds told")


E28 = Experiment(
    uid="E28",
    title="How long emulated tasks take",
    paper="P21",
    place="section IV-A, figure 5",
    kind="real",
    takes="2 min",
    measures=(
        Measure(
            name="mean",
            title="mean duration",
            unit="s",
            x="cores of the emulated task",
            published=(Point(TASK_CORES, 828.0),),
            source="section IV-A",
        ),
        Measure(
            name="deviation",
            title="standard deviation of durations",
            unit="s",
            x="cores of the emulated task",
            published=(Point(TASK_CORES, 14.0),),
            source="section IV-A",
        ),
        _took("sleep", "time of a task that sleeps"),
        _took("compute", "time of a task that computes"),
        _took("cpu", "CPU time of a task that computes"),
    ),
    panels=(
        Panel(title=_DISTRIBUTION, kind="time", y_label="tasks that took no longer (%)"),
        Panel(title="ran, of what was told", measures=("sleep", "compute", "cpu"), y_label="%"),
    ),
    run=_distribution,
)
