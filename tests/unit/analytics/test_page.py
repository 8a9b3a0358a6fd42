"""The page: well-formed, complete without a network or a script, and the same numbers in its tables as in the report."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from invented_runs import InventedRun, report_of, varied_run
from trace_builders import random_run

from pilotage.analytics import Session
from pilotage.analytics.page.document import render_page
from pilotage.analytics.page.svg import Axis, step_area, step_line, ticks, time_ticks
from pilotage.model.outcome import Ending

PLOTS = ["cores", "gpus", "working", "waiting", "rates", "stages", "machine"]
VOID = {"meta", "link", "br", "rect", "line", "circle", "path"}


class Page(HTMLParser):
    """Checks that elements are closed in turn, and keeps tables, links and ids."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.outside: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._caption = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._start(tag, dict(attributes))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self._start(tag, dict(attributes))

    def _start(self, tag: str, attributes: dict[str, str | None]) -> None:
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))
        for name in ("src", "href", "srcset", "data", "action"):
            value = attributes.get(name)
            if value is not None:
                (self.links if value.startswith("#") else self.outside).append(value)
        if tag == "table":
            self._caption, self._rows = "", []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        assert self.open and self.open.pop() == tag, f"</{tag}> after {self.open}"
        if tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, text: str) -> None:
        if "caption" in self.open:
            self._caption += text
        elif {"td", "th"} & set(self.open[-2:]):
            self._rows[-1][-1] += text


def page_of(session: Session) -> Page:
    return Page(render_page(report_of(session)))


@pytest.mark.parametrize("seed", range(8))
def test_any_run_has_a_well_formed_page_that_loads_nothing(session_folder: Path, seed: int) -> None:
    random_run(session_folder, seed)
    text = render_page(report_of(Session.read(session_folder)))
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert page.outside == ["data:,"]
    assert not re.search(r"@import|url\(|https?://(?!www\.w3\.org)", text)
    assert "nan" not in re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.S).lower().split()


def test_the_tables_have_the_numbers_of_the_report() -> None:
    report = report_of(varied_run().session())
    page = Page(render_page(report))
    kinds = page.tables["Tasks by kind and how they ended"]
    assert kinds[1:] == [["executable", "4", "1", "1", "1", "1"], ["function", "1", "1", "0", "0", "0"]]
    assert page.tables["Pilots"][1][:6] == ["pilot.0000", "test.cluster", "DONE", "2", "4", "2"]
    over_time = page.tables["cores in each state, as means"]
    assert over_time[0] == ["From (s)", *(part.name for part in report.cores.parts)]
    for place, row in enumerate(over_time[1:]):
        assert [float(cell) for cell in row[1:]] == pytest.approx([part.values[place] for part in report.cores.parts], rel=5e-3)
    rates = page.tables["Tasks per second (tasks/s)"]
    assert sum(float(row[2]) for row in rates[1:]) == pytest.approx(sum(report.rates.series[1].values), rel=5e-3)
    timeline = page.tables["How busy each row was"]
    assert [row[2] for row in timeline[1:]] == ["1", "1", "3", "1", "1", "0"]


def test_each_plot_has_a_table_beside_it() -> None:
    text = render_page(report_of(varied_run().session()))
    figures = re.findall(r"<figure>(.*?)</figure>", text, re.S)
    assert re.findall(r'<svg[^>]* id="plot-(\w+)"', text) == PLOTS
    assert len(figures) == len(PLOTS)
    assert [figure.count("<svg") for figure in figures] == [1] * len(figures)
    assert all("<table" in figure and 'aria-label="' in figure for figure in figures)


def test_what_users_wrote_is_text_and_nothing_else() -> None:
    made = InventedRun()
    evil = "</script><script>alert('x')</script>&amp;\"' onload=x"
    made.add(100.0, 101.0, name=evil, ending=Ending.EXITED, message=evil, error_line="<b>bold</b>")
    made.add(101.0, 102.0, name="</style>", kind="function")
    text = render_page(report_of(made.session()))
    page = Page(text)
    assert text.count("<script") == 1 + text.count('<script type="application/json"')
    assert "<b>bold" not in text and "alert('x')</" not in text
    assert any(row[0] == evil for row in page.tables["Tasks by name"])


@pytest.mark.parametrize("make", [lambda: varied_run().session(), lambda: InventedRun(nodes=3000, cores=128).session()])
def test_a_page_is_small(make) -> None:  # type: ignore[no-untyped-def]
    assert len(render_page(report_of(make()))) < 500_000


def test_an_empty_session_has_a_page(session_folder: Path) -> None:
    text = render_page(report_of(Session.read(session_folder)))
    Page(text)
    assert "No tasks yet" in text and "no log of a session" in text


def test_steps_of_equal_height_are_one() -> None:
    assert step_line([0, 1, 2, 3], [5, 5, 7]) == "M0 5H2V7H3"
    assert step_area([0, 1, 2], [5, 7], [9, 9]) == "M0 5H1V7H2L2 9H0Z"
    assert step_line([0], []) == step_area([0], [], []) == ""


def test_axes_have_round_ticks_and_times_their_unit() -> None:
    assert ticks(16) == [0, 5, 10, 15]
    assert ticks(0.3) == [0, 0.1, 0.2, 0.3]
    assert time_ticks(90.0) == ([float(tick) for tick in range(0, 91, 10)], 1.0, "s")
    assert time_ticks(7200.0)[1:] == (60.0, "min")
    assert time_ticks(3e6)[1:] == (86400.0, "d")
    # An axis without length has some, so that nothing is divided by nothing.
    assert Axis(0.0, 0.0, 0.0, 10.0)(0.5) == 5.0
