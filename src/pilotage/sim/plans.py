"""How a workload is to be run in a simulation: on what, started by what, placed by which rule. And the run itself.

A ``Plan`` says some of it; what it leaves open follows from a plan under it, and in the end from the workload, which says what
machine it is meant for, and from the machine, which has a usual launcher. ``Trial`` has all of it settled, and runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Protocol

import msgspec

from pilotage.core.metascheduler.plan import check_plan
from pilotage.errors import InvalidRequest, nearest
from pilotage.model.partitions import Order, PartitionSpec, PolicyName, PolicySpec
from pilotage.model.resources import Node, NodeShape
from pilotage.platforms.toml_values import Source
from pilotage.sim.files import check_faults, find_file, read_faults, read_launcher, read_machine, read_workload
from pilotage.sim.model import IDEAL, Faults, Launcher, Machine, Workload
from pilotage.sim.result import Result
from pilotage.sim.workloads.demand import Demand
from pilotage.sim.workloads.generated import GeneratedWorkload
from pilotage.sim.workloads.recorded import RecordedWorkload
from pilotage.sim.world import Show, World, watched_by_nobody

MOST_REMEMBERED = 200_000
"""Of so many tasks the client's core, too, is simulated; of more it is left out unless faults concern it."""

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class PlannedPartition(PartitionSpec, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A partition of the one pilot, and what starts tasks in it: the plan's launcher, if it has none of its own."""

    launcher: str = ""


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be run with; None leaves it open. Names may be those of files."""

    name: str = ""
    machine: str | None = None
    nodes: AtLeastOne | None = None
    launcher: str | None = None
    scheduler: PolicyName | PolicySpec | None = None
    order: Order | None = None
    pilots: AtLeastOne | None = None
    """Share the nodes."""
    partitions: tuple[PlannedPartition, ...] | None = None
    """Divide the one pilot, each with a scheduler of its own."""
    faults: str | Faults | None = None
    walltime_min: Annotated[float, msgspec.Meta(gt=0.0)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0)] | None = None
    folder: Path | None = None
    """From where names of files count."""

    def over(self, under: Plan) -> Plan:
        """Return what this plan says, and where it says nothing, the other."""
        said = {field: getattr(self, field) for field in self.__struct_fields__}
        chosen = {field: value for field, value in said.items() if value not in (None, "")}
        return msgspec.structs.replace(under, **chosen)


class AnyWorkload(Workload, Protocol):
    """A workload that knows what it asks for."""

    def demand(self) -> Demand:
        """Return what all tasks ask for together."""
        ...


class WorkloadChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A workload that can be made for any number of nodes; ``machine`` and ``nodes`` are those for which it is meant."""

    name: str
    description: str
    machine: Machine
    nodes: int
    make: Callable[[int, NodeShape, int], AnyWorkload]
    """Makes it, for so many nodes of this shape, under this seed."""


def described_workload(name: str) -> WorkloadChoice:
    """Return the workload of this name or file.

    Raises:
        InvalidRequest: there is none, or its file is wrong.
    """
    description = read_workload(name)

    def make(nodes: int, shape: NodeShape, seed: int) -> AnyWorkload:
        return GeneratedWorkload(description, nodes=nodes, shape=shape, seed=seed)

    return WorkloadChoice(
        name=description.name,
        description=description.description,
        machine=read_machine(description.machine, find_file("workload", name).parent),
        nodes=description.nodes,
        make=make,
    )


def recorded_workload(folder: Path) -> WorkloadChoice:
    """Return a session that ran as a workload, meant for the nodes that it had.

    Raises:
        InvalidRequest: no task of the session ran to an end.
    """
    first = RecordedWorkload(folder)

    def make(nodes: int, shape: NodeShape, seed: int) -> AnyWorkload:
        return RecordedWorkload(folder)

    left_out = f"; {first.left_out:,} others did not run to an end, or are services" if first.left_out else ""
    return WorkloadChoice(
        name=first.name,
        description=f"{first.count:,} recorded tasks{left_out}",
        machine=first.machine,
        nodes=first.machine.nodes,
        make=make,
    )


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A plan with nothing left open."""

    name: str
    workload: WorkloadChoice
    machine: Machine
    nodes: int
    launchers: dict[str, Launcher]
    """By the name of the partition; of pilots without a plan under the empty name."""
    scheduler: PolicySpec
    pilots: int
    partitions: tuple[PartitionSpec, ...]
    faults: Faults
    walltime_s: float | None
    seed: int

    @property
    def started_by(self) -> str:
        """The names of all launchers."""
        return ", ".join(dict.fromkeys(launcher.name for launcher in self.launchers.values()))

    def launcher_of(self, partition: str) -> Launcher:
        """Return what starts tasks in a partition, or pilot, by the name that it has in a result."""
        # One that was started again has a name that begins with that in the plan.
        names = [name for name in self.launchers if partition.startswith(name)]
        return self.launchers[max(names, key=len)]

    def run(self, show: Show = watched_by_nobody) -> Trialled:
        """Run it; ``show`` may watch it.

        Raises:
            InvalidRequest: the workload does not fit the nodes.
        """
        made = self.workload.make(self.nodes, self.machine.shape, self.seed)
        demand = made.demand()
        world = World(
            self.machine,
            made,
            nodes=self.nodes,
            launcher=self.launchers if self.partitions else self.launchers[""],
            scheduler=self.scheduler,
            pilots=self.pilots,
            plan=self.partitions,
            faults=self.faults,
            seed=self.seed,
            walltime_s=self.walltime_s,
            client=demand.tasks <= MOST_REMEMBERED or self.faults != Faults(seed=self.faults.seed),
        )
        result = world.finish(show(demand.tasks))
        return Trialled(trial=self, demand=demand, result=result)


class Trialled(msgspec.Struct, frozen=True, kw_only=True):
    """A plan that was run, and what came of it."""

    trial: Trial
    demand: Demand
    result: Result


def settle(plan: Plan, workload: WorkloadChoice) -> Trial:
    """Settle what a plan leaves open.

    Raises:
        InvalidRequest: it names what is not there, or asks for more than there is.
    """
    folder = plan.folder
    machine = workload.machine if plan.machine is None else read_machine(plan.machine, folder)
    nodes = plan.nodes or min(workload.nodes, machine.nodes)
    if nodes > machine.nodes:
        raise InvalidRequest(f"nodes={nodes:,} exceeds the {machine.nodes:,} nodes of {machine.name}; ask for as many or fewer")
    pilots = plan.pilots or 1
    if pilots > nodes:
        raise InvalidRequest(f"pilots={pilots:,} cannot share {nodes:,} nodes; ask for as many pilots or fewer")
    planned = plan.partitions or ()
    if planned and pilots > 1:
        raise InvalidRequest(
            f"pilots={pilots} with {len(planned)} partitions: partitions divide one pilot; leave one of them out"
        )
    partitions = tuple(_as_spec(partition) for partition in planned)
    if partitions:
        check_plan(partitions, [Node(index, "", machine.shape) for index in range(nodes)])
    faults = _faults(plan)
    _check_faults(faults, nodes, [*(f"pilot.{number:04d}" for number in range(pilots)), *(each.name for each in partitions)])
    return Trial(
        name=plan.name,
        workload=workload,
        machine=machine,
        nodes=nodes,
        launchers={each.name: _launcher(each.launcher or plan.launcher, plan, machine) for each in planned}
        or {"": _launcher(plan.launcher, plan, machine)},
        scheduler=_scheduler(plan, machine, nodes),
        pilots=pilots,
        partitions=partitions,
        faults=faults,
        walltime_s=None if plan.walltime_min is None else plan.walltime_min * 60.0,
        seed=plan.seed or 0,
    )


def read_plan(name: str) -> Plan:
    """Return the plan of this file; names of files in it count from its folder.

    Raises:
        InvalidRequest: there is no such file, or it is wrong.
    """
    source = Source(find_file("plan", name), "plan")
    plan = source.convert(Plan, name=source.path.stem, folder=source.path.parent)
    if isinstance(plan.faults, Faults):
        check_faults(source, plan.faults, ("faults",))
    return plan


def _as_spec(partition: PlannedPartition) -> PartitionSpec:
    return PartitionSpec(**{field: getattr(partition, field) for field in PartitionSpec.__struct_fields__})


def _launcher(said: str | None, plan: Plan, machine: Machine) -> Launcher:
    name = said or (machine.launchers[0] if machine.launchers else IDEAL.name)
    return IDEAL if name == IDEAL.name else read_launcher(name, plan.folder)


def _scheduler(plan: Plan, machine: Machine, nodes: int) -> PolicySpec:
    given = plan.scheduler
    spec = given if isinstance(given, PolicySpec) else PolicySpec(policy=given or "continuous")
    if plan.order is not None:
        spec = msgspec.structs.replace(spec, order=plan.order)
    if spec.policy == "torus" and not spec.torus:
        if nodes != machine.nodes or not machine.torus:
            raise InvalidRequest(
                f"scheduler 'torus': say how the {nodes:,} nodes lie, in a plan's file: "
                f'scheduler = {{ policy = "torus", torus = [..., ...] }}'
            )
        spec = msgspec.structs.replace(spec, torus=machine.torus)
    return spec


def _faults(plan: Plan) -> Faults:
    match plan.faults:
        case None:
            return Faults()
        case Faults():
            return plan.faults
        case _:
            return read_faults(plan.faults, plan.folder)


def _check_faults(faults: Faults, nodes: int, known: list[str]) -> None:
    """Refuse faults of what this plan does not have; ``known`` are its pilots and partitions."""
    for _, node in faults.lose_nodes_at_s:
        if not 0 <= node < nodes:
            raise InvalidRequest(f"faults: node {node} is to be lost, and there are nodes 0 to {nodes - 1}; name one of these")
    for what, named in (("lose_partitions_at_s", faults.lose_partitions_at_s), ("kill_agents_at_s", faults.kill_agents_at_s)):
        for _, name in named:
            if name not in known:
                hint = nearest(name, known) or f"; there are {', '.join(known)}"
                raise InvalidRequest(f"faults: {what} names {name!r}, which is no pilot or partition{hint}")
