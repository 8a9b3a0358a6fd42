"""What came of a simulation, and the ``Ledger`` in which it is written down while the simulation runs.

Core-time is accounted for by what the cores were held for. From its placement to its release a task's cores pass through
these states, and each core-second of the allocation is in exactly one::

    startup -> idle -> scheduling -> waiting -> preparing -> running -> acknowledging -> idle ...
                                                                                   (lost: of nodes that are gone)

``scheduling`` is the time that the modelled system's own scheduler takes, ``waiting`` that in the launcher, before it begins
with the task, ``preparing`` that from then on until the program runs, ``acknowledging`` that from the program's end until the
resources are free. So *utilization* is the share of running.
"""

from __future__ import annotations

import msgspec

from pilotage.model.outcome import Ending
from pilotage.sim.series import Counts, Levels, Waits


class ResourceTime(msgspec.Struct, kw_only=True):
    """Seconds of cores, or of GPUs (shares count as such), by what they were held for; ``offered`` is the sum of all."""

    offered: float = 0.0
    startup: float = 0.0
    idle: float = 0.0
    scheduling: float = 0.0
    waiting: float = 0.0
    preparing: float = 0.0
    running: float = 0.0
    acknowledging: float = 0.0
    lost: float = 0.0

    @property
    def utilization(self) -> float:
        """The share in which tasks ran; 0.0 where there is nothing to use."""
        return self.running / self.offered if self.offered else 0.0

    def add(self, other: ResourceTime) -> None:
        """Count another's with this."""
        for field in self.__struct_fields__:
            setattr(self, field, getattr(self, field) + getattr(other, field))


class WaitTimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long tasks waited from their arrival to their first start, in seconds; quantiles to within an eighth."""

    mean_s: float
    median_s: float
    most_but_5_percent_s: float
    most_s: float


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Curves over time: means in equal bins of ``width_s`` seconds, the first of which begins at 0; at most 512 of them."""

    width_s: float
    running_tasks: list[float]
    held_tasks: list[float]
    """Tasks that hold resources: placed, and not released yet."""
    running_cores: list[float]
    running_gpus: list[float]
    starts_per_s: list[float]
    ends_per_s: list[float]


class PartitionResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one partition, or of one pilot that has no others."""

    name: str
    nodes: int
    starts: int
    core_s: ResourceTime
    gpu_s: ResourceTime


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a run; times in seconds of the true time, which begins with the pilots.

    ``makespan_s``: until the last resources were released. ``outcomes``: tasks by how they ended. ``history``: a digest of
    all facts that the cores decided, if it was asked for. ``core_cpu_s`` is the CPU time that the cores took for their
    decisions, ``world_cpu_s`` that of everything around them, as their shares of the time that passed outside; these two alone
    differ from run to run.
    """

    seed: int
    tasks: int
    outcomes: dict[Ending, int]
    refusal: str
    """The first task that could run nowhere, and why; empty if there is none."""
    makespan_s: float
    core_s: ResourceTime
    gpu_s: ResourceTime
    waits: WaitTimes
    series: Series
    starts: int
    """Attempts whose program began to run."""
    most_at_once: int
    """Tasks that ran at one time, at the most."""
    partitions: list[PartitionResult]
    steps: int
    """How often a core was asked to decide."""
    agent_deaths: int
    links_broken: int
    nodes_lost: int
    history: str
    core_cpu_s: float
    world_cpu_s: float

    @property
    def utilization(self) -> float:
        """The share of the allocation's core-time in which tasks ran."""
        return self.core_s.utilization

    @property
    def gpu_utilization(self) -> float:
        """The share of the allocation's GPU-time in which tasks ran."""
        return self.gpu_s.utilization

    @property
    def starts_per_s(self) -> float:
        """Starts in a second, from the first task's arrival to the end, on average."""
        return self.starts / self.makespan_s if self.makespan_s else 0.0


class Curves:
    """The curves of a run, for all partitions together."""

    def __init__(self) -> None:
        self.running_tasks = Levels()
        self.held_tasks = Levels()
        self.running_cores = Levels()
        self.running_gpus = Levels()
        self.starts = Counts()
        self.ends = Counts()
        self.waits = Waits()
        self.running = 0
        self.most_at_once = 0

    def begin(self, time_s: float, tasks: int, cores: float, gpus: float) -> None:
        """So many tasks began to run, then."""
        self.starts.note(time_s, tasks)
        self.running_tasks.change(time_s, tasks)
        self.running_cores.change(time_s, cores)
        if gpus:
            self.running_gpus.change(time_s, gpus)
        self.running += tasks
        self.most_at_once = max(self.most_at_once, self.running)

    def end(self, time_s: float, tasks: int, cores: float, gpus: float) -> None:
        """So many tasks run no more, from then on."""
        self.ends.note(time_s, tasks)
        self.running_tasks.change(time_s, -tasks)
        self.running_cores.change(time_s, -cores)
        if gpus:
            self.running_gpus.change(time_s, -gpus)
        self.running -= tasks

    def end_many(self, tasks: int, ended_sum: float, cores: float, core_ended: float, gpus: float, gpu_ended: float) -> None:
        """So many ended within a short time: the sum of their times, and those of cores and GPUs times their times."""
        at = ended_sum / tasks
        self.ends.note(at, tasks)
        self.running_tasks.change(at, -tasks)
        self.running_cores.change(core_ended / cores, -cores)
        if gpus:
            self.running_gpus.change(gpu_ended / gpus, -gpus)
        self.running -= tasks

    def series(self, until_s: float) -> Series:
        """Return all curves, with the same bins, up to that time."""
        levels = (self.running_tasks, self.held_tasks, self.running_cores, self.running_gpus)
        counts = (self.starts, self.ends)
        for curve in (*levels, *counts):
            curve.cover(until_s)
        # One that something was noted on later than that has longer bins.
        widest = max(curve.width_s for curve in (*levels, *counts))
        for curve in (*levels, *counts):
            while curve.width_s < widest:
                curve.lengthen()
        bins = int(until_s / widest) + 1  # what ends at the very end counts, too
        running, held, cores, gpus = (curve.means(bins) for curve in levels)
        starts, ends = (curve.rates(bins) for curve in counts)
        return Series(
            width_s=widest,
            running_tasks=running,
            held_tasks=held,
            running_cores=cores,
            running_gpus=gpus,
            starts_per_s=starts,
            ends_per_s=ends,
        )

    def wait_times(self) -> WaitTimes:
        """Return how long tasks waited."""
        waits = self.waits
        return WaitTimes(
            mean_s=waits.mean_s,
            median_s=waits.quantile_s(0.5),
            most_but_5_percent_s=waits.quantile_s(0.95),
            most_s=waits.most_s,
        )
