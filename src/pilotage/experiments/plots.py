"""Plots like the papers' figures, with the published points beside what was found; drawn with matplotlib, if it is there."""

from __future__ import annotations

import importlib.util
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.experiments.definition import Experiment, Findings, Measure, Panel, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""The palette of Okabe and Ito, which the colour-blind can read too."""

_PARTS = ("#0072B2", "#D55E00", "#F0E442", "#999999", "#E8E8E8")
_STYLES: dict[System, str] = {"modelled": "-", "measured": "--", "ideal": ":"}
_DOTS_PER_INCH = 100
_PANEL_INCHES = (4.6, 3.3)


def can_plot() -> bool:
    """Tell whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def plot(experiment: Experiment, findings: Findings, path: Path) -> None:
    """Draw all panels of an experiment side by side, and write them to ``path`` as PNG.

    Raises:
        ImportError: matplotlib is missing.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(experiment.panels)
    width, height = _PANEL_INCHES
    figure = Figure(figsize=(width * count, height), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, panel in zip(figure.subplots(1, count, squeeze=False)[0], experiment.panels, strict=True):
        if panel.kind == "points":
            _draw_points(axes, experiment, findings, panel)
        elif panel.kind == "shares":
            _draw_shares(axes, findings)
        else:
            _draw_lines(axes, findings, panel)
        axes.set_title(panel.title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{experiment.uid}: {experiment.title}", fontsize=10)
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)


def _draw_points(axes: Axes, experiment: Experiment, findings: Findings, panel: Panel) -> None:
    measures = [experiment.measure(name) for name in panel.measures]
    for measure, colour in zip(measures, cycle(_COLOURS)):
        several = len(measures) > 1
        for system in findings.systems(measure.name):
            values = sorted((each.x, each.value) for each in findings.values if _is_of(each, measure, system))
            label = f"{measure.title}, {system}" if several else system
            axes.plot(*zip(*values, strict=True), _STYLES[system], color=colour, marker=".", linewidth=1.2, label=label)
        if measure.published:
            points = measure.published
            axes.errorbar(
                [point.x for point in points],
                [point.value for point in points],
                [point.spread for point in points],
                fmt="x",
                color="#000000" if not several else colour,
                label="published" if not several else f"{measure.title}, published",
                capsize=2,
            )
    if panel.x_logarithmic:
        axes.set_xscale("log", base=2)
        places = sorted({x for measure in measures for x in _places(measure, findings)})
        axes.set_xticks(places, [f"{x:,g}" for x in places], rotation=30)
        axes.minorticks_off()
    if panel.y_logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(measures[0].x, fontsize=8)
    axes.set_ylabel(panel.y_label or f"{measures[0].title} ({measures[0].unit})", fontsize=8)
    axes.legend(frameon=False, fontsize=6)


def _is_of(value: object, measure: Measure, system: System) -> bool:
    return (getattr(value, "measure", ""), getattr(value, "system", "")) == (measure.name, system)


def _places(measure: Measure, findings: Findings) -> list[float]:
    return [point.x for point in measure.published] + [each.x for each in findings.values if each.measure == measure.name]


def _draw_shares(axes: Axes, findings: Findings) -> None:
    # With an ideal launcher bars are nearly alike: the last one stands for all.
    ideal = [each for each in findings.shares if each.system == "ideal"]
    shown = [each for each in findings.shares if each.system != "ideal"] + ideal[-1:]
    labels = [f"{each.label}\n{each.system}" if each.system == "ideal" else each.label for each in shown]
    base = [0.0] * len(labels)
    for part, colour in zip(shown[0].parts, cycle(_PARTS)):
        heights = [100 * each.parts.get(part, 0.0) for each in shown]
        axes.bar(range(len(labels)), heights, bottom=base, color=colour, label=part, width=0.8)
        base = [low + height for low, height in zip(base, heights, strict=True)]
    axes.set_xticks(range(len(labels)), labels, rotation=60, fontsize=6)
    axes.set_ylabel("core-time (%)", fontsize=8)
    axes.legend(frameon=False, fontsize=6, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _draw_lines(axes: Axes, findings: Findings, panel: Panel) -> None:
    names = list(dict.fromkeys(line.name for line in findings.lines if line.panel == panel.title))
    colours = dict(zip(names, cycle(_COLOURS)))
    for line in findings.lines:
        if line.panel == panel.title:
            label = line.name if line.system != "ideal" else None
            axes.plot(line.times_s, line.values, _STYLES[line.system], color=colours[line.name], linewidth=1.0, label=label)
    if any(line.system == "ideal" for line in findings.lines if line.panel == panel.title):
        axes.plot([], [], _STYLES["ideal"], color="#000000", linewidth=1.0, label="ideal")
    if panel.y_logarithmic:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_ylabel(panel.y_label, fontsize=8)
    axes.legend(frameon=False, fontsize=6)
