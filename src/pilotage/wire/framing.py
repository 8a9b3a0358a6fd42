"""Frames over a non-blocking stream socket: a 32-bit little-endian length, then that many bytes of MessagePack.

``FrameReader`` cuts what has arrived into frames; ``FrameWriter`` queues frames and writes as much as the socket takes, many
frames in one system call. Neither blocks; the owner polls the socket.
"""

from __future__ import annotations

import socket
import struct
from collections import deque

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 16
_READS = 64
_GATHER = 64


class Disconnected(ConnectionError):
    """The other side closed the connection, or died."""


class FrameReader:
    """Reads frames from a non-blocking stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = bytearray()
        # Kept: as a new object for each read, malloc gives its pages back to the system each time, in some layouts of the heap.
        self._arriving = memoryview(bytearray(_READ_BYTES))

    def read(self) -> list[bytes]:
        """Return the complete frames that have arrived; a call takes at most 4 MiB from the socket.

        Raises:
            Disconnected: the stream is at its end and all complete frames were returned before.
        """
        buffer, arriving = self._buffer, self._arriving
        ended = ""
        for _ in range(_READS):
            try:
                count = self._connection.recv_into(arriving)
            except BlockingIOError:
                break
            except ConnectionError as error:
                ended = str(error)
                break
            if not count:
                ended = "the stream ended"
                break
            buffer += arriving[:count]
            if count < _READ_BYTES:
                break
        frames = []
        position, size = 0, len(buffer)
        while size - position >= 4:
            (length,) = _LENGTH.unpack_from(buffer, position)
            end = position + 4 + length
            if end > size:
                break
            frames.append(bytes(buffer[position + 4 : end]))
            position = end
        if position:
            del buffer[:position]
        # An end that follows frames is met again, and told, by the next call.
        if ended and not frames:
            raise Disconnected(ended)
        return frames


class FrameWriter:
    """Writes frames to a non-blocking stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pending: deque[bytes | memoryview] = deque()

    def write(self, frame: bytes) -> None:
        """Queue a frame; nothing is sent before ``flush``."""
        self._pending.append(_LENGTH.pack(len(frame)))
        self._pending.append(frame)

    def flush(self) -> bool:
        """Send what the socket takes now. Return True when nothing is left, False when the socket is full.

        Raises:
            Disconnected: the other side is gone.
        """
        pending = self._pending
        while pending:
            parts = [pending[index] for index in range(min(len(pending), _GATHER))]
            try:
                sent = self._connection.sendmsg(parts)
            except BlockingIOError:
                return False
            except ConnectionError as error:
                raise Disconnected(str(error)) from error
            while sent:
                first = pending[0]
                if sent >= len(first):
                    sent -= len(first)
                    pending.popleft()
                else:
                    pending[0] = memoryview(first)[sent:]
                    sent = 0
        return True
