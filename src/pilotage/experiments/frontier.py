"""E40 to E43: srun, Flux and Dragon on Frontier, with tasks of one core, four for each core."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, Point, Say, Value
from pilotage.experiments.simulations import SYSTEMS, line, own, own_over, run
from pilotage.model.partitions import Kind, PartitionSpec
from pilotage.sim.files import read_launcher, read_workload
from pilotage.sim.model import IDEAL
from pilotage.sim.result import Result

CORES_PER_NODE = 56
_RUNNING, _STARTS = "tasks that run", "tasks started per second"


def rate(result: Result, startup_s: float) -> float:
    """Return how many tasks were started in a second, from the end of the startup to the last end of tasks that do nothing."""
    spent = result.makespan_s - startup_s
    return result.starts / spent if spent > 0.0 else 0.0


def _ceiling(quick: bool, say: Say) -> Findings:
    findings = Findings()
    for system in SYSTEMS:
        for nodes in (2, 4) if quick else (1, 2, 4, 8, 16):
            say(f"{system}: {nodes} nodes")
            launcher = IDEAL if system == "ideal" else "srun"
            result = run("frontier", read_workload("sleep"), nodes=nodes, launcher=launcher)
            findings.values += [
                Value("most", nodes, system, result.most_at_once),
                Value("ru", nodes, system, 100 * result.utilization),
                Value("makespan", nodes, system, result.makespan_s),
            ]
            if nodes == 4:
                findings.lines.append(line(result, _RUNNING, "4 nodes", system, "running_tasks"))
            if system == "ideal":
                findings.values.append(own(result, nodes))
            else:
                null = run("frontier", read_workload("null"), nodes=nodes, launcher=launcher)
                findings.values.append(Value("rate", nodes, system, rate(null, 0.0)))
    return findings


def _one_instance(name: str, sizes: Sequence[int]) -> Callable[[bool, Say], Findings]:
    def make(quick: bool, say: Say) -> Findings:
        findings = Findings()
        startup = read_launcher(name).startup_s
        up_s = startup.value if startup is not None else 0.0
        for system in SYSTEMS:
            for nodes in sizes[:2] if quick else sizes:
                say(f"{system}: {nodes:,} nodes")
                launcher = IDEAL if system == "ideal" else name
                result = run("frontier", read_workload("null"), nodes=nodes, launcher=launcher)
                if system == "ideal":
                    findings.values += [own(result, nodes), Value("rate", nodes, system, result.tasks / result.core_cpu_s)]
                    continue
                slept = run("frontier", read_workload("sleep"), nodes=nodes, launcher=launcher)
                findings.values += [
                    Value("rate", nodes, system, rate(result, up_s)),
                    Value("ru", nodes, system, 100 * slept.utilization),
                ]
                findings.lines.append(line(slept, _STARTS, f"{nodes:,} nodes", system, "starts_per_s"))
        return findings

    return make


_PARTITIONS = {4: (1, 4), 16: (1, 16), 256: (1, 64), 1024: (1, 16)}


def instances(name: str, number: int, *kinds: Kind) -> list[PartitionSpec]:
    """Return a partition for each instance, with equal shares of the nodes."""
    return [PartitionSpec(name=f"{name}-{index}", kinds=kinds) for index in range(number)]


def _several(quick: bool, say: Say) -> Findings:
    findings = Findings()
    startup = read_launcher("flux").startup_s
    up_s = startup.value if startup is not None else 0.0
    for nodes, numbers in list(_PARTITIONS.items())[: 1 if quick else None]:
        for measure, number in zip(("one", "several"), numbers, strict=True):
            say(f"modelled: {nodes:,} nodes, {number} instances")
            plan = instances("flux", number) if number > 1 else []
            result = run("frontier", read_workload("null"), nodes=nodes, launcher="flux", plan=plan)
            findings.values.append(Value(measure, nodes, "modelled", rate(result, up_s)))
            if number > 1:
                slept = run("frontier", read_workload("sleep"), nodes=nodes, launcher="flux", plan=plan)
                findings.values.append(Value("ru", nodes, "modelled", 100 * slept.utilization))
                findings.lines.append(line(slept, _STARTS, f"{nodes:,} nodes, {number} instances", "modelled", "starts_per_s"))
        say(f"ideal: {nodes:,} nodes")
        result = run("frontier", read_workload("null"), nodes=nodes, plan=instances("flux", numbers[1]))
        findings.values += [
            own(result, nodes),
            Value("several", nodes, "ideal", result.tasks / result.core_cpu_s),
        ]
    return findings


def _rate(source: str, *points: Point, name: str = "rate", title: str = "mean rate of starts") -> Measure:
    return Measure(name=name, title=title, unit="tasks/s", x="nodes", published=points, source=source)


def _use(source: str = "", *points: Point) -> Measure:
    return Measure(name="ru", title="utilisation with tasks of 180 s", unit="%", x="nodes", published=points, source=source)


E40 = Experiment(
    uid="E40",
    title="The ceiling of srun",
    paper="P25",
    place="section 4.1.1, figures 4 and 5a",
    kind="simulated",
    takes="5 s",
    measures=(
        Measure(
            name="most",
            title="most tasks at a time",
            unit="tasks",
            x="nodes",
            published=tuple(Point(nodes, 112.0) for nodes in (2, 4, 8, 16)),
            source="the same at all numbers of nodes, section 4.1.1",
        ),
        _use("section 4.1.1", Point(4, 50.0)),
        Measure(
            name="makespan",
            title="makespan",
            unit="s",
            x="nodes",
            published=(Point(4, 1440.0, about=True),),
            source="computed: 896 tasks of 180 s, 112 at a time",
        ),
        _rate("sections 4.1.1 and 6", Point(1, 152.0), Point(4, 61.0)),
        own_over("nodes"),
    ),
    panels=(
        Panel(title=_RUNNING, kind="time", y_label="tasks"),
        Panel(title="mean rate of starts", measures=("rate",)),
    ),
    run=_ceiling,
)

_FLUX_NODES = (1, 4, 16, 64, 256, 1024)

E41 = Experiment(
    uid="E41",
    title="One Flux instance, 1 to 1,024 nodes",
    paper="P25",
    place="section 4.1.2, figure 5b",
    kind="simulated",
    takes="2 min",
    measures=(
        _rate(
            "section 4.1.2; 4, 16 and 256 nodes from 4.1.3",
            *map(Point, (1, 4, 16, 256, 1024), (28.0, 56.0, 43.0, 286.7, 300.0)),
        ),
        _use(),
        own_over("nodes"),
    ),
    panels=(
        Panel(title="mean rate of starts", measures=("rate",), y_logarithmic=True),
        Panel(title=_STARTS, kind="time", y_label="tasks/s"),
    ),
    run=_one_instance("flux", _FLUX_NODES),
)

E42 = Experiment(
    uid="E42",
    title="Several Flux instances",
    paper="P25",
    place="section 4.1.3, figure 6",
    kind="simulated",
    takes="8 min",
    measures=(
        _rate(
            "section 4.1.3",
            *map(Point, _PARTITIONS, (56.0, 43.0, 286.7, 160.6)),
            name="one",
            title="mean rate of starts, one instance",
        ),
        _rate(
            "section 4.1.3",
            *map(Point, _PARTITIONS, (98.0, 195.0, 302.5, 232.9)),
            name="several",
            title="mean rate of starts, 4, 16, 64 and 16 instances",
        ),
        _use("section 4.1.3", Point(1024, 75.4)),
        own_over("nodes"),
    ),
    panels=(
        Panel(title="mean rate of starts", measures=("one", "several"), y_logarithmic=True, y_label="tasks/s"),
        Panel(title=_STARTS, kind="time", y_label="tasks/s"),
    ),
    run=_several,
)

E43 = Experiment(
    uid="E43",
    title="One Dragon instance, executables",
    paper="P25",
    place="section 4.1.4, figure 5c",
    kind="simulated",
    takes="10 s",
    measures=(
        _rate("section 4.1.4", *map(Point, (4, 16, 64), (343.0, 380.0, 204.0))),
        _use(),
        own_over("nodes"),
    ),
    panels=(
        Panel(title="mean rate of starts", measures=("rate",), y_logarithmic=True),
        Panel(title=_STARTS, kind="time", y_label="tasks/s"),
    ),
    run=_one_instance("dragon", (1, 4, 16, 64)),
)
