"""What experiments in simulation have in common: runs of a workload on a machine, and core-time in the papers' words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal

import msgspec

from pilotage.experiments.definition import Line, Measure, Shares, System, Value
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.sim.files import read_launcher, read_machine, read_workload
from pilotage.sim.model import IDEAL, Launcher, Quantity
from pilotage.sim.result import ResourceTime, Result
from pilotage.sim.workloads.description import WorkloadDescription
from pilotage.sim.workloads.generated import GeneratedWorkload
from pilotage.sim.world import Show, World, watched_by_nobody

Words = dict[str, tuple[str, ...]]
"""Parts of core-time by a paper's names, each the sum of fields of ``ResourceTime``."""

WORDS_2018: Words = {
    "Workload Execution": ("running",),
    "RP Overhead": ("startup", "scheduling", "waiting", "preparing", "acknowledging"),
    "RP Idle": ("idle", "lost"),
}
WORDS_2021_TITAN: Words = {
    "Workload": ("running",),
    "RP": ("startup", "scheduling"),
    "ORTE": ("waiting", "preparing", "acknowledging"),
    "Idle": ("idle", "lost"),
}
WORDS_2021_SUMMIT: Words = {
    "Exec Cmd": ("running",),
    "Pilot Startup": ("startup",),
    "Warmup": ("scheduling",),
    "Prepare Exec": ("waiting", "preparing"),
    "Idle": ("idle", "acknowledging", "lost"),
}

SYSTEMS: tuple[System, ...] = ("modelled", "ideal")
"""Each simulation is made for both."""

_USUAL = PolicySpec()

_SHOWN: ContextVar[Show] = ContextVar("shown", default=watched_by_nobody)


@contextmanager
def shown(show: Show) -> Iterator[None]:
    """Let ``show`` watch all runs that are made in this context, however deep in an experiment."""
    token = _SHOWN.set(show)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def own_over(x: str) -> Measure:
    """Return the measure of what Pilotage's own decisions took, over ``x``.

    It is of the agent's and the client's core with the scheduler, on one core of this machine, from submission to outcome.
    """
    return Measure(name="own", title="CPU time of all of Pilotage's decisions", unit="us/task", x=x)


def run(
    machine: str,
    workload: WorkloadDescription,
    *,
    nodes: int,
    launcher: Launcher | Mapping[str, Launcher] | str = IDEAL,
    scheduler: PolicySpec = _USUAL,
    plan: Sequence[PartitionSpec] = (),
    seed: int = 0,
    client: bool = True,
) -> Result:
    """Simulate a workload on so many nodes of a machine; machine and launcher by name, or as they are.

    ``plan`` divides the pilot; then there may be a launcher for each partition, by its name.
    """
    where = read_machine(machine)
    tasks = GeneratedWorkload(workload, nodes=nodes, shape=where.shape, seed=seed)
    world = World(
        where,
        tasks,
        nodes=nodes,
        launcher=read_launcher(launcher) if isinstance(launcher, str) else launcher,
        scheduler=scheduler,
        plan=plan,
        seed=seed,
        client=client,
    )
    return world.finish(_SHOWN.get()(tasks.count))


def workload(name: str, **changes: Any) -> WorkloadDescription:
    """Return a shipped workload with one class, of which these fields are changed."""
    description = read_workload(name)
    (only,) = description.classes
    return msgspec.structs.replace(description, classes=(msgspec.structs.replace(only, **changes),))


def for_fewer(description: WorkloadDescription, machine: str, nodes: int, meant_for: int) -> WorkloadDescription:
    """Return a workload with as many fewer tasks of each class as there are fewer nodes than those that it is meant for."""
    shape = read_machine(machine).shape
    classes = (
        msgspec.structs.replace(each, count=max(1, each.number(meant_for, shape) * nodes // meant_for))
        for each in description.classes
    )
    return msgspec.structs.replace(description, classes=tuple(classes))


def changed(launcher: str, name: str, **quantities: Quantity | None) -> Launcher:
    """Return a shipped launcher under a name of its own, with these quantities changed."""
    return msgspec.structs.replace(read_launcher(launcher), name=name, **quantities)


def shares(result: Result, label: str, system: System, words: Words) -> Shares:
    """Return how the core-time of a run was spent, in these words."""
    return Shares(label, system, {part: _share(result.core_s, fields) for part, fields in words.items()})


def _share(spent: ResourceTime, fields: tuple[str, ...]) -> float:
    return float(sum(getattr(spent, field) for field in fields) / spent.offered) if spent.offered else 0.0


def overhead_s(result: Result, cores: int) -> float:
    """Return OVH: how long cores, on average, were there and had no task because of the pilot system."""
    return (result.core_s.startup + result.core_s.scheduling) / cores


def own(result: Result, x: float) -> Value:
    """Return what Pilotage's own decisions took, in microseconds of CPU for each task, with an ideal launcher."""
    return Value("own", x, "ideal", 1e6 * result.core_cpu_s / result.tasks)


def line(
    result: Result,
    panel: str,
    name: str,
    system: System,
    curve: Literal["running_tasks", "running_cores", "starts_per_s", "ends_per_s"],
) -> Line:
    """Return one of a run's curves, to be drawn in this panel."""
    values: list[float] = getattr(result.series, curve)
    width = result.series.width_s
    return Line(panel, name, system, [(place + 0.5) * width for place in range(len(values))], list(values))
