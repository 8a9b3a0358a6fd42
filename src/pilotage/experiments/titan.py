"""E08 to E10 and E20 to E22: generations of tasks of 32 cores on Titan, in 2018 and 2021.

The published delays of ORTE are means and spreads of runs with so many tasks at a time. So each run has its own, from the table
below; sizes that were not published have those of the nearest.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import msgspec

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.simulations import (
    SYSTEMS,
    WORDS_2018,
    WORDS_2021_TITAN,
    Words,
    changed,
    overhead_s,
    own,
    own_over,
    run,
    shares,
    workload,
)
from pilotage.sim.model import IDEAL, Launcher, Quantity
from pilotage.sim.result import Result

TASK_CORES = 32
CORES_PER_NODE = 16
WEAK = (1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)
STRONG = (16384, 32768, 65536)
STRONG_TASKS = 16384

_PREPARATION = {512: (37.0, 9.0), 1024: (37.0, 6.0), 2048: (35.0, 8.0), 4096: (41.0, 30.0)}
_ACKNOWLEDGEMENT = {512: (29.0, 16.0), 1024: (34.0, 28.0), 2048: (59.0, 46.0), 4096: (135.0, 107.0)}

_STARTUP = Quantity(
    value=100.0, source="computed from P21: utilisation of 81 % where time to completion is 922 s, tasks of 828 s"
)


def orte(at_once: int, base: str = "orte") -> Launcher:
    """Return ORTE as it was measured with so many tasks at a time."""
    prepare, acknowledge = _nearest(_PREPARATION, at_once), _nearest(_ACKNOWLEDGEMENT, at_once)
    return changed(
        base,
        f"{base} with {at_once} tasks",
        startup_s=_STARTUP,
        prepare_s=Quantity(value=prepare[0], spread=prepare[1], source="P21 section IV-C"),
        acknowledge_s=Quantity(value=acknowledge[0], spread=acknowledge[1], source="P21 section IV-C"),
    )


def _nearest(known: dict[int, tuple[float, float]], size: int) -> tuple[float, float]:
    sizes = sorted(known)
    return known[sizes[max(0, bisect_right(sizes, size) - 1)]]


def generations(cores: int, tasks: int, system: System, base: str = "orte") -> Result:
    """Run so many emulated tasks on so many cores, by an ideal launcher or by ``base`` as it was measured."""
    launcher = IDEAL if system == "ideal" else orte(min(tasks, cores // TASK_CORES), base)
    return run("titan", workload("generations", count=tasks), nodes=cores // CORES_PER_NODE, launcher=launcher)


def ttx_s(result: Result, system: System) -> float:
    """Return the time to execute the workload: without the startup of the pilot, by the agent."""
    return result.makespan_s - (_STARTUP.value if system == "modelled" else 0.0)


def _weak(words: Words) -> Callable[[bool, Say], Findings]:
    def make(quick: bool, say: Say) -> Findings:
        return _runs([(cores, cores // TASK_CORES) for cores in ((1024, 8192, 16384) if quick else WEAK)], words, say)

    return make


def _strong(words: Words) -> Callable[[bool, Say], Findings]:
    def make(quick: bool, say: Say) -> Findings:
        tasks = STRONG_TASKS // 8 if quick else STRONG_TASKS
        return _runs([(cores, tasks) for cores in (STRONG[:1] if quick else STRONG)], words, say)

    return make


def _runs(sizes: list[tuple[int, int]], words: Words, say: Say) -> Findings:
    findings = Findings()
    for system in SYSTEMS:
        for cores, tasks in sizes:
            say(f"{system}: {tasks:,} tasks on {cores:,} cores")
            _note(findings, generations(cores, tasks, system), cores, system, words)
    return findings


def _note(findings: Findings, result: Result, cores: int, system: System, words: Words) -> None:
    label = f"{result.tasks:,}/{cores:,}"
    findings.values += [
        Value("ttx", cores, system, ttx_s(result, system)),
        Value("ru", cores, system, 100 * result.utilization),
        Value("ovh", cores, system, 100 * overhead_s(result, cores) / result.makespan_s),
    ]
    findings.shares.append(shares(result, label, system, words))
    if system == "ideal":
        findings.values.append(own(result, cores))


OWN = own_over("cores")
_TTX = Measure(name="ttx", title="time to completion", unit="s", x="cores")
_OVH = Measure(name="ovh", title="overhead of the pilot system", unit="% of core-time", x="cores")
_UTILIZATION = Measure(name="ru", title="utilisation", unit="%", x="cores")


def _published(measure: Measure, source: str, *points: Point) -> Measure:
    return msgspec.structs.replace(measure, published=points, source=source)


_TABLE = "table I of the paper of 2021, whose experiment this is"
_WEAK_RU = _published(_UTILIZATION, _TABLE, Point(1024, 81.0), Point(131072, 34.0))
_WEAK_OVH = _published(_OVH, _TABLE, Point(1024, 9.0), Point(131072, 26.0))
_STRONG_RU = _published(_UTILIZATION, _TABLE, Point(16384, 93.0), Point(65536, 85.0))
_STRONG_OVH = _published(_OVH, _TABLE, Point(16384, 5.0), Point(65536, 9.0))
_WEAK_TTX = _published(
    _TTX,
    "section IV-B; 8,192 and 131,072 cores computed from 18 % and 160 % over 828 s",
    *(Point(cores, 922.0, 14.0) for cores in (1024, 2048, 4096)),
    Point(8192, 977.0, about=True),
    Point(131072, 2153.0, about=True),
)
_STRONG_TTX = _published(
    _TTX, "section IV-B", Point(16384, 27794.0, 70.0), Point(32768, 14358.0, 259.0), Point(65536, 7612.0, 29.0)
)
_SHARES = Panel(title="core-time, by tasks/cores", kind="shares")
_UTILIZATIONS = Panel(title="utilisation", measures=("ru",))

E08 = Experiment(
    uid="E08",
    title="Weak scaling on Titan",
    paper="P18",
    place="section 5.3, figure 11 (first 8 bars)",
    kind="simulated",
    takes="5 s",
    measures=(_WEAK_RU, _WEAK_OVH, _TTX, OWN),
    panels=(_SHARES, _UTILIZATIONS),
    run=_weak(WORDS_2018),
)

E09 = Experiment(
    uid="E09",
    title="Strong scaling on Titan",
    paper="P18",
    place="section 5.3, figure 11 (last 3 bars)",
    kind="simulated",
    takes="20 s",
    measures=(_STRONG_RU, _STRONG_OVH, _TTX, OWN),
    panels=(_SHARES, _UTILIZATIONS),
    run=_strong(WORDS_2018),
)

E20 = Experiment(
    uid="E20",
    title="Weak scaling with homogeneous tasks (experiment 1)",
    paper="P21",
    place="section IV-B, figures 6 (top) and 7",
    kind="simulated",
    takes="10 s",
    measures=(_WEAK_TTX, _WEAK_RU, _WEAK_OVH, OWN),
    panels=(Panel(title="time to completion", measures=("ttx",)), _SHARES),
    run=_weak(WORDS_2021_TITAN),
)

E21 = Experiment(
    uid="E21",
    title="Strong scaling with homogeneous tasks (experiment 2)",
    paper="P21",
    place="section IV-B, figures 6 (bottom) and 7",
    kind="simulated",
    takes="20 s",
    measures=(_STRONG_TTX, _STRONG_RU, _STRONG_OVH, OWN),
    panels=(Panel(title="time to completion", measures=("ttx",)), _SHARES),
    run=_strong(WORDS_2021_TITAN),
)
