"""Readers follow a log that somebody else writes, without locks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from log_support import NEVER_S, Children, record, write_log

from pilotage.errors import BackendError, LogCorrupted
from pilotage.log.format import list_segments
from pilotage.log.reader import Cursor, read_history, recover
from pilotage.log.writer import LogWriter


def read_all(cursor: Cursor) -> list[int]:
    numbers = []
    while batch := cursor.read():
        for number, content in batch:
            assert content == record(number)
            numbers.append(number)
    return numbers


def test_a_cursor_sees_each_record_once_over_segments_snapshots_and_owners(tmp_path: Path) -> None:
    cursor = Cursor(tmp_path)
    assert read_all(cursor) == []
    seen: list[int] = []
    number = 0
    for _ in range(3):
        with LogWriter.open(tmp_path, writer="test", segment_bytes=200, sync_interval_s=NEVER_S) as log:
            seen += read_all(cursor)
            for _ in range(40):
                number += 1
                log.append(record(number))
                if number % 3 == 0:
                    seen += read_all(cursor)
                if number % 25 == 0:
                    log.snapshot(b"state")
    seen += read_all(cursor)
    cursor.close()
    assert seen == list(range(1, 121))
    assert [each for each, _ in read_history(tmp_path)] == seen


def test_a_cursor_starts_after_a_record(tmp_path: Path) -> None:
    write_log(tmp_path, 20, segment_bytes=100)
    cursor = Cursor(tmp_path, after=13)
    assert read_all(cursor) == list(range(14, 21))
    cursor.close()
    assert read_all(cursor) == []
    write_log(tmp_path, 21, first=21)
    assert read_all(cursor) == [21]
    cursor.close()


def test_a_cursor_waits_behind_a_torn_tail(tmp_path: Path) -> None:
    write_log(tmp_path, 2)
    path = list_segments(tmp_path)[0].path
    whole = path.read_bytes()
    cursor = Cursor(tmp_path)
    seen = []
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        seen += read_all(cursor)
        path.write_bytes(whole[:size] + bytes(3))
        seen += read_all(cursor)
    cursor.close()
    assert seen == [1, 2]


def test_a_batch_is_bounded_and_a_record_may_be_larger_than_a_read(tmp_path: Path) -> None:
    large = os.urandom(5 << 20)
    with LogWriter.open(tmp_path, writer="test") as log:
        for _ in range(3):
            log.append(large)
        log.append(b"small")
    cursor = Cursor(tmp_path)
    batches = []
    while batch := cursor.read(max_bytes=6 << 20):
        batches.append([number for number, _ in batch])
        assert all(content in (large, b"small") for _, content in batch)
    cursor.close()
    assert batches == [[1, 2], [3, 4]]


def test_a_cursor_that_fell_behind_a_snapshot_says_so(tmp_path: Path) -> None:
    with LogWriter.open(tmp_path, writer="test", keep_history=False) as log:
        for number in range(1, 5):
            log.append(record(number))
        cursor = Cursor(tmp_path, after=1)
        log.snapshot(b"state")
        with pytest.raises(BackendError, match="records 2 to 4 were replaced") as caught:
            cursor.read()
        assert caught.value.transient
        assert read_all(Cursor(tmp_path, after=recover(tmp_path).last)) == []


def test_an_open_segment_stays_readable_when_it_is_removed(tmp_path: Path) -> None:
    with LogWriter.open(tmp_path, writer="test", keep_history=False) as log:
        log.append(record(1))
        cursor = Cursor(tmp_path)
        assert read_all(cursor) == [1]
        log.append(record(2))
        log.snapshot(b"state")
        log.append(record(3))
        assert read_all(cursor) == [2, 3]
        cursor.close()


def test_damage_in_a_finished_segment_is_reported_to_followers(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    write_log(tmp_path, 5, first=4)
    path = list_segments(tmp_path)[0].path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cursor = Cursor(tmp_path)
    assert [number for number, _ in cursor.read()] == [1, 2]
    with pytest.raises(LogCorrupted, match="record 3 "):
        cursor.read()
    cursor.close()


@pytest.mark.parametrize("keep_history", [True, False])
def test_readers_in_another_process_while_the_owner_writes(tmp_path: Path, children: Children, keep_history: bool) -> None:
    """A cursor, whole recoveries and the history, against a writer that begins segments and takes snapshots."""
    last = 3000

    def child() -> None:
        with LogWriter.open(
            tmp_path, writer="child", segment_bytes=2000, keep_history=keep_history, sync_interval_s=0.001
        ) as log:
            for number in range(1, last + 1):
                log.append(record(number))
                if number % 150 == 0:
                    log.snapshot(b"%d" % number)

    pid = children.fork(child)
    cursor = Cursor(tmp_path, skip_removed=not keep_history)
    seen: list[int] = []
    while cursor.number < last:
        try:
            seen += [number for number, content in cursor.read() if content == record(number)]
            recovered = recover(tmp_path)
            numbers = [number for number, content in recovered.records if content == record(number)]
        except BackendError as error:
            # Without history, what a reader was about to read may be gone; it begins again.
            assert error.transient
            assert not keep_history
            continue
        assert numbers == list(range(recovered.snapshot_number + 1, recovered.last + 1))
        assert recovered.snapshot in (None, b"%d" % recovered.snapshot_number)
    cursor.close()
    assert children.wait(pid) == 0
    assert seen == sorted(set(seen))
    if keep_history:
        assert seen == list(range(1, last + 1))
        assert [number for number, _ in read_history(tmp_path)] == seen
