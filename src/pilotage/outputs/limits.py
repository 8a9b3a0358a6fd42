"""How much of what a task prints is kept: its beginning and its end, with a line between them that tells what is missing.

While the task writes, the middle of its file is given back to the file system now and then, so that the disk does not fill; at
its end the file is brought to its final form. The room for that form is never given back: a full disk cannot hinder it.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import NamedTuple

from pilotage.model.workload import Template

TAIL_BYTES = 4096
"""What ``output='tail'`` keeps of each stream, unless the task says how much."""

MARKER_ROOM = 128
"""No such line is longer."""

_MARKER = re.compile(rb"\n\[\.\.\. ([0-9,]+) bytes left out \.\.\.\]\n")
_BLOCK_BYTES = 1 << 16
"""Room is given back in such blocks: what is a part of a block of the file system would only be overwritten by zeros."""
_CHUNK_BYTES = 1 << 20
_KEEP_SIZE, _PUNCH_HOLE = 1, 2


class Limit(NamedTuple):
    """Bytes that are kept from the beginning and from the end of a stream."""

    head: int
    tail: int


class Kept(NamedTuple):
    """What is kept of a stream, in parts, and how many bytes were left out of it."""

    parts: list[bytes]
    left_out: int = 0

    @property
    def size(self) -> int:
        """Bytes in all parts."""
        return sum(map(len, self.parts))


def limit_of(template: Template) -> Limit | None:
    """Return what is kept of each stream of a template's tasks; None: all."""
    limit = template.output_limit_bytes
    if template.output == "tail":
        return Limit(0, limit or TAIL_BYTES)
    return Limit(limit // 2, limit - limit // 2) if limit else None


def marker(left_out: int) -> bytes:
    """Return the line that stands for so many bytes.

    >>> marker(1234567)
    b'\\n[... 1,234,567 bytes left out ...]\\n'
    """
    return b"\n[... %s bytes left out ...]\n" % f"{left_out:,}".encode()


def parse_marker(text: bytes) -> tuple[int, int] | None:
    """Return how many bytes a line stands for that this text begins with, and its length; None if it begins otherwise."""
    found = _MARKER.match(text)
    return None if found is None else (int(found[1].replace(b",", b"")), len(found[0]))


def left_out_of(size: int, limit: Limit | None) -> int:
    """Return how many of ``size`` bytes are left out; none if the line that says so might take as much."""
    left_out = size - limit.head - limit.tail if limit is not None else 0
    return left_out if left_out > MARKER_ROOM else 0


def kept_of(content: bytes, limit: Limit | None) -> Kept:
    """Return what is kept of this content."""
    return _kept(lambda length, start: content[start : start + length], len(content), limit)


def kept_of_file(path: str, size: int, limit: Limit | None) -> Kept:
    """Return what is kept of a file of this size.

    Raises:
        OSError: it cannot be read.
    """
    if not size:
        return Kept([])
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _kept(partial(os.pread, descriptor), size, limit)
    finally:
        os.close(descriptor)


def _kept(read: Callable[[int, int], bytes], size: int, limit: Limit | None) -> Kept:
    left_out = left_out_of(size, limit)
    if limit is None or not left_out:
        return Kept([read(size, 0)])
    return Kept([read(limit.head, 0), marker(left_out), read(limit.tail, size - limit.tail)], left_out)


def shorten(path: str, limit: Limit) -> int:
    """Bring a regular file to its final form, and return how many bytes that leaves out.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = _open_regular(path, os.O_RDWR)
    if descriptor < 0:
        return 0
    try:
        size = os.fstat(descriptor).st_size
        left_out = left_out_of(size, limit)
        if left_out:
            end = _put(descriptor, [marker(left_out)], limit.head)
            # What is read next lies behind what was written, always.
            starts = range(size - limit.tail, size, _CHUNK_BYTES)
            end = _put(descriptor, (os.pread(descriptor, min(_CHUNK_BYTES, size - start), start) for start in starts), end)
            os.ftruncate(descriptor, end)
        return left_out
    finally:
        os.close(descriptor)


def give_back(path: str, limit: Limit, before: int) -> int:
    """Give the room of a file's middle back to the file system, where that can be done.

    Up to ``before`` it has been given back already. Returns how far that is now.

    Raises:
        OSError: the file cannot be written.
    """
    start = max(before, _blocks(limit.head + limit.tail + MARKER_ROOM + _BLOCK_BYTES - 1))
    end = _blocks(os.stat(path).st_size - limit.tail)
    descriptor = _open_regular(path, os.O_WRONLY) if start < end else -1
    if descriptor < 0:
        return before
    try:
        # A file system that cannot do it has all of the output until the task has ended: no reason to fail.
        _fallocate()(descriptor, _PUNCH_HOLE | _KEEP_SIZE, start, end - start)
        return end
    finally:
        os.close(descriptor)


def _blocks(size: int) -> int:
    return size // _BLOCK_BYTES * _BLOCK_BYTES


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file and return its descriptor; -1 if it is something else, of which nothing can be left out."""
    # O_NONBLOCK: a named pipe without a reader would hold us up.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return -1


def _put(descriptor: int, parts: Iterable[bytes], position: int) -> int:
    for part in parts:
        rest = memoryview(part)
        while rest:
            written = os.pwrite(descriptor, rest, position)
            rest, position = rest[written:], position + written
    return position


@cache
def _fallocate() -> Callable[[int, int, int, int], int]:
    """Return the system's ``fallocate``, of which Python offers but a part."""
    import ctypes  # only here: most runners never limit any output

    call = ctypes.CDLL(None).fallocate
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    return call
