"""Snapshots shorten the log and never lose what it held, wherever the writer dies."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from log_support import CRASHED, NEVER_S, Children, crash_at, record, recovered_numbers, write_log

from pilotage.errors import BackendError, LogCorrupted
from pilotage.log.format import list_segments, list_snapshots
from pilotage.log.reader import read_history, recover
from pilotage.log.writer import LogWriter


def state_after(number: int) -> bytes:
    return b"state after %d" % number


def held(folder: Path) -> list[int]:
    """Return the numbers of all records that snapshot and log hold together, having checked their contents."""
    recovered = recover(folder)
    if recovered.snapshot is not None:
        assert recovered.snapshot == state_after(recovered.snapshot_number)
    numbers = [*range(1, recovered.snapshot_number + 1), *recovered_numbers(folder)]
    assert recovered.last == len(numbers)
    return numbers


def write_with_snapshots(folder: Path, *, keep_history: bool, told_fd: int = -1) -> None:
    """Append 12 records in small segments with snapshots after 4 and 9, in two lives of the writer."""
    for snapshot_at, last in ((4, 6), (9, 12)):
        log = LogWriter.open(folder, writer="test", segment_bytes=60, keep_history=keep_history, sync_interval_s=NEVER_S)
        for number in range(log.written + 1, last + 1):
            log.append(record(number))
            if told_fd >= 0:
                tell(told_fd, number)
            if number == snapshot_at:
                log.snapshot(state_after(number))
        log.close()


def tell(fd: int, number: int) -> None:
    """Write to the witness, which is outside of the log and of the planted crashes."""
    with open(fd, "ab", buffering=0, closefd=False) as witness:
        witness.write(bytes([number]))


def test_a_snapshot_replaces_the_records_before_it(tmp_path: Path) -> None:
    write_with_snapshots(tmp_path, keep_history=False)
    recovered = recover(tmp_path)
    assert (recovered.snapshot, recovered.snapshot_number, recovered.last) == (state_after(9), 9, 12)
    assert recovered_numbers(tmp_path) == [10, 11, 12]
    assert [number for number, _ in list_snapshots(tmp_path)] == [9]
    assert list_segments(tmp_path)[0].first == 10
    assert not (tmp_path / "history").exists()


def test_history_keeps_every_record(tmp_path: Path) -> None:
    write_with_snapshots(tmp_path, keep_history=True)
    assert recovered_numbers(tmp_path) == [10, 11, 12]
    assert list(read_history(tmp_path)) == [(number, record(number)) for number in range(1, 13)]


def test_without_history_reading_begins_where_records_are_kept(tmp_path: Path) -> None:
    write_with_snapshots(tmp_path, keep_history=False)
    assert [number for number, _ in read_history(tmp_path)] == [10, 11, 12]


def test_a_snapshot_of_nothing_and_twice(tmp_path: Path) -> None:
    with LogWriter.open(tmp_path, writer="test") as log:
        log.snapshot(state_after(0))
        log.snapshot(state_after(0))
        log.append(record(1))
        log.snapshot(state_after(1))
        log.snapshot(state_after(1))
    assert held(tmp_path) == [1]
    write_log(tmp_path, 2, first=2)
    assert held(tmp_path) == [1, 2]


@pytest.mark.parametrize("keep_history", [True, False])
@pytest.mark.parametrize("halfway", [False, True])
def test_death_at_any_step_loses_nothing(tmp_path: Path, children: Children, keep_history: bool, halfway: bool) -> None:
    """The witness: the writer tells each number after ``append`` returned, to a file beside the log."""
    step = 0
    while True:
        folder = tmp_path / str(step)
        witness = os.open(tmp_path / f"{step}.told", os.O_CREAT | os.O_RDWR | os.O_APPEND)

        def child(step: int = step, folder: Path = folder, witness: int = witness) -> None:
            crash_at(step, halfway=halfway)
            write_with_snapshots(folder, keep_history=keep_history, told_fd=witness)

        status = children.wait(children.fork(child))
        os.close(witness)
        assert status in (0, CRASHED)
        promised = list((tmp_path / f"{step}.told").read_bytes())
        numbers = held(folder)
        assert numbers[: len(promised)] == promised
        assert len(numbers) <= len(promised) + 1
        if keep_history:
            assert [number for number, _ in read_history(folder)] == numbers
        # Life goes on from there, and the next snapshot leaves nothing of the crash behind.
        write_log(folder, len(numbers) + 2, first=len(numbers) + 1)
        assert held(folder) == list(range(1, len(numbers) + 3))
        with LogWriter.open(folder, writer="test", keep_history=keep_history) as log:
            log.snapshot(state_after(log.written))
        assert held(folder) == list(range(1, len(numbers) + 3))
        assert len([path for path in folder.iterdir() if path.is_file()]) == 2
        if status == 0:
            break
        step += 1
    assert step > 60


@pytest.mark.parametrize("keep_history", [True, False])
def test_a_broken_snapshot_is_made_good_by_the_records_or_reported(tmp_path: Path, keep_history: bool) -> None:
    write_with_snapshots(tmp_path, keep_history=keep_history)
    ((_, path),) = list_snapshots(tmp_path)
    content = path.read_bytes()
    for offset in range(len(content)):
        flipped = bytearray(content)
        flipped[offset] ^= 4
        path.write_bytes(flipped)
        if keep_history:
            assert recover(tmp_path).snapshot is None
            assert recovered_numbers(tmp_path) == list(range(1, 13))
        else:
            with pytest.raises(LogCorrupted, match="does not check"):
                recover(tmp_path)


def test_a_broken_snapshot_falls_back_to_the_older_one(tmp_path: Path) -> None:
    """As after a crash between the rename of the new snapshot and the removal of the old one."""
    write_with_snapshots(tmp_path, keep_history=False)
    (tmp_path / "snapshot-00000000000000000011.bin").write_bytes(b"not a snapshot")
    assert recover(tmp_path).snapshot_number == 9
    assert held(tmp_path) == list(range(1, 13))
    (tmp_path / "snapshot-00000000000000000013.bin").write_bytes(b"not a snapshot")
    with pytest.raises(LogCorrupted, match="records end at 12"):
        recover(tmp_path)


def test_a_full_disk_during_a_snapshot_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with LogWriter.open(tmp_path, writer="test", segment_bytes=60) as log:
        for number in range(1, 6):
            log.append(record(number))
        before = sorted(tmp_path.iterdir())
        with monkeypatch.context() as planted:
            planted.setattr(os, "writev", full)
            with pytest.raises(BackendError) as caught:
                log.snapshot(state_after(5))
        assert caught.value.transient
        assert sorted(tmp_path.iterdir()) == before
        log.append(record(6))
        assert held(tmp_path) == [1, 2, 3, 4, 5, 6]
        log.snapshot(state_after(6))
    assert held(tmp_path) == [1, 2, 3, 4, 5, 6]
