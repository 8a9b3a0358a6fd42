"""Small machines and workloads for the tests of the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.resources import NodeShape, Request
from pilotage.model.workload import Row, Template
from pilotage.sim.model import Arrival, Launcher, Machine, Quantity
from pilotage.sim.result import ResourceTime, Result

ONE = TemplateId(1)
SERIAL = {ONE: Template(executable="/bin/true")}


def machine(cores: int = 1, gpus: int = 0, memory: int = 0, nodes: int = 1000) -> Machine:
    return Machine(name="test", description="", nodes=nodes, shape=NodeShape(cores, gpus, memory), source="made for tests")


def amount(value: float, spread: float = 0.0) -> Quantity:
    return Quantity(value=value, spread=spread, source="made for tests")


def launcher(**values: float) -> Launcher:
    return Launcher(name="test", **{name: amount(value) for name, value in values.items()})


def uids(count: int, prefix: str = "t") -> list[TaskUid]:
    return [TaskUid(f"{prefix}{number}") for number in range(count)]


class Tasks:
    """A workload: ``durations_s`` of tasks t0, t1, ... of one template, at the begin; or arrivals of any kind."""

    def __init__(
        self,
        durations_s: Sequence[float] = (),
        templates: Mapping[TemplateId, Template] | None = None,
        arrivals: Sequence[Arrival] | None = None,
        follow: Callable[[Outcome, float], Arrival | None] | None = None,
        seconds: Mapping[TaskUid, float] | None = None,
    ) -> None:
        self.templates = SERIAL if templates is None else templates
        self.seconds = dict(zip(uids(len(durations_s)), durations_s, strict=True)) if seconds is None else dict(seconds)
        self._arrivals = [Arrival(0.0, rows(list(self.seconds)))] if arrivals is None else list(arrivals)
        self._follow = follow
        self.told: list[tuple[Outcome, float]] = []

    def arrivals(self) -> Iterator[Arrival]:
        return iter(self._arrivals)

    def duration_s(self, task: TaskUid) -> float:
        return self.seconds[task]

    def follow(self, outcome: Outcome, time_s: float) -> Arrival | None:
        self.told.append((outcome, time_s))
        return self._follow(outcome, time_s) if self._follow is not None else None


def rows(names: Sequence[TaskUid], template: TemplateId = ONE) -> list[Row]:
    return [Row(uid, template) for uid in names]


def wanting(**request: Any) -> dict[TemplateId, Template]:
    return {ONE: Template(executable="/bin/true", request=Request(**request))}


def core_seconds(result: Result) -> dict[str, float]:
    """What the cores were held for, without what is nothing."""
    return parts_of(result.core_s)


def parts_of(time: ResourceTime) -> dict[str, float]:
    values = {field: getattr(time, field) for field in time.__struct_fields__}
    return {field: value for field, value in values.items() if abs(value) > 1e-6}
