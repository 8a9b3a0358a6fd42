"""E01 to E05: scheduler and executor by themselves, with cloned tasks, as on Blue Waters in 2018.

How a task is cloned in a component is told in ``bench.cloning``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import msgspec

from pilotage.bench import cloned_runs, cloning
from pilotage.bench.cloning import Course
from pilotage.experiments.definition import Experiment, Findings, Line, Measure, Panel, Point, Say, Value
from pilotage.experiments.simulations import run, workload
from pilotage.sim.files import read_launcher

CORES = (1024, 2048, 4096, 8192)
CLONES = 10_000
SPAWNERS = (1, 2, 4, 8)
_PARTS = 16

_OVER_TIME = "rate over time"


def _allocation(quick: bool, say: Say) -> Findings:
    return _scheduling(cloning.allocation, quick, say)


def _steady_state(quick: bool, say: Say) -> Findings:
    return _scheduling(cloning.steady_state, quick, say)


def _scheduling(component: Callable[[int, int], Course], quick: bool, say: Say) -> Findings:
    findings = Findings()
    for cores in CORES[:2] if quick else CORES:
        say(f"{cores:,} cores")
        courses = [component(cores, CLONES // 5 if quick else CLONES) for _ in range(3 if quick else 15)]
        # The first round finds cold caches; a median does not care.
        rates = [course.rate for course in courses]
        findings.values.append(_middle("rate", cores, rates))
        over_time = [course.rates(_PARTS) for course in courses]
        parts = [statistics.median(part[1] for part in column) for column in zip(*over_time, strict=False)]
        times = [statistics.median(part[0] for part in column) for column in zip(*over_time, strict=False)]
        findings.lines.append(Line(_OVER_TIME, f"{cores:,} cores", "measured", times, parts))
        findings.values.append(Value("slope", cores, "measured", parts[-1] / parts[0]))
    return findings


def _middle(measure: str, x: float, rates: Sequence[float]) -> Value:
    return Value(measure, x, "measured", statistics.median(rates), statistics.stdev(rates) if len(rates) > 1 else 0.0)


def _executor_processes(quick: bool, say: Say) -> Findings:
    return _executing(quick, say, {})


def _executor_light(quick: bool, say: Say) -> Findings:
    return _executing(quick, say, {"sandbox": "none", "output": "discard"})


def _executing(quick: bool, say: Say, attributes: dict[str, str]) -> Findings:
    findings = Findings()
    for spawners in SPAWNERS[:2] if quick else SPAWNERS:
        say(f"{spawners} spawners")
        courses = [cloned_runs.execution(spawners, 200 if quick else CLONES, **attributes) for _ in range(1 if quick else 3)]
        findings.values.append(_middle("rate", spawners, [course.rate for course in courses]))
        marks = courses[-1].rates(_PARTS)
        findings.lines.append(
            Line(_OVER_TIME, f"{spawners} spawners", "measured", [at for at, _ in marks], [rate for _, rate in marks])
        )
    return findings


def _orte_by_size(quick: bool, say: Say) -> Findings:
    findings = Findings()
    launcher = read_launcher("orte")
    # The executor alone: what is before and after the start is not its own.
    alone = msgspec.structs.replace(launcher, schedules_per_s=None, prepare_s=None, acknowledge_s=None)
    for cores in CORES[:2] if quick else CORES:
        say(f"{cores:,} cores")
        rates = []
        for seed in range(2 if quick else 20):
            tasks = workload("sleep", count=cores, count_per_core=0.0, duration_s=3600.0)
            result = run("bluewaters", tasks, nodes=cores // 32, launcher=alone, seed=seed, client=False)
            rates.append(cores / (result.makespan_s - 3600.0))
        findings.values.append(Value("rate", cores, "modelled", statistics.mean(rates), statistics.stdev(rates)))
        findings.lines.append(
            Line(
                _OVER_TIME,
                f"{cores:,} cores",
                "modelled",
                *_until_last(result.series.starts_per_s, result.series.width_s),
            )
        )
    return findings


def _until_last(rates: list[float], width_s: float) -> tuple[list[float], list[float]]:
    """Return times and rates up to the last start."""
    last = max((place for place, rate in enumerate(rates) if rate), default=-1)
    return [(place + 0.5) * width_s for place in range(last + 1)], rates[: last + 1]


def _rate(x: str, published: tuple[Point, ...] = (), source: str = "") -> Measure:
    return Measure(
        name="rate", title="tasks that the component handles", unit="tasks/s", x=x, published=published, source=source
    )


_SLOPE = Measure(
    name="slope",
    title="rate in the last sixteenth of the clones over that in the first",
    unit="ratio",
    x="cores of the pilot",
)

E01 = Experiment(
    uid="E01",
    title="Scheduler by itself: allocation",
    paper="P18",
    place="section 5.1, figure 6a",
    kind="real",
    takes="3 s",
    measures=(
        _rate(
            "cores of the pilot",
            (Point(8192, 91.0, about=True),),
            "8,192 tasks in about 90 s, section 5.2; sizes below are in the figure only",
        ),
        Measure(
            name=_SLOPE.name,
            title=_SLOPE.title,
            unit=_SLOPE.unit,
            x=_SLOPE.x,
            published=(Point(8192, 50.0 / 150.0, about=True),),
            source="from 150 to 50 tasks/s, section 5.2",
        ),
    ),
    panels=(
        Panel(title="tasks placed per second", measures=("rate",), y_logarithmic=True),
        Panel(title=_OVER_TIME, kind="time", y_label="tasks/s"),
    ),
    run=_allocation,
)

E02 = Experiment(
    uid="E02",
    title="Scheduler by itself: allocating and freeing",
    paper="P18",
    place="section 5.1, figure 6b",
    kind="real",
    takes="5 s",
    measures=(
        _rate(
            "cores of the pilot",
            tuple(Point(cores, 100.0, about=True) for cores in CORES),
            "an upper bound, the end of the figure's scale",
        ),
        _SLOPE,
    ),
    panels=(
        Panel(title="tasks placed and freed per second", measures=("rate",), y_logarithmic=True),
        Panel(title=_OVER_TIME, kind="time", y_label="tasks/s"),
    ),
    run=_steady_state,
)

E03 = Experiment(
    uid="E03",
    title="Executor by itself: one process for each task, 1 to 8 instances",
    paper="P18",
    place="section 5.1, figure 7 (top)",
    kind="real",
    takes="2 min",
    measures=(_rate("instances"),),
    panels=(
        Panel(title="tasks run per second", measures=("rate",)),
        Panel(title=_OVER_TIME, kind="time", y_label="tasks/s"),
    ),
    run=_executor_processes,
)

E04 = Experiment(
    uid="E04",
    title="Executor by itself: light launches, 1 to 8 instances on one node",
    paper="P18",
    place="section 5.1, figure 7 (bottom)",
    kind="real",
    takes="2 min",
    measures=(_rate("instances", (Point(1, 48.2, 10.2),), "one instance on 1,024 cores, figure 8"),),
    panels=(
        Panel(title="tasks run per second", measures=("rate",), y_logarithmic=True),
        Panel(title=_OVER_TIME, kind="time", y_label="tasks/s"),
    ),
    run=_executor_light,
)

E05 = Experiment(
    uid="E05",
    title="ORTE's launches over the size of the pilot",
    paper="P18",
    place="section 5.1, figure 8",
    kind="simulated",
    takes="1 min",
    measures=(
        _rate(
            "cores of the pilot",
            (Point(1024, 48.2, 10.2), Point(2048, 42.6, 7.1), Point(4096, 39.1, 9.8), Point(8192, 33.0, about=True)),
            "section 5.1",
        ),
    ),
    panels=(
        Panel(title="tasks started per second", measures=("rate",)),
        Panel(title=_OVER_TIME, kind="time", y_label="tasks/s"),
    ),
    run=_orte_by_size,
)
