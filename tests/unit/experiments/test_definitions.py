"""Each experiment is complete, and can be made again in a small way."""

from __future__ import annotations

import math

import pytest

from pilotage.errors import InvalidRequest
from pilotage.experiments import running
from pilotage.experiments.definition import PAPERS
from pilotage.experiments.page import SECTIONS, texts
from pilotage.experiments.plots import can_plot
from pilotage.experiments.registry import EXPERIMENTS, find

ALL = list(EXPERIMENTS.values())
REQUIRED = (*range(1, 12), *range(20, 29), *range(40, 48))


def test_the_experiments_that_were_asked_for_are_there():
    assert {f"E{number:02}" for number in REQUIRED} <= EXPERIMENTS.keys()
    assert list(EXPERIMENTS) == sorted(EXPERIMENTS)


@pytest.mark.parametrize("experiment", ALL, ids=lambda each: each.uid)
def test_a_definition_is_complete(experiment):
    assert experiment.paper in PAPERS
    assert experiment.place and experiment.takes
    names = [measure.name for measure in experiment.measures]
    assert len(set(names)) == len(names)
    drawn = [panel for panel in experiment.panels if panel.kind == "points"]
    assert all(name in names for panel in drawn for name in panel.measures)
    for measure in experiment.measures:
        assert bool(measure.published) == bool(measure.source), f"{measure.name}: each published number has a source"
        assert [point.x for point in measure.published] == sorted({point.x for point in measure.published})
        assert all(point.value > 0.0 for point in measure.published)


@pytest.mark.parametrize("experiment", ALL, ids=lambda each: each.uid)
def test_there_is_something_to_say_of_it(experiment):
    said = texts(experiment.uid)

    assert tuple(said) == SECTIONS
    assert all(len(text) > 80 for text in said.values())


@pytest.mark.parametrize("experiment", ALL, ids=lambda each: each.uid)
def test_it_can_be_made_again_quickly(experiment, tmp_path):
    report = running.run(experiment, quick=True)
    written = running.write(report, tmp_path)

    findings = report.findings
    assert {value.measure for value in findings.values} <= {measure.name for measure in experiment.measures}
    assert all(math.isfinite(value.value) and value.value >= 0.0 for value in findings.values)
    assert all(sum(share.parts.values()) == pytest.approx(1.0, abs=1e-6) for share in findings.shares)
    panels = {panel.title for panel in experiment.panels if panel.kind == "time"}
    assert {line.panel for line in findings.lines} <= panels
    assert all(any(line.panel == title for line in findings.lines) for title in panels)
    if experiment.kind == "simulated":
        assert any(value.system == "modelled" for value in findings.values)
    endings = {path.suffix for path in written}
    assert endings == {".md", ".txt", ".csv", ".json"} | ({".png"} if can_plot() else set())
    assert all(path.stat().st_size > 100 for path in written)
    assert report.text.startswith(f"{experiment.uid}: ")


@pytest.mark.parametrize("name", ["E08", "e08", "E8", "e8"])
def test_a_name_is_found_in_small_letters_and_without_its_zero(name):
    assert find(name) is EXPERIMENTS["E08"]


def test_an_unknown_name_is_told_with_the_nearest():
    with pytest.raises(InvalidRequest, match=r"there is no experiment 'E4O'; did you mean 'E4\d'\?; known are E01, E02"):
        find("E4O")
