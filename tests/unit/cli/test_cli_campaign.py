"""What ``pilotage run`` makes of a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.cli import campaign
from pilotage.cli.items import Items, Placeholders, check_used, counted, missing, parse_array, read_table
from pilotage.cli.options import megabytes, seconds
from pilotage.errors import InvalidRequest

NUMBER = Placeholders(["i"])
FIRST = {"i": 0}


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
    assert NUMBER.fill(text, {"i": index}) == made


def test_tasks_differ_in_what_holds_the_index() -> None:
    tasks = list(
        campaign.descriptions(
            counted(2),
            ["/bin/prog", "--seed={i}", "50%"],
            "md",
            {"cores_per_rank": 2, "stdout": "/o/{i:02}"},
            {"N": "{i}", "A": "b"},
        )
    )
    assert [task.arguments for task in tasks] == [["--seed=0", "50%"], ["--seed=1", "50%"]]
    assert [task.name for task in tasks] == ["md.0", "md.1"]
    assert [task.stdout for task in tasks] == ["/o/00", "/o/01"]
    assert [task.environment for task in tasks] == [{"N": "0", "A": "b"}, {"N": "1", "A": "b"}]
    assert {task.cores_per_rank for task in tasks} == {2}


def test_a_name_with_the_index_is_left_as_it_is() -> None:
    assert [task.name for task in campaign.descriptions(counted(2), ["/bin/true"], "a{i}b", {}, {})] == ["a0b", "a1b"]


def test_a_program_of_this_folder_is_named_in_full(folder: Path) -> None:
    assert campaign.checked_program(["./prog", "{i}"], str(folder), NUMBER, FIRST) == [f"{folder}/prog", "{i}"]


def test_a_program_of_the_path_is_looked_up_where_it_runs(folder: Path) -> None:
    assert campaign.checked_program(["sh", "-c", ":"], str(folder), NUMBER, FIRST) == ["sh", "-c", ":"]


def test_a_program_that_differs_by_task_is_looked_at_for_the_first(folder: Path) -> None:
    (folder / "prog").rename(folder / "prog0")
    assert campaign.checked_program(["./prog{i}"], str(folder), NUMBER, FIRST) == [f"{folder}/prog{{i}}"]


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
        campaign.checked_program([program], str(folder), NUMBER, FIRST)


def test_arguments_that_tasks_would_not_find_are_noticed(folder: Path) -> None:
    program = ["./prog", "input.dat", "-f", f"{folder}/input.dat", "other.dat", "{i}"]
    assert campaign.files_of_folder(program, str(folder), NUMBER, FIRST) == ["input.dat"]


def test_one_output_file_for_many_tasks_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"--stdout out.txt is one file for 1,000 tasks; put \{i\} into its name"):
        campaign.checked_output("--stdout", "out.txt", 1000, "/here", NUMBER)


@pytest.mark.parametrize(("pattern", "count"), [("out.txt", 1), ("{i}.txt", 1000)])
def test_output_files_are_relative_to_the_current_folder(pattern: str, count: int) -> None:
    assert campaign.checked_output("--stdout", pattern, count, "/here", NUMBER) == f"/here/{pattern}"


def test_all_may_write_to_the_null_device() -> None:
    assert campaign.checked_output("--stdout", "/dev/null", 1000, "/here", NUMBER) == "/dev/null"


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


def numbers(items: Items) -> list[object]:
    return [values["i"] for values in items.values]


@pytest.mark.parametrize(
    ("text", "made", "limit"),
    [
        ("0-3", [0, 1, 2, 3], 0),
        ("5", [5], 0),
        ("1,5,7-9", [1, 5, 7, 8, 9], 0),
        ("0-9:4%2", [0, 4, 8], 2),
        ("3,1-3", [3, 1, 2], 0),
    ],
)
def test_an_array_is_written_as_for_slurm(text: str, made: list[int], limit: int) -> None:
    items = parse_array(text)
    assert (numbers(items), items.limit) == (made, limit)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no number or range; write, for example, 0-999"),
        ("a-b", "'a-b' is no number or range"),
        ("5-1", "the range '5-1' ends before it begins"),
        ("0-9:0", "has a step of 0"),
        ("0-9%", "after '%' is no number of tasks"),
        ("0-9%0", "after '%' is no number of tasks"),
        ("0-99999999", "more than 10,000,000 tasks"),
    ],
)
def test_an_array_that_cannot_be_read_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse_array(text)


def test_each_row_of_a_table_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("seed,temperature\n7,300\n8,310.5\n")
    items = read_table(path)
    tasks = list(campaign.descriptions(items, ["/bin/prog", "-T{temperature}", "{seed}", "{i}", "{other}"], "md{seed}", {}, {}))
    assert [task.arguments for task in tasks] == [["-T300", "7", "0", "{other}"], ["-T310.5", "8", "1", "{other}"]]
    assert [task.name for task in tasks] == ["md7", "md8"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it has no rows"),
        ("a,b\n", "it has no rows"),
        ("a,b\n1\n", "runs.csv:2: 1 columns, and its first line has 2: a, b"),
        ("a,a\n1,2\n", "two columns are named 'a'"),
        ("a,{b}\n1,2\n", "'{b}' in its first line cannot name a column"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "runs.csv"
    path.write_text(text)
    with pytest.raises(InvalidRequest, match=said):
        read_table(path)


def test_a_table_of_which_nothing_is_used_names_the_nearest_column(tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    path.write_text("seed,temperature\n7,300\n")
    items = read_table(path)
    with pytest.raises(InvalidRequest, match=r"\{temprature\} is none of them; did you mean 'temperature'"):
        check_used(Placeholders(items.names), ["prog", "{temprature}"], items)


def test_a_name_beside_others_that_is_nearly_that_of_a_column_is_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    items = Items([{"i": 0, "temperature": "300", "seed": "1"}], ("i", "temperature", "seed"))
    check_used(Placeholders(items.names), ["awk", "{print}", "{seed}", "{temperature:>5}"], items)
    assert capsys.readouterr().err == ""
    check_used(Placeholders(items.names), ["prog", "{seed}", "{temprature}", "{temprature}"], items)
    said = "pilotage: {temprature} is no column of the table, and stays as it is; did you mean 'temperature'?\n"
    assert capsys.readouterr().err == said


def test_what_has_its_output_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "out1.dat").write_text("x")
    (tmp_path / "out2.dat").touch()
    assert numbers(missing(counted(4), "out{i}.dat", NUMBER, tmp_path)) == [0, 2, 3]
