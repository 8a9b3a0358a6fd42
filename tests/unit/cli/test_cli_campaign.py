"""What ``pilotage run`` makes of a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.cli import campaign
from pilotage.cli.options import megabytes, seconds
from pilotage.errors import InvalidRequest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    program = tmp_path / "prog"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    (tmp_path / "input.dat").write_text("1")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "index", "made"),
    [
        ("{i}", 0, "0"),
        ("run{i}.out", 12, "run12.out"),
        ("{i:04}", 12, "0012"),
        ("{i:4d}", 12, "  12"),
        ("{i}{i}", 1, "11"),
        ("100%{i}", 1, "100%1"),
        ("{j} {} {{}} %s %d", 1, "{j} {} {{}} %s %d"),
    ],
)
def test_the_index_is_replaced_and_nothing_else(text: str, index: int, made: str) -> None:
    assert campaign.with_index(text, index) == made


def test_tasks_differ_in_what_holds_the_index() -> None:
    tasks = list(
        campaign.descriptions(
            2, ["/bin/prog", "--seed={i}", "50%"], "md", {"cores_per_rank": 2, "stdout": "/o/{i:02}"}, {"N": "{i}", "A": "b"}
        )
    )
    assert [task.arguments for task in tasks] == [["--seed=0", "50%"], ["--seed=1", "50%"]]
    assert [task.name for task in tasks] == ["md.0", "md.1"]
    assert [task.stdout for task in tasks] == ["/o/00", "/o/01"]
    assert [task.environment for task in tasks] == [{"N": "0", "A": "b"}, {"N": "1", "A": "b"}]
    assert {task.cores_per_rank for task in tasks} == {2}


def test_a_name_with_the_index_is_left_as_it_is() -> None:
    assert [task.name for task in campaign.descriptions(2, ["/bin/true"], "a{i}b", {}, {})] == ["a0b", "a1b"]


def test_a_program_of_this_folder_is_named_in_full(folder: Path) -> None:
    assert campaign.checked_program(["./prog", "{i}"], str(folder)) == [f"{folder}/prog", "{i}"]


def test_a_program_of_the_path_is_looked_up_where_it_runs(folder: Path) -> None:
    assert campaign.checked_program(["sh", "-c", ":"], str(folder)) == ["sh", "-c", ":"]


def test_a_program_that_differs_by_task_is_looked_at_for_the_first(folder: Path) -> None:
    (folder / "prog").rename(folder / "prog0")
    assert campaign.checked_program(["./prog{i}"], str(folder)) == [f"{folder}/prog{{i}}"]


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("./nix", "there is no program .*/nix; check its path"),
        ("no-such-program", "there is no program 'no-such-program' in PATH"),
        ("prog", "write ./prog for the one in this folder"),
        ("./input.dat", "is not executable; run: chmod \\+x .*/input.dat"),
        ("./", "is a folder; name the program in it"),
    ],
)
def test_a_program_that_cannot_run_is_refused_with_the_remedy(folder: Path, program: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        campaign.checked_program([program], str(folder))


def test_arguments_that_tasks_would_not_find_are_noticed(folder: Path) -> None:
    program = ["./prog", "input.dat", "-f", f"{folder}/input.dat", "other.dat", "{i}"]
    assert campaign.files_of_folder(program, str(folder)) == ["input.dat"]


def test_one_output_file_for_many_tasks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"--stdout out.txt is one file for 1,000 tasks; put \{i\} into its name"):
        campaign.checked_output("--stdout", "out.txt", 1000, "/here")


@pytest.mark.parametrize(("pattern", "count"), [("out.txt", 1), ("{i}.txt", 1000)])
def test_output_files_are_relative_to_the_current_folder(pattern: str, count: int) -> None:
    assert campaign.checked_output("--stdout", pattern, count, "/here") == f"/here/{pattern}"


def test_all_may_write_to_the_null_device() -> None:
    assert campaign.checked_output("--stdout", "/dev/null", 1000, "/here") == "/dev/null"


def test_environment_is_name_and_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "now")
    monkeypatch.delenv("ABSENT", raising=False)
    assert campaign.checked_environment(["A=1", "B=x=y", "C=", "HERE"]) == {"A": "1", "B": "x=y", "C": "", "HERE": "now"}
    for wrong in ("=1", "ABSENT"):
        with pytest.raises(InvalidRequest, match="is not NAME=VALUE"):
            campaign.checked_environment([wrong])


def test_memory_and_times_take_units() -> None:
    assert [megabytes(text, "--memory") for text in ("512", "512M", "512MB", "1.5g", "2TB")] == [512, 512, 512, 1536, 2 << 20]
    assert [seconds(text, "--timeout") for text in ("90", "90s", "15m", "1.5h", "2d")] == [90, 90, 900, 5400, 172_800]


@pytest.mark.parametrize("wrong", ["", "-1", "1X", "G", "1 2"])
def test_other_units_are_refused_with_those_that_are_known(wrong: str) -> None:
    with pytest.raises(InvalidRequest, match=r"--memory .* is not understood; give it in MB, or with a unit"):
        megabytes(wrong, "--memory")
