"""Makes the tasks of a workload that a file describes, as time goes on.

Each class has a generator of random numbers of its own, under the workload's seed and the class's name. So the n-th task of a
class is the same whatever else happens: plans are compared with the same tasks, also where those come after others.
What is drawn of a task, its duration and its template, is drawn at once and kept in 12 bytes: so all templates are known before
the first task comes, and what all tasks ask for together. Rows are made when they arrive, in bulks.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter
from random import Random

from pilotage.errors import InvalidRequest, InvariantViolated
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import NodeShape
from pilotage.model.workload import Row, Template
from pilotage.sim.model import Arrival
from pilotage.sim.workloads.demand import Demand, demand_of, part_of_nodes
from pilotage.sim.workloads.description import TaskClass, WorkloadDescription
from pilotage.sim.workloads.shapes import Shaper

BULK = 4096
"""Tasks that arrive in one message."""

_BULKS_PER_S = 10.0
"""Tasks that come one after another are submitted at most as often as this."""

Due = tuple[float, int, int]
"""Time, class by its place in the file, how many tasks."""


class GeneratedWorkload:
    """The tasks of a described workload, on so many nodes of a shape; a ``Workload``. It serves one simulation.

    Raises:
        InvalidRequest: a class does not fit the nodes.
    """

    def __init__(self, description: WorkloadDescription, *, nodes: int, shape: NodeShape, seed: int = 0) -> None:
        self._templates: dict[TemplateId, Template] = {}
        self._description = description
        self._nodes = nodes
        self._seed = seed
        self._streams = [
            _Stream(each, each.number(nodes, shape), Random(f"{seed}:{each.name}"), Shaper(each, shape, self._templates))
            for each in description.classes
        ]
        self._by_name = {stream.name: stream for stream in self._streams}
        for stream in self._streams:
            if stream.task_class.after:
                before = self._by_name[stream.task_class.after]
                if not before.count:
                    raise InvalidRequest(f"class {stream.name!r} comes after {before.name!r}, which has no task; give it some")
                before.successors.append(stream)
        self._adaptive = [stream for stream in self._streams if stream.task_class.adaptive]
        self._reacts = bool(self._adaptive) or any(stream.successors for stream in self._streams)
        rule = description.adaptive
        self._floor = max(rule.floor, round(rule.floor_per_node * nodes)) if rule is not None else 0
        self._fills = rule is not None and rule.fill
        self._part_of_nodes = {uid: part_of_nodes(each.request, shape) for uid, each in self._templates.items()}
        self._shape = shape
        self._alive = 0
        self._busy_nodes = 0.0
        self._asked = False

    @property
    def name(self) -> str:
        """The name of the workload."""
        return self._description.name

    @property
    def templates(self) -> Mapping[TemplateId, Template]:
        """The templates of all rows."""
        return self._templates

    def demand(self) -> Demand:
        """Return what all tasks ask for together."""
        count: Counter[int] = Counter()
        total: dict[int, float] = dict.fromkeys(self._templates, 0.0)
        longest: dict[int, float] = dict.fromkeys(self._templates, 0.0)
        for stream in self._streams:
            count.update(stream.template_of)
            for template, duration in zip(stream.template_of, stream.durations, strict=True):
                total[template] += duration
                if duration > longest[template]:
                    longest[template] = duration
        parts = ((each.request, count[uid], total[uid], longest[uid]) for uid, each in self._templates.items())
        return demand_of(parts, self._shape)

    @property
    def count(self) -> int:
        """How many tasks there are in all, if none fails that others come after."""
        return sum(stream.count for stream in self._streams)

    def arrivals(self) -> Iterator[Arrival]:
        """Yield what comes at its time, and at the begin what adaptive classes submit."""
        if self._asked:
            raise InvariantViolated(f"workload {self.name!r}: it serves one simulation; make another for the next")
        self._asked = True
        begun = not self._adaptive
        for time_s, dues in groupby(heapq.merge(*self._dues()), key=itemgetter(0)):
            if time_s > 0.0 and not begun:
                begun = True
                yield from _arrivals(0.0, self._top_up())
            rows: list[Row] = []
            for stream in self._in_order([(self._streams[place], number) for _, place, number in dues]):
                rows.append(self._next(stream))
                if len(rows) == BULK:
                    yield Arrival(time_s, rows)
                    rows = []
            if rows:
                yield Arrival(time_s, rows)
        if not begun:
            yield from _arrivals(0.0, self._top_up())

    def duration_s(self, task: TaskUid) -> float:
        """Return how long the task runs, in each of its attempts."""
        name, _, number = task.rpartition(".")
        return self._by_name[name].durations[int(number)]

    def follow(self, outcome: Outcome, time_s: float) -> Arrival | None:
        """Return the tasks that come after this one, and those for which there is room now."""
        if not self._reacts:
            return None
        name, _, number = outcome.task.rpartition(".")
        stream = self._by_name[name]
        stream.final += 1
        stream.done += outcome.ending is Ending.DONE
        self._alive -= 1
        if self._adaptive:
            self._busy_nodes -= self._part_of_nodes[TemplateId(stream.template_of[int(number)])]
        if not stream.successors and not self._adaptive:
            return None
        rows = [*self._released_by(stream), *self._top_up()]
        return Arrival(time_s, rows) if rows else None

    def _released_by(self, stream: _Stream) -> Iterator[Row]:
        """Yield what the last end of a task of this class lets come."""
        is_complete = stream.is_complete
        for successor in stream.successors:
            if successor.task_class.when == "each":
                due = successor.count * stream.done // stream.count
            else:
                due = successor.count if is_complete else 0
            while successor.submitted < due:
                yield self._next(successor)
            if is_complete and not successor.is_decided:
                successor.is_decided = True
                # It may be over already, or have had no task at all.
                yield from self._released_by(successor)

    def _top_up(self) -> Iterator[Row]:
        """Yield tasks of adaptive classes while there is room."""
        while self._alive < self._floor or (self._fills and self._busy_nodes < self._nodes):
            stream = max(self._adaptive, key=_share_left, default=None)
            if stream is None or not stream.left:
                return
            yield self._next(stream)

    def _next(self, stream: _Stream) -> Row:
        row = stream.next()
        self._alive += 1
        if self._adaptive:
            self._busy_nodes += self._part_of_nodes[row.template]
        return row

    def _dues(self) -> Iterator[Iterator[Due]]:
        for place, stream in enumerate(self._streams):
            if not stream.task_class.after and not stream.task_class.adaptive and stream.count:
                yield _dues_of(place, stream.task_class, stream.count)

    def _in_order(self, parts: list[tuple[_Stream, int]]) -> Iterator[_Stream]:
        """Yield the class of each task of those that come at the same time."""
        if not self._description.mixed or len(parts) == 1:
            for stream, number in parts:
                for _ in range(number):
                    yield stream
            return
        # Each class gets the places of its tasks in one great shuffle: a byte a task.
        order = array("H", [place for place, (_, number) in enumerate(parts) for _ in range(number)])
        Random(f"{self._seed}").shuffle(order)
        for place in order:
            yield parts[place][0]


class _Stream:
    """The tasks of one class, in the order in which they come."""

    def __init__(self, task_class: TaskClass, count: int, random: Random, shaper: Shaper) -> None:
        self.task_class = task_class
        self.name = task_class.name
        self.count = count
        self.submitted = 0
        self.final = 0
        self.done = 0
        self.durations = array("d")
        self.template_of = array("I")
        for _ in range(count):
            template, duration = shaper.draw(random)
            self.template_of.append(template)
            self.durations.append(duration)
        self.successors: list[_Stream] = []
        self.is_decided = False
        """Of a class that comes after another: that one is complete."""

    @property
    def left(self) -> int:
        """Tasks that have not come yet."""
        return self.count - self.submitted

    @property
    def is_complete(self) -> bool:
        """Whether all tasks that ever come are final."""
        return self.final == self.submitted and (self.is_decided if self.task_class.after else not self.left)

    def next(self) -> Row:
        """Make the next task."""
        number = self.submitted
        self.submitted = number + 1
        return Row(TaskUid(f"{self.name}.{number:06}"), TemplateId(self.template_of[number]))


def _share_left(stream: _Stream) -> float:
    return stream.left / stream.count if stream.count else 0.0


def _arrivals(time_s: float, rows: Iterator[Row]) -> Iterator[Arrival]:
    together = list(rows)
    for begin in range(0, len(together), BULK):
        yield Arrival(time_s, together[begin : begin + BULK])


def _dues_of(place: int, task_class: TaskClass, count: int) -> Iterator[Due]:
    """Yield when how many tasks of a class come, in the order of time."""
    if not task_class.rate_per_s:
        times = sorted(task_class.at_s or (0.0,))
        for index, time_s in enumerate(times):
            number = count * (index + 1) // len(times) - count * index // len(times)
            if number:
                yield time_s, place, number
        return
    begin = task_class.at_s[0] if task_class.at_s else 0.0
    bulk = max(1, round(task_class.rate_per_s / _BULKS_PER_S))
    for first in range(0, count, bulk):
        yield begin + first / task_class.rate_per_s, place, min(bulk, count - first)
