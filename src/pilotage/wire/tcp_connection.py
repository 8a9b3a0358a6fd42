"""The end of a channel between machines that connects: a DEALER, and the monitor that tells what became of its connection.

A connection is not made anew by ZeroMQ: a new one has to begin with a hello.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

import zmq

from pilotage.errors import ProtocolError
from pilotage.wire.channel import AccessDenied, Disconnected
from pilotage.wire.keys import KeyPair
from pilotage.wire.zeromq import DRAIN, LINGER_MS, Readiness, configure, is_readable, shared_context

if TYPE_CHECKING:
    from typing_extensions import Self

IncomingT = TypeVar("IncomingT")
OutgoingT = TypeVar("OutgoingT")

_EVENT = struct.Struct("=Hi")
"""The first part of what a monitor tells: an event, and its value. (What ZeroMQ's Python has for this loads asyncio.)"""

_CONNECT_MS = 10_000

_LOST = {
    zmq.Event.DISCONNECTED: "the connection broke",
    zmq.Event.CLOSED: "nobody listens there",
    zmq.Event.HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.Event.HANDSHAKE_FAILED_PROTOCOL: "the agent has another key than its address says, or speaks another protocol",
}


class TcpConnection(ABC, Generic[IncomingT, OutgoingT]):
    """The end that connects. Made by ``connect``; its methods do what those of ``wire.channel.ClientChannel`` do."""

    def __init__(self, dealer: zmq.Socket[bytes], monitor: zmq.Socket[bytes], endpoint: str) -> None:
        self._dealer = dealer
        self._monitor = monitor
        self._endpoint = endpoint
        self.is_accepted = False
        """Whether the other side has let us in: then it is there, though it may not answer yet."""
        self._lost: Disconnected | None = None
        self._readiness = Readiness(dealer, monitor)
        self._closed = False

    @classmethod
    def connect(cls, endpoint: str, keys: KeyPair, server_key: str) -> Self:
        """Begin to connect to the agent at ``tcp://host:port`` that has this public key (Z85).

        Returns at once, and messages may be sent at once; a failure is raised by ``receive``.

        Raises:
            ProtocolError: ``endpoint`` is no such address.
        """
        dealer = shared_context().socket(zmq.DEALER)
        monitor = None
        try:
            configure(dealer, keys)
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
            while len(messages) < DRAIN and is_readable(self._dealer):
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
        self._dealer.close(linger=LINGER_MS)

    def _watch(self) -> None:
        while is_readable(self._monitor):
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
