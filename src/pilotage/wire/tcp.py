"""The channel between machines: ZeroMQ over TCP with CURVE, the agent a ROUTER and the client a DEALER.

Import this module only where TCP is used: it imports ZeroMQ. ``TcpListener`` and ``TcpConnection`` carry messages of any
kind; what is said on them is up to their subclasses: clients and agents here, hosts of nodes in ``wire.host_channel``.
"""

from __future__ import annotations

from pilotage.wire.channel import Role, may_say, refusal
from pilotage.wire.codec import decode_from_agent, decode_from_client, encode
from pilotage.wire.messages import FromAgent, FromClient, Refused
from pilotage.wire.tcp_connection import TcpConnection
from pilotage.wire.tcp_listener import TcpListener


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
