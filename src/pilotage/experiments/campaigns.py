"""E45 to E47: how long instances take to come up on Frontier, and the campaign IMPECCABLE with tasks that sleep."""

from __future__ import annotations

from collections.abc import Callable

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, Value
from pilotage.experiments.simulations import SYSTEMS, line, own, own_over, run, workload
from pilotage.sim.files import read_workload
from pilotage.sim.model import IDEAL

NODES = (256, 1024)
_RUNNING, _STARTS = "tasks that run", "tasks started per second"


def _startups(quick: bool, say: Say) -> Findings:
    findings = Findings()
    one = workload("null", count=1, count_per_core=0.0)
    for nodes in (1, 64) if quick else (1, 4, 16, 64):
        say(f"{nodes} nodes")
        for name in ("flux", "dragon"):
            result = run("frontier", one, nodes=nodes, launcher=name)
            findings.values.append(Value(name, nodes, "modelled", result.waits.most_s))
    return findings


def _impeccable(launcher: str) -> Callable[[bool, Say], Findings]:
    def make(quick: bool, say: Say) -> Findings:
        findings = Findings()
        for system in SYSTEMS:
            for nodes in NODES[:1] if quick else NODES:
                say(f"{system}: {nodes:,} nodes")
                chosen = IDEAL if system == "ideal" else launcher
                result = run("frontier", read_workload("impeccable"), nodes=nodes, launcher=chosen)
                findings.values += [
                    Value("makespan", nodes, system, result.makespan_s),
                    Value("ru", nodes, system, 100 * result.utilization),
                    Value("ru-gpu", nodes, system, 100 * result.gpu_utilization),
                ]
                findings.lines += [
                    line(result, _RUNNING, f"{nodes:,} nodes", system, "running_tasks"),
                    line(result, _STARTS, f"{nodes:,} nodes", system, "starts_per_s"),
                ]
                if system == "ideal":
                    findings.values.append(own(result, nodes))
        return findings

    return make


def _startup(name: str, title: str, seconds: float) -> Measure:
    points = tuple(Point(nodes, seconds, about=True) for nodes in (1, 4, 16, 64))
    return Measure(name=name, title=title, unit="s", x="nodes", published=points, source="section 4.1.5")


def _measures(makespan: tuple[float, float], cores: tuple[float, float], gpus: tuple[float, float]) -> tuple[Measure, ...]:
    def made(name: str, title: str, unit: str, values: tuple[float, float], about: bool = False) -> Measure:
        points = tuple(Point(nodes, value, 0.0, about) for nodes, value in zip(NODES, values, strict=True))
        return Measure(name=name, title=title, unit=unit, x="nodes", published=points, source="section 4.2")

    return (
        made("makespan", "makespan", "s", makespan, about=True),
        made("ru", "utilisation of cores", "%", cores),
        made("ru-gpu", "utilisation of GPUs", "%", gpus),
        own_over("nodes"),
    )


_PANELS = (
    Panel(title=_RUNNING, kind="time", y_label="tasks"),
    Panel(title=_STARTS, kind="time", y_label="tasks/s"),
    Panel(title="makespan", measures=("makespan",)),
)

E45 = Experiment(
    uid="E45",
    title="How long instances of Flux and Dragon take to come up",
    paper="P25",
    place="section 4.1.5, figure 7",
    kind="simulated",
    takes="1 s",
    measures=(
        _startup("flux", "Flux: until the first task starts", 20.0),
        _startup("dragon", "Dragon: until the first task starts", 9.0),
    ),
    panels=(Panel(title="until the first task starts", measures=("flux", "dragon"), y_label="s"),),
    run=_startups,
)

E46 = Experiment(
    uid="E46",
    title="IMPECCABLE with tasks that sleep, by srun",
    paper="P25",
    place="section 4.2, figures 8a and 8b",
    kind="simulated",
    takes="10 s",
    measures=_measures((26_000.0, 44_000.0), (30.0, 15.0), (20.0, 14.0)),
    panels=_PANELS,
    run=_impeccable("srun"),
)

E47 = Experiment(
    uid="E47",
    title="IMPECCABLE with tasks that sleep, by Flux",
    paper="P25",
    place="section 4.2, figures 8c and 8d",
    kind="simulated",
    takes="10 s",
    measures=_measures((22_000.0, 17_500.0), (68.0, 69.0), (33.0, 43.0)),
    panels=_PANELS,
    run=_impeccable("flux"),
)
