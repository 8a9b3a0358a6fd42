"""E27: how the simulation of a protein scales over cores, and what that means for many of them in one pilot on Titan."""

from __future__ import annotations

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.simulations import SYSTEMS, run, workload
from pilotage.experiments.titan import CORES_PER_NODE, orte, ttx_s
from pilotage.sim.model import IDEAL
from pilotage.sim.workloads.distributions import Distribution

CORES = (1, 2, 4, 8, 16, 32, 64)
"""Of one task."""
BEST_CORES = 32
BEST_S, SPREAD_S = 828.0, 14.0

PILOT_CORES = 16_384
ENSEMBLES = {"few": 1.0 / BEST_CORES, "many": 2.0}
"""Tasks for each core of the pilot: as many as fill it once with tasks of 32 cores, and far more."""
ENSEMBLE_CORES = (8, 16, 32, 64)


def duration_s(cores: int) -> float:
    """Return how long the simulation takes on so many cores: work that they share, and a cost that grows with their number.

    ``a / n + c n`` is least where ``n`` squared is ``a / c``. That this is at 32 cores, with 828 s, gives both.
    """
    shared = BEST_S / 2 * BEST_CORES
    return shared / cores + shared / BEST_CORES**2 * cores


def _scaling(quick: bool, say: Say) -> Findings:
    findings = Findings()
    for cores in CORES:
        efficiency = 100 * duration_s(1) / duration_s(cores) / cores
        findings.values += [
            Value("duration", cores, "modelled", duration_s(cores)),
            Value("efficiency", cores, "modelled", efficiency),
        ]
    pilot_cores = PILOT_CORES // 16 if quick else PILOT_CORES
    for name, per_core in ENSEMBLES.items():
        tasks = round(per_core * pilot_cores)
        for system in SYSTEMS:
            for cores in ENSEMBLE_CORES[::2] if quick else ENSEMBLE_CORES:
                say(f"{system}: {tasks:,} tasks of {cores} cores")
                findings.values.append(Value(name, cores, system, _ensemble_s(tasks, cores, pilot_cores, system)))
    return findings


def _ensemble_s(tasks: int, cores: int, pilot_cores: int, system: System) -> float:
    """Return the time to completion of so many tasks of so many cores each, in a pilot of so many."""
    seconds = duration_s(cores)
    described = workload(
        "generations",
        count=tasks,
        ranks=max(1, cores // CORES_PER_NODE),
        cores_per_rank=min(cores, CORES_PER_NODE),
        duration_s=Distribution(normal=(seconds, SPREAD_S / BEST_S * seconds), least=0.0),
    )
    launcher = IDEAL if system == "ideal" else orte(min(tasks, pilot_cores // cores))
    return ttx_s(run("titan", described, nodes=pilot_cores // CORES_PER_NODE, launcher=launcher), system)


def _measure(name: str, title: str, unit: str, *points: Point, source: str = "") -> Measure:
    return Measure(name=name, title=title, unit=unit, x="cores of a task", published=points, source=source)


E27 = Experiment(
    uid="E27",
    title="How the simulation of a protein scales, and how many cores to give it",
    paper="P21",
    place="section IV-A, figure 4",
    kind="simulated",
    takes="1 min",
    measures=(
        _measure(
            "duration",
            "how long one task takes",
            "s",
            Point(BEST_CORES, BEST_S, SPREAD_S),
            source="section IV-A, of the emulation; the curve is in the figure only",
        ),
        _measure("efficiency", "efficiency of one task, against one core", "%"),
        _measure("few", f"time to completion of {round(ENSEMBLES['few'] * PILOT_CORES):,} tasks on {PILOT_CORES:,} cores", "s"),
        _measure(
            "many", f"time to completion of {round(ENSEMBLES['many'] * PILOT_CORES):,} tasks on {PILOT_CORES:,} cores", "s"
        ),
    ),
    panels=(
        Panel(title="one task", measures=("duration",), y_logarithmic=True),
        Panel(title="many tasks", measures=("few", "many"), y_logarithmic=True, y_label="time to completion (s)"),
    ),
    run=_scaling,
)
