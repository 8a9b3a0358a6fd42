"""Figures: what is drawn is what the books and series hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from trace_builders import AgentLog, batch, nodes, random_run

from pilotage.analytics import Session, plots
from pilotage.trace import read_session
from pilotage.trace.usage import RUNNING, STARTUP, core_time

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """All figures that are written while the test runs."""
    pytest.importorskip("matplotlib", reason="the extra analytics is not installed")
    drawn: list[object] = []
    write = plots._write
    monkeypatch.setattr(plots, "_write", lambda figure, path: (drawn.append(figure), write(figure, path)))
    return drawn


def test_the_areas_of_the_utilisation_plot_are_the_core_time_in_each_state(session_folder: Path, figures: list) -> None:
    agent = AgentLog(session_folder, machine=nodes(cores=2))
    agent.start(100.0, 101.0)
    agent.submit(102.0, batch(["task.0"]))
    agent.ended(105.0, ("task.0", 102.5, 105.0))
    agent.writer.close()
    spent = core_time(read_session(session_folder), bins=7)

    plots.plot_utilisation(spent, session_folder / "utilisation.png")

    assert (session_folder / "utilisation.png").read_bytes().startswith(PNG)
    (axes,) = figures[0].axes
    areas = {}
    for patch in axes.patches:
        values, edges, baseline = patch.get_data()
        areas[patch.get_label().partition(" (")[0]] = sum((values - baseline) * (edges[1:] - edges[:-1]))
    assert areas == pytest.approx({state: ticks / 1e6 for state, ticks in spent.ticks.items() if ticks})
    assert (areas[RUNNING], areas[STARTUP]) == pytest.approx((2.5, 2.0))
    assert (axes.get_xlim(), axes.get_ylim()) == ((0.0, 5.0), (0.0, 2.0))
    shares = [text.get_text() for text in axes.get_legend().get_texts()]
    assert f"running ({100 * 2.5 / 10:.1f} %)" in shares


def test_stacked_states_fill_the_pilot_in_every_interval(session_folder: Path, figures: list) -> None:
    for seed in range(3):
        random_run(session_folder / str(seed), seed)
        run = read_session(session_folder / str(seed))
        spent = core_time(run, labels=run.tasks.kind)
        plots.plot_utilisation(spent, session_folder / "utilisation.png")
        top = figures[-1].axes[0].patches[-1].get_data()
        drawn = [value for value, left, right in zip(top.values, top.edges, top.edges[1:], strict=False) if right > left]
        assert drawn == pytest.approx([spent.capacity] * len(drawn))


def test_the_plot_of_rates_has_concurrency_above_and_starts_and_ends_below(session_folder: Path, figures: list) -> None:
    agent = AgentLog(session_folder, machine=nodes(cores=2))
    agent.start(100.0, 101.0)
    agent.submit(102.0, batch(["task.0", "task.1"]))
    agent.ended(106.0, ("task.0", 102.0, 104.0), ("task.1", 103.0, 106.0))
    agent.writer.close()

    plots.plot_rates(Session.read(session_folder), session_folder / "rates.png", interval_s=1.0)

    assert (session_folder / "rates.png").read_bytes().startswith(PNG)
    above, below = figures[0].axes
    # From 100, when the pilot began, to 106, when its last task ended.
    assert list(above.patches[0].get_data().values) == pytest.approx([0.0, 0.0, 1.0, 2.0, 1.0, 1.0])
    assert [(patch.get_label(), list(patch.get_data().values)) for patch in below.patches] == [
        ("started", [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]),
        ("ended", [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]),
    ]


def test_a_run_without_anything_can_be_drawn(session_folder: Path, figures: list) -> None:
    run = read_session(session_folder)
    plots.plot_utilisation(core_time(run), session_folder / "utilisation.png")
    plots.plot_rates(Session(run), session_folder / "rates.png")
    assert len(figures) == 2


def test_without_matplotlib_the_error_names_the_extra_and_all_else_works(session_folder: Path) -> None:
    program = f"""
import sys
sys.modules["matplotlib"] = None
from pilotage.analytics import Session, plots
session = Session.read({str(session_folder)!r})
for draw in (lambda: plots.plot_rates(session, "x"), lambda: plots.plot_utilisation(session.core_time(), "x")):
    try:
        draw()
    except ImportError as error:
        print(error)
"""
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.count("pip install 'pilotage[analytics]'") == 2


def test_reading_a_trace_imports_no_plotting(session_folder: Path) -> None:
    heavy = ("matplotlib", "numpy", "polars")
    program = f"import sys, pilotage.trace, pilotage.analytics.plots; print([name in sys.modules for name in {heavy}])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True).stdout
    assert told.strip() == str([False] * len(heavy))
