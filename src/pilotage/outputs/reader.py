"""Reading what a pilot's tasks have printed into aggregates, while it is written and afterwards, from anywhere.

The indexes are read once and then only on; what is remembered of a task is where its last record is. That takes a second or two
and 200 bytes per task for a million of them, and looking one up some microseconds. Nothing is held open.
"""

from __future__ import annotations

import mmap
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from pilotage.model.ids import Attempt, TaskUid
from pilotage.outputs.files import OUTPUT_FOLDER
from pilotage.outputs.records import DATA, INDEX, STREAMS, Record, key_of, parse

StreamName = Literal["stdout", "stderr"]

STREAM_NAMES: tuple[StreamName, StreamName] = ("stdout", "stderr")

_BLOCK_BYTES = 16 << 20
_LONGEST_LINE_BYTES = 2048
_SETTLED_NS = 2_000_000_000
"""A folder that was changed so long ago has another time after its next change."""


class Extent(NamedTuple):
    """Where an attempt's stream is: a part of a file. While it is still written ``size`` is None, and the file its alone."""

    path: str
    begin: int = 0
    size: int | None = None
    left_out: int = 0
    attempt: int = 0


class Outputs:
    """The aggregated output of a pilot's tasks. May be used by several threads."""

    def __init__(self, pilot_folder: str | Path) -> None:
        self._folder = os.path.join(pilot_folder, OUTPUT_FOLDER)
        self._indexes: dict[str, _Index] = {}
        self._listed_ns = -1
        self._lock = threading.Lock()

    def extent(self, uid: TaskUid, stream: StreamName, attempt: Attempt | None = None) -> Extent | None:
        """Return where an attempt's output (None: of its last one) is; None if the aggregates know nothing of it."""
        with self._lock:
            found = self._find(uid, attempt) if attempt is not None else None
            if found is None or found[1].sizes is None:
                self._refresh()
                found = self._find(uid, attempt)
        if found is None:
            return None
        index, record = found
        number = STREAM_NAMES.index(stream)
        begin = 0
        if isinstance(record.place, int):
            path = index.data_path
            begin = record.place + (record.sizes[0] if record.sizes is not None and number else 0)
        else:
            path = os.path.join(self._folder, record.place + STREAMS[number])
        return Extent(path, begin, record.sizes and record.sizes[number], record.left_out[number], record.attempt)

    def read(self, uid: TaskUid, attempt: Attempt | None = None) -> tuple[bytes, bytes]:
        """Return what an attempt (None: the last one) has written so far to stdout and to stderr."""
        return self.tail(uid, "stdout", None, attempt), self.tail(uid, "stderr", None, attempt)

    def tail(self, uid: TaskUid, stream: StreamName, limit_bytes: int | None, attempt: Attempt | None = None) -> bytes:
        """Return the last bytes (None: all) that an attempt (None: the last one) has written so far to a stream."""
        while True:
            extent = self.extent(uid, stream, attempt)
            if extent is None:
                return b""
            size = file_size(extent.path) if extent.size is None else extent.size
            skipped = 0 if limit_bytes is None else max(0, size - limit_bytes)
            content = read_part(extent.path, extent.begin + skipped, size - skipped)
            # The files that a running task writes to are another's as soon as it has ended.
            if extent.size is not None or self.extent(uid, stream, attempt) == extent:
                return content

    def _find(self, uid: TaskUid, attempt: Attempt | None) -> tuple[_Index, Record] | None:
        best: tuple[_Index, Record] | None = None
        key = key_of(uid)
        for index in self._indexes.values():
            record = index.find(key, attempt)
            if record is not None and (best is None or record.attempt > best[1].attempt):
                best = index, record
        return best

    def _refresh(self) -> None:
        try:
            changed_ns = os.stat(self._folder).st_mtime_ns
            if changed_ns != self._listed_ns:
                self._listed_ns = changed_ns if time.time_ns() - changed_ns > _SETTLED_NS else -1
                for name in os.listdir(self._folder):
                    if name.endswith(INDEX) and name not in self._indexes:
                        self._indexes[name] = _Index(os.path.join(self._folder, name))
        except FileNotFoundError:
            return
        for index in self._indexes.values():
            index.read_on()


class _Index:
    """One node's index."""

    def __init__(self, path: str) -> None:
        self.data_path = path.removesuffix(INDEX) + DATA
        self._path = path
        self._positions: dict[bytes, int] = {}
        """Of the line of each task's last record."""
        self._known_bytes = 0

    def read_on(self) -> None:
        """Take in what was appended since."""
        size = file_size(self._path)
        while self._known_bytes < size:
            block = read_part(self._path, self._known_bytes, min(_BLOCK_BYTES, size - self._known_bytes))
            # The rest of a line may still be written.
            whole, newline, _ = block.rpartition(b"\n")
            if not newline:
                return
            position = self._known_bytes
            positions = self._positions
            for line in whole.split(b"\n"):
                tab = line.find(b"\t")
                if tab > 0:
                    positions[line[:tab]] = position
                position += len(line) + 1
            self._known_bytes = position

    def find(self, key: bytes, attempt: Attempt | None) -> Record | None:
        """Return the last record of a task, or that of this attempt."""
        position = self._positions.get(key)
        if position is None:
            return None
        record = parse(read_part(self._path, position, _LONGEST_LINE_BYTES).partition(b"\n")[0])
        if record is not None and attempt in (None, record.attempt):
            return record
        # Rare: an earlier attempt is asked for, or the last line was cut short.
        found = None
        for record in self._records(key):
            if attempt in (None, record.attempt):
                found = record
        return found

    def _records(self, key: bytes) -> Iterator[Record]:
        with open(self._path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            begin = content.find(wanted := b"\n" + key + b"\t")
            while begin >= 0:
                end = content.find(b"\n", begin + 1)
                if end >= 0 and (record := parse(content[begin + 1 : end])) is not None:
                    yield record
                begin = content.find(wanted, begin + 1)


def read_part(path: str, begin: int, length: int) -> bytes:
    """Return a part of a file, as far as it goes; nothing if it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    parts = []
    try:
        # More than 2 GiB take more than one call.
        while length > 0 and (part := os.pread(descriptor, length, begin)):
            parts.append(part)
            begin, length = begin + len(part), length - len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def file_size(path: str) -> int:
    """Return how large a file is; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
