"""The committed results of the experiments are there, and belong to the experiments as they are defined now."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pilotage.experiments.page import SECTIONS, texts
from pilotage.experiments.registry import EXPERIMENTS
from pilotage.experiments.tables import published

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "experiments"


@pytest.mark.parametrize("uid", EXPERIMENTS)
def test_an_experiment_has_a_page_with_its_plot_and_what_is_said_of_it(uid):
    page = (FOLDER / f"{uid}.md").read_text()

    assert page.startswith(f"# {uid}: {EXPERIMENTS[uid].title}\n")
    assert f"]({uid}.png)" in page
    assert (FOLDER / f"{uid}.png").stat().st_size > 5_000
    for section in SECTIONS:
        assert texts(uid)[section] in page
    assert "quick" not in page.partition("## How it was made")[2]


@pytest.mark.parametrize("uid", EXPERIMENTS)
def test_published_numbers_on_the_page_are_those_of_the_definition(uid):
    document = msgspec.json.decode((FOLDER / f"{uid}.json").read_bytes())

    stated = {measure["name"]: [point["value"] for point in measure["published"]] for measure in document["measures"]}
    assert stated == {measure.name: [point.value for point in measure.published] for measure in EXPERIMENTS[uid].measures}
    for measure in EXPERIMENTS[uid].measures:
        found = next(each["found"] for each in document["measures"] if each["name"] == measure.name)
        assert {point.x for point in measure.published} <= {value["x"] for value in found}, "all of it was run"


def test_the_index_has_all_of_them():
    index = (FOLDER / "index.md").read_text()

    assert [uid for uid in EXPERIMENTS if f"| [{uid}]({uid}.md) | {EXPERIMENTS[uid].title} |" not in index] == []
    assert texts("index")["head"] in index


def test_the_index_has_a_row_for_each_published_number():
    rows = [line.split(" | ") for line in (FOLDER / "index.md").read_text().splitlines() if line.startswith("| [E")]

    for uid, experiment in EXPERIMENTS.items():
        stated = [row[3] for row in rows if row[0] == f"| [{uid}]({uid}.md)" and len(row) == 9]
        assert stated == [published(point) for measure in experiment.measures for point in measure.published]
