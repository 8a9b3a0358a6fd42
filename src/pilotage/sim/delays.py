"""What a ``Launcher`` model says of one partition, drawn from its quantities: rates, ceilings, delays.

Rates, the ceiling and the startup are drawn once for the partition, as what was measured of them are means over whole runs. The
delays of a task are drawn for each by itself. All are normal around the value with its spread, cut at 0.
"""

from __future__ import annotations

import math
import random
from typing import NamedTuple, get_args

from pilotage.sim.model import Launcher, Quantity, TaskKind

_LEAST_SHARE = 0.05
"""No rate or ceiling is drawn lower than this share of its value: of 0 nothing would ever start."""


class _Costs(NamedTuple):
    """What the launcher costs for tasks of one kind."""

    start_s: float
    prepare: Quantity | None
    acknowledge: Quantity | None


class Delays:
    """Draws the delays of one partition of so many nodes and cores, from a stream of chance of its own."""

    def __init__(self, launcher: Launcher, nodes: int, cores: int, chance: random.Random) -> None:
        self._chance = chance
        self._contention_s = _drawn(launcher.contention_s, nodes, chance) if launcher.contention_s else 0.0
        self._failures = launcher.failure_share.of(nodes) if launcher.failure_share else 0.0
        self.startup_s = _drawn(launcher.startup_s, nodes, chance) if launcher.startup_s else 0.0
        self._schedule_s = _interval(launcher.schedules_per_s, cores, chance)
        usual = _Costs(_interval(launcher.starts_per_s, nodes, chance), launcher.prepare_s, launcher.acknowledge_s)
        self.most_at_once = _ceiling(launcher.most_at_once, nodes, chance)
        self.most_per_node = _ceiling(launcher.most_per_node, nodes, chance)
        self._costs: dict[TaskKind, _Costs] = dict.fromkeys(get_args(TaskKind), usual)
        for kind, costs in launcher.kinds.items():
            self._costs[kind] = _Costs(
                _interval(costs.starts_per_s, nodes, chance) if costs.starts_per_s else usual.start_s,
                costs.prepare_s or usual.prepare,
                costs.acknowledge_s or usual.acknowledge,
            )
        self.ideal = (
            not any(any(costs) for costs in self._costs.values())
            and not self._contention_s
            and not self._failures
            and not self._schedule_s
            and math.isinf(self.most_at_once)
            and math.isinf(self.most_per_node)
        )
        """Whether nothing but the startup takes time."""
        self._scheduler_free = 0.0
        self._starter_free = 0.0

    def scheduled(self, now: float) -> float:
        """Return when the system's own scheduler is done with another task."""
        self._scheduler_free = max(self._scheduler_free, now) + self._schedule_s
        return self._scheduler_free

    def started(self, kind: TaskKind, now: float) -> float:
        """Return when the launcher is done with the start of another task of this kind."""
        self._starter_free = max(self._starter_free, now) + self._costs[kind].start_s
        return self._starter_free

    def preparation_s(self, kind: TaskKind, running: int, preparing: int) -> float:
        """Return how long a task prepares while so many run, and so many others prepare."""
        quantity = self._costs[kind].prepare
        own = _drawn(quantity, max(1, running), self._chance) if quantity else 0.0
        return own + self._contention_s * preparing

    def acknowledgement_s(self, kind: TaskKind, running: int) -> float:
        """Return how long the end of a task takes to become known."""
        quantity = self._costs[kind].acknowledge
        return _drawn(quantity, max(1, running), self._chance) if quantity else 0.0

    def start_fails(self) -> bool:
        """Tell whether this start is one of those that fail."""
        return self._failures > 0.0 and self._chance.random() < self._failures


def _drawn(quantity: Quantity, size: float, chance: random.Random) -> float:
    value = quantity.of(size)
    return max(0.0, chance.gauss(value, quantity.spread)) if quantity.spread else max(0.0, value)


def _rate(quantity: Quantity, size: float, chance: random.Random) -> float:
    value = quantity.of(size)
    if value <= 0.0:
        raise ValueError(f"a rate or ceiling of {value:g} lets nothing start; give one above 0, or leave it out for no limit")
    return max(_LEAST_SHARE * value, _drawn(quantity, size, chance))


def _interval(rate: Quantity | None, size: float, chance: random.Random) -> float:
    """Return the time from one to the next; 0.0 without a limit."""
    return 1.0 / _rate(rate, size, chance) if rate else 0.0


def _ceiling(most: Quantity | None, size: float, chance: random.Random) -> float:
    """Return a whole number of tasks; infinity without a limit."""
    return max(1, round(_rate(most, size, chance))) if most else math.inf
