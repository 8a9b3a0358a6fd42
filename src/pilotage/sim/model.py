"""What a simulation is made of: a machine, a launcher, a workload, faults; and what comes of it.

Machines, launchers, workloads and faults are values, read from files (``sim.files``) or made by programs. Each number that
stands for something measured is a ``Quantity``, and says where it is from.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

import msgspec

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.resources import NodeShape
from pilotage.model.workload import Row, Template


class Quantity(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of a model: one value, or values ``at`` sizes, between which it is interpolated on logarithmic scales.

    ``spread`` is a standard deviation in the same unit. ``source`` says where the number is from, or "assumed" and why.

    >>> Quantity(at={1: 152.0, 4: 61.0}, source="").of(2)
    96.29122...
    """

    value: float = 0.0
    at: dict[int, float] = {}
    spread: float = 0.0
    source: str

    def of(self, size: float) -> float:
        """Return the value at this size; beyond the sizes that are known it is that of the nearest."""
        if not self.at:
            return self.value
        known = sorted(self.at)
        place = bisect_right(known, size)
        if place == 0 or place == len(known):
            return self.at[known[min(place, len(known) - 1)]]
        low, high = known[place - 1], known[place]
        share = math.log(size / low) / math.log(high / low)
        one, other = self.at[low], self.at[high]
        if one <= 0.0 or other <= 0.0:
            return one + share * (other - one)
        return math.exp(math.log(one) + share * math.log(other / one))


TaskKind = Literal["executable", "function", "mpi"]
"""What a launcher starts: ``mpi`` is anything with more than one rank."""


class KindCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a launcher costs for tasks of one kind, instead of what it costs for others; what is left out is the same."""

    starts_per_s: Quantity | None = None
    prepare_s: Quantity | None = None
    acknowledge_s: Quantity | None = None


class Launcher(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How tasks come to run, and how their end becomes known, in one partition. A quantity left out costs nothing.

    Sizes are nodes of the partition, but for ``prepare_s`` and ``acknowledge_s``, where they are tasks that run.
    """

    name: str
    startup_s: Quantity | None = None
    """From the start of the partition until it takes tasks."""
    schedules_per_s: Quantity | None = None
    """Tasks that the system's own scheduler can place in a second, before the launcher gets them; sizes are cores."""
    starts_per_s: Quantity | None = None
    """Tasks that can be started in a second, one after another."""
    most_at_once: Quantity | None = None
    """Tasks that can run at once; others wait in the launcher, with their resources."""
    most_per_node: Quantity | None = None
    """Tasks that can run on a node at once; one on several nodes counts on each. Others wait in the launcher, too."""
    prepare_s: Quantity | None = None
    """From the start by the launcher until the program runs, for each task by itself."""
    contention_s: Quantity | None = None
    """Added to ``prepare_s`` for each other task that is being prepared (a shared file system)."""
    acknowledge_s: Quantity | None = None
    """From the end of the program until its resources are free again."""
    failure_share: Quantity | None = None
    """Of the starts, the share that fails."""
    kinds: dict[TaskKind, KindCosts] = {}
    """Costs of tasks of some kind that differ. All kinds wait for the same turn."""


IDEAL = Launcher(name="ideal")
"""Starts everything at once: what remains is our own."""


class Machine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine: equal nodes, and what of them tasks can use."""

    name: str
    description: str
    nodes: int
    shape: NodeShape
    source: str
    torus: tuple[int, ...] = ()
    launchers: tuple[str, ...] = ()
    """Launchers that are used there, the usual one first."""


class Arrival(msgspec.Struct, frozen=True):
    """Tasks that are submitted together at a time of the virtual clock, in seconds from the begin."""

    time_s: float
    rows: list[Row]


class Workload(Protocol):
    """Tasks, when they come and how long they take; the same seed gives the same."""

    @property
    def templates(self) -> Mapping[TemplateId, Template]:
        """All templates that the rows follow."""
        ...

    def arrivals(self) -> Iterator[Arrival]:
        """Yield what arrives whatever happens, in the order of time. It is asked for as time goes on, not all at once."""
        ...

    def duration_s(self, task: TaskUid) -> float:
        """Return how long the task runs."""
        ...

    def follow(self, outcome: Outcome, time_s: float) -> Arrival | None:
        """Return what the user's program submits when it hears of this outcome."""
        ...


class Faults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong, by chance under the seed, or at a time."""

    seed: int = 0
    node_losses_per_day: float = 0.0
    """Of all nodes together."""
    lose_nodes_at_s: tuple[tuple[float, int], ...] = ()
    """Times, and nodes by index."""
    lose_partitions_at_s: tuple[tuple[float, str], ...] = ()
    kill_agents_at_s: tuple[tuple[float, str], ...] = ()
    """Times, and pilots or partitions, whose agent dies and is started again."""
    restart_s: float = 5.0
    message_loss: float = 0.0
    """Share of the messages on a link after which the link breaks, and is made anew."""
    message_delay_s: float = 0.0
    """Messages take up to this long."""
    clock_skew_s: float = 0.0
    """Clocks of processes differ by up to this."""
