"""The channel between machines: ZeroMQ over TCP with CURVE, the agent a ROUTER and the client a DEALER.

Import this module only where TCP is used: it imports ZeroMQ. ``TcpListener`` and ``TcpConnection`` carry messages of any
kind; what is said on them is up to their subclasses: clients and agents here, hosts of nodes in ``wire.host_channel``.

Who may talk is decided by public key, before the first message: CURVE proves that a peer holds the key it shows, and the
agent looks that up in its allow-list, which also gives the role. Everything else is refused, and so are peers that speak no
CURVE. ZeroMQ asks for the decision over ZAP, a request on an inproc socket, which is answered in ``receive``: so there is no
thread for it, and the roles are those of this moment.

ZeroMQ's descriptors are edge-triggered, and sending can swallow an edge. So each channel has an ``epoll`` over ZeroMQ's
descriptors and an ``eventfd`` of its own, which is set whenever, after a call, messages are left: from outside that is
level-triggered.

Queues are unbounded, as credit (``wire.link``) bounds what is under way. A connection is not made anew by ZeroMQ: a new one
has to begin with a hello.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import zmq
from zmq.utils import z85

from pilotage.errors import ProtocolError
from pilotage.wire.channel import AccessDenied, Disconnected, Peer, Role, may_say, refusal
from pilotage.wire.codec import MAX_FRAME_BYTES, decode_from_agent, decode_from_client, encode
from pilotage.wire.keys import KeyPair
from pilotage.wire.messages import FromAgent, FromClient, Refused

if TYPE_CHECKING:
    from typing_extensions import Self

IncomingT = TypeVar("IncomingT")
OutgoingT = TypeVar("OutgoingT")

_EVENT = struct.Struct("=Hi")
"""The first part of what a monitor tells: an event, and its value. (What ZeroMQ's Python has for this loads asyncio.)"""

_DRAIN = 256
_LINGER_MS = 1000
_HANDSHAKE_MS = 10_000
_CONNECT_MS = 10_000
_BACKLOG = 4096
"""Thousands of hosts connect at the same moment."""
_HEARTBEAT_MS = 5_000
_HEARTBEAT_TIMEOUT_MS = 30_000
_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_ZAP_DOMAIN = b"pilotage"

_LOST = {
    zmq.Event.DISCONNECTED: "the connection broke",
    zmq.Event.CLOSED: "nobody listens there",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "the agent has another key than its address says, or speaks another protocol",
}

_context_lock = threading.Lock()
_client_context: tuple[int, zmq.Context[zmq.Socket[bytes]]] | None = None


def _shared_context() -> zmq.Context[zmq.Socket[bytes]]:
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


def _is_readable(socket: zmq.Socket[bytes]) -> bool:
    """Tell whether a message is there, taking in what the socket's descriptor announced, which resets the descriptor."""
    return int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN != 0


class _Readiness:
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
        return self._poll.fileno()

    def refresh(self, left: bool = False) -> None:
        """Look what is left in the sockets; to be called after each use of one. ``left``: there is something else."""
        for socket in self._sockets:
            # All are asked, for what asking does to their descriptors.
            left = _is_readable(socket) or left
        if left and not self._is_set:
            os.eventfd_write(self._left, 1)
        elif self._is_set and not left:
            os.eventfd_read(self._left)
        self._is_set = left

    def close(self) -> None:
        self._poll.close()
        os.close(self._left)


class TcpListener(ABC, Generic[IncomingT, OutgoingT]):
    """The end to which others connect. Made by ``bind``; its methods do what those of ``wire.channel.AgentChannel`` do.

    ZeroMQ cannot close one of many connections: ``drop`` makes the listener deaf and mute to the peer, which notices by the
    missing heartbeats.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        router: zmq.Socket[bytes],
        access: zmq.Socket[bytes],
        allowed: Mapping[str, Role],
    ) -> None:
        self._context = context
        self._router = router
        self._access = access
        self._allowed = allowed
        self._dropped: set[Peer] = set()
        self._readiness = _Readiness(router, access)
        self._closed = False

    @classmethod
    def bind(cls, keys: KeyPair, allowed: Mapping[str, Role], address: str = "127.0.0.1", port: int = 0) -> Self:
        """Listen at a numeric IPv4 or IPv6 address; port 0 takes a free one (see ``endpoint``).

        ``allowed`` maps public keys (Z85) to roles. It is looked at whenever a peer connects, so it may be changed.

        Raises:
            OSError: the address or port cannot be bound.
        """
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(io_threads=1)
        access = context.socket(zmq.REP)
        router = context.socket(zmq.ROUTER)
        try:
            # Before the router, so that no peer connects while nobody decides.
            access.bind(_ZAP_ADDRESS)
            _configure(router, keys)
            router.setsockopt(zmq.BACKLOG, _BACKLOG)
            router.setsockopt(zmq.CURVE_SERVER, 1)
            router.setsockopt(zmq.ZAP_DOMAIN, _ZAP_DOMAIN)
            # Without this a missing decision would let everyone in.
            router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            router.setsockopt(zmq.ROUTER_MANDATORY, 1)
            if ":" in address:
                router.setsockopt(zmq.IPV6, 1)
                address = f"[{address}]"
            try:
                router.bind(f"tcp://{address}:{port or '*'}")
            except zmq.ZMQError as error:
                raise OSError(error.errno, f"cannot listen at {address} port {port}: {error}") from error
        except BaseException:
            context.destroy(linger=0)
            raise
        return cls(context, router, access, allowed)

    @abstractmethod
    def _decode(self, frame: bytes) -> IncomingT:
        """Return the message in a frame; raises ``ProtocolError``."""

    @abstractmethod
    def _encode(self, message: OutgoingT) -> bytes:
        """Return the frame of a message; raises ``ProtocolError``."""

    @abstractmethod
    def _judge(self, role: Role, message: IncomingT) -> OutgoingT | None:
        """Return the answer to a message that a peer of this role may not send; None if it may."""

    @abstractmethod
    def _refuse(self, reason: str) -> OutgoingT:
        """Return the answer to what is no message."""

    @property
    def endpoint(self) -> str:
        """Where the agent listens, as ``tcp://address:port``."""
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def fileno(self) -> int:
        return self._readiness.fileno()

    def receive(self) -> list[tuple[Peer, IncomingT]]:
        messages: list[tuple[Peer, IncomingT]] = []
        self._decide_access()
        router = self._router
        for _ in range(_DRAIN):
            # Asking first is cheaper than a failed call, which gives up the interpreter lock and raises.
            if not _is_readable(router):
                break
            parts = router.recv_multipart(zmq.NOBLOCK, copy=False)
            peer = Peer(parts[0].bytes)
            if peer in self._dropped:
                continue
            try:
                if len(parts) != 2:
                    raise ProtocolError(f"a message has {len(parts) - 1} parts instead of one")
                message = self._decode(parts[1].bytes)
            except ProtocolError as error:
                self.send(peer, self._refuse(str(error)))
                self.drop(peer)
                continue
            answer = self._judge(Role(parts[1].get("User-Id")), message)
            if answer is None:
                messages.append((peer, message))
            else:
                self.send(peer, answer)
        self._readiness.refresh()
        return messages

    def send(self, peer: Peer, message: OutgoingT | bytes) -> bool:
        if peer in self._dropped:
            return False
        try:
            self._router.send_multipart((peer, message if isinstance(message, bytes) else self._encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        finally:
            self._readiness.refresh()
        return True

    def drop(self, peer: Peer) -> None:
        self._dropped.add(peer)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._readiness.close()
        self._context.destroy(linger=_LINGER_MS)

    def _decide_access(self) -> None:
        while _is_readable(self._access):
            request = self._access.recv_multipart(zmq.NOBLOCK)
            # version, request id, domain, address, routing id, mechanism, credentials: here the peer's public key
            role = None
            if len(request) == 7 and request[0] == _ZAP_VERSION and request[2] == _ZAP_DOMAIN and request[5] == b"CURVE":
                role = self._allowed.get(z85.encode(request[6]).decode("ascii"))
            code, text = (b"400", b"this key is not allowed") if role is None else (b"200", b"")
            user = b"" if role is None else role.value.encode("ascii")
            self._access.send_multipart([_ZAP_VERSION, request[1], code, text, user, b""])


class TcpConnection(ABC, Generic[IncomingT, OutgoingT]):
    """The end that connects. Made by ``connect``; its methods do what those of ``wire.channel.ClientChannel`` do."""

    def __init__(self, dealer: zmq.Socket[bytes], monitor: zmq.Socket[bytes], endpoint: str) -> None:
        self._dealer = dealer
        self._monitor = monitor
        self._endpoint = endpoint
        self.is_accepted = False
        """Whether the other side has let us in: then it is there, though it may not answer yet."""
        self._lost: Disconnected | None = None
        self._readiness = _Readiness(dealer, monitor)
        self._closed = False

    @classmethod
    def connect(cls, endpoint: str, keys: KeyPair, server_key: str) -> Self:
        """Begin to connect to the agent at ``tcp://host:port`` that has this public key (Z85).

        Returns at once, and messages may be sent at once; a failure is raised by ``receive``.

        Raises:
            ProtocolError: ``endpoint`` is no such address.
        """
        dealer = _shared_context().socket(zmq.DEALER)
        monitor = None
        try:
            _configure(dealer, keys)
            dealer.setsockopt(zmq.CURVE_SERVERKEY, server_key.encode("ascii"))
            dealer.setsockopt(zmq.RECONNECT_IVL, -1)
            dealer.setsockopt(zmq.CONNECT_TIMEOUT, _CONNECT_MS)
            dealer.setsockopt(zmq.IPV6, int("[" in endpoint))
            monitor = dealer.get_monitor_socket(sum(_LOST) | zmq.Event.HANDSHAKE_FAILED_AUTH | zmq.Event.HANDSHAKE_SUCCEEDED)
            try:
                dealer.connect(endpoint)
            except zmq.ZMQError as error:
                raise ProtocolError(f"cannot connect to {endpoint!r}: {error}; it has to be tcp://host:port") from error
        except BaseException:
            if monitor is not None:
                dealer.disable_monitor()
                monitor.close(linger=0)
            dealer.close(linger=0)
            raise
        return cls(dealer, monitor, endpoint)

    @abstractmethod
    def _decode(self, frame: bytes) -> IncomingT:
        """Return the message in a frame; raises ``ProtocolError``."""

    @abstractmethod
    def _encode(self, message: OutgoingT) -> bytes:
        """Return the frame of a message; raises ``ProtocolError``."""

    def fileno(self) -> int:
        return self._readiness.fileno()

    def receive(self) -> list[IncomingT]:
        # First the end of the connection, then its messages: so none that came before the end stays unread.
        self._watch()
        messages: list[IncomingT] = []
        try:
            while len(messages) < _DRAIN and _is_readable(self._dealer):
                messages.append(self._decode(self._dealer.recv(zmq.NOBLOCK)))
        finally:
            self._readiness.refresh(self._lost is not None)
        if self._lost is not None and not messages:
            raise self._lost
        return messages

    def send(self, message: OutgoingT | bytes) -> bool:
        if self._lost is not None:
            return False
        try:
            self._dealer.send(message if isinstance(message, bytes) else self._encode(message), zmq.NOBLOCK)
        except zmq.Again:
            # Queues are unbounded: there is none any more, only the end of the connection still to be read.
            return False
        finally:
            self._readiness.refresh()
        return True

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._readiness.close()
        self._dealer.disable_monitor()
        self._monitor.close(linger=0)
        self._dealer.close(linger=_LINGER_MS)

    def _watch(self) -> None:
        while _is_readable(self._monitor):
            event, _ = _EVENT.unpack(self._monitor.recv_multipart(zmq.NOBLOCK)[0])
            if self._lost is not None:
                continue
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self.is_accepted = True
            elif event == zmq.Event.HANDSHAKE_FAILED_AUTH:
                self._lost = AccessDenied(
                    f"the agent at {self._endpoint} does not allow this key; add its public key to the agent's allow-list"
                )
            else:
                self._lost = Disconnected(f"{self._endpoint}: {_LOST[zmq.Event(event)]}")


class TcpAgentChannel(TcpListener[FromClient, FromAgent]):
    """The agent's end, to which clients and observers connect."""

    def _decode(self, frame: bytes) -> FromClient:
        return decode_from_client(frame)

    def _encode(self, message: FromAgent) -> bytes:
        return encode(message)

    def _judge(self, role: Role, message: FromClient) -> FromAgent | None:
        return None if may_say(role, message) else refusal(message)

    def _refuse(self, reason: str) -> FromAgent:
        return Refused(reason)


class TcpClientChannel(TcpConnection[FromAgent, FromClient]):
    """The client's end."""

    def _decode(self, frame: bytes) -> FromAgent:
        return decode_from_agent(frame)

    def _encode(self, message: FromClient) -> bytes:
        return encode(message)


def _configure(socket: zmq.Socket[bytes], keys: KeyPair) -> None:
    socket.set_hwm(0)
    socket.setsockopt(zmq.LINGER, _LINGER_MS)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_FRAME_BYTES)
    socket.setsockopt(zmq.HANDSHAKE_IVL, _HANDSHAKE_MS)
    socket.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, keys.public.encode("ascii"))
    socket.setsockopt(zmq.CURVE_SECRETKEY, keys.secret.encode("ascii"))
