"""The channel between an agent and the hosts of its nodes: TCP with CURVE, as between client and agent over a network."""

from __future__ import annotations

from pilotage.wire.channel import Role
from pilotage.wire.host_messages import FromHost, HostRefused, ToHost, decode_from_host, decode_to_host, encode
from pilotage.wire.tcp_connection import TcpConnection
from pilotage.wire.tcp_listener import TcpListener


class HostListener(TcpListener[FromHost, ToHost]):
    """The agent's end, to which all hosts connect."""

    def _decode(self, frame: bytes) -> FromHost:
        return decode_from_host(frame)

    def _encode(self, message: ToHost) -> bytes:
        return encode(message)

    def _judge(self, role: Role, message: FromHost) -> ToHost | None:
        if role is Role.NODE:
            return None
        return HostRefused(f"{type(message).__name__} is refused: this is not the key of this pilot's hosts")

    def _refuse(self, reason: str) -> ToHost:
        return HostRefused(reason)


class HostConnection(TcpConnection[ToHost, FromHost]):
    """The host's end."""

    def _decode(self, frame: bytes) -> ToHost:
        return decode_to_host(frame)

    def _encode(self, message: FromHost) -> bytes:
        return encode(message)
