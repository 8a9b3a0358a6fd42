"""What is written of an experiment: tables, values, page, plot."""

from __future__ import annotations

import csv
import io
import sys

import msgspec
import pytest

from pilotage.experiments import page as pages
from pilotage.experiments import running
from pilotage.experiments.definition import Experiment, Findings, Line, Measure, Panel, Point, Shares, Value
from pilotage.experiments.plots import can_plot, plot
from pilotage.experiments.tables import (
    as_csv,
    as_markdown,
    as_text,
    as_values,
    compared,
    figures_table,
    in_words,
    measures_table,
    published,
    shares_table,
)

MEASURE = Measure(
    name="ttx",
    title="time to completion",
    unit="s",
    x="cores",
    published=(Point(1024, 922.0, 14.0), Point(8192, 977.0, about=True)),
    source="section 4",
)
FINDINGS = Findings(
    [
        Value("ttx", 1024, "modelled", 968.1),
        Value("ttx", 8192, "modelled", 977.0),
        Value("ttx", 16384, "modelled", 1200.0),
        Value("ttx", 1024, "ideal", 828.0),
        Value("ttx", 1024, "measured", 9.22, 0.123),
        Value("ttx", 8192, "measured", 9770.0, 123.4),
    ],
    [Shares("32/1,024", "modelled", {"Workload": 0.81, "Idle": 0.19})],
    [Line("over time", "1,024 cores", "modelled", [0.5, 1.5], [3.0, 4.0])],
)


@pytest.fixture
def experiment(monkeypatch, tmp_path) -> Experiment:
    (tmp_path / "texts").mkdir()
    text = "## setup\n\nThis was done.\n\n## result\n\nThat came out.\n\n## differs\n\nHere and there.\n"
    (tmp_path / "texts" / "E99.md").write_text(text)
    monkeypatch.setattr(pages, "_TEXTS", tmp_path / "texts")
    return Experiment(
        uid="E99",
        title="A trial",
        paper="P21",
        place="section 4",
        kind="simulated",
        takes="1 s",
        measures=(MEASURE,),
        panels=(
            Panel(title="time", measures=("ttx",)),
            Panel(title="core-time", kind="shares"),
            Panel(title="over time", kind="time", y_label="tasks"),
        ),
        run=lambda quick, say: FINDINGS,
    )


def test_a_table_has_a_row_for_each_place_and_deviations_of_what_can_be_compared(experiment):
    table = measures_table(experiment, FINDINGS, "ttx")

    assert table[0] == ["cores", "published", "modelled", "deviation", "measured", "deviation", "ideal"]
    assert table[1] == ["1,024", "922 ± 14", "968.1", "+5.0 %", "9.22 ± 0.12", "÷ 100", "828"]
    assert table[2] == ["8,192", "about 977", "977", "+0.0 %", "9,770 ± 120", "× 10", ""]
    assert table[3] == ["16,384", "", "1,200", "", "", "", ""]


def test_a_measure_of_which_nothing_is_known_has_no_table(experiment):
    nothing = msgspec.structs.replace(experiment, measures=(Measure(name="own", title="", unit="", x=""),))

    assert measures_table(nothing, Findings(), "own") == []


def test_published_numbers_say_how_sure_they_are():
    assert published(Point(1, 61.0)) == "61"
    assert published(Point(1, 27794.0, 70.0)) == "27,794 ± 70"
    assert published(Point(1, 20.0, about=True)) == "about 20"
    assert published(None) == ""


def test_tables_as_text_and_as_markdown():
    table = [["cores", "s"], ["1", "1,000"]]

    assert as_text(table) == "cores      s\n    1  1,000"
    assert as_markdown(table) == "| cores | s |\n| ---: | ---: |\n| 1 | 1,000 |"


def test_a_table_of_all_figures_has_a_row_for_each_published_number(experiment):
    document = msgspec.json.decode(msgspec.json.encode(as_values(experiment, FINDINGS)))
    head, *rows = figures_table([document, document])

    assert head[3:] == ["published", "modelled", "deviation", "measured", "deviation", "ideal"]
    assert len(rows) == 2 * len(MEASURE.published)
    assert rows[0] == [
        "[E99](E99.md)",
        "time to completion (s)",
        "1,024 cores",
        "922 ± 14",
        "968.1",
        "+5.0 %",
        "9.22",
        "÷ 100",
        "828",
    ]
    assert rows[1][3:] == ["about 977", "977", "+0.0 %", "9,770", "× 10", ""]


def test_shares_are_told_in_percent():
    assert shares_table(FINDINGS, "modelled") == [["run", "Workload", "Idle"], ["32/1,024", "81.0 %", "19.0 %"]]
    assert shares_table(FINDINGS, "ideal") == []


def test_csv_has_everything(experiment):
    rows = list(csv.DictReader(io.StringIO(as_csv(experiment, FINDINGS))))

    assert len(rows) == 2 + 6 + 2
    assert rows[0]["system"] == "published" and float(rows[0]["value"]) == 922.0 and float(rows[0]["spread"]) == 14.0
    assert [row["x"] for row in rows if row["system"] == "ideal"] == ["1024"]


def test_an_ideal_launcher_is_compared_with_nothing(experiment):
    assert [near.system for near in compared(experiment, FINDINGS)] == ["modelled", "measured"]


def test_nearness_in_words(experiment):
    modelled, measured = compared(experiment, FINDINGS)

    assert in_words(modelled) == "mean deviation 2.5 % over 2 points, at most 5.0 %; 0 of 1 step the same way"
    assert in_words(msgspec.structs.replace(measured, factor=10.0)).startswith(
        "10 times what was published (geometric mean of 2 points)"
    )
    assert in_words(msgspec.structs.replace(measured, factor=0.01)).startswith("what was published is 100 times as much")
    bent = msgspec.structs.replace(modelled, bend_published=8192, bend_found=4096)
    assert in_words(bent).endswith("bends at 4,096, published at 8,192")


def test_a_page_says_what_how_how_near_and_why(experiment):
    text = pages.page(experiment, FINDINGS, {"date": "2026-01-01"}, "E99.png")

    assert text.startswith("# E99: A trial\n")
    for part in ("This was done.", "That came out.", "Here and there.", "![E99: A trial](E99.png)", "- date: 2026-01-01"):
        assert part in text
    assert "| 1,024 | 922 ± 14 | 968.1 | +5.0 % |" in text
    assert "mean deviation 2.5 % over 2 points" in text


def test_files_are_written_and_can_be_read(experiment, tmp_path):
    written = running.write(running.run(experiment), tmp_path)

    endings = {path.suffix for path in written}
    assert endings == {".md", ".txt", ".csv", ".json"} | ({".png"} if can_plot() else set())
    assert all(path.stat().st_size for path in written)
    document = msgspec.json.decode((tmp_path / "E99.json").read_bytes())
    assert document["measures"][0]["found"][0] == {
        "measure": "ttx", "x": 1024, "system": "modelled", "value": 968.1, "spread": 0.0,
    }  # fmt: skip
    assert document["nearness"][0]["points"] == 2
    assert document["made"]["command"] == "`pilotage experiment run E99 --out FOLDER`"


def test_a_plot_is_an_image_with_all_panels(experiment, tmp_path):
    image = pytest.importorskip("matplotlib.image")
    plot(experiment, FINDINGS, tmp_path / "plot.png")

    pixels = image.imread(tmp_path / "plot.png")
    height, width = pixels.shape[:2]
    assert width > 2 * height
    # Something is drawn in each third, not on white alone.
    for third in range(3):
        assert pixels[:, third * width // 3 : (third + 1) * width // 3, :3].min() < 0.5


def test_without_matplotlib_there_are_all_files_but_the_plot(experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr(running, "can_plot", lambda: False)

    written = running.write(running.run(experiment), tmp_path)

    assert {path.suffix for path in written} == {".md", ".txt", ".csv", ".json"}
    assert "![" not in (tmp_path / "E99.md").read_text()
