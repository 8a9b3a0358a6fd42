"""E06: how many tasks run at a time in three generations of tasks of one core, on Blue Waters."""

from __future__ import annotations

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.simulations import SYSTEMS, WORDS_2018, changed, line, own, own_over, run, shares, workload
from pilotage.sim.files import read_launcher
from pilotage.sim.model import IDEAL, Launcher, Quantity
from pilotage.sim.result import Result

CORES = (2048, 4096, 8192, 16384)
DURATIONS_S = {2048: 64.0, 4096: 64.0, 8192: 128.0, 16384: 256.0}
"""The shortest of the published durations with which the scheduler can start a generation before it ends."""

CORES_PER_NODE = 32
GENERATIONS = 3
EXECUTORS = 4
"""As many as are of use on one node (E04); with one the launcher, not the scheduler, would set the slope."""

_RUNNING = "tasks that run"


def _launcher() -> Launcher:
    orte = read_launcher("orte")
    assert orte.starts_per_s is not None
    starts = {nodes: EXECUTORS * rate for nodes, rate in orte.starts_per_s.at.items()}
    return changed(
        "orte",
        "orte with four executors",
        starts_per_s=Quantity(at=starts, spread=0.0, source="P18 section 5.1: scales up to 4 instances"),
        prepare_s=Quantity(value=10.0, source="computed from P18 section 5.2: scheduled in 90 s, started in 100 s"),
        acknowledge_s=None,
    )


def _concurrency(quick: bool, say: Say) -> Findings:
    findings = Findings()
    for system in SYSTEMS:
        for cores in CORES[:1] if quick else CORES:
            say(f"{system}: {cores:,} cores")
            _note(findings, _generations(cores, system), cores, system)
    return findings


def _generations(cores: int, system: System) -> Result:
    tasks = workload("sleep", count=GENERATIONS * cores, count_per_core=0.0, duration_s=DURATIONS_S[cores])
    launcher = IDEAL if system == "ideal" else _launcher()
    return run("bluewaters", tasks, nodes=cores // CORES_PER_NODE, launcher=launcher)


def _note(findings: Findings, result: Result, cores: int, system: System) -> None:
    running = line(result, _RUNNING, f"{cores:,} cores", system, "running_tasks")
    findings.lines.append(running)
    # When as many tasks have begun as there are cores: the end of the first slope.
    begun, full_s = 0.0, 0.0
    for rate in result.series.starts_per_s:
        full_s += result.series.width_s
        begun += rate * result.series.width_s
        if begun > cores - 0.5:
            break
    kept = [
        count / cores
        for at, count in zip(running.times_s, running.values, strict=True)
        if full_s < at < result.makespan_s - DURATIONS_S[cores]
    ]
    findings.values += [
        Value("most", cores, system, result.most_at_once),
        Value("slope", cores, system, full_s),
        Value("kept", cores, system, 100 * sum(kept) / len(kept) if kept else 0.0),
        Value("makespan", cores, system, result.makespan_s),
    ]
    findings.shares.append(shares(result, f"{cores:,}", system, WORDS_2018))
    if system == "ideal":
        findings.values.append(own(result, cores))


E06 = Experiment(
    uid="E06",
    title="Concurrency of the whole agent, three generations",
    paper="P18",
    place="section 5.2, figure 9",
    kind="simulated",
    takes="30 s",
    measures=(
        Measure(
            name="most",
            title="most tasks at a time",
            unit="tasks",
            x="cores",
            published=tuple(Point(cores, cores, about=True) for cores in CORES),
            source="all cores are in use at once in the first generation, section 5.2",
        ),
        Measure(
            name="slope",
            title="time until as many tasks were started as there are cores",
            unit="s",
            x="cores",
            published=(Point(8192, 100.0, about=True),),
            source="section 5.2",
        ),
        Measure(
            name="kept",
            title="cores in use from then until the last generation begins to end",
            unit="%",
            x="cores",
        ),
        Measure(name="makespan", title="makespan", unit="s", x="cores"),
        own_over("cores"),
    ),
    panels=(
        Panel(title=_RUNNING, kind="time", y_label="tasks"),
        Panel(title="most tasks at a time", measures=("most",), y_logarithmic=True),
    ),
    run=_concurrency,
)
