"""What was found, as tables: for people, and as CSV and JSON for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pilotage.experiments.definition import Experiment, Findings, Point, System
from pilotage.experiments.nearness import Nearness, nearness

Cells = list[str]

FAR = 3.0
"""From this factor on a deviation is told as a factor."""


def number(value: float | None) -> str:
    """Return a number for people: four figures, with commas.

    >>> number(0.98765), number(27794.3), number(None)
    ('0.9877', '27,794', '')
    """
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def published(point: Point | None) -> str:
    """Return a published number for people."""
    if point is None:
        return ""
    around = f" ± {number(point.spread)}" if point.spread else ""
    return f"{'about ' if point.about else ''}{number(point.value)}{around}"


def measures_table(experiment: Experiment, findings: Findings, name: str) -> list[Cells]:
    """Return the table of one measure: its head, and a row for each place; empty if nothing was found or published."""
    measure = experiment.measure(name)
    systems = findings.systems(name)
    points = {point.x: point for point in measure.published}
    places = sorted({*points, *(value.x for value in findings.values if value.measure == name)})
    if not places:
        return []
    head: Cells = [measure.x, *(["published"] if points else [])]
    for system in systems:
        head.append(system)
        if points and system != "ideal":
            head.append("deviation")
    rows = [head]
    for x in places:
        point = points.get(x)
        row = [number(x), *([published(point)] if points else [])]
        for system in systems:
            found = findings.find(name, x, system)
            value = None if found is None else found.value
            around = f" ± {number(float(f'{found.spread:.2g}'))}" if found is not None and found.spread else ""
            row.append(f"{number(value)}{around}")
            # An ideal launcher is not one that anybody published.
            if points and system != "ideal":
                compared = value is not None and point is not None and point.value
                row.append(_deviation(value / point.value) if compared else "")  # type: ignore[operator, union-attr]
        rows.append(row)
    return rows


def _deviation(ratio: float) -> str:
    """Return how far off a value is: in percent, or as a factor where percents say nothing."""
    if ratio >= FAR:
        return f"× {number(ratio)}"
    if 0.0 < ratio <= 1.0 / FAR:
        return f"÷ {number(1.0 / ratio)}"
    return f"{100 * (ratio - 1.0):+.1f} %"


def figures_table(documents: Sequence[Mapping[str, Any]]) -> list[Cells]:
    """Return a table of all published numbers of all experiments, and of what was found there; of their JSON files."""
    rows = [["", "figure", "at", "published", "modelled", "deviation", "measured", "deviation", "ideal"]]
    for document in documents:
        for measure in document["measures"]:
            found = {(value["system"], value["x"]): value["value"] for value in measure["found"]}
            for point in msgspec.convert(measure["published"], list[Point]):
                row = [
                    f"[{document['experiment']}]({document['experiment']}.md)",
                    f"{measure['title']} ({measure['unit']})",
                    f"{number(point.x)} {measure['x_of']}",
                    published(point),
                ]
                for system in ("modelled", "measured"):
                    value = found.get((system, point.x))
                    row += [number(value), "" if value is None else _deviation(value / point.value)]
                rows.append([*row, number(found.get(("ideal", point.x)))])
    return rows


def shares_table(findings: Findings, system: System) -> list[Cells]:
    """Return how core-time was spent by the runs of a system, in percent."""
    some = [each for each in findings.shares if each.system == system]
    if not some:
        return []
    parts = list(some[0].parts)
    return [["run", *parts], *([each.label, *(f"{100 * each.parts[part]:.1f} %" for part in parts)] for each in some)]


def as_text(table: list[Cells]) -> str:
    """Return a table in columns."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)


def as_markdown(table: list[Cells]) -> str:
    """Return a table for a page."""
    head, *rows = table
    lines = [head, ["---:"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def as_csv(experiment: Experiment, findings: Findings) -> str:
    """Return everything that was found and published, but curves over time, as one table of values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["experiment", "measure", "unit", "x_of", "x", "system", "value", "spread"])
    for measure in experiment.measures:
        about = (experiment.uid, measure.name, measure.unit, measure.x)
        for point in measure.published:
            writer.writerow([*about, point.x, "published", point.value, point.spread])
        for value in findings.values:
            if value.measure == measure.name:
                writer.writerow([*about, value.x, value.system, value.value, value.spread])
    for share in findings.shares:
        for part, of_all in share.parts.items():
            writer.writerow([experiment.uid, f"share: {part}", "", "run", share.label, share.system, of_all, 0.0])
    return text.getvalue()


def lines_as_csv(findings: Findings) -> str:
    """Return the curves over time as one table."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["curve", "name", "system", "time_s", "value"])
    for line in findings.lines:
        for time_s, value in zip(line.times_s, line.values, strict=True):
            writer.writerow([line.panel, line.name, line.system, f"{time_s:.6g}", f"{value:.6g}"])
    return text.getvalue()


def compared(experiment: Experiment, findings: Findings) -> list[Nearness]:
    """Return how near all is that can be compared."""
    found: list[Nearness] = []
    for measure in experiment.measures:
        for system in findings.systems(measure.name):
            near = nearness(measure, findings, system) if system != "ideal" else None
            if near is not None:
                found.append(near)
    return found


def in_words(near: Nearness) -> str:
    """Return a sentence that says how near something is."""
    points = f"{near.points} point{'s' * (near.points > 1)}"
    if near.factor >= FAR:
        said = f"{number(near.factor)} times what was published (geometric mean of {points})"
    elif 0.0 < near.factor <= 1.0 / FAR:
        said = f"what was published is {number(1.0 / near.factor)} times as much (geometric mean of {points})"
    else:
        said = f"mean deviation {100 * near.deviation:.1f} % over {points}, at most {100 * near.worst:.1f} %"
    if near.steps:
        said += f"; {near.steps_alike} of {near.steps} step{'s' * (near.steps > 1)} the same way"
    if near.bend_published is not None:
        ours = f"at {number(near.bend_found)}" if near.bend_found is not None else "nowhere"
        said += f"; bends {ours}, published at {number(near.bend_published)}"
    return said


def as_values(experiment: Experiment, findings: Findings) -> dict[str, Any]:
    """Return everything but curves over time, for a JSON file."""
    return {
        "experiment": experiment.uid,
        "title": experiment.title,
        "paper": experiment.paper,
        "place": experiment.place,
        "kind": experiment.kind,
        "measures": [
            {
                "name": measure.name,
                "title": measure.title,
                "unit": measure.unit,
                "x_of": measure.x,
                "source": measure.source,
                "published": list(measure.published),
                "found": [value for value in findings.values if value.measure == measure.name],
            }
            for measure in experiment.measures
        ],
        "shares": findings.shares,
        "nearness": [{**msgspec.structs.asdict(near), "in_words": in_words(near)} for near in compared(experiment, findings)],
    }
