"""Numbers that differ from task to task, drawn from a generator of random numbers with a seed.

Limits of normal and lognormal distributions cut them: what lies outside is never drawn, and what is inside keeps its
proportions.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable
from itertools import accumulate
from random import Random
from statistics import NormalDist
from typing import Annotated

import msgspec

Draw = Callable[[Random], float]
_LEAST_SHARE = 1e-9


class Distribution(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of ``uniform``, ``normal``, ``lognormal`` and ``choice``.

    ``uniform``: least and greatest. ``normal`` and ``lognormal``: mean and standard deviation of the values, before they are
    cut at ``least`` and ``most``. ``choice``: some values, as probable as their ``weights`` (equally, if there are none).
    """

    uniform: tuple[float, float] | None = None
    normal: tuple[float, float] | None = None
    lognormal: tuple[float, float] | None = None
    choice: tuple[float, ...] = ()
    weights: tuple[Annotated[float, msgspec.Meta(ge=0.0)], ...] = ()
    least: float | None = None
    most: float | None = None

    def fault(self) -> str:
        """Return what is wrong with it, or nothing."""
        given = [name for name in ("uniform", "normal", "lognormal", "choice") if getattr(self, name)]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            return f"give one of uniform, normal, lognormal and choice, not {found}"
        if self.weights and len(self.weights) != len(self.choice):
            return f"has {len(self.weights)} weights for {len(self.choice)} values of choice; give as many"
        if self.weights and not sum(self.weights):
            return "has no weight above 0; give one to a value that may be drawn"
        if (self.uniform or self.choice) and (self.least is not None or self.most is not None):
            return "least and most cut normal and lognormal only"
        if self.uniform and self.uniform[0] > self.uniform[1]:
            return f"uniform = {list(self.uniform)} goes from the greater to the lesser; write the lesser first"
        spread = self.normal or self.lognormal
        if spread and spread[1] < 0.0:
            return f"its standard deviation is {spread[1]:g}; give 0 or more"
        if self.lognormal and self.lognormal[0] <= 0.0:
            return f"a lognormal distribution has a mean above 0, not {self.lognormal[0]:g}"
        if spread and spread[1] > 0.0 and self._share_within() < _LEAST_SHARE:
            return "nearly nothing of it lies from least to most; give other limits"
        return ""

    def smallest(self) -> float:
        """Return the least that can be drawn."""
        if self.uniform:
            return self.uniform[0]
        if self.choice:
            return min(self.choice)
        if self.least is not None:
            return self.least
        return 0.0 if self.lognormal else -math.inf

    def draw(self) -> Draw:
        """Return the function that draws from it."""
        if self.uniform:
            low, width = self.uniform[0], self.uniform[1] - self.uniform[0]
            return lambda random: low + width * random.random()
        if self.choice:
            return self._draw_choice()
        return self._draw_normal()

    def draw_whole(self) -> Callable[[Random], int]:
        """Return the function that draws whole numbers from it; both ends of ``uniform`` are as probable as the others."""
        if self.uniform:
            low, high = math.ceil(self.uniform[0]), math.floor(self.uniform[1])
            return lambda random: random.randint(low, high)
        draw = self.draw()
        return lambda random: round(draw(random))

    def _draw_choice(self) -> Draw:
        values = self.choice
        bounds = list(accumulate(self.weights or [1.0] * len(values)))
        total, last = bounds[-1], len(values) - 1
        return lambda random: values[min(bisect(bounds, random.random() * total), last)]

    def _draw_normal(self) -> Draw:
        mean, sigma = self._normal_parameters()
        least, most = self._normal_limits()
        if sigma == 0.0:
            fixed = math.exp(mean) if self.lognormal else mean
            return lambda random: fixed
        normal = NormalDist(mean, sigma)
        low, high = normal.cdf(least), normal.cdf(most)
        floor, width, inverse = max(low, 1e-300), high - low, normal.inv_cdf

        def draw(random: Random) -> float:
            return min(max(inverse(min(floor + width * random.random(), 1.0 - 1e-16)), least), most)

        if not self.lognormal:
            return draw
        return lambda random: math.exp(draw(random))

    def _normal_parameters(self) -> tuple[float, float]:
        if self.normal:
            return self.normal
        assert self.lognormal is not None
        mean, deviation = self.lognormal
        variance = math.log1p((deviation / mean) ** 2)
        return math.log(mean) - variance / 2.0, math.sqrt(variance)

    def _normal_limits(self) -> tuple[float, float]:
        least = -math.inf if self.least is None else self.least
        most = math.inf if self.most is None else self.most
        if self.lognormal:
            return (math.log(least) if least > 0.0 else -math.inf), (math.log(most) if most > 0.0 else -math.inf)
        return least, most

    def _share_within(self) -> float:
        least, most = self._normal_limits()
        normal = NormalDist(*self._normal_parameters())
        return normal.cdf(most) - normal.cdf(least)
