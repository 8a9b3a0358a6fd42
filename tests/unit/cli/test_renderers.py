"""How commands print: text for people, JSON for programs, uids for shells."""

from __future__ import annotations

import json
import time

import pytest

from pilotage.cli.renderers import Column, Format, plain_table, plural, print_one, print_rows, show, size, span

COLUMNS = (Column("uid", "TASK"), Column("exit_code", "EXIT", right=True), Column("ran_s", "RAN", right=True, kind="span"))
ROWS = [
    {"uid": "task.000000", "exit_code": 0, "ran_s": 0.004, "reason": ""},
    {"uid": "task.000001", "exit_code": None, "ran_s": None, "reason": "x" * 300},
]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 ms"),
        (0.0123, "12 ms"),
        (0.9999, "1.0 s"),
        (3.21, "3.2 s"),
        (59.7, "60 s"),
        (60.4, "60 s"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (7300, "2 h 1 min"),
        (86399, "23 h 59 min"),
        (86400, "1 d"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_span_is_said_in_two_units_at_most(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("amount", "text"), [(512, "512 B"), (2048, "2.0 KiB"), (3 << 30, "3.0 GiB"), (5 << 50, "5120.0 TiB")])
def test_a_size_is_said_in_powers_of_1024(amount: int, text: str) -> None:
    assert size(amount) == text


def test_one_is_singular() -> None:
    assert (plural(0, "task"), plural(1, "task"), plural(12_000, "task")) == ("0 tasks", "1 task", "12,000 tasks")


def test_an_age_counts_from_now() -> None:
    assert show(time.time() - 7300, "age") == "2 h 1 min ago"


def test_what_is_not_there_is_empty_and_zero_is_not() -> None:
    assert [show(None), show(""), show([]), show(0), show(False)] == ["", "", "", "0", "no"]


def test_columns_are_as_wide_as_what_is_in_them() -> None:
    assert plain_table(ROWS, COLUMNS) == (
        "TASK         EXIT   RAN\n"
        "task.000000     0  4 ms\n"
        "task.000001\n"
    )  # fmt: skip


def test_a_pipe_cuts_nothing_off(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("tasks", ROWS, (*COLUMNS, Column("reason", "REASON")), Format.TABLE)
    assert "x" * 300 in capsys.readouterr().out


def test_a_pipe_gets_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("tasks", [{"uid": "task.000000", "state": "FAILED"}], (Column("state", "STATE"),), Format.TABLE)
    assert capsys.readouterr().out == "STATE\nFAILED\n"


def test_a_line_break_does_not_break_a_row() -> None:
    assert plain_table([{"uid": "a\nb"}], (Column("uid", "TASK"),)) == "TASK\na b\n"
    assert plain_table([{"uid": "a\x1b[31m\tb"}], (Column("uid", "TASK"),)) == "TASK\na [31m b\n"


def test_json_is_one_document_with_all_fields(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("tasks", ROWS, COLUMNS, Format.JSON)
    assert json.loads(capsys.readouterr().out) == {"schema": 1, "tasks": ROWS}


def test_quiet_prints_uids_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows("tasks", ROWS, COLUMNS, Format.QUIET)
    assert capsys.readouterr().out == "task.000000\ntask.000001\n"


def test_one_thing_is_a_line_for_each_value(capsys: pytest.CaptureFixture[str]) -> None:
    shown = (Column("uid", "task"), Column("reason", "reason"), Column("detail", "detail"))
    print_one("task", {"uid": "task.000000", "reason": "", "detail": "first\nsecond"}, shown, Format.TABLE)
    assert capsys.readouterr().out == "task    task.000000\ndetail  first\n        second\n"
