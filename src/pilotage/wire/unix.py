"""The channel between a client and an agent on one machine: a Unix stream socket in a private folder.

No thread stands between the two processes, and many frames are taken with one system call. Who may talk: the folder keeps
other users out, and each side asks the kernel whether the other runs as the same user. Such a peer has the role of a client.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import struct
import time
from pathlib import Path

from pilotage.errors import InvalidRequest, ProtocolError
from pilotage.wire.channel import AccessDenied, Peer
from pilotage.wire.codec import decode_from_agent, decode_from_client, encode
from pilotage.wire.framing import Disconnected, FrameReader, FrameWriter
from pilotage.wire.keys import require_private_folder
from pilotage.wire.messages import FromAgent, FromClient, Refused

CLIENT_SOCKET = "client.sock"
"""Name of the socket in the agent's private folder."""

MAX_PATH_BYTES = 107
_CREDENTIALS = struct.Struct("3i")
_CONNECT_TIMEOUT_S = 5.0
_CLOSE_TIMEOUT_S = 1.0
_READ = select.EPOLLIN
_READ_AND_WRITE = select.EPOLLIN | select.EPOLLOUT


class _Connection:
    """One stream, watched by an ``epoll`` of its owner: for writing only while something waits to be written."""

    def __init__(self, stream: socket.socket, poll: select.epoll) -> None:
        self.stream = stream
        self._poll = poll
        self._reader = FrameReader(stream)
        self._writer = FrameWriter(stream)
        self._waits = False
        poll.register(stream, _READ)

    def read(self) -> list[bytes]:
        return self._reader.read()

    def send(self, frame: bytes) -> bool:
        self._writer.write(frame)
        return self.flush()

    def flush(self) -> bool:
        """Write what the socket takes. Return False when the other side is gone; the end is then met when reading."""
        try:
            waits = not self._writer.flush()
        except Disconnected:
            return False
        if waits != self._waits:
            self._waits = waits
            self._poll.modify(self.stream, _READ_AND_WRITE if waits else _READ)
        return True

    def finish(self, timeout_s: float = 0.0) -> None:
        """Write what is queued, waiting no longer than this, and close."""
        self._poll.unregister(self.stream)
        deadline = time.monotonic() + timeout_s
        room = select.poll()
        room.register(self.stream, select.POLLOUT)
        try:
            while not self._writer.flush() and (left_s := deadline - time.monotonic()) > 0:
                room.poll(left_s * 1000)
        except Disconnected:
            pass
        self.stream.close()


class UnixAgentChannel:
    """The agent's end. Made by ``bind``."""

    def __init__(self, listener: socket.socket, path: Path) -> None:
        self._listener = listener
        self._path = path
        self._poll = select.epoll()
        self._poll.register(listener, _READ)
        self._peers: dict[Peer, _Connection] = {}
        self._by_descriptor: dict[int, Peer] = {}
        self._serial = itertools.count(1)
        self._closed = False

    @classmethod
    def bind(cls, path: Path) -> UnixAgentChannel:
        """Listen at ``path``, in a folder of mode 0700 that is ours. A socket that a dead agent left there is replaced.

        Raises:
            InvalidRequest: the folder is not private, the path is too long for a socket, or another agent listens there.
        """
        require_private_folder(path.parent)
        length = len(os.fsencode(path))
        if length > MAX_PATH_BYTES:
            raise InvalidRequest(
                f"the socket path {path} has {length} bytes, more than the {MAX_PATH_BYTES} that the system allows; "
                "use a private folder with a shorter path"
            )
        _remove_stale(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.bind(os.fspath(path))
            path.chmod(0o600)
            listener.listen(64)
            listener.setblocking(False)
        except OSError:
            listener.close()
            raise
        return cls(listener, path)

    def fileno(self) -> int:
        return self._poll.fileno()

    def receive(self) -> list[tuple[Peer, FromClient]]:
        messages: list[tuple[Peer, FromClient]] = []
        for descriptor, event in self._poll.poll(0):
            if descriptor == self._listener.fileno():
                self._accept()
                continue
            peer = self._by_descriptor[descriptor]
            connection = self._peers[peer]
            if event & select.EPOLLOUT:
                connection.flush()
            if not event & ~select.EPOLLOUT:
                continue
            try:
                for frame in connection.read():
                    messages.append((peer, decode_from_client(frame)))
            except Disconnected:
                self.drop(peer)
            except ProtocolError as error:
                connection.send(encode(Refused(str(error))))
                self.drop(peer)
        return messages

    def send(self, peer: Peer, message: FromAgent | bytes) -> bool:
        connection = self._peers.get(peer)
        return connection is not None and connection.send(message if isinstance(message, bytes) else encode(message))

    def drop(self, peer: Peer) -> None:
        connection = self._peers.pop(peer, None)
        if connection is not None:
            del self._by_descriptor[connection.stream.fileno()]
            connection.finish()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for connection in self._peers.values():
            connection.finish(_CLOSE_TIMEOUT_S)
        self._peers.clear()
        self._path.unlink(missing_ok=True)
        self._listener.close()
        self._poll.close()

    def _accept(self) -> None:
        try:
            stream, _ = self._listener.accept()
        except (BlockingIOError, ConnectionError):
            return
        if _peer_uid(stream) != os.geteuid():
            stream.close()
            return
        stream.setblocking(False)
        # ZeroMQ's names for peers begin with a zero byte, so the two never meet.
        peer = Peer(b"unix.%d" % next(self._serial))
        self._peers[peer] = _Connection(stream, self._poll)
        self._by_descriptor[stream.fileno()] = peer


class UnixClientChannel:
    """The client's end. Made by ``connect``."""

    def __init__(self, stream: socket.socket) -> None:
        self._poll = select.epoll()
        self._connection = _Connection(stream, self._poll)
        self._closed = False

    @classmethod
    def connect(cls, path: Path) -> UnixClientChannel:
        """Connect to the agent that listens at ``path``.

        Raises:
            Disconnected: nobody listens there.
            AccessDenied: the agent there runs as another user.
        """
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            stream.settimeout(_CONNECT_TIMEOUT_S)
            stream.connect(os.fspath(path))
            if _peer_uid(stream) != os.geteuid():
                raise AccessDenied(f"the agent at {path} runs as user {_peer_uid(stream)}, not as {os.geteuid()}")
            stream.setblocking(False)
        except Disconnected:
            stream.close()
            raise
        except OSError as error:
            stream.close()
            raise Disconnected(f"no agent answers at {path}: {error}") from error
        return cls(stream)

    def fileno(self) -> int:
        return self._poll.fileno()

    def receive(self) -> list[FromAgent]:
        self._connection.flush()
        return [decode_from_agent(frame) for frame in self._connection.read()]

    def send(self, message: FromClient | bytes) -> bool:
        return self._connection.send(message if isinstance(message, bytes) else encode(message))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.finish(_CLOSE_TIMEOUT_S)
            self._poll.close()


def _peer_uid(stream: socket.socket) -> int:
    credentials = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(credentials)[1])


def _remove_stale(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            path.unlink()
            return
    raise InvalidRequest(f"another agent listens at {path}; end it, or use another folder")
