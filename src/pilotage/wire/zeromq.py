"""ZeroMQ's sockets as the channels between machines use them: how they are set up, and when there is something to read.

ZeroMQ's descriptors are edge-triggered, and sending can swallow an edge. So each channel has an ``epoll`` over ZeroMQ's
descriptors and an ``eventfd`` of its own, which is set whenever, after a call, messages are left: from outside that is
level-triggered.

Queues are unbounded, as credit (``wire.link``) bounds what is under way.
"""

from __future__ import annotations

import os
import select
import threading

import zmq

from pilotage.wire.codec import MAX_FRAME_BYTES
from pilotage.wire.keys import KeyPair

DRAIN = 256
"""So many messages are taken from a socket in one call."""
LINGER_MS = 1000
_HANDSHAKE_MS = 10_000
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 30_000

_context_lock = threading.Lock()
_client_context: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None


def shared_context() -> zmq.Context[zmq.Socket[bytes]]:
    """Return the context of all client channels of this process; a forked child gets its own."""
    global _client_context
    with _context_lock:
        if _client_context is None or _client_context[0] != os.getpid():
            _client_context = (os.getpid(), zmq.Context(io_threads=1))
        return _client_context[1]


def finish_connections() -> None:
    """Send what connections of this process had queued when they were closed; waits a second at the longest.

    For a process that ends by ``os._exit``, which waits for no thread. All its connections have been closed.
    """
    global _client_context
    with _context_lock:
        made, _client_context = _client_context, None
    if made is not None and made[0] == os.getpid():
        made[1].destroy()


def is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Tell whether a message is there, taking in what the socket's descriptor announced, which resets the descriptor."""
    return int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN != 0


class Readiness:
    """A level-triggered descriptor over ZeroMQ sockets."""

    def __init__(self, *sockets: zmq.Socket[bytes]) -> None:
        self._sockets = sockets
        self._poll = select.epoll()
        self._left = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._left, select.EPOLLIN)
        for socket in sockets:
            self._poll.register(socket.FD, select.EPOLLIN)
        self._is_set = False
        self.refresh()

    def fileno(self) -> int:
        """Return the descriptor, readable while something is left."""
        return self._poll.fileno()

    def refresh(self, left: bool = False) -> None:
        """Look what is left in the sockets; to be called after each use of one. ``left``: there is something else."""
        for socket in self._sockets:
            # All are asked, for what asking does to their descriptors.
            left = is_readable(socket) or left
        if left and not self._is_set:
            os.eventfd_write(self._left, 1)
        elif self._is_set and not left:
            os.eventfd_read(self._left)
        self._is_set = left

    def close(self) -> None:
        """Release the descriptors; the sockets stay."""
        self._poll.close()
        os.close(self._left)


def configure(socket: zmq.Socket[bytes], keys: KeyPair) -> None:
    """Set what both ends have in common: their keys, heartbeats and limits."""
    socket.set_hwm(0)
    socket.setsockopt(zmq.LINGER, LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode("ascii"))
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode("ascii"))
