"""What a ``Launcher`` model says of one partition, drawn from its quantities: rates, ceilings, delays.

Rates, the ceiling and the startup are drawn once for the partition, as what was measured of them are means over whole runs. The
delays of a task are drawn for each by itself. All are normal around the value with its spread, cut at 0.
"""

from __future__ import annotations

import math
import random

from pilotage.sim.model import Launcher, Quantity

_LEAST_SHARE = 0.05
"""No rate or ceiling is drawn lower than this share of its value: of 0 nothing would ever start."""


class Delays:
    """Draws the delays of one partition of so many nodes and cores, from a stream of chance of its own."""

    def __init__(self, launcher: Launcher, nodes: int, cores: int, chance: random.Random) -> None:
        self._chance = chance
        self._prepare = launcher.prepare_s
        self._contention_s = _drawn(launcher.contention_s, nodes, chance) if launcher.contention_s else 0.0
        self._acknowledge = launcher.acknowledge_s
        self._failures = launcher.failure_share.of(nodes) if launcher.failure_share else 0.0
        self.startup_s = _drawn(launcher.startup_s, nodes, chance) if launcher.startup_s else 0.0
        self._schedule_s = 1.0 / _rate(launcher.schedules_per_s, cores, chance) if launcher.schedules_per_s else 0.0
        self._start_s = 1.0 / _rate(launcher.starts_per_s, nodes, chance) if launcher.starts_per_s else 0.0
        self.most_at_once = float("inf")
        if launcher.most_at_once:
            self.most_at_once = max(1, round(_rate(launcher.most_at_once, nodes, chance)))
        self.ideal = (
            not self._prepare
            and not self._contention_s
            and not self._acknowledge
            and not self._failures
            and not self._schedule_s
            and not self._start_s
            and math.isinf(self.most_at_once)
        )
        """Whether nothing but the startup takes time."""
        self._scheduler_free = 0.0
        self._starter_free = 0.0

    def scheduled(self, now: float) -> float:
        """Return when the system's own scheduler is done with another task."""
        self._scheduler_free = max(self._scheduler_free, now) + self._schedule_s
        return self._scheduler_free

    def started(self, now: float) -> float:
        """Return when the launcher is done with the start of another task."""
        self._starter_free = max(self._starter_free, now) + self._start_s
        return self._starter_free

    def preparation_s(self, running: int, preparing: int) -> float:
        """Return how long a task prepares while so many run, and so many others prepare."""
        own = _drawn(self._prepare, max(1, running), self._chance) if self._prepare else 0.0
        return own + self._contention_s * preparing

    def acknowledgement_s(self, running: int) -> float:
        """Return how long the end of a task takes to become known."""
        return _drawn(self._acknowledge, max(1, running), self._chance) if self._acknowledge else 0.0

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
