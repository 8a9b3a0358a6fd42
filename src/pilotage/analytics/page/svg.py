"""Scales, ticks and paths: what plots are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from pilotage.analytics import words

WIDTH = 960
LEFT, RIGHT, TOP, BOTTOM = 58, 10, 10, 26
_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d"))


class Axis:
    """A linear scale from values to pixels."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self.low = low
        self.high = high if high > low else low + 1.0
        self.first = first
        self.last = last

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


class LogAxis:
    """A logarithmic scale from values to pixels; what is below ``low`` is at its place."""

    def __init__(self, low: float, high: float, first: float, last: float) -> None:
        self._low = math.log10(low)
        self._high = max(math.log10(high), self._low + 1e-9)
        self._first = first
        self._last = last

    def __call__(self, value: float) -> float:
        exponent = math.log10(value) if value > 0 else self._low
        share = (max(exponent, self._low) - self._low) / (self._high - self._low)
        return self._first + share * (self._last - self._first)


def nice_step(length: float, most: int) -> float:
    """Return a round step of which no more than ``most`` go into ``length``.

    >>> nice_step(10, 5), nice_step(97, 5), nice_step(0.3, 4)
    (2.0, 20.0, 0.1)
    """
    least = max(length, 1e-12) / most
    power = 10.0 ** math.floor(math.log10(least))
    return float(next(float(f"{digit * power:.6g}") for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9)))


def ticks(high: float, most: int = 5) -> list[float]:
    """Return round values from 0 to ``high``."""
    step = nice_step(high, most)
    return [float(f"{step * place:.9g}") for place in range(math.floor(high / step + 1e-9) + 1)]


def time_ticks(length_s: float) -> tuple[list[float], float, str]:
    """Return ticks of a time axis in seconds, with the unit in which they are told: its length and its name."""
    unit_s, name = next((unit for unit in _UNITS if length_s <= 150 * unit[0]), _UNITS[-1])
    return [tick * unit_s for tick in ticks(length_s / unit_s, 10)], unit_s, name


def px(value: float) -> str:
    """Return a place in pixels, no longer than it must be.

    >>> px(12.0), px(12.345), px(-0.001)
    ('12', '12.3', '0')
    """
    text = f"{value:.1f}"
    text = text.removesuffix(".0")
    return "0" if text == "-0" else text


def step_line(xs: Sequence[float], ys: Sequence[float]) -> str:
    """Return a path along steps: ``ys[i]`` from ``xs[i]`` to ``xs[i + 1]``. Steps of equal height are one."""
    if not ys:
        return ""
    parts = [f"M{px(xs[0])} {px(ys[0])}"]
    last = px(ys[0])
    for x, y in zip(xs[1:], ys[1:], strict=False):
        here = px(y)
        if here != last:
            parts.append(f"H{px(x)}V{here}")
            last = here
    parts.append(f"H{px(xs[len(ys)])}")
    return "".join(parts)


def step_area(xs: Sequence[float], tops: Sequence[float], bases: Sequence[float]) -> str:
    """Return a closed path between two lines of steps."""
    if not tops:
        return ""
    back = step_line(list(reversed(xs[: len(bases) + 1])), list(reversed(bases)))
    return f"{step_line(xs, tops)}L{back[1:]}Z"


def text(x: float, y: float, content: str, kind: str = "tick", anchor: str = "middle") -> str:
    """Return a text element."""
    return f'<text class="{kind}" x="{px(x)}" y="{px(y)}" text-anchor="{anchor}">{escape(content)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    """Return a line element."""
    return f'<line class="{kind}" x1="{px(x1)}" y1="{px(y1)}" x2="{px(x2)}" y2="{px(y2)}"/>'


def value_axis(y: Axis, high: float, label: str, *, full: bool = False) -> str:
    """Return the grid and the ticks of a vertical axis, with what it counts above it. ``full``: ``high`` is told, too."""
    parts = []
    found = ticks(high)
    if full and found[-1] < high:
        # A tick that would touch that of the top makes way for it.
        found = [*(tick for tick in found if y(tick) - y(high) > 14), high]
    for tick in found:
        at = y(tick)
        parts.append(line(LEFT, at, WIDTH - RIGHT, at))
        parts.append(text(LEFT - 6, at + 4, short(tick), anchor="end"))
    parts.append(text(0, y.last - 8, label, "unit", "start"))
    return "".join(parts)


def time_axis(x: Axis, bottom: float) -> str:
    """Return the ticks of the horizontal axis of time."""
    found, unit_s, name = time_ticks(x.high)
    parts = [line(LEFT, bottom, WIDTH - RIGHT, bottom, "axis")]
    for place, tick in enumerate(found):
        at = x(tick)
        parts.append(line(at, bottom, at, bottom + 4, "axis"))
        value = words.number(tick / unit_s)
        parts.append(text(at, bottom + 17, f"{value} {name}" if place == len(found) - 1 else value))
    return "".join(parts)


def short(value: float) -> str:
    """Return a number for a tick.

    >>> short(0), short(1500), short(20000), short(2.5e6), short(0.25)
    ('0', '1,500', '20k', '2.5M', '0.25')
    """
    for least, divisor, suffix in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if value >= least:
            return f"{value / divisor:.4g}{suffix}"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def frame(height: float, inner: str, label: str, identity: str, *, live: bool = True) -> str:
    """Return a drawing with a name for those who cannot see it. ``live``: a pointer finds values in it."""
    kind = ' class="live"' if live else ""
    return (
        f'<svg{kind} id="{identity}" viewBox="0 0 {WIDTH} {px(height)}" role="img" aria-label="{escape(label, quote=True)}">'
        f'{inner}<line class="cross" y1="{TOP}" y2="{px(height - BOTTOM)}" x1="-9" x2="-9"/></svg>'
    )
