"""How near what was found is to what was published, in numbers.

*Deviation*: the mean of the relative deviations of all points that both have. *Steps*: of the steps from one published point
to the next, how many go the same way; a step of less than a twentieth, or than the spread at an end, is level. *Bend*: where
the curve, on logarithmic scales, is furthest from the straight line between its ends; two curves may deviate and still bend
at one place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from pilotage.experiments.definition import Findings, Measure, System

LEVEL = 0.05
"""A step of less than this share of the value is none."""

STRAIGHT = 0.05
"""A curve that is nowhere further than this from its chord, in units of its logarithmic width, has no bend."""

Pair = tuple[float, float]


class Nearness(msgspec.Struct, frozen=True):
    """How near a system's values of one measure are to those published. Bends are None where a curve has none."""

    measure: str
    system: System
    points: int
    deviation: float
    worst: float
    factor: float
    """The geometric mean of found over published."""
    steps: int
    steps_alike: int
    bend_found: float | None
    bend_published: float | None


def nearness(measure: Measure, findings: Findings, system: System) -> Nearness | None:
    """Compare a system's values with the published ones; None if there is no point that both have."""
    published: list[Pair] = []
    found: list[Pair] = []
    spreads: list[float] = []
    for point in measure.published:
        value = findings.find(measure.name, point.x, system)
        if value is not None:
            published.append((point.x, point.value))
            found.append((point.x, value.value))
            spreads.append(max(point.spread, value.spread))
    if not found:
        return None
    ratios = [value / theirs for (_, value), (_, theirs) in zip(found, published, strict=True)]
    deviations = [abs(ratio - 1.0) for ratio in ratios]
    positive = [ratio for ratio in ratios if ratio > 0.0]
    noise = [max(around) for around in pairwise(spreads)]
    ways = [direction(*values, least) for values, least in zip(_steps(published), noise, strict=True)]
    ours = [direction(*values, least) for values, least in zip(_steps(found), noise, strict=True)]
    return Nearness(
        measure.name,
        system,
        len(found),
        sum(deviations) / len(deviations),
        max(deviations),
        math.exp(sum(map(math.log, positive)) / len(positive)) if positive else 0.0,
        len(ways),
        sum(one == other for one, other in zip(ways, ours, strict=True)),
        bend(found),
        bend(published),
    )


def direction(before: float, after: float, spread: float = 0.0) -> int:
    """Return 1 for a step up, -1 for one down, 0 for one that is level."""
    if abs(after - before) <= max(LEVEL * max(abs(before), abs(after)), spread):
        return 0
    return 1 if after > before else -1


def bend(curve: Sequence[Pair]) -> float | None:
    """Return where a curve of at least three points bends, or None if it is nearly straight.

    >>> bend([(1, 1.0), (10, 1.0), (100, 10.0)])
    10
    >>> bend([(1, 1.0), (10, 10.0), (100, 100.0)])
    """
    if len(curve) < 3 or any(x <= 0.0 or y <= 0.0 for x, y in curve):
        return None
    points = [(math.log(x), math.log(y)) for x, y in curve]
    (left, low), (right, high) = points[0], points[-1]
    width = right - left
    furthest, place = max(
        (abs(y - low - (high - low) * (x - left) / width), -place) for place, (x, y) in enumerate(points[1:-1], 1)
    )
    return None if furthest < STRAIGHT * width else curve[-place][0]


def _steps(curve: Sequence[Pair]) -> list[Pair]:
    return [(before, after) for (_, before), (_, after) in pairwise(curve)]
