"""What a workload is, as its file says it: classes of tasks, how many, of which shape, how long, and when they come.

Fields that say what a task asks for have the names of ``TaskDescription``. A number may be drawn for each task; a count may
follow from the nodes that the workload is to use, so that one file serves pilots of all sizes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec

from pilotage.errors import nearest
from pilotage.model.resources import NodeShape
from pilotage.sim.model import Quantity
from pilotage.sim.workloads.distributions import Distribution

Path = tuple[str | int, ...]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]
Count = Annotated[int, msgspec.Meta(ge=0)]

_WHOLE = ("ranks", "nodes", "cores_per_rank")


class TaskClass(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tasks of one sort. Memory in MB (of 2**20 bytes), times in seconds."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    """Begins the uids of its tasks."""
    kind: Literal["executable", "function"] = "executable"
    count: Count | dict[int, Count] | None = None
    """How many; or how many at numbers of nodes, between which it is interpolated on logarithmic scales."""
    count_per_node: NotNegative = 0.0
    count_per_core: NotNegative = 0.0

    ranks: AtLeastOne | Distribution = 1
    cores_per_rank: AtLeastOne | Distribution | None = None
    """1 unless given; of tasks of whole nodes, an equal share of a node's."""
    gpus_per_rank: NotNegative | Distribution | None = None
    """0 unless given; of tasks of whole nodes, an equal share of a node's."""
    mem_per_rank: NotNegative | Distribution = 0.0
    nodes: AtLeastOne | Distribution | None = None
    """Whole nodes, with ``ranks_per_node`` ranks on each (1 unless given)."""
    ranks_per_node: Count = 0
    exclusive: bool = False
    partition: str = ""
    priority: int = 0
    retries: Count = 0

    duration_s: NotNegative | Distribution
    declared: bool | NotNegative | Distribution = False
    """Whether tasks say how long they take: no, truly, or as many times that (0.9: too little)."""

    at_s: tuple[NotNegative, ...] = ()
    """When they come, in equal parts; all at the begin unless given."""
    rate_per_s: NotNegative = 0.0
    """They come one after another, so many in a second, from the begin or the one time in ``at_s``."""
    after: str = ""
    """They come when tasks of this class are done."""
    when: Literal["each", "all"] = "each"
    """``each``: with each task of that class its part of these, so that as many are a pipeline; ``all``: when all of that
    class are final, well or not."""
    adaptive: bool = False
    """They come when the workload has room for them; see ``Adaptive``."""

    def number(self, nodes: int, shape: NodeShape) -> int:
        """Return how many tasks there are on so many nodes."""
        if isinstance(self.count, dict):
            known = {size: float(count) for size, count in self.count.items()}
            return round(Quantity(at=known, source="").of(nodes))
        if self.count is not None:
            return self.count
        return round(self.count_per_node * nodes + self.count_per_core * nodes * shape.cores)


class Adaptive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a program adapts: tasks of adaptive classes come, in proportion to what is left of each, while there is room.

    There is room while fewer than ``floor`` tasks of the workload wait or run (``floor_per_node``: for each node), and with
    ``fill`` while those that wait or run ask for less than all cores and GPUs.
    """

    floor: Count = 0
    floor_per_node: NotNegative = 0.0
    fill: bool = True


class WorkloadDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A workload's file. ``mixed``: classes that come at the same time are shuffled, not submitted one class after another."""

    name: str
    description: str
    source: str
    classes: tuple[TaskClass, ...]
    mixed: bool = False
    adaptive: Adaptive | None = None
    machine: str = "local"
    nodes: AtLeastOne = 1
    """What it is meant for, where nobody says otherwise."""

    def faults(self) -> Iterator[tuple[Path, str]]:
        """Yield where something is wrong, as a path in the file, and what."""
        if not self.classes:
            yield ("classes",), "a workload has one class of tasks or more"
        names: list[str] = []
        for index, each in enumerate(self.classes):
            path = ("classes", index)
            if each.name in names:
                yield (*path, "name"), f"there are two classes {each.name!r}; give each a name of its own"
            names.append(each.name)
            yield from (((*path, field), message) for field, message in _faults_of_class(each))
        predecessors = {each.name: each.after for each in self.classes}
        for index, each in enumerate(self.classes):
            if each.after and each.after not in predecessors:
                yield ("classes", index, "after"), f"there is no class {each.after!r}{nearest(each.after, predecessors)}"
            elif each.after and _is_in_circle(each.name, predecessors):
                yield ("classes", index, "after"), f"class {each.name!r} would come after itself; break the circle"
            if each.adaptive and self.adaptive is None:
                yield ("classes", index, "adaptive"), "say how in a table [adaptive]"
        if self.adaptive is not None and not any(each.adaptive for each in self.classes):
            yield ("adaptive",), "no class is adaptive; mark those that are with adaptive = true"


def _faults_of_class(each: TaskClass) -> Iterator[tuple[str, str]]:
    for field in ("ranks", "cores_per_rank", "gpus_per_rank", "mem_per_rank", "nodes", "duration_s", "declared"):
        value = getattr(each, field)
        if not isinstance(value, Distribution):
            continue
        least = 1 if field in _WHOLE else 0
        if fault := value.fault():
            yield field, fault
        elif value.smallest() < least:
            yield field, f"may draw less than {least}, which it must not be; {_remedy(value, least)}"
        elif field in _WHOLE and value.uniform and int(value.uniform[1]) < value.uniform[0]:
            yield field, f"there is no whole number from {value.uniform[0]:g} to {value.uniform[1]:g}"
    counts = [name for name in ("count", "count_per_node", "count_per_core") if getattr(each, name)]
    if len(counts) != 1 and each.count != 0:
        yield "name", f"give one of count, count_per_node and count_per_core, not {' and '.join(counts) or 'none'}"
    if each.nodes is not None and each.ranks != 1:
        yield "ranks", "follows from nodes and ranks_per_node; leave it out"
    ways = [name for name in ("at_s", "after", "adaptive") if getattr(each, name)]
    if len(ways) > 1:
        yield ways[1], f"tasks come by one of at_s, after and adaptive; leave {' or '.join(ways)} out"
    if each.rate_per_s and (each.after or each.adaptive or len(each.at_s) > 1):
        yield "rate_per_s", "goes with one time in at_s, or none, and not with after or adaptive"


def _remedy(value: Distribution, least: int) -> str:
    if value.normal or value.lognormal:
        return f"give least = {least}"
    return f"its least is {value.smallest():g}"


def _is_in_circle(name: str, predecessors: dict[str, str]) -> bool:
    at = predecessors[name]
    for _ in predecessors:
        if at == name:
            return True
        at = predecessors.get(at, "")
    return False
