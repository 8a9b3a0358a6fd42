"""A simulation: a machine, a launcher, a workload and faults around the real cores, in virtual time.

``World(machine, workload, nodes=4).finish()`` runs a whole workload and says what came of it. Who wants to look at it, or to
meddle while it runs, takes it in parts::

    world = World(machine, workload, nodes=4)
    world.run(until_s=15.0)
    world.cancel([uid])
    result = world.finish()

The user's program submits what the workload says, when it says so, and whatever it says to an outcome; but it never has more
than ``most_open`` tasks without an outcome, so that a campaign of any length fits in memory. When all is done it ends the
pilots.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import msgspec

from pilotage.core.metascheduler.plan import check_plan
from pilotage.core.scheduling.policies import make_policy
from pilotage.errors import InvariantViolated
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.model.resources import Node
from pilotage.model.workload import Batch, Row, Template
from pilotage.sim.accounts import account
from pilotage.sim.clients import AnyPilot, Client, PlainClient, SimulatedClient
from pilotage.sim.delays import Delays
from pilotage.sim.metaschedulers import SimulatedMetascheduler
from pilotage.sim.misfortunes import Misfortunes
from pilotage.sim.model import IDEAL, Arrival, Faults, Launcher, Machine, Workload
from pilotage.sim.pilots import MakePolicy, SimulatedPilot
from pilotage.sim.processes import Uplink
from pilotage.sim.result import ResourceTime, Result
from pilotage.sim.stage import EPOCH_S, Stage

MOST_OPEN = 250_000
"""Tasks without an outcome that the user's program has at one time, at the most."""

CONTINUOUS = PolicySpec()

ROWS_PER_MESSAGE = 2000

_YOUNG_OBJECTS = 1_000_000
_STEPS_BETWEEN_LOOKS = 16


class Progress(msgspec.Struct, frozen=True):
    """How far a simulation is: the virtual time, and tasks that were submitted by then and that have their outcome."""

    time_s: float
    submitted: int
    final: int


Watch = Callable[[Progress], None]
"""Is told often how far a simulation is."""

Show = Callable[[int], Watch | None]
"""Takes how many tasks a simulation has, when it begins, and returns who watches it, if anybody does."""


def watched_by_nobody(tasks: int) -> None:
    """Let a simulation run unwatched; a ``Show``."""


class World:
    """Everything in a simulation: a workload on ``nodes`` nodes of a machine. The same arguments give the same result.

    ``pilots`` share the nodes. ``plan``: the one pilot is divided into these partitions; then each may have a ``launcher`` of
    its own, by its name, and ``scheduler`` is of no matter. ``walltime_s`` is when the pilots end, whatever is left; None: when
    all is done. ``client=False`` leaves out the client's core, which remembers every task: then memory does not grow with the
    length of the run. ``note_history``: the result has a digest of all facts that the cores decide.

    Raises:
        ValueError: the machine has not so many nodes, a number makes no sense, or policy or plan do not fit the nodes.
    """

    def __init__(
        self,
        machine: Machine,
        workload: Workload,
        *,
        nodes: int,
        launcher: Launcher | Mapping[str, Launcher] = IDEAL,
        scheduler: PolicySpec = CONTINUOUS,
        pilots: int = 1,
        plan: Sequence[PartitionSpec] = (),
        faults: Faults | None = None,
        seed: int = 0,
        walltime_s: float | None = None,
        client: bool = True,
        note_history: bool = False,
        most_open: int = MOST_OPEN,
    ) -> None:
        if not 1 <= nodes <= machine.nodes:
            raise ValueError(f"nodes={nodes}: the machine {machine.name!r} has {machine.nodes} nodes; ask for 1 to as many")
        if not 1 <= pilots <= nodes:
            raise ValueError(f"pilots={pilots} cannot share {nodes} nodes; ask for 1 to as many")
        if isinstance(launcher, Mapping) and not plan:
            raise ValueError("launchers are given by partition, but there is no plan of partitions; give one launcher")
        if plan and pilots > 1:
            raise ValueError(f"pilots={pilots} with a plan of {len(plan)} partitions: a plan divides one pilot")
        missing = [spec.name for spec in plan if isinstance(launcher, Mapping) and spec.name not in launcher]
        if missing:
            raise ValueError(f"no launcher is given for partition {missing[0]!r}; give one for each partition, or one for all")
        self._launcher = launcher
        self._cpu_before, self._begun = time.process_time(), time.perf_counter()
        self.machine = machine
        self.seed = seed
        self.stage = stage = Stage(faults or Faults(), seed, workload.duration_s, note_history)
        self.timeline = stage.timeline
        self._workload = workload
        self._walltime_s = walltime_s
        self._most_open = max(most_open, 1)
        self._templates = dict(workload.templates)
        self._known: set[TemplateId] = set()
        """Templates that were sent along already."""
        self._services: set[TaskUid] = set()
        """Services without an outcome; nobody waits for their end."""
        self._arrivals: Iterator[Arrival] = iter(workload.arrivals())
        self._more = True
        """Whether the workload has more to come, whatever happens."""
        self._later = 0
        """Follow-ups whose time has not come."""
        self._due: deque[Arrival] = deque()
        """What has arrived, and waits for others to have their outcome first."""
        self._ending = False
        self.client: Client = SimulatedClient(stage, self._hear) if client else PlainClient(stage, self._hear)
        self.pilots: dict[PilotUid, AnyPilot] = {}
        for number, (first, count) in enumerate(_shares(nodes, pilots)):
            self._add_pilot(PilotUid(f"pilot.{number:04d}"), first, count, scheduler, plan)
        self._misfortunes = Misfortunes(stage, self, plan)
        for name in sorted({template.named_env for template in self._templates.values() if template.named_env}):
            for uid in self.pilots:
                self.client.prepare(uid, name)
        self._fetch()

    def _add_pilot(self, uid: PilotUid, first: int, count: int, scheduler: PolicySpec, plan: Sequence[PartitionSpec]) -> None:
        nodes = [Node(index, f"{self.machine.name}{first + index:05d}", self.machine.shape) for index in range(count)]
        uplink = self.client.open_link(uid)
        pilot: AnyPilot
        if plan:
            check_plan(plan, nodes)
            make = partial(self._make_partition, nodes)
            pilot = SimulatedMetascheduler(self.stage, uid, nodes, plan, make, uplink, self._walltime_s)
        else:
            make_one = self._policy(scheduler, nodes, None)
            make_one()  # what does not fit is refused here
            pilot = SimulatedPilot(self.stage, uid, nodes, make_one, self._delays(uid, count), uplink, self._walltime_s)
        self.pilots[uid] = pilot
        self.client.add_pilot(pilot)

    def _make_partition(
        self, nodes: list[Node], name: str, spec: PartitionSpec, own: list[int], uplink: Uplink, lost_at: dict[int, float]
    ) -> SimulatedPilot:
        policy = self._policy(spec.scheduler, nodes, own)
        delays = self._delays(name, len(own), spec.name)
        return SimulatedPilot(self.stage, PilotUid(name), nodes, policy, delays, uplink, self._walltime_s, own, lost_at)

    def _policy(self, spec: PolicySpec, nodes: list[Node], present: list[int] | None) -> MakePolicy:
        end = None if self._walltime_s is None else EPOCH_S + self._walltime_s
        return partial(make_policy, spec, nodes, present=present, end=end)

    def _delays(self, name: str, nodes: int, of: str = "") -> Delays:
        """Return what starting costs in a pilot or partition; ``of`` is the name in the plan of one that was started again."""
        launcher = self._launcher[of] if isinstance(self._launcher, Mapping) else self._launcher
        return Delays(launcher, nodes, nodes * self.machine.shape.cores, self.stage.chance(f"launcher {name}"))

    # ----------------------------------------------------------------------------------------------- the user's program

    def _fetch(self) -> None:
        """Ask the workload for what comes next."""
        arrival = next(self._arrivals, None)
        if arrival is None:
            self._more = False
            self._end_when_done()
        else:
            self.timeline.at(arrival.time_s, lambda: self._arrive(arrival))

    def _arrive(self, arrival: Arrival) -> None:
        self._due.append(arrival)
        self._submit_due()
        if not self._due:
            self._fetch()

    def _follow_up(self, arrival: Arrival) -> None:
        self._later -= 1
        self._due.append(arrival)
        self._submit_due()
        self._end_when_done()

    def _submit_due(self) -> None:
        witness = self.stage.witness
        if self.over:
            # Nobody is left to take anything: the user's program gives up.
            self._due.clear()
        while self._due:
            room = self._most_open - len(witness.open)
            if room < min(len(self._due[0].rows), self._most_open // 8):
                return
            arrival = self._due.popleft()
            now, rest = arrival.rows[:room], arrival.rows[room:]
            if rest:
                self._due.appendleft(Arrival(arrival.time_s, rest))
            for start in range(0, len(now), ROWS_PER_MESSAGE):
                self._submit(arrival.time_s, now[start : start + ROWS_PER_MESSAGE])

    def _submit(self, time_s: float, rows: list[Row]) -> None:
        self.stage.witness.handed_in(rows, time_s)
        new: dict[TemplateId, Template] = {}
        for template in dict.fromkeys([row.template for row in rows]):
            if template not in self._known:
                self._known.add(template)
                new[template] = self._templates[template]
            if self._templates[template].service is not None:
                self._services.update(row.uid for row in rows if row.template == template)
        self.client.submit(Batch(new, rows))

    def _hear(self, outcomes: Sequence[Outcome]) -> None:
        """The user's program is told of outcomes."""
        follow, now = self._workload.follow, self.timeline.now
        self.stage.witness.tell(outcomes)
        if self._services:
            self._services.difference_update([outcome.task for outcome in outcomes])
        for outcome in outcomes:
            arrival = follow(outcome, now)
            if arrival is not None:
                self._later += 1
                self.timeline.at(arrival.time_s, partial(self._follow_up, arrival))
        if self._due:
            self._submit_due()
            if not self._due:
                self._fetch()
        self._end_when_done()

    def _end_when_done(self) -> None:
        """End the pilots once all that ever comes is done; services end with their pilot."""
        if self._more or self._later or self._due or self._ending or len(self.stage.witness.open) > len(self._services):
            return
        self._ending = True
        # Not in the middle of what the client is about to do.
        self.timeline.at(self.timeline.now, lambda: self.client.end(list(self.pilots), drain=True))

    def cancel(self, tasks: Sequence[TaskUid]) -> None:
        """Let the user cancel tasks, now."""
        self.client.cancel(tasks)

    def end(self, pilots: Sequence[PilotUid], *, drain: bool) -> None:
        """Let the user end pilots, now."""
        self.client.end(pilots, drain)

    # --------------------------------------------------------------------------------------------------------------- time

    @property
    def over(self) -> bool:
        """Whether all pilots have ended, and their client knows."""
        return all(self.client.is_over(uid) for uid in self.pilots)

    def run(self, until_s: float = float("inf"), watch: Watch | None = None) -> None:
        """Let time pass until then, or until all is over."""
        timeline, steps = self.timeline, 0
        while (due := timeline.next_s()) <= until_s and due < float("inf") and not self.over:
            timeline.step()
            steps += 1
            if watch is not None and steps % _STEPS_BETWEEN_LOOKS == 0:
                watch(self.progress())
        if not self.over:
            if until_s == float("inf"):
                raise InvariantViolated(self._why_stalled())
            timeline.now = until_s

    def _metaschedulers(self) -> list[SimulatedMetascheduler]:
        return [pilot for pilot in self.pilots.values() if isinstance(pilot, SimulatedMetascheduler)]

    def processes(self) -> dict[str, AnyPilot]:
        """Return all agents and metaschedulers that there ever were, by the names of their pilots and partitions."""
        found: dict[str, AnyPilot] = {str(uid): pilot for uid, pilot in self.pilots.items()}
        for pilot in self._metaschedulers():
            found.update(pilot.partitions)
        return found

    def _why_stalled(self) -> str:
        story = [f"nothing can happen any more at {self.timeline.now:g} s, and {len(self.stage.witness.open)} tasks are open"]
        for uid, pilot in self.processes().items():
            if pilot.core is None:
                story.append(f"{uid} has no agent")
                continue
            held = pilot.core.state.tasks
            story += [f"{uid} has {len(held)} tasks", *(f"{task}: {pilot.core.why(task)}" for task in list(held)[:3])]
        return "; ".join(story)

    def progress(self) -> Progress:
        """Return how far it is."""
        witness = self.stage.witness
        return Progress(self.timeline.now, witness.submitted, witness.submitted - len(witness.open))

    def finish(self, watch: Watch | None = None) -> Result:
        """Let all happen that will, and return what came of it; ``watch`` is told how far it is.

        Raises:
            InvariantViolated: a bug: the books do not balance, what must never be has happened, or tasks wait and nothing can
                happen any more.
        """
        thresholds = gc.get_threshold()
        # What lives long here are plain values without cycles; looking for garbage among millions of them is time lost.
        gc.set_threshold(_YOUNG_OBJECTS, 50, 1000)
        try:
            self.run(watch=watch)
        finally:
            gc.set_threshold(*thresholds)
        self.stage.witness.close()
        return self.result()

    def result(self) -> Result:
        """Return what has come of it so far."""
        stage, until = self.stage, self.stage.last_release_s
        accounts = [account(pilot, self.machine.shape, until) for pilot in self.pilots.values()]
        partitions = [partition for _, _, some in accounts for partition in some]
        core_s, gpu_s = ResourceTime(), ResourceTime()
        for cores, gpus, _ in accounts:
            core_s.add(cores)
            gpu_s.add(gpus)
        cpu_s = time.process_time() - self._cpu_before
        core_share = stage.effort.decided_s / (time.perf_counter() - self._begun)
        return Result(
            seed=self.seed,
            tasks=stage.witness.submitted,
            outcomes=dict(sorted(stage.witness.outcomes.items())),
            refusal=stage.witness.refusal,
            makespan_s=until,
            core_s=core_s,
            gpu_s=gpu_s,
            waits=stage.curves.wait_times(),
            series=stage.curves.series(until),
            starts=sum(partition.starts for partition in partitions),
            most_at_once=stage.curves.most_at_once,
            partitions=partitions,
            steps=stage.effort.steps,
            agent_deaths=sum(process.deaths for process in self.processes().values()),
            links_broken=self.client.links_broken + sum(meta.links_broken for meta in self._metaschedulers()),
            nodes_lost=sum(len(pilot.lost_at) for pilot in self.pilots.values()),
            history=stage.digest.text,
            core_cpu_s=cpu_s * core_share,
            world_cpu_s=cpu_s * (1.0 - core_share),
        )


def _shares(nodes: int, pilots: int) -> Iterator[tuple[int, int]]:
    """Yield the first node and the number of nodes of each pilot."""
    first = 0
    for number in range(pilots):
        count = nodes // pilots + (number < nodes % pilots)
        yield first, count
        first += count
