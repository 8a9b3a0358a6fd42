"""The end of a channel between machines to which others connect: a ROUTER that decides who may.

Who may talk is decided by public key, before the first message: CURVE proves that a peer holds the key it shows, and the
listener looks that up in its allow-list, which also gives the role. Everything else is refused, and so are peers that speak no
CURVE. ZeroMQ asks for the decision over ZAP, a request on an inproc socket, which is answered in ``receive``: so there is no
thread for it, and the roles are those of this moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Generic, TypeVar

import zmq
from zmq.utils import z85

from pilotage.errors import ProtocolError
from pilotage.wire.channel import Peer, Role
from pilotage.wire.keys import KeyPair
from pilotage.wire.zeromq import DRAIN, LINGER_MS, Readiness, configure, is_readable

if TYPE_CHECKING:
    from typing_extensions import Self

IncomingT = TypeVar("IncomingT")
OutgoingT = TypeVar("OutgoingT")

_BACKLOG = 4096
"""Thousands of hosts connect at the same moment."""
_ZAP_ADDRESS = "inproc://zeromq.zap.01"
_ZAP_VERSION = b"1.0"
_ZAP_DOMAIN = b"pilotage"


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
        self._readiness = Readiness(router, access)
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
            configure(router, keys)
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
        for _ in range(DRAIN):
            # Asking first is cheaper than a failed call, which gives up the interpreter lock and raises.
            if not is_readable(router):
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
        self._context.destroy(linger=LINGER_MS)

    def _decide_access(self) -> None:
        while is_readable(self._access):
            request = self._access.recv_multipart(zmq.NOBLOCK)
            # version, request id, domain, address, routing id, mechanism, credentials: here the peer's public key
            role = None
            if len(request) == 7 and request[0] == _ZAP_VERSION and request[2] == _ZAP_DOMAIN and request[5] == b"CURVE":
                role = self._allowed.get(z85.encode(request[6]).decode("ascii"))
            code, text = (b"400", b"this key is not allowed") if role is None else (b"200", b"")
            user = b"" if role is None else role.value.encode("ascii")
            self._access.send_multipart([_ZAP_VERSION, request[1], code, text, user, b""])
