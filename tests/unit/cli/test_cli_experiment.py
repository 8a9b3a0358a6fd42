"""``pilotage experiment``."""

from __future__ import annotations

import json

import pytest

from pilotage.cli.main import run_command
from pilotage.experiments.plots import can_plot


def test_all_experiments_are_listed(capsys):
    assert run_command(["experiment", "list"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["EXPERIMENT", "TITLE", "PAPER", "WHERE", "KIND", "TAKES"]
    assert [line.split()[0] for line in lines[1:4]] == ["E01", "E02", "E03"]
    assert any(line.startswith("E20") and "P21" in line and "simulated" in line for line in lines)


def test_the_list_as_json(capsys):
    assert run_command(["experiment", "list", "--format", "json"]) == 0

    listed = json.loads(capsys.readouterr().out)["experiments"]
    assert listed[0]["uid"] == "E01" and listed[0]["kind"] == "real"


def test_an_experiment_prints_what_comes_out_and_how_near_it_is(capsys):
    assert run_command(["experiment", "run", "e45", "--quick"]) == 0

    said = capsys.readouterr().out
    assert said.startswith("E45: How long instances of Flux and Dragon take to come up")
    assert "how near to what was published" in said


def test_files_are_written_into_a_folder_that_is_made(tmp_path, capsys):
    folder = tmp_path / "a" / "b"

    assert run_command(["experiment", "run", "E45", "E40", "--quick", "--out", str(folder)]) == 0

    kinds = {"md", "txt", "csv", "json"} | ({"png"} if can_plot() else set())
    assert {f"E45.{kind}" for kind in kinds} | {"E40.over-time.csv", "index.md"} <= {path.name for path in folder.iterdir()}
    assert f"written: {folder}/E45" in capsys.readouterr().out
    index = (folder / "index.md").read_text()
    assert "| [E40](E40.md) | The ceiling of srun |" in index and "| [E45](E45.md) |" in index


def test_the_results_as_json(capsys):
    assert run_command(["experiment", "run", "E45", "--quick", "--json"]) == 0

    (document,) = json.loads(capsys.readouterr().out)["experiments"]
    assert document["experiment"] == "E45"
    assert document["measures"][0]["published"][0]["value"] == 20.0


def test_an_unknown_experiment_is_told_with_the_nearest(capsys):
    assert run_command(["experiment", "run", "E4O"]) == 2

    assert "there is no experiment 'E4O'; did you mean 'E4" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["E45", "--all"]])
def test_what_to_run_is_said_in_one_way(arguments, capsys):
    assert run_command(["experiment", "run", *arguments]) == 2

    assert "say which experiments to run" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_run(tmp_path, capsys):
    (tmp_path / "file").write_text("")

    assert run_command(["experiment", "run", "E45", "--quick", "--out", str(tmp_path / "file")]) == 2

    captured = capsys.readouterr()
    assert "this folder cannot be made" in captured.err
    assert captured.out == ""


def test_a_folder_in_which_nothing_can_be_written_is_told_before_anything_is_run(capsys):
    assert run_command(["experiment", "run", "E45", "--quick", "--out", "/proc"]) == 2

    assert "nothing can be written in this folder" in capsys.readouterr().err


def test_who_has_no_matplotlib_is_told_how_to_get_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pilotage.experiments.plots.can_plot", lambda: False)

    assert run_command(["experiment", "run", "E45", "--quick", "--out", str(tmp_path)]) == 0

    assert "pip install 'pilotage[analytics]'" in capsys.readouterr().err
