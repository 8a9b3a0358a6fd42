"""What an experiment is: what was published, and how it is made again; and what it finds.

A ``Measure`` is one quantity over one other: time to completion over cores. Published are points of it. Whoever makes the
experiment again finds values of it, at the same places, for one or more systems.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

System = Literal["measured", "modelled", "ideal"]
"""``measured``: Pilotage on this machine. ``modelled``: in simulation, with launcher and scheduler as they were published.
``ideal``: in simulation, with a launcher that costs nothing."""

Kind = Literal["real", "simulated"]

PAPERS = {
    "P18": "Merzky et al., 2018: RADICAL-Pilot on Cray systems (Blue Waters, Titan)",
    "P21": "Merzky et al., 2021: design and performance on leadership machines (Titan, Summit, Frontera)",
    "P22": "Alsaadi et al., 2022: RADICAL-Pilot and Parsl (Expanse, Frontera)",
    "P25": "Merzky et al., 2025: RADICAL-Pilot with Flux and Dragon (Frontier)",
}


class Point(msgspec.Struct, frozen=True):
    """A published number. ``x`` is where; ``about``: it was read off a text that gives no more than its size."""

    x: float
    value: float
    spread: float = 0.0
    about: bool = False


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """A quantity over another, and the points of it that were published, in the order of ``x``.

    ``source`` says where the points stand, or what is computed from what stands there.
    """

    name: str
    title: str
    unit: str
    x: str
    published: tuple[Point, ...] = ()
    source: str = ""


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One of the plots: measures over their ``x`` (``points``), shares as stacked bars, or lines over time."""

    title: str
    kind: Literal["points", "shares", "time"] = "points"
    measures: tuple[str, ...] = ()
    x_logarithmic: bool = True
    y_logarithmic: bool = False
    y_label: str = ""


class Value(msgspec.Struct, frozen=True):
    """What was found of a measure at ``x``. ``spread`` is a standard deviation over repetitions."""

    measure: str
    x: float
    system: System
    value: float
    spread: float = 0.0


class Shares(msgspec.Struct, frozen=True):
    """How core-time was spent in one run, as shares of all that was offered."""

    label: str
    system: System
    parts: dict[str, float]


class Line(msgspec.Struct, frozen=True):
    """A curve over time in the panel of this title."""

    panel: str
    name: str
    system: System
    times_s: list[float]
    values: list[float]


class Findings(msgspec.Struct):
    """All that an experiment finds."""

    values: list[Value] = []
    shares: list[Shares] = []
    lines: list[Line] = []

    def find(self, measure: str, x: float, system: System) -> Value | None:
        """Return what was found there, or None."""
        for each in self.values:
            if each.measure == measure and each.x == x and each.system == system:
                return each
        return None

    def value(self, measure: str, x: float, system: System) -> float | None:
        """Return the number that was found there, or None."""
        found = self.find(measure, x, system)
        return None if found is None else found.value

    def systems(self, measure: str) -> list[System]:
        """Return the systems of which something was found, in a fixed order."""
        found = {each.system for each in self.values if each.measure == measure}
        order: tuple[System, ...] = ("modelled", "measured", "ideal")
        return [system for system in order if system in found]


Say = Callable[[str], None]
"""Takes a line about how far the experiment is."""


class Experiment(msgspec.Struct, frozen=True, kw_only=True):
    """One of the experiments. ``run(quick, say)`` makes it again; quick ones are small, and their figures rough.

    ``takes`` says how long all of it takes on two cores. What there is to say of it in words is in ``texts``.
    """

    uid: str
    title: str
    paper: str
    place: str
    kind: Kind
    takes: str
    measures: tuple[Measure, ...]
    panels: tuple[Panel, ...]
    run: Callable[[bool, Say], Findings]

    def measure(self, name: str) -> Measure:
        """Return the measure of this name."""
        return next(each for each in self.measures if each.name == name)
