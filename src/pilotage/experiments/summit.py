"""E23 and E24: heterogeneous tasks on Summit, started by PRRTE."""

from __future__ import annotations

from collections.abc import Callable

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, System, Value
from pilotage.experiments.simulations import SYSTEMS, WORDS_2021_SUMMIT, for_fewer, line, own, own_over, run, shares
from pilotage.sim.files import read_launcher, read_workload
from pilotage.sim.model import IDEAL
from pilotage.sim.result import Result

NODES = (1024, 4096)
"""One more, for the agent, was taken in the larger runs; tasks had these."""
CORES_PER_NODE = 42
_RUNNING = "cores in use"


def _overhead_s(result: Result, cores: int, system: System) -> float:
    """Return the overhead as it was published: until the pilot is up, and while its scheduler is busy.

    Ours, with an ideal launcher, is the CPU time of all decisions.
    """
    if system == "ideal":
        return result.core_cpu_s
    rates = read_launcher("prrte").schedules_per_s
    return result.core_s.startup / cores + (result.tasks / rates.of(cores) if rates is not None else 0.0)


def _heterogeneous(name: str) -> Callable[[bool, Say], Findings]:
    def make(quick: bool, say: Say) -> Findings:
        findings = Findings()
        for system in SYSTEMS:
            for nodes in (64,) if quick else NODES:
                say(f"{system}: {nodes:,} nodes")
                workload = read_workload(name)
                if quick:
                    workload = for_fewer(workload, "summit", nodes, NODES[0])
                result = run("summit", workload, nodes=nodes, launcher=IDEAL if system == "ideal" else "prrte")
                cores = nodes * CORES_PER_NODE
                findings.values += [
                    Value("ru", nodes, system, 100 * result.utilization),
                    Value("ru-gpu", nodes, system, 100 * result.gpu_utilization),
                    Value("ovh", nodes, system, _overhead_s(result, cores, system)),
                    Value("makespan", nodes, system, result.makespan_s),
                ]
                findings.shares.append(shares(result, f"{result.tasks:,}/{nodes:,}", system, WORDS_2021_SUMMIT))
                findings.lines.append(line(result, _RUNNING, f"{nodes:,} nodes", system, "running_cores"))
                if system == "ideal":
                    findings.values.append(own(result, nodes))
        return findings

    return make


def _measures(ru: tuple[float, float], ovh: tuple[float, float]) -> tuple[Measure, ...]:
    source = "section IV-D"
    return (
        Measure(
            name="ru", title="utilisation of cores", unit="%", x="nodes", published=tuple(map(Point, NODES, ru)), source=source
        ),
        Measure(
            name="ovh",
            title="overhead of the pilot system: startup, and while its scheduler is busy",
            unit="s",
            x="nodes",
            published=tuple(map(Point, NODES, ovh)),
            source=source,
        ),
        Measure(name="ru-gpu", title="utilisation of GPUs", unit="%", x="nodes"),
        Measure(name="makespan", title="makespan", unit="s", x="nodes"),
        own_over("nodes"),
    )


_PANELS = (
    Panel(title=_RUNNING, kind="time", y_label="cores"),
    Panel(title="core-time, by tasks/nodes", kind="shares"),
    Panel(title="utilisation", measures=("ru",)),
)

E23 = Experiment(
    uid="E23",
    title="Weak scaling with heterogeneous tasks (experiment 3)",
    paper="P21",
    place="section IV-D, figures 9a and 9b",
    kind="simulated",
    takes="20 s",
    measures=_measures((77.0, 41.0), (61.0, 131.0)),
    panels=_PANELS,
    run=_heterogeneous("heterogeneous"),
)

E24 = Experiment(
    uid="E24",
    title="Strong scaling with heterogeneous tasks (experiment 4)",
    paper="P21",
    place="section IV-D, figures 9c and 9d",
    kind="simulated",
    takes="40 s",
    measures=_measures((76.0, 38.0), (115.0, 251.0)),
    panels=_PANELS,
    run=_heterogeneous("heterogeneous-strong"),
)
