"""The local executor's sockets: who knocks, who says hello, who may be read, and what the sockets take.

Runners connect to a Unix socket in the agent's private folder. Only processes of the agent's own user are let in; who says
something other than hello first is sent off. Nothing here blocks.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from pilotage.executors.runner import Runner
from pilotage.wire import runner_messages as wire
from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.runner_settings import AGENT_SOCKET

_CREDENTIALS = struct.Struct("3i")

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(wire.FromRunner).decode


class Hello(NamedTuple):
    """A runner that introduced itself. ``frames`` came right behind its hello."""

    connection: socket.socket
    reader: FrameReader
    message: wire.RunnerHello
    frames: list[bytes]


class Connections:
    """The sockets of one agent's runners; ``open`` before use. ``folder`` is the agent's private folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / AGENT_SOCKET
        self._strangers: dict[int, tuple[socket.socket, FrameReader]] = {}
        self._runners: dict[int, Runner] = {}
        self._stuck: set[int] = set()
        self._epoll = select.epoll()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)

    def open(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        self._server.bind(str(self._path))
        self._server.listen(256)
        self._epoll.register(self._server, select.EPOLLIN)

    def close(self) -> None:
        """Close all sockets but those of runners, which ``detach`` closes."""
        for connection, _ in self._strangers.values():
            connection.close()
        self._server.close()
        self._path.unlink(missing_ok=True)
        self._epoll.close()

    def fileno(self) -> int:
        """Return the descriptor that is readable while ``poll`` has something to give."""
        return self._epoll.fileno()

    def poll(self, timeout_s: float = 0.0) -> Iterator[tuple[Hello | Runner, bool]]:
        """Yield who said hello, and which runners may be read; with a runner, whether its socket takes more."""
        for descriptor, mask in self._epoll.poll(timeout_s):
            if descriptor == self._server.fileno():
                self._accept()
            elif descriptor in self._strangers:
                hello = self._read_hello(descriptor)
                if hello is not None:
                    yield hello, False
            elif descriptor in self._runners:
                yield self._runners[descriptor], bool(mask & select.EPOLLOUT)

    def attach(self, runner: Runner, connection: socket.socket, reader: FrameReader) -> None:
        """This is the runner's connection from now on."""
        self.detach(runner)
        runner.connection, runner.reader, runner.writer = connection, reader, FrameWriter(connection)
        self._runners[connection.fileno()] = runner

    def detach(self, runner: Runner) -> None:
        """Close the runner's connection, if it has one."""
        if runner.connection is not None:
            self._runners.pop(runner.connection.fileno(), None)
            self._stuck.discard(runner.connection.fileno())
            runner.connection.close()
            # What was on its way may not have arrived.
            runner.templates.clear()
        runner.connection, runner.reader, runner.writer = None, None, None

    def flush(self, runners: Iterable[Runner]) -> list[Runner]:
        """Send what these have queued, as much as their sockets take; return those that are not there any more."""
        broken = []
        for runner in runners:
            if runner.writer is None or runner.connection is None:
                continue
            descriptor = runner.connection.fileno()
            try:
                empty = runner.writer.flush()
            except Disconnected:
                broken.append(runner)
                continue
            if empty == (descriptor in self._stuck):
                self._epoll.modify(descriptor, select.EPOLLIN if empty else select.EPOLLIN | select.EPOLLOUT)
                (self._stuck.discard if empty else self._stuck.add)(descriptor)
        return broken

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        if _CREDENTIALS.unpack(credentials)[1] != os.geteuid():
            connection.close()
            return
        self._strangers[connection.fileno()] = (connection, FrameReader(connection))
        self._epoll.register(connection, select.EPOLLIN)

    def _read_hello(self, descriptor: int) -> Hello | None:
        connection, reader = self._strangers[descriptor]
        message = None
        try:
            frames = reader.read()
            if not frames:
                return None
            message = _decode(frames[0])
        except (Disconnected, msgspec.DecodeError):
            pass
        del self._strangers[descriptor]
        if isinstance(message, wire.RunnerHello):
            return Hello(connection, reader, message, frames[1:])
        if message is not None:
            send_away(connection)
        connection.close()
        return None


def send_away(connection: socket.socket) -> None:
    """Tell a runner that nobody waits for to exit."""
    writer = FrameWriter(connection)
    writer.write(_encode(wire.StopRunner(0.0)))
    try:
        writer.flush()
    except Disconnected:
        pass
    connection.close()
