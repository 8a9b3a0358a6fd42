"""Reading a stream from its beginning on, also while it is written."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import Any

from pilotage.outputs.limits import MARKER_ROOM, Limit, marker, parse_marker
from pilotage.outputs.reader import Extent, file_size, read_part

_CHUNK_BYTES = 1 << 20


class OutputStream:
    """One of a task's streams; ``locate`` tells where it is at present (None: nowhere yet), ``limit`` what is kept of it.

    It moves when the task ends: from the files of running tasks to the aggregate. Where it is limited its middle goes, while
    the task runs and at its end; a line in its place says so. Positions count what the task has written, wherever that is. When
    a task is run once more it begins anew.
    """

    def __init__(self, locate: Callable[[], Extent | None], limit: Limit | None = None) -> None:
        self._locate = locate
        self._limit = limit
        self._position = 0
        self._attempt: int | None = None

    def read(self) -> bytes:
        """Return some of what comes next; nothing if there is no more at present."""
        while True:
            extent = self._located()
            if extent is None:
                return b""
            if self._begins_anew(extent):
                self._position, self._attempt = 0, extent.attempt
            content, position = self._next(extent, self._position)
            # What is final stays where it is; what is not may have moved while it was read.
            if extent.size is not None or self._located() == extent:
                self._position = position
                return content

    def _begins_anew(self, extent: Extent) -> bool:
        """Tell whether this is another attempt's output than what was read so far."""
        if extent.size is None and not extent.left_out and file_size(extent.path) < self._position:
            return True
        return extent.attempt != self._attempt

    def _located(self) -> Extent | None:
        extent = self._locate()
        if extent is not None and extent.size is None and self._limit is not None:
            # A task's own file tells by itself that it was shortened.
            found = parse_marker(read_part(extent.path, self._limit.head, MARKER_ROOM))
            if found is not None:
                left_out, length = found
                # A larger file is being shortened just now.
                return extent._replace(left_out=left_out) if file_size(extent.path) <= sum(self._limit) + length else None
        return extent

    def _next(self, extent: Extent, position: int) -> tuple[bytes, int]:
        """Return what comes next in an extent, and the position behind it."""
        limit, left_out = self._limit, extent.left_out
        if limit is None or (not left_out and extent.size is not None):
            return self._stored(extent, position, _CHUNK_BYTES)
        if not left_out:
            data, hole = _next_data(extent.path, position)
            if data > position:
                return marker(data - position), data
            return self._stored(extent, position, min(_CHUNK_BYTES, hole - position))
        if position < limit.head:
            return self._stored(extent, position, min(_CHUNK_BYTES, limit.head - position))
        after = limit.head + left_out
        if position < after:
            return marker(after - position), after
        shift = left_out - len(marker(left_out))
        content, end = self._stored(extent, position - shift, _CHUNK_BYTES)
        return content, end + shift

    def _stored(self, extent: Extent, place: int, length: int) -> tuple[bytes, int]:
        """Return what lies at this place of an extent, and the place behind it."""
        if extent.size is not None:
            length = min(length, extent.size - place)
        content = read_part(extent.path, extent.begin + place, length)
        return content, place + len(content)


class StreamFile(io.RawIOBase):
    """A stream as a raw binary file, which ends where there is no more at present."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what comes next."""
        if not self._rest:
            self._rest = memoryview(self._stream.read())
        part = self._rest[: len(buffer)]
        buffer[: len(part)] = part
        self._rest = self._rest[len(part) :]
        return len(part)


def _next_data(path: str, position: int) -> tuple[int, int]:
    """Return where behind this position a file has data, and where they end; twice the position itself if there are none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return position, position
    try:
        data = os.lseek(descriptor, position, os.SEEK_DATA)
        return data, os.lseek(descriptor, data, os.SEEK_HOLE)
    except OSError:
        return position, position
    finally:
        os.close(descriptor)
