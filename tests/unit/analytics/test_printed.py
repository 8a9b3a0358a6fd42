"""What processes printed is found by time and by what it is about."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import pytest
from trace_builders import random_run

from pilotage.analytics import Session
from pilotage.analytics.printed import time_of


@pytest.fixture
def session(session_folder: Path) -> Session:
    random_run(session_folder, 1)
    pilot = session_folder / "pilot.0000"
    (pilot / "agent.err").write_text(
        "1000.5 is no time, it is too short\n"
        "1700000000.25 warning: task.000007 is slow\n"
        "  (it reads a large file)\n\n"
        "[2023-11-14T22:14:00+00:00] giving up\n"
    )
    (pilot / "spawner.0.err").write_text("Traceback (most recent call last):\nOSError: task.000007\n")
    os.utime(pilot / "spawner.0.err", (1700000100.0, 1700000100.0))
    (pilot / "worker.1.out").write_text("")
    (pilot / "tasks").mkdir()
    (pilot / "tasks" / "task.000007.out").write_text("a task's own output\n")
    return Session.read(session_folder)


def test_lines_have_the_time_they_begin_with_or_that_of_the_line_before(session: Session) -> None:
    lines = session.printed()
    assert list(lines.select("process", "stream", "line", "time").iter_rows()) == [
        ("agent", "err", 1, 1700000000.25),
        ("agent", "err", 2, 1700000000.25),
        ("agent", "err", 3, 1700000000.25),
        ("agent", "err", 5, 1700000040.0),
        ("spawner.0", "err", 1, 1700000100.0),
        ("spawner.0", "err", 2, 1700000100.0),
    ]


def test_lines_are_found_by_time(session: Session) -> None:
    assert session.printed(near=1700000039.0, within_s=2.0)["text"].to_list() == ["[2023-11-14T22:14:00+00:00] giving up"]
    assert session.printed(near=1700000098.0)["process"].unique().to_list() == ["spawner.0"]


def test_lines_are_found_by_the_task_or_process_that_they_are_about(session: Session) -> None:
    assert session.printed(about="task.000007")["text"].to_list() == [
        "1700000000.25 warning: task.000007 is slow",
        "OSError: task.000007",
    ]
    assert session.printed(about="spawner.0").height == 2
    assert session.printed(about="pilot.0000").height == 6
    assert session.printed(about="task.000007", near=1700000100.0)["text"].to_list() == ["OSError: task.000007"]


def test_times_are_read_as_they_are_usually_written() -> None:
    assert time_of("2023-11-14 22:13:20,500 INFO agent: hello") == datetime(2023, 11, 14, 22, 13, 20, 500_000).timestamp()
    assert time_of("2023-11-14T22:13:20.123456789Z hello") == pytest.approx(1700000000.123456)
    assert time_of("2023-11-14 22:13:20+02:00") == 1700000000.0 - 7200
    assert time_of("[1700000000.5] hello") == 1700000000.5
    assert [time_of(line) for line in ("hello", "", "12:00 noon", "2023-99-99 22:13:20 hello", "17000000001.5 hello")] == [
        None
    ] * 5


def test_of_a_long_file_the_end_is_read(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pilotage.analytics.printed.TAIL_BYTES", 30)
    assert session.printed(about="agent")["text"].to_list() == ["-14T22:14:00+00:00] giving up"]
