"""E11 and E26: what recording a run costs: the same workload with and without, in rounds that take turns, on this machine.

There is no tracer beside the log: what recovery needs and what analysis reads are one record. So there are two things to leave
out: old records that recovery no longer needs (*kept*: all of the log is there afterwards), and the log itself (*logged*),
which only a benchmark can.
"""

from __future__ import annotations

import statistics
import time

import pilotage as rp
from pilotage.bench.durability import in_turn, ordinary, without_history, without_log
from pilotage.bench.functions import null
from pilotage.bench.runs import Bench
from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, Value
from pilotage.experiments.emulation import RANKS, durations_s
from pilotage.experiments.titan import CORES_PER_NODE, TASK_CORES

EXECUTABLES = 3_000
CALLS = 120_000
"""A round; in six of them the log of an agent outgrows its first segment, which then may go."""
GENERATION = 32
"""Tasks of a run of experiment 1, its smallest size."""
TIMES_FASTER = 100.0

_Pairs = list[tuple[float, float]]


def _null_executables(bench: Bench, count: int) -> float:
    return _spent_s(bench, [rp.TaskDescription(executable="/bin/true") for _ in range(count)])


def _null_calls(bench: Bench, count: int) -> float:
    return _spent_s(bench, [rp.TaskDescription(mode=rp.TASK_FUNCTION, function=null, args=(1,)) for _ in range(count)])


def _generation(bench: Bench, seconds: list[float]) -> float:
    return _spent_s(
        bench,
        [
            rp.TaskDescription(executable="sleep", arguments=[f"{each:.3f}"], ranks=RANKS, cores_per_rank=CORES_PER_NODE)
            for each in seconds
        ],
    )


def _spent_s(bench: Bench, descriptions: list[rp.TaskDescription]) -> float:
    begin = time.perf_counter()
    bench.run(descriptions)
    return time.perf_counter() - begin


def _note(findings: Findings, name: str, x: float, pairs: _Pairs) -> None:
    """Note the median times with and without, and of the rounds' ratios the median and the standard deviation."""
    ratios = [recorded / bare for recorded, bare in pairs]
    for measure, seconds in ((f"{name}-with", [pair[0] for pair in pairs]), (f"{name}-without", [pair[1] for pair in pairs])):
        findings.values.append(Value(measure, x, "measured", statistics.median(seconds), _deviation(seconds)))
    findings.values.append(Value(name, x, "measured", statistics.median(ratios), _deviation(ratios)))


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _profiler(quick: bool, say: Say) -> Findings:
    findings = Findings()
    executables, calls, rounds = (100, 1000, 1) if quick else (EXECUTABLES, CALLS, 9)
    emulated = {"resource": "local.emulated", "cores": 32}
    say("executables, log on and off")
    pairs = in_turn(rounds, lambda bench: _null_executables(bench, executables), ordinary, without_log, **emulated)
    _note(findings, "logged", executables, pairs)
    say("function calls, log on and off")
    pairs = in_turn(min(rounds, 5), lambda bench: _null_calls(bench, calls), ordinary, without_log)
    _note(findings, "logged-calls", calls, pairs)
    say("function calls, old records kept and dropped")
    pairs = in_turn(min(rounds, 5), lambda bench: _null_calls(bench, calls), ordinary, without_history)
    _note(findings, "kept", calls, pairs)
    return findings


def _tracer(quick: bool, say: Say) -> Findings:
    findings = Findings()
    tasks, rounds, faster = (4, 1, 5000.0) if quick else (GENERATION, 7, TIMES_FASTER)
    seconds = [each / faster for each in durations_s(tasks)]
    say(f"{tasks} tasks, log on and off")
    pairs = in_turn(
        rounds,
        lambda bench: _generation(bench, seconds),
        ordinary,
        without_log,
        resource="local.emulated",
        cores=tasks * TASK_CORES,
        cores_per_node=CORES_PER_NODE,
    )
    _note(findings, "logged", tasks, pairs)
    return findings


def _measures(name: str, what: str, recorded: str, bare: str, *points: Point, source: str = "") -> tuple[Measure, ...]:
    return (
        Measure(
            name=name,
            title=f"running time of {what}, {recorded} over {bare}",
            unit="ratio",
            x="tasks",
            published=points,
            source=source,
        ),
        Measure(name=f"{name}-with", title=f"running time of {what}, {recorded}", unit="s", x="tasks"),
        Measure(name=f"{name}-without", title=f"running time of {what}, {bare}", unit="s", x="tasks"),
    )


E11 = Experiment(
    uid="E11",
    title="What the record of a run costs: many short tasks",
    paper="P18",
    place="section 5",
    kind="real",
    takes="7 min",
    measures=(
        *_measures(
            "logged",
            "executables",
            "with the log",
            "without it",
            Point(EXECUTABLES, 144.7 / 157.1, 0.13),
            source="section 5: 144.7 ± 19.2 s with profiling, 157.1 ± 8.3 s without; of how many tasks is not said",
        ),
        *_measures("logged-calls", "function calls", "with the log", "without it"),
        *_measures("kept", "function calls", "with old records kept", "with old records dropped"),
    ),
    panels=(Panel(title="ratio of running times", measures=("logged", "logged-calls", "kept"), y_label="ratio"),),
    run=_profiler,
)

E26 = Experiment(
    uid="E26",
    title="What the record of a run costs: a run of experiment 1",
    paper="P21",
    place="section III-D",
    kind="real",
    takes="3 min",
    measures=_measures(
        "logged",
        "tasks of 8.28 s",
        "with the log",
        "without it",
        Point(GENERATION, 1069.2 / 1045.5, 0.06),
        source="section III-D: 1,069.2 ± 49.5 s with tracing, 1,045.5 ± 29.4 s without; of how many tasks is not said",
    ),
    panels=(
        Panel(title="ratio of running times", measures=("logged",), y_label="ratio"),
        Panel(title="running time", measures=("logged-with", "logged-without"), y_label="s"),
    ),
    run=_tracer,
)
