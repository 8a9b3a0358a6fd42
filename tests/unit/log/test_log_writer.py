"""Appending: what fails, what it leaves, and that syncing stays out of the way."""

from __future__ import annotations

import errno
import os
import resource
import select
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_support import NEVER_S, Children, record, recovered_numbers, write_log

from pilotage.errors import BackendError, InvalidRequest, SessionForked
from pilotage.log.format import list_segments
from pilotage.log.reader import recover
from pilotage.log.writer import LogWriter

DEADLINE_S = 60.0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogWriter]:
    log = LogWriter.open(tmp_path, writer="test", sync_interval_s=0.001)
    yield log
    try:
        log.close()
    except BackendError:
        pass


def wait_until_synced(log: LogWriter, number: int) -> None:
    while log.take_synced() < number:
        readable, _, _ = select.select([log.wake_fd], [], [], DEADLINE_S)
        assert readable, f"record {number} was not synced within {DEADLINE_S} s"


def full_after(written_bytes: int, code: int) -> Callable[[int, list[bytes]], int]:
    """Return a ``writev`` for a disk that takes only some bytes of a frame."""

    def writev(fd: int, parts: list[bytes]) -> int:
        os.write(fd, b"".join(parts)[:written_bytes])
        raise OSError(code, os.strerror(code))

    return writev


def test_the_background_thread_syncs_and_wakes_the_owner(log: LogWriter) -> None:
    assert log.take_synced() == 0
    last = [log.append(record(number)) for number in range(1, 4)][-1]
    wait_until_synced(log, last)
    assert log.synced == 3
    assert log.append(record(4)) == 4
    wait_until_synced(log, 4)


def test_an_idle_log_wakes_nobody(log: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(record(1))
    wait_until_synced(log, 1)
    log.sync()
    # The thread may be on its way back to its wait after the last record; then it must stay there.
    waits: list[threading.Event] = []
    original = threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", lambda self, *a, **k: (waits.append(self), original(self, *a, **k))[1])
    readable, _, _ = select.select([log.wake_fd], [], [], 0.05)
    assert not readable
    assert len(waits) <= 2


def test_a_sync_that_hangs_does_not_hold_up_appending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncing, proceed = threading.Event(), threading.Event()
    original = os.fdatasync

    def hanging(fd: int) -> None:
        syncing.set()
        assert proceed.wait(DEADLINE_S)
        original(fd)

    monkeypatch.setattr(os, "fdatasync", hanging)
    log = LogWriter.open(tmp_path, writer="test", sync_interval_s=0.001)
    try:
        log.append(record(1))
        assert syncing.wait(DEADLINE_S)
        for number in range(2, 200):
            assert log.append(record(number)) == number
        assert log.synced == 0
        assert recovered_numbers(tmp_path) == list(range(1, 200))
        proceed.set()
        wait_until_synced(log, 199)
    finally:
        proceed.set()
        log.close()


def test_what_records_name_is_made_durable_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    original = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda fd: (calls.append("log"), original(fd))[1])
    blobs = lambda: calls.append("blobs")  # noqa: E731
    with LogWriter.open(tmp_path, writer="test", sync_interval_s=NEVER_S, sync_before=[blobs]) as log:
        log.append(record(1))
        log.sync()
        log.sync()
    assert calls == ["blobs", "log"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("written_bytes", [0, 1, 15, 16, 20])
def test_a_full_disk_leaves_a_valid_log_that_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, written_bytes: int
) -> None:
    with LogWriter.open(tmp_path, writer="test") as log:
        log.append(record(1))
        with monkeypatch.context() as full:
            full.setattr(os, "writev", full_after(written_bytes, code))
            with pytest.raises(BackendError) as caught:
                log.append(record(2))
        assert caught.value.transient
        assert str(tmp_path) in str(caught.value)
        assert f"{16 + len(record(2))} bytes" in str(caught.value)
        assert recovered_numbers(tmp_path) == [1]
        assert recover(tmp_path).cut_bytes == 0
        assert log.append(record(2)) == 2
    assert recovered_numbers(tmp_path) == [1, 2]


def test_a_real_limit_in_the_middle_of_a_frame(tmp_path: Path, children: Children) -> None:
    """The kernel itself cuts the write short at the limit on file size, and then refuses the rest."""

    def child() -> None:
        log = LogWriter.open(tmp_path, writer="test", sync_interval_s=NEVER_S)
        log.append(record(1))
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
        with pytest.raises(BackendError) as caught:
            log.append([b"x" * 4000, b"y" * 4000])
        assert caught.value.transient
        assert recovered_numbers(tmp_path) == [1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert log.append(record(2)) == 2
        log.close()

    assert children.wait(children.fork(child)) == 0
    assert recovered_numbers(tmp_path) == [1, 2]


def test_a_part_that_cannot_be_taken_back_ends_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    log = LogWriter.open(tmp_path, writer="test", sync_interval_s=NEVER_S)
    log.append(record(1))
    with monkeypatch.context() as full:
        full.setattr(os, "writev", full_after(5, errno.ENOSPC))
        full.setattr(os, "ftruncate", refuse)
        with pytest.raises(BackendError):
            log.append(record(2))
    with pytest.raises(BackendError, match="could not be taken back"):
        log.append(record(2))
    with pytest.raises(BackendError):
        log.close()
    assert recovered_numbers(tmp_path) == [1]
    write_log(tmp_path, 3, first=2)
    assert recovered_numbers(tmp_path) == [1, 2, 3]


def test_a_failed_sync_is_never_taken_for_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    log = LogWriter.open(tmp_path, writer="test", sync_interval_s=0.001)
    with monkeypatch.context() as broken:
        broken.setattr(os, "fdatasync", fail)
        log.append(record(1))
        readable, _, _ = select.select([log.wake_fd], [], [], DEADLINE_S)
        assert readable
        with pytest.raises(BackendError, match="sync"):
            log.take_synced()
    # The disk works again, but what it dropped meanwhile is unknown.
    for call in (lambda: log.append(record(2)), log.sync, log.take_synced, lambda: log.snapshot(b"state")):
        with pytest.raises(BackendError, match=r"records after 0 may be lost.*resume"):
            call()
    assert log.synced == 0
    with pytest.raises(BackendError):
        log.close()
    log.close()


def test_a_segment_is_durable_before_the_next_one_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LogWriter.open(tmp_path, writer="test", segment_bytes=100, sync_interval_s=NEVER_S) as log:
        for number in range(1, 30):
            segments = len(list_segments(tmp_path))
            log.append(record(number))
            if len(list_segments(tmp_path)) > segments:
                assert log.synced == number - 1
    assert len(list_segments(tmp_path)) > 5
    assert recovered_numbers(tmp_path) == list(range(1, 30))


def test_a_full_disk_at_the_start_of_a_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LogWriter.open(tmp_path, writer="test", segment_bytes=1) as log:
        log.append(record(1))
        with monkeypatch.context() as full:
            full.setattr(os, "writev", full_after(3, errno.ENOSPC))
            with pytest.raises(BackendError) as caught:
                log.append(record(2))
        assert caught.value.transient
        assert sorted(path.name for path in tmp_path.iterdir()) == [list_segments(tmp_path)[0].path.name]
        assert log.append(record(2)) == 2
    assert recovered_numbers(tmp_path) == [1, 2]


@pytest.mark.parametrize("empty", [b"", [], [b"", b""]])
def test_an_empty_record_is_refused(log: LogWriter, empty: bytes | list[bytes]) -> None:
    with pytest.raises(InvalidRequest, match="0 bytes"):
        log.append(empty)


def test_a_record_above_the_limit_is_refused_before_anything_is_written(log: LogWriter) -> None:
    part = bytes(1 << 20)
    with pytest.raises(InvalidRequest, match="limits"):
        log.append([part] * 1025)
    assert log.append(record(1)) == 1
    assert recovered_numbers(log.folder) == [1]


def test_large_records_check(tmp_path: Path) -> None:
    """The checksum goes in steps up to a size and in one call above it; both give the same."""
    sizes = [5119, 5120, 5121, 100_000, 204_800, 204_801, 3_000_000]
    with LogWriter.open(tmp_path, writer="test") as log:
        for size in sizes:
            log.append([os.urandom(size), b"."])
    assert [len(content) for _, content in recover(tmp_path).records] == [size + 1 for size in sizes]


def test_a_forked_child_may_not_write(tmp_path: Path, children: Children) -> None:
    with LogWriter.open(tmp_path, writer="test", sync_interval_s=NEVER_S) as log:
        log.append(record(1))

        def child() -> None:
            for call in (lambda: log.append(record(2)), log.sync, lambda: log.snapshot(b"state")):
                with pytest.raises(SessionForked):
                    call()
            log.close()

        assert children.wait(children.fork(child)) == 0
        assert log.append(record(2)) == 2
    assert recovered_numbers(tmp_path) == [1, 2]


def test_what_append_returned_from_survives_sigkill(tmp_path: Path, children: Children) -> None:
    reading, writing = os.pipe()

    def child() -> None:
        log = LogWriter.open(tmp_path, writer="test", segment_bytes=300, sync_interval_s=0.001)
        while True:
            os.write(writing, b"%d\n" % log.append(record(log.written + 1)))

    pid = children.fork(child)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        lines = [told.readline() for _ in range(500)]
        os.kill(pid, signal.SIGKILL)
        lines += told.readlines()
    children.wait(pid)
    promised = int([line for line in lines if line.endswith(b"\n")][-1])
    numbers = recovered_numbers(tmp_path)
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= promised >= 500


def test_close_leaves_no_thread_and_no_file_open(tmp_path: Path) -> None:
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    write_log(tmp_path, 50, segment_bytes=100)
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (threads, files)
    log = LogWriter.open(tmp_path, writer="test")
    log.close()
    log.close()
    with pytest.raises(BackendError, match="closed"):
        log.append(record(1))


def test_a_snapshot_is_due_when_the_log_outgrows_state_and_segment(tmp_path: Path) -> None:
    with LogWriter.open(tmp_path, writer="test", segment_bytes=1000) as log:
        assert not log.should_snapshot(0)
        log.append(b"x" * 1000)
        assert log.should_snapshot(400)
        assert not log.should_snapshot(600)
        log.snapshot(b"state")
        assert not log.should_snapshot(0)
