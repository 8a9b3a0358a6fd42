"""The connection to the agent: a Unix stream socket in the private folder, made again when it breaks."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import msgspec

from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.runner_messages import ToRunner
from pilotage.wire.runner_settings import AGENT_SOCKET

_CREDENTIALS = struct.Struct("3i")


class AgentLink:
    """One connection at a time to the agent that listens in ``folder``; never blocks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._decoder: msgspec.msgpack.Decoder[ToRunner] = msgspec.msgpack.Decoder(ToRunner)
        self._socket: socket.socket | None = None
        self._reader: FrameReader | None = None
        self._writer: FrameWriter | None = None

    def connect(self) -> int | None:
        """Connect to the agent and return the descriptor to poll; None if none listens, or it belongs to another user."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            # A Unix address holds 108 bytes at most, so a deep folder is reached through an open descriptor.
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(f"/proc/self/fd/{descriptor}/{AGENT_SOCKET}")
            finally:
                os.close(descriptor)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            connection.close()
            return None
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if uid != os.geteuid():
            connection.close()
            return None
        self._socket, self._reader, self._writer = connection, FrameReader(connection), FrameWriter(connection)
        return connection.fileno()

    def read(self) -> list[ToRunner]:
        """Return the messages that have arrived.

        Raises:
            Disconnected: the agent is gone.
        """
        if self._reader is None:
            return []
        return [self._decoder.decode(frame) for frame in self._reader.read()]

    def write(self, frames: list[bytes]) -> bool:
        """Send frames after those that wait. Return whether all are sent; else call again when the socket takes more.

        Raises:
            Disconnected: the agent is gone.
        """
        if self._writer is None:
            raise Disconnected("not connected")
        for frame in frames:
            self._writer.write(frame)
        return self._writer.flush()

    def close(self) -> None:
        """Drop the connection and what waits in it."""
        if self._socket is not None:
            self._socket.close()
        self._socket = self._reader = self._writer = None
