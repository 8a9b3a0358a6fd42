"""Plots of a session as PNG files, drawn with matplotlib, which the extra ``analytics`` brings and which is imported here only.

``plot_utilisation`` needs no polars, only the books of ``trace.usage``. Nothing touches ``pyplot``: there is no window, no
state between figures, and any thread may draw.
"""

from __future__ import annotations

from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.trace.usage import COLLECTING, IDLE, LAUNCHING, RUNNING, SCHEDULING, STARTUP, TEARDOWN, TICKS_PER_S, CoreTime

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pilotage.analytics.session import Session

_RUNNING_COLOURS = ("#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7", "#D55E00")
"""For running tasks: the palette of Okabe and Ito, which the colour-blind can read too."""

_COLOURS = {
    STARTUP: "#333333",
    SCHEDULING: "#B2182B",
    LAUNCHING: "#F0E442",
    COLLECTING: "#B8A200",
    TEARDOWN: "#777777",
    IDLE: "#E8E8E8",
}
_DOTS_PER_INCH = 160


def plot_utilisation(spent: CoreTime, path: Path | str, *, unit: str = "cores", scale: float = 1.0) -> None:
    """Write to ``path`` how many cores were in which state over time, stacked; the legend has each state's share in all.

    Running is at the bottom and idle on top. ``scale`` divides the counts: 64 and ``unit="GPUs"`` for the books of GPUs.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _new_figure(6.8, 3.2)
    axes = figure.subplots()
    colours = dict(zip(spent.running, cycle(_RUNNING_COLOURS), strict=False)) | _COLOURS
    shown = [state for state in spent.ticks if spent.ticks[state]]
    length = round((spent.end - spent.begin) * TICKS_PER_S)
    # The last interval may reach beyond the end of the last pilot, and others lie there as a whole.
    edges = [min(place * spent.bin_ticks, length) for place in range(spent.bins + 1)]
    edges_s = [edge / TICKS_PER_S for edge in edges]
    lengths = [right - left for left, right in pairwise(edges)]
    base = [0.0] * spent.bins
    for state in shown:
        busy = [ticks / (scale * width) if width else 0.0 for ticks, width in zip(spent.binned[state], lengths, strict=True)]
        top = [low + count for low, count in zip(base, busy, strict=True)]
        name = state.removeprefix(f"{RUNNING}: ")
        label = f"{name} ({100 * spent.share(state):.1f} %)"
        axes.stairs(top, edges_s, baseline=base, fill=True, color=colours[state], linewidth=0, label=label)
        base = top
    axes.set_xlim(0, edges_s[-1] or 1.0)
    axes.set_ylim(0, spent.capacity / scale or 1.0)
    axes.set_xlabel("time since the first pilot was launched (s)")
    axes.set_ylabel(unit)
    axes.locator_params(axis="y", integer=True)
    if shown:
        # Read from top to bottom as the states are stacked.
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8, reverse=True)
    _write(figure, path)


def plot_rates(session: Session, path: Path | str, *, interval_s: float | None = None) -> None:
    """Write to ``path`` how many tasks ran at a time, and how many started and ended per second.

    ``interval_s``: over which values are taken, in seconds; by default the session is divided into some 200 intervals.

    Raises:
        ImportError: matplotlib is missing.
    """
    figure = _new_figure(6.8, 4.6)
    edges = session.intervals(interval_s)
    at = [edge - session.begin for edge in edges]
    above, below = figure.subplots(2, 1, sharex=True)
    _draw(above, at, session.concurrency("running", interval_s)["count"].to_list(), "all tasks", "#333333")
    kinds = sorted(set(session.tasks["kind"]))
    if len(kinds) > 1:
        for kind, colour in zip(kinds, cycle(_RUNNING_COLOURS), strict=False):
            ran = session.filter(kind=kind).concurrency("running", interval_s)["count"].to_list()
            _draw(above, at, ran, kind, colour)
        above.legend(frameon=False, fontsize=8)
    above.set_ylabel("running tasks")
    # Where as many start as end the line would hide the other, so one of them is an area.
    _draw(below, at, session.rate("started", interval_s)["rate"].to_list(), "started", _RUNNING_COLOURS[1], fill=True)
    _draw(below, at, session.rate("ended", interval_s)["rate"].to_list(), "ended", _RUNNING_COLOURS[-1])
    below.set_ylabel(f"tasks per second\n(over {at[1] - at[0]:.3g} s)")
    below.set_xlabel("time since the session began (s)")
    below.legend(frameon=False, fontsize=8)
    for axes in (above, below):
        axes.set_ylim(bottom=0)
    _write(figure, path)


def _draw(axes: Axes, edges: list[float], values: list[float], label: str, colour: str, *, fill: bool = False) -> None:
    axes.stairs(values, edges, color=colour, linewidth=1.2, label=label, fill=fill)


def _new_figure(width_inches: float, height_inches: float) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"plots need matplotlib ({error}); install the extra: pip install 'pilotage[analytics]'", name=error.name
        ) from error
    figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _write(figure: Figure, path: Path | str) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="png", dpi=_DOTS_PER_INCH)
