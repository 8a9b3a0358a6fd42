"""Starts that end where they began are counted."""

from __future__ import annotations

from pathlib import Path

from pilotage.log.crashes import crashes_at, note_crash, note_progress, note_start


def test_starts_in_a_row_at_one_record_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert [note_start(folder, 41) for _ in range(3)] == [1, 2, 3]


def test_another_last_record_or_progress_begins_a_new_row(tmp_path: Path) -> None:
    assert [note_start(tmp_path, 41), note_start(tmp_path, 41), note_start(tmp_path, 42)] == [1, 2, 1]
    note_progress(tmp_path)
    assert note_start(tmp_path, 42) == 1
    note_progress(tmp_path)
    note_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_count_is_no_count(tmp_path: Path) -> None:
    note_start(tmp_path, 5)
    (path,) = tmp_path.iterdir()
    for content in (b"", b"\0" * 20, path.read_bytes()[:-3]):
        path.write_bytes(content)
        assert note_start(tmp_path, 5) == 1


def test_crashes_are_counted_apart_from_starts_that_were_killed(tmp_path: Path) -> None:
    note_start(tmp_path, 5)
    note_crash(tmp_path, 9)
    assert [crashes_at(tmp_path, 5), crashes_at(tmp_path, 9)] == [0, 1]
    assert note_start(tmp_path, 9) == 1
    assert note_start(tmp_path, 9) == 2
    note_crash(tmp_path, 9)
    assert note_start(tmp_path, 9) == 3
    assert crashes_at(tmp_path, 9) == 2
    note_progress(tmp_path)
    assert crashes_at(tmp_path, 9) == 0
