"""The writing side of the log: one process appends, with one unbuffered write per record.

What ``append`` returned from survives the death of any process, because the kernel has it. A thread of the log makes it
survive the node too: it sleeps while everything is synced, and otherwise calls ``fdatasync`` once an interval. ``append``
shares no lock with it, so a slow disk delays the mark ``synced`` and nothing else. When the mark moves, the thread wakes
the owner through ``wake_fd``.

Each writer starts a segment of its own and never touches a record that it found. So a writer that lost the log without
knowing can do no harm: it appends to a segment that has ended for all readers.

A failed sync is final. The kernel may have dropped the pages that it could not write and report success the next time,
so nothing may be called durable from then on: every later call raises, and the owner must end.
"""

from __future__ import annotations

import os
import threading
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from pilotage.errors import BackendError, InvalidRequest, SessionForked
from pilotage.log.files import Bytes, make_folder, replace_file, sync_folder, write_failed, write_parts
from pilotage.log.format import (
    FRAME_HEADER,
    HISTORY_FOLDER,
    MAX_RECORD_BYTES,
    RECORD_NUMBER,
    encode_segment_header,
    encode_snapshot_header,
    list_segments,
    list_snapshots,
    segment_name,
    snapshot_name,
)
from pilotage.log.reader import end_of_records

SEGMENT_BYTES = 64 << 20
SNAPSHOT_STATE_FACTOR = 2
"""A snapshot is due when the log since the last one is this many times larger than the state."""


_CHECKSUM_STEP_BYTES = 5120
_CHECKSUM_STEPS = 40


def _checksum(part: Bytes, checksum: int) -> int:
    """Return the CRC-32 of ``part`` after ``checksum``.

    zlib lets other threads run whenever it is given more than 5 KiB; if the user's thread is busy, each such gift costs
    the interpreter's switch interval of 5 ms. So parts of a common size go in steps; large ones are worth the gift.
    """
    if not _CHECKSUM_STEP_BYTES < len(part) <= _CHECKSUM_STEPS * _CHECKSUM_STEP_BYTES:
        return zlib.crc32(part, checksum)
    view = memoryview(part)
    for start in range(0, len(view), _CHECKSUM_STEP_BYTES):
        checksum = zlib.crc32(view[start : start + _CHECKSUM_STEP_BYTES], checksum)
    return checksum


class _OpenSegment:
    """The segment that is written: its file, size, and whether its name is durable."""

    def __init__(self, folder: Path, first: int, writer: str) -> None:
        self.first = first
        self.name_durable = False
        header = encode_segment_header(first, writer)
        path = folder / segment_name(first)
        # A file of this name holds no record: its writer died, or lost the node, before the first one.
        replace_file(path, [header], durable=False)
        self.fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        self.size = len(header)


class LogWriter:
    """Appends records to the log in ``folder``. Owned by one thread of one process.

    ``synced`` is the highest record number that survives the loss of the node; ``written`` the highest of all.
    ``wake_fd`` becomes readable when ``synced`` has moved or a sync has failed; answer with ``take_synced``.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        segment_bytes: int,
        keep_history: bool,
        sync_interval_s: float,
        sync_before: Sequence[Callable[[], None]],
    ) -> None:
        self.folder = folder
        self.written = 0
        self.synced = 0
        self.wake_fd = -1
        self._writer = writer
        self._segment_bytes = segment_bytes
        self._keep_history = keep_history
        self._sync_interval_s = sync_interval_s
        self._sync_before = tuple(sync_before)
        self._segment: _OpenSegment
        self._retired: deque[_OpenSegment] = deque()
        self._bytes_since_snapshot = 0
        self._failure: str | None = None
        self._pid = os.getpid()
        self._unsynced = threading.Event()
        self._closing = threading.Event()
        # Held for a comparison and an assignment, never during a sync.
        self._mark_lock = threading.Lock()
        self._thread = threading.Thread(target=self._sync_in_background, name="log-sync", daemon=True)

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        writer: str,
        segment_bytes: int = SEGMENT_BYTES,
        keep_history: bool = True,
        sync_interval_s: float = 0.5,
        sync_before: Sequence[Callable[[], None]] = (),
    ) -> LogWriter:
        """Open the log in ``folder``, created if need be, to append after its last valid record.

        Call ``recover`` before and hold the lease of the folder. ``writer`` names the process in segment headers.
        ``segment_bytes``: a new segment begins when one has reached this size. ``keep_history``: ``snapshot`` keeps
        old segments in the folder ``history``. ``sync_before``: called before each sync of the log, on any thread, to
        make durable what records name.

        Raises ``LogCorrupted`` when a record does not check, ``BackendError`` when the disk does not take the segment.
        """
        log = cls(folder, writer, segment_bytes, keep_history, sync_interval_s, sync_before)
        log._open()
        return log

    def _open(self) -> None:
        make_folder(self.folder)
        for leftover in self.folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        last = 0
        segments = list_segments(self.folder)
        if segments:
            end = end_of_records(segments[-1])
            last = end.last
            # What the last writer left must be durable before anything follows it, or node loss could tear a hole.
            previous = segments if end.last >= segments[-1].first else segments[:-1]
            for segment in previous[-1:]:
                fd = os.open(segment.path, os.O_WRONLY)
                try:
                    if end.cut_bytes and segment is segments[-1]:
                        os.ftruncate(fd, end.offset)
                    os.fsync(fd)
                finally:
                    os.close(fd)
            sync_folder(self.folder)
            self._bytes_since_snapshot = sum(segment.path.stat().st_size for segment in segments)
        snapshots = list_snapshots(self.folder)
        if snapshots:
            last = max(last, snapshots[-1][0])
        self.written = self.synced = last
        self._segment = self._begin_segment()
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread.start()

    def append(self, record: Bytes | Sequence[Bytes]) -> int:
        """Write one record, given whole or in parts, and return its number.

        When this returns the record survives the death of any process. Raises ``BackendError``: with ``transient``
        the disk is full, nothing was written, and the same record may be appended later; without, the log has failed.
        """
        if self._failure is not None or self._pid != os.getpid():
            self._refuse()
        parts = [record] if isinstance(record, (bytes, bytearray, memoryview)) else record
        number = self.written + 1
        length = 0
        checksum = zlib.crc32(RECORD_NUMBER.pack(number))
        for part in parts:
            length += len(part)
            checksum = _checksum(part, checksum)
        if not 0 < length <= MAX_RECORD_BYTES:
            raise InvalidRequest(
                f"a record of {length} bytes cannot be logged; the limits are 1 and {MAX_RECORD_BYTES} bytes: "
                "write larger batches as several records, and large payloads as blobs"
            )
        segment = self._segment
        if segment.size >= self._segment_bytes:
            segment = self._next_segment()
        frame_bytes = FRAME_HEADER.size + length
        try:
            write_parts(segment.fd, [FRAME_HEADER.pack(length, checksum, number), *parts])
        except OSError as error:
            self._take_back(segment, frame_bytes, error)
        segment.size += frame_bytes
        self._bytes_since_snapshot += frame_bytes
        self.written = number
        # The test saves the lock inside the event; the thread clears the event before it reads ``written``.
        if not self._unsynced.is_set():
            self._unsynced.set()
        return number

    def should_snapshot(self, state_estimate_bytes: int) -> bool:
        """Tell whether the log has grown so much that a snapshot of ``state_estimate_bytes`` is worth its cost."""
        return self._bytes_since_snapshot >= max(self._segment_bytes, SNAPSHOT_STATE_FACTOR * state_estimate_bytes)

    def snapshot(self, state: bytes) -> None:
        """Keep ``state``, which covers all records so far, durably, and drop the segments that it replaces.

        Raises ``BackendError``; with ``transient`` the disk is full and the log goes on as it was.
        """
        self.sync()
        last = self.written
        header = encode_snapshot_header(last, state)
        try:
            replace_file(self.folder / snapshot_name(last), [header, state])
        except OSError as error:
            raise write_failed(self.folder, len(header) + len(state), error) from error
        self._bytes_since_snapshot = 0
        if self._segment.first <= last:
            self._next_segment()
        self._drop_replaced(last)

    def sync(self) -> None:
        """Make all records so far durable before returning. Raises ``BackendError`` if any sync has ever failed."""
        if self._failure is not None or self._pid != os.getpid():
            self._refuse()
        if self.synced < self.written:
            self._flush()
        if self._failure is not None:
            self._refuse()

    def take_synced(self) -> int:
        """Reset ``wake_fd`` and return ``synced``. Raises ``BackendError`` if a sync has failed."""
        try:
            os.eventfd_read(self.wake_fd)
        except BlockingIOError:
            pass
        if self._failure is not None:
            self._refuse()
        return self.synced

    def close(self) -> None:
        """Sync, and release the files and the thread; again does nothing. Raises ``BackendError`` if a sync failed."""
        if self.wake_fd < 0 or self._pid != os.getpid():
            return
        if self._failure is None and self.synced < self.written:
            self._flush()
        self._closing.set()
        self._unsynced.set()
        self._thread.join()
        self._close_retired()
        os.close(self._segment.fd)
        os.close(self.wake_fd)
        self.wake_fd = -1
        failure, self._failure = self._failure, f"the log in {self.folder} is closed"
        if failure is not None:
            raise BackendError(failure)

    def __enter__(self) -> LogWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _refuse(self) -> None:
        if self._pid != os.getpid():
            raise SessionForked(f"the log in {self.folder} belongs to process {self._pid}; a fork may not write it")
        raise BackendError(self._failure or "")

    def _take_back(self, segment: _OpenSegment, frame_bytes: int, error: OSError) -> None:
        """Remove what was written of a frame, so that the log stays valid, and raise."""
        failed = write_failed(self.folder, frame_bytes, error)
        try:
            os.ftruncate(segment.fd, segment.size)
        except OSError as second:
            self._failure = f"{failed}; and the part written could not be taken back: {second.strerror}"
        if not failed.transient:
            self._failure = self._failure or str(failed)
        raise failed from error

    def _begin_segment(self) -> _OpenSegment:
        try:
            return _OpenSegment(self.folder, self.written + 1, self._writer)
        except OSError as error:
            raise write_failed(self.folder, len(self._writer) + 64, error) from error

    def _next_segment(self) -> _OpenSegment:
        # A record may be durable only if those before it are: readers would find a hole.
        self.sync()
        begun = self._begin_segment()
        retired, self._segment = self._segment, begun
        # The background thread may be syncing this file: it closes it.
        self._retired.append(retired)
        self._unsynced.set()
        return begun

    def _drop_replaced(self, last: int) -> None:
        segments = list_segments(self.folder)
        replaced = [segment for segment, following in pairwise(segments) if following.first <= last + 1]
        history = self.folder / HISTORY_FOLDER
        if self._keep_history and replaced:
            make_folder(history)
        for segment in replaced:
            if self._keep_history:
                os.rename(segment.path, history / segment.path.name)
            else:
                segment.path.unlink()
        if self._keep_history and replaced:
            sync_folder(history)
        for number, path in list_snapshots(self.folder):
            if number < last:
                path.unlink()
        sync_folder(self.folder)

    def _sync_in_background(self) -> None:
        try:
            self._sync_until_closed()
        except Exception as error:  # the root of this thread: a bug here must stop the log, not its syncs alone
            self._failure = self._failure or f"the log in {self.folder} failed: {error!r}"
            os.eventfd_write(self.wake_fd, 1)

    def _sync_until_closed(self) -> None:
        while True:
            self._unsynced.wait()
            self._closing.wait(self._sync_interval_s)
            if self._closing.is_set():
                return
            self._unsynced.clear()
            if self._failure is None and self.synced < self.written:
                self._flush()
            self._close_retired()

    def _flush(self) -> None:
        """Sync all that was written when this was called. Runs on the owner's thread and on the background one."""
        # In this order: when a new segment begins between the two lines, the older one is already synced.
        target = self.written
        segment = self._segment
        try:
            for make_durable in self._sync_before:
                make_durable()
            os.fdatasync(segment.fd)
            if not segment.name_durable:
                sync_folder(self.folder)
                segment.name_durable = True
        except (OSError, BackendError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._failure = self._failure or (
                f"the log in {self.folder} failed: sync: {reason}; records after {self.synced} may be lost. "
                "Check the file system and resume the session"
            )
        else:
            with self._mark_lock:
                self.synced = max(self.synced, target)
        os.eventfd_write(self.wake_fd, 1)

    def _close_retired(self) -> None:
        while self._retired:
            os.close(self._retired.popleft().fd)
