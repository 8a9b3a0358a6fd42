"""E07: ways to launch tasks that fill a node, side by side, on Blue Waters."""

from __future__ import annotations

import msgspec

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, Value
from pilotage.experiments.simulations import own, own_over, run, workload
from pilotage.sim.files import read_launcher
from pilotage.sim.model import Launcher

NODES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Ten workloads of 3 to 768 tasks were run; these are the nine that double."""

CORES_PER_NODE = 32
GENERATIONS = 3
DURATION_S = 64.0
LATE = 1.05
"""A time to completion of so many times the ideal one has departed from it."""

LAUNCHERS = {"orte-lib": "orte", "orte-cli": "orte-cli", "alps": "aprun", "ccm": "ccm"}
_IDEAL_S = GENERATIONS * DURATION_S


def _launcher(name: str) -> Launcher:
    """Return a launcher's ceilings and rate alone."""
    return msgspec.structs.replace(read_launcher(name), schedules_per_s=None, prepare_s=None, acknowledge_s=None)


def _side_by_side(quick: bool, say: Say) -> Findings:
    findings = Findings()
    sizes = NODES[::4] if quick else NODES
    for nodes in sizes:
        say(f"{nodes} nodes")
        tasks = workload(
            "sleep",
            count=GENERATIONS * nodes,
            count_per_core=0.0,
            cores_per_rank=CORES_PER_NODE,
            duration_s=DURATION_S,
        )
        for measure, name in LAUNCHERS.items():
            result = run("bluewaters", tasks, nodes=nodes, launcher=_launcher(name))
            findings.values.append(Value(measure, nodes, "modelled", result.makespan_s))
        ideal = run("bluewaters", tasks, nodes=nodes)
        findings.values += [Value(measure, nodes, "ideal", ideal.makespan_s) for measure in LAUNCHERS]
        findings.values.append(own(ideal, nodes))
    largest = sizes[-1]
    for measure in ("alps", "ccm"):
        departed = departure(findings, measure, sizes)
        if departed is not None:
            findings.values.append(Value(f"{measure}-departs", largest, "modelled", departed))
    command, library = (_ttx_s(findings, measure, largest) for measure in ("orte-cli", "orte-lib"))
    findings.values.append(Value("cli-over-lib", largest, "modelled", command / library))
    return findings


def _ttx_s(findings: Findings, measure: str, nodes: int) -> float:
    return next(each.value for each in findings.values if (each.measure, each.x, each.system) == (measure, nodes, "modelled"))


def departure(findings: Findings, measure: str, sizes: tuple[int, ...]) -> float | None:
    """Return from how many nodes on a launcher is late, on the straight lines between sizes; None if it never is."""
    before: tuple[float, float] | None = None
    for nodes in sizes:
        ratio = _ttx_s(findings, measure, nodes) / _IDEAL_S
        if ratio > LATE:
            if before is None:
                return float(nodes)
            return before[0] + (nodes - before[0]) * (LATE - before[1]) / (ratio - before[1])
        before = nodes, ratio
    return None


def _ttx(name: str, title: str) -> Measure:
    return Measure(name=name, title=f"time to completion, {title}", unit="s", x="nodes")


def _departs(name: str, title: str) -> Measure:
    return Measure(
        name=name,
        title=f"{title} takes 5 % longer than the ideal from so many nodes on",
        unit="nodes",
        x="nodes of the largest pilot",
        published=(Point(NODES[-1], 50.0, about=True),),
        source="worse, somewhat linearly, after around 50 nodes, section 5.2",
    )


E07 = Experiment(
    uid="E07",
    title="Four ways to launch: ORTE by its library and by its command, ALPS, CCM",
    paper="P18",
    place="section 5.2, figure 10",
    kind="simulated",
    takes="5 s",
    measures=(
        _ttx("orte-lib", "ORTE's library"),
        _ttx("orte-cli", "ORTE's command"),
        _ttx("alps", "ALPS"),
        _ttx("ccm", "CCM"),
        _departs("alps-departs", "ALPS"),
        _departs("ccm-departs", "CCM"),
        Measure(
            name="cli-over-lib",
            title="time to completion, ORTE's command over its library",
            unit="ratio",
            x="nodes of the largest pilot",
            published=(Point(NODES[-1], 1.0, about=True),),
            source="comparable with 3 to 768 tasks, section 6",
        ),
        own_over("nodes"),
    ),
    panels=(
        Panel(title="time to completion", measures=tuple(LAUNCHERS), y_label="s"),
        Panel(title="time to completion, nodes on a linear scale", measures=tuple(LAUNCHERS), x_logarithmic=False, y_label="s"),
    ),
    run=_side_by_side,
)
