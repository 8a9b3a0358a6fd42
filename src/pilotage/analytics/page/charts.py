"""The plots: core-time as a stack, lines over time, distributions on a logarithmic scale, and who was where when.

Each is drawn once, here. What a pointer is to find in it goes along as JSON, which ``script.js`` reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import msgspec

from pilotage.analytics import words
from pilotage.analytics.figures import StageTimes
from pilotage.analytics.page.svg import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    LogAxis,
    frame,
    line,
    px,
    step_area,
    step_line,
    text,
    time_axis,
    value_axis,
)
from pilotage.analytics.page.tables import Html
from pilotage.analytics.report import Distribution, Series, Usage
from pilotage.analytics.timeline import Timeline, TimelineRow
from pilotage.model.outcome import Ending
from pilotage.trace.usage import RUNNING

RUN_COLOURS = 6
"""Colours for kinds and groups of tasks; what comes after shares the last one."""

STAGE_COLOURS = {
    "held": "run-4",
    "binding": "teardown",
    "sending": "startup",
    "staging in": "run-1",
    "waiting": "scheduling",
    "launching": "launching",
    "running": "run-0",
    "collecting": "collecting",
    "staging out": "run-2",
    "delivery": "run-3",
}
STATION_COLOURS = {"launched": "launching", "started": "run-1", "ended": "run-0"}
_HEAT_LEVELS = 8


def part_colours(usage: Usage) -> dict[str, str]:
    """Return the colour of each part: kinds of running tasks have those of groups, other states their own."""
    running = [part.name for part in usage.parts if part.name.startswith(RUNNING)]
    colours = {part.name: part.name for part in usage.parts}
    return colours | {name: run_colour(place) for place, name in enumerate(running)}


def run_colour(place: int) -> str:
    """Return the colour of the kind or group of this number."""
    return f"run-{min(place, RUN_COLOURS - 1)}"


def usage_chart(usage: Usage, identity: str) -> Html:
    """Return how many cores (GPUs) were in which state over time: running at the bottom, idle on top."""
    height = 300
    unit = "cores" if usage.unit == "cores" else "GPUs"
    x = Axis(0.0, usage.at[-1], LEFT, WIDTH - RIGHT)
    y = Axis(0.0, usage.capacity, height - BOTTOM, TOP + 10)
    xs = [x(at) for at in usage.at]
    colours = part_colours(usage)
    base = [0.0] * (len(usage.at) - 1)
    areas = []
    for part in usage.parts:
        top = [low + more for low, more in zip(base, part.values, strict=True)]
        path = step_area(xs, [y(value) for value in top], [y(value) for value in base])
        areas.append(_path(path, part.name, "area", colours[part.name]))
        base = top
    inner = "".join(areas) + value_axis(y, usage.capacity, unit, full=True) + time_axis(x, height - BOTTOM)
    series = [(part.name, colours[part.name], part.values) for part in reversed(usage.parts)]
    label = f"How many {unit} were in which state over time; the table has the shares"
    return Html(frame(height, inner, label, identity) + _data(identity, usage.at, series, unit))


def lines_chart(
    at: Sequence[float],
    series: Sequence[Series],
    colours: dict[str, str],
    unit: str,
    identity: str,
    label: str,
    filled: str = "",
) -> Html:
    """Return lines over time; the one named ``filled`` is an area, so that it shows where another covers it."""
    height = 230
    high = max((value for each in series for value in each.values), default=0.0) or 1.0
    x = Axis(0.0, at[-1], LEFT, WIDTH - RIGHT)
    y = Axis(0.0, high * 1.04, height - BOTTOM, TOP + 10)
    xs = [x(edge) for edge in at]
    parts = [value_axis(y, high, unit), time_axis(x, height - BOTTOM)]
    for each in sorted(series, key=lambda one: one.name != filled):
        ys = [y(value) for value in each.values]
        if each.name == filled:
            parts.append(_path(step_area(xs, ys, [y(0.0)] * len(ys)), each.name, "area soft", colours[each.name]))
        parts.append(_path(step_line(xs, ys), each.name, "line", colours[each.name]))
    told = [(each.name, colours[each.name], each.values) for each in series]
    return Html(frame(height, "".join(parts), label, identity) + _data(identity, at, told, unit))


def distributions_chart(found: Sequence[Distribution], stages: Sequence[StageTimes], identity: str) -> Html:
    """Return a row a stage: how many stays had which length, on one logarithmic scale; a mark at the median, a line to 95 %."""
    row_height, first = 46, TOP + 8
    height = first + row_height * len(found) + BOTTOM
    left, right = 168, WIDTH - 150
    low, high = 1e-6, max((each.edges_s[-1] for each in found), default=1.0)
    x = LogAxis(low, high, left, right)
    times = {stage.stage: stage for stage in stages}
    parts = []
    decade = low
    while decade <= high * 1.0001:
        parts.append(line(x(decade), first, x(decade), height - BOTTOM))
        parts.append(text(x(decade), height - BOTTOM + 17, words.time(decade)))
        decade *= 10
    for place, each in enumerate(found):
        bottom = first + row_height * (place + 1) - 4
        most = max(each.counts)
        colour = STAGE_COLOURS[each.stage]
        path = []
        for count, begin, end in zip(each.counts, each.edges_s, each.edges_s[1:], strict=False):
            if count:
                a, b, tall = x(begin), x(end), max(1.5, (row_height - 12) * count / most)
                path.append(f"M{px(a)} {px(bottom)}V{px(bottom - tall)}H{px(b - 0.7)}V{px(bottom)}Z")
        parts.append(line(left, bottom, right, bottom, "axis"))
        parts.append(_path("".join(path), each.stage, "area", colour))
        told = times[each.stage]
        parts.append(line(x(told.median_s), bottom + 1, x(told.p95_s), bottom + 1, "spread"))
        parts.append(f'<circle class="median" cx="{px(x(told.median_s))}" cy="{px(bottom + 1)}" r="3.5"/>')
        parts.append(text(0, bottom - 15, each.stage, "label", "start"))
        parts.append(text(0, bottom - 1, words.count(told.count, "stay"), "tick", "start"))
        parts.append(text(WIDTH, bottom - 15, f"median {words.time(told.median_s)}", "label", "end"))
        parts.append(text(WIDTH, bottom - 1, f"95 % below {words.time(told.p95_s)}", "tick", "end"))
    return Html(
        frame(height, "".join(parts), "How long tasks were in each stage; the table has the numbers", identity, live=False)
    )


def timeline_chart(found: Timeline, identity: str) -> Html:
    """Return who was where when: bars of tasks, or how busy each row was; GPUs below the cores."""
    rows = [*found.cores, *found.gpus]
    row_height = max(6.0, min(18.0, 480 / max(1, len(rows))))
    gap = 14 if found.gpus else 0
    left = 14 + round(6.6 * max((len(row.label) for row in rows), default=0))
    height = TOP + row_height * len(rows) + gap + BOTTOM
    x = Axis(0.0, found.at[-1], left, WIDTH - RIGHT)
    tops = [TOP + row_height * place + (gap if place >= len(found.cores) else 0) for place in range(len(rows))]
    parts = []
    every = max(1, -int(-12 // row_height))
    for place, (row, top) in enumerate(zip(rows, tops, strict=True)):
        parts.append(
            f'<rect class="row" x="{left}" y="{px(top)}" width="{WIDTH - RIGHT - left}" height="{px(row_height - 1)}"/>'
        )
        if place % every == 0 or place == len(found.cores):
            parts.append(text(left - 6, top + row_height / 2 + 4, row.label, anchor="end"))
    parts += _bars(found, x, tops, row_height)
    parts += _heat(rows, found.at, x, tops, row_height)
    parts.append(time_axis(x, height - BOTTOM))
    told = {
        "kind": "rows",
        "x": [left, WIDTH - RIGHT],
        "end": found.at[-1],
        "tops": [round(top, 2) for top in tops],
        "height": row_height,
        "labels": [row.label for row in rows],
        "at": found.at,
        "shares": [row.shares for row in rows],
        "groups": found.groups,
        "bars": found.bars,
    }
    label = "Which task was where when" if found.bars else "How busy each part of the machine was over time"
    return Html(frame(height, "".join(parts), f"{label}; the table has the shares", identity) + _json(identity, told))


def _bars(found: Timeline, x: Axis, tops: list[float], row_height: float) -> list[str]:
    parts = []
    for bar in found.bars:
        begin = x(bar.begin_s)
        width = max(0.6, x(bar.end_s) - begin - 0.3)
        colour = "bad" if bar.ending not in ("", Ending.DONE.name, Ending.CANCELLED.name, "REPEATED") else run_colour(bar.group)
        kind = "bar off" if bar.ending in (Ending.CANCELLED.name, "REPEATED") else "bar"
        tall = row_height * bar.rows - 1
        parts.append(
            f'<rect class="{kind}" data-s="{colour}" style="--c:var(--{colour})" x="{px(begin)}" '
            f'y="{px(tops[bar.row])}" width="{width:.1f}" height="{px(tall)}"/>'
        )
    return parts


def _heat(rows: list[TimelineRow], at: list[float], x: Axis, tops: list[float], row_height: float) -> list[str]:
    """Return one path for each level of business; neighbouring intervals of one level are one piece of it."""
    xs = [px(x(edge)) for edge in at]
    pieces: list[list[str]] = [[] for _ in range(_HEAT_LEVELS + 1)]
    for row, top in zip(rows, tops, strict=True):
        levels = [min(_HEAT_LEVELS, -int(-share * _HEAT_LEVELS // 1)) for share in row.shares]
        begin = 0
        for place in range(1, len(levels) + 1):
            if place == len(levels) or levels[place] != levels[begin]:
                if levels[begin]:
                    pieces[levels[begin]].append(f"M{xs[begin]} {px(top)}H{xs[place]}v{px(row_height - 1)}H{xs[begin]}Z")
                begin = place
    return [
        f'<path class="heat" style="--o:{0.12 + 0.88 * level / _HEAT_LEVELS:.2f}" d="{"".join(parts)}"/>'
        for level, parts in enumerate(pieces)
        if parts
    ]


def _path(path: str, series: str, kind: str, colour: str) -> str:
    return f'<path class="{kind}" data-s="{escape(series, quote=True)}" style="--c:var(--{colour})" d="{path}"/>'


def _data(identity: str, at: Sequence[float], series: Sequence[tuple[str, str, Sequence[float]]], unit: str) -> str:
    told = {
        "kind": "series",
        "x": [LEFT, WIDTH - RIGHT],
        "end": at[-1],
        "at": list(at),
        "unit": unit,
        "series": [(name, colour, [float(f"{value:.4g}") for value in values]) for name, colour, values in series],
    }
    return _json(identity, told)


def _json(identity: str, told: dict[str, Any]) -> str:
    # No text may end the element that it is in.
    encoded = msgspec.json.encode(told).decode().replace("<", "\\u003c")
    return f'<script type="application/json" id="{identity}-data">{encoded}</script>'
