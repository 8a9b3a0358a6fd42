"""What the tasks of one class ask for, drawn task by task.

Tasks that ask for the same, and declare the same duration, follow one template. So declared durations are rounded up to two
digits: users write "2 hours", too, and schedulers plan with few values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from pilotage.errors import InvalidRequest
from pilotage.model.ids import TemplateId
from pilotage.model.resources import NodeShape, Request, blocks, gpu_shares
from pilotage.model.workload import Template
from pilotage.sim.workloads.description import TaskClass
from pilotage.sim.workloads.distributions import Distribution

Key = tuple[int, int, float, float, float]
_DIGITS = 2


class Shaper:
    """Draws shape and duration of tasks of a class, and makes the templates that they follow, in ``templates``."""

    def __init__(self, task_class: TaskClass, shape: NodeShape, templates: dict[TemplateId, Template]) -> None:
        self._class = task_class
        self._shape = shape
        self._templates = templates
        self._ids: dict[Key, TemplateId] = {}
        self._draw_size = _whole(task_class.ranks if task_class.nodes is None else task_class.nodes)
        self._draw_cores = _whole(self._cores())
        self._draw_gpus = _number(self._gpus())
        self._draw_memory = _number(task_class.mem_per_rank)
        self._draw_duration = _number(task_class.duration_s)
        self._draw_factor = _number(_factor(task_class))

    def draw(self, random: Random) -> tuple[TemplateId, float]:
        """Return the template of the next task, and its duration in seconds."""
        duration = self._draw_duration(random)
        factor = self._draw_factor(random)
        declared = rounded(duration * factor) if factor else 0.0
        key = (
            self._draw_size(random),
            self._draw_cores(random),
            self._draw_gpus(random),
            self._draw_memory(random),
            declared,
        )
        template = self._ids.get(key)
        return self._new(key) if template is None else template, duration

    def _new(self, key: Key) -> TemplateId:
        size, cores, gpus, memory, declared = key
        each = self._class
        per_node = self._per_node if each.nodes is not None else each.ranks_per_node
        request = Request(
            ranks=size * per_node if each.nodes is not None else size,
            cores=cores,
            gpu_shares=gpu_shares(gpus),
            memory=blocks(memory),
            ranks_per_node=per_node,
            exclusive=each.exclusive,
        )
        template = TemplateId(len(self._templates) + 1)
        self._templates[template] = Template(
            mode=each.kind,
            executable=each.name if each.kind == "executable" else "",
            request=request,
            priority=each.priority,
            duration_s=declared,
            partition=each.partition,
            retries=each.retries,
        )
        self._ids[key] = template
        return template

    @property
    def _per_node(self) -> int:
        return self._class.ranks_per_node or 1

    def _cores(self) -> int | Distribution:
        if self._class.cores_per_rank is not None:
            return self._class.cores_per_rank
        if self._class.nodes is None:
            return 1
        if self._per_node > self._shape.cores:
            raise InvalidRequest(
                f"class {self._class.name!r}: ranks_per_node={self._per_node} exceeds the {self._shape.cores} cores of a node; "
                "give fewer"
            )
        return self._shape.cores // self._per_node

    def _gpus(self) -> float | Distribution:
        if self._class.gpus_per_rank is not None:
            return self._class.gpus_per_rank
        return self._shape.gpus / self._per_node if self._class.nodes is not None else 0.0


def rounded(seconds: float) -> float:
    """Return a duration rounded up to two digits.

    >>> rounded(0.0), rounded(181.0), rounded(1200.0), rounded(0.0123)
    (0.0, 190.0, 1200.0, 0.013)
    """
    if seconds <= 0.0:
        return 0.0
    places = _DIGITS - 1 - math.floor(math.log10(seconds))
    up = math.ceil(seconds * 10.0**places - 1e-9)
    return round(up / 10.0**places, places)


def _factor(each: TaskClass) -> float | Distribution:
    if isinstance(each.declared, bool):
        return 1.0 if each.declared else 0.0
    return each.declared


def _number(value: float | Distribution) -> Callable[[Random], float]:
    if isinstance(value, Distribution):
        return value.draw()
    fixed = float(value)
    return lambda random: fixed


def _whole(value: int | Distribution) -> Callable[[Random], int]:
    if isinstance(value, Distribution):
        return value.draw_whole()
    fixed = value
    return lambda random: fixed
