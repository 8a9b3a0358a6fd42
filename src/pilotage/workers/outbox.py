"""Ends of calls where they outlive the worker: in a mapped file, which the agent reads when the worker is dead.

A worker tells ends in batches (``TasksEnded``), which it keeps until the agent has logged and released them. Each end is
copied into ``<folder>/<worker>.outbox`` as soon as its call is over, before the next call begins. So whatever ends the worker,
at most the call that ran is lost: what the agent has not received, or had received and not logged when it died together with
the worker, is in the file.

The file: a table of ``SLOTS`` entries, each three native 64-bit unsigned integers, then a ring of bytes::

    0  number   of the ``TasksEnded`` that the batch is, or will be when it is told
    1  start    offset in the file of its first end
    2  filled   (ends << 21) | offset behind the last end; no ends while it is below 1 << 21

    start: end, end, ...    each an ``AttemptEnd`` in MessagePack, without anything between them

Writing. The end's bytes first, then ``filled``: one store of a word, so a reader finds an end whole or not at all. A slot is
opened by ``filled = 0``, then its number and start. Bytes and slots are used again when their batch is released, and no sooner.
What finds no room (it is larger than the ring, or the agent has not released for long) is told at once, and is then in the
socket only.

Reading. The agent, when the worker's process is gone and its socket is read to the end, takes the batches with numbers above
those that it has received, or that the log has from the agent before. It takes them like any ``TasksEnded``, under their
numbers, which keep one that it has had from counting twice. Only then it tells that the worker is lost. It removes the file
when all of that is in its log. Should it die before, its log still has the worker, the file is in its place, and the next agent
does the same again.

Results above the inline limit lie here as they are; a worker that lives stores them as blobs and tells their names.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import deque
from pathlib import Path

import msgspec

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import RunnerId
from pilotage.wire.runner_messages import TasksEnded

SLOTS = 64
TABLE_BYTES = 4096
FILE_BYTES = 1 << 20
RING_BYTES = FILE_BYTES - TABLE_BYTES

NUMBER, START, FILLED = range(3)

_ONE_END = 1 << 21
_OFFSET = _ONE_END - 1
_LEAST_ROOM = 1 << 16
"""A batch is not begun where less than this is left before the end of the ring."""

_ARRAY = struct.Struct(">BI")
_ARRAY_32 = 0xDD

_encode = msgspec.msgpack.Encoder().encode
_decode_ends = msgspec.msgpack.Decoder(list[AttemptEnd]).decode


def outbox_path(folder: Path, worker: RunnerId) -> Path:
    """Return where the outbox of this worker lies."""
    return folder / f"{worker}.outbox"


class Outbox:
    """The worker's side. Creates the file, readable by its owner alone.

    Raises:
        OSError: there is no room for the file.
    """

    def __init__(self, folder: Path, worker: RunnerId) -> None:
        path = outbox_path(folder, worker)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # Allocated now: a page that a full file system cannot provide later would end the worker with a bus error.
            os.posix_fallocate(descriptor, 0, FILE_BYTES)
            self._bytes = mmap.mmap(descriptor, FILE_BYTES)
        except OSError:
            os.unlink(unfinished)
            raise
        finally:
            os.close(descriptor)
        self._words = memoryview(self._bytes).cast("Q")
        os.replace(unfinished, path)
        self._number = 1
        self._unreleased: deque[tuple[int, int, int]] = deque()
        """Number, start and slot of each batch that has ends, the open one included."""
        self._free = list(range(SLOTS))
        self._end = TABLE_BYTES
        """Where the last closed batch ends."""
        # Of the open batch. While none is, ``filled`` is 0 and the limit refuses everything.
        self._start = self._limit = self._filled = self._filled_word = 0

    def add(self, end: AttemptEnd) -> bool:
        """Copy this end into the open batch; False if it does not fit there."""
        # Each operation counts here: all of it is 0.2 us, a fifth of what a short call costs.
        encoded = _encode(end)
        filled = self._filled
        first = filled & _OFFSET
        last = first + len(encoded)
        if last > self._limit:
            if filled or not self._open(len(encoded)):
                return False
            return self.add(end)
        self._bytes[first:last] = encoded
        # In this order, one expression: if an exception comes in between, the next end takes the place of this one.
        self._words[self._filled_word] = self._filled = filled + len(encoded) + _ONE_END
        return True

    def close(self, number: int, count: int) -> bytes | None:
        """Close the batch that is told as ``number``; return its frame, or None if it does not have ``count`` ends."""
        frame = None
        filled = self._filled
        if filled:
            stop = filled & _OFFSET
            if filled // _ONE_END == count:
                head = _encode(TasksEnded(number, []))[:-1]
                frame = b"".join((head, _ARRAY.pack(_ARRAY_32, count), self._bytes[self._start : stop]))
            self._end = stop
        self._number = number + 1
        self._start = self._limit = self._filled = 0
        return frame

    def release(self, through: int) -> None:
        """Use the room of the batches up to this number again: the agent has logged them."""
        unreleased = self._unreleased
        while unreleased and unreleased[0][0] <= through:
            self._free.append(unreleased.popleft()[2])

    def _open(self, size: int) -> bool:
        unreleased = self._unreleased
        start, limit = TABLE_BYTES, FILE_BYTES
        if unreleased:
            oldest = unreleased[0][1]
            start = self._end
            if start <= oldest:
                limit = oldest
            elif limit - start < max(size, _LEAST_ROOM) and limit - start < oldest - TABLE_BYTES:
                start, limit = TABLE_BYTES, oldest
        if limit - start < size or not self._free:
            return False
        slot = self._free.pop()
        words = self._words
        words[3 * slot + FILLED] = 0
        words[3 * slot + NUMBER] = self._number
        words[3 * slot + START] = start
        unreleased.append((self._number, start, slot))
        self._filled_word = 3 * slot + FILLED
        self._start, self._limit, self._filled = start, limit, start
        return True


def read_outbox(folder: Path, worker: RunnerId, after: int) -> list[TasksEnded]:
    """Return the batches with numbers above ``after`` that a dead worker left, in order; none if it left no file."""
    try:
        content = outbox_path(folder, worker).read_bytes()
    except FileNotFoundError:
        return []
    if len(content) != FILE_BYTES:
        return []
    words = memoryview(content).cast("Q")
    batches = []
    for slot in range(SLOTS):
        number, start, filled = words[3 * slot : 3 * slot + 3]
        if filled >= _ONE_END and number > after:
            encoded = _ARRAY.pack(_ARRAY_32, filled // _ONE_END) + content[start : filled & _OFFSET]
            try:
                batches.append(TasksEnded(number, _decode_ends(encoded)))
            except msgspec.DecodeError:
                # A function wrote to memory that is not its own: what this batch held may have run, and is lost.
                continue
    return sorted(batches, key=lambda batch: batch.number)
