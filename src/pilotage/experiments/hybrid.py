"""E44: Flux for executables and Dragon for functions, in one pilot on Frontier."""

from __future__ import annotations

import msgspec

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.frontier import instances, rate
from pilotage.experiments.simulations import SYSTEMS, line, own, own_over, run
from pilotage.sim.files import read_launcher, read_workload
from pilotage.sim.model import IDEAL, Launcher
from pilotage.sim.result import Result
from pilotage.sim.workloads.description import WorkloadDescription

NODES = (2, 4, 16, 64)
DURATION_S = 360.0
_STARTS = "tasks started per second"


def _mixed(duration_s: float) -> WorkloadDescription:
    """Return two executables and two functions for each core."""
    null = read_workload("null")
    (only,) = null.classes
    each = msgspec.structs.replace(only, count_per_core=2, duration_s=duration_s)
    classes = (
        msgspec.structs.replace(each, name="program", kind="executable"),
        msgspec.structs.replace(each, name="call", kind="function"),
    )
    return msgspec.structs.replace(null, name="mixed", classes=classes, mixed=True)


def _hybrid(nodes: int, system: System, duration_s: float) -> Result:
    """Run on half of the nodes with Flux and on half with Dragon, an instance for each node."""
    number = nodes // 2
    flux, dragon = instances("flux", number, "executable"), instances("dragon", number, "function")
    launchers: dict[str, Launcher] = {
        spec.name: IDEAL if system == "ideal" else read_launcher(name)
        for name, specs in (("flux", flux), ("dragon", dragon))
        for spec in specs
    }
    return run("frontier", _mixed(duration_s), nodes=nodes, launcher=launchers, plan=[*flux, *dragon])


def _compared(quick: bool, say: Say) -> Findings:
    findings = Findings()
    startup = read_launcher("flux").startup_s
    for system in SYSTEMS:
        up_s = startup.value if system == "modelled" and startup is not None else 0.0
        for nodes in NODES[:2] if quick else NODES:
            say(f"{system}: {nodes} nodes")
            result = _hybrid(nodes, system, 0.0)
            if system == "ideal":
                findings.values += [own(result, nodes), Value("rate", nodes, system, result.tasks / result.core_cpu_s)]
                continue
            slept = _hybrid(nodes, system, DURATION_S)
            spent = slept.core_s
            findings.values += [
                Value("rate", nodes, system, rate(result, up_s)),
                Value("peak", nodes, system, max(result.series.starts_per_s)),
                Value("ru", nodes, system, 100 * spent.running / (spent.offered - spent.startup)),
            ]
            findings.lines.append(line(result, _STARTS, f"{nodes:,} nodes", system, "starts_per_s"))
    return findings


E44 = Experiment(
    uid="E44",
    title="Flux and Dragon in one pilot",
    paper="P25",
    place="section 4.1.5, figure 5d",
    kind="simulated",
    takes="2 min",
    measures=(
        Measure(
            name="rate",
            title="mean rate of starts",
            unit="tasks/s",
            x="nodes",
            published=(Point(16, 171.0),),
            source="section 4.1.5, 8 instances of each",
        ),
        Measure(
            name="peak",
            title="best rate of starts",
            unit="tasks/s",
            x="nodes",
            published=(Point(16, 573.0), Point(64, 1547.0)),
            source="section 4.1.5",
        ),
        Measure(
            name="ru",
            title="utilisation with tasks of 360 s, from the end of the startup",
            unit="%",
            x="nodes",
            published=tuple(Point(nodes, 99.6, about=True) for nodes in NODES),
            source="at least 99.6 % at all sizes, section 4.1.5",
        ),
        own_over("nodes"),
    ),
    panels=(
        Panel(title="mean and best rate of starts", measures=("rate", "peak"), y_logarithmic=True, y_label="tasks/s"),
        Panel(title=_STARTS, kind="time", y_label="tasks/s"),
    ),
    run=_compared,
)
