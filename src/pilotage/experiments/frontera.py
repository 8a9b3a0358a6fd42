"""E25: function calls by RAPTOR on Frontera, at a part of the published size.

Each of the published 70 masters has 100 nodes of its own, and its calls have nothing to do with those of others. So the run is
cut down to one master: nodes, calls and rates are a seventieth of the published ones, durations and calls for each core are
the same. What is found is scaled back to the published size.
"""

from __future__ import annotations

import msgspec

from pilotage.experiments.definition import Experiment, Findings, Line, Measure, Panel, Point, Say, Value
from pilotage.experiments.simulations import SYSTEMS, Words, line, own, own_over, run, shares, workload
from pilotage.sim.files import read_launcher
from pilotage.sim.model import IDEAL, Launcher, Quantity

NODES = 7000
CORES_PER_NODE = 56
CALLS = 126_471_524
PART_NODES = 100
"""One master: a seventieth of all."""
QUICK_NODES, QUICK_CALLS = 5, 9_000

BOOTSTRAP_S = 300.0
_STEADY = (0.1, 0.7)
"""Parts of the time after the bootstrap in which use is steady."""

_RUNNING, _RATE, _USE = "calls that run", "calls that end per second", "utilisation"
_WORDS: Words = {
    "Running": ("running",),
    "Bootstrap": ("startup",),
    "RAPTOR": ("scheduling", "waiting", "preparing", "acknowledging"),
    "Idle": ("idle", "lost"),
}


def _raptor(nodes: int) -> Launcher:
    """Return RAPTOR as it was on all nodes, cut down to so many: a part of the rate, but a bootstrap as long as that of all."""
    full = read_launcher("raptor")
    startup, starts = full.startup_s or Quantity(source=""), full.starts_per_s or Quantity(source="")
    return msgspec.structs.replace(
        full,
        startup_s=Quantity(value=startup.of(NODES), source=startup.source),
        starts_per_s=Quantity(value=starts.of(NODES) * nodes / NODES, source=starts.source),
    )


def _docking(quick: bool, say: Say) -> Findings:
    findings = Findings()
    nodes = QUICK_NODES if quick else PART_NODES
    cores, scale = nodes * CORES_PER_NODE, NODES / nodes
    calls = QUICK_CALLS if quick else round(CALLS / scale)
    for system in SYSTEMS:
        say(f"{system}: {calls:,} calls on {nodes:,} nodes")
        launcher = IDEAL if system == "ideal" else _raptor(nodes)
        result = run(
            "frontera", workload("docking", count=calls, count_per_core=0.0), nodes=nodes, launcher=launcher, client=False
        )
        begun = 0.0 if system == "ideal" else BOOTSTRAP_S
        use = line(result, _USE, "utilisation", system, "running_cores")
        steady = [
            running / cores
            for at, running in zip(use.times_s, use.values, strict=True)
            if _STEADY[0] < (at - begun) / (result.makespan_s - begun) < _STEADY[1]
        ]
        findings.values += [
            Value("ru", NODES, system, 100 * result.utilization),
            Value("steady", NODES, system, 100 * sum(steady) / len(steady)),
            Value("concurrency", NODES, system, scale * result.most_at_once),
            Value("mean-rate", NODES, system, scale * result.starts / (result.makespan_s - begun)),
            Value("peak-rate", NODES, system, scale * max(result.series.ends_per_s)),
            Value("makespan", NODES, system, result.makespan_s),
        ]
        findings.shares.append(shares(result, f"{calls:,} calls", system, _WORDS))
        findings.lines += [
            _scaled(use, 100.0 / cores),
            _scaled(line(result, _RUNNING, "running", system, "running_tasks"), scale),
            _scaled(line(result, _RATE, "ended", system, "ends_per_s"), scale),
        ]
        if system == "ideal":
            findings.values.append(own(result, NODES))
    return findings


def _scaled(drawn: Line, factor: float) -> Line:
    return msgspec.structs.replace(drawn, values=[value * factor for value in drawn.values])


def _measure(name: str, title: str, unit: str, published: float, source: str = "section IV-E") -> Measure:
    return Measure(
        name=name, title=title, unit=unit, x="nodes", published=(Point(NODES, published, about=True),), source=source
    )


E25 = Experiment(
    uid="E25",
    title="126 million function calls by RAPTOR (experiment 5)",
    paper="P21",
    place="section IV-E, figure 10",
    kind="simulated",
    takes="10 min",
    measures=(
        _measure("ru", "utilisation over all", "%", 90.0),
        _measure("steady", "utilisation in the steady state", "%", 98.0),
        _measure("concurrency", "most calls at a time", "calls", 390_000.0),
        _measure("mean-rate", "mean rate after the bootstrap", "calls/s", 37_000.0),
        _measure("peak-rate", "peak rate", "calls/s", 40_000.0),
        _measure("makespan", "makespan", "s", 3750.0, "computed: 3,000 s are 80 % of the run"),
        own_over("nodes"),
    ),
    panels=(
        Panel(title=_USE, kind="time", y_label="%"),
        Panel(title=_RUNNING, kind="time", y_label="calls"),
        Panel(title=_RATE, kind="time", y_label="calls/s"),
    ),
    run=_docking,
)
