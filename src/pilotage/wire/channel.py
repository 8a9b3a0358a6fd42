"""What carries messages between a client and an agent: the contract of all channels.

A channel is *one connection*, seen from the client, and a set of connections, seen from the agent. It never heals: when a
connection is lost, whoever opened it opens another and says ``ClientHello`` again; to the agent that is a new peer. On a
connection messages arrive in order and once; when it breaks, those under way are lost, and ``wire.link`` sends them again.

Waiting: register ``fileno()`` with ``epoll``, ``poll`` or ``select`` for reading. It is level-triggered whatever is
underneath: it is readable as long as ``receive()`` has something to do, be it messages, accepting a connection, checking a
key, or sending what did not fit before. ``receive()`` takes a bounded amount, so that a loop over several channels is fair.
It may return nothing. Neither call blocks. A channel belongs to one thread.

Queues are unbounded: credit (``wire.link``) bounds what numbered messages put into them, and who has not heard from a peer
for long (``wire.link.Liveness``) says nothing more to it.

Send few and large messages. Each system call gives up the interpreter lock, and in a program whose other threads compute it
takes up to 5 ms to get it back.
"""

from __future__ import annotations

from enum import Enum
from typing import NewType, Protocol

from pilotage.wire.framing import Disconnected
from pilotage.wire.messages import Acknowledge, Cancel, ClientHello, FromAgent, FromClient, Heartbeat, Inspect, Refused

__all__ = ["AccessDenied", "AgentChannel", "ClientChannel", "Disconnected", "Peer", "Role", "may_say", "refusal"]

Peer = NewType("Peer", bytes)
"""One connection to an agent, as the agent names it; never used again for another, within one channel."""


class AccessDenied(Disconnected):
    """The other side does not talk to this user or key; trying again does not help."""


class Role(Enum):
    """What a peer may do: a client everything, an observer only ask, the host of a node nothing of what these do."""

    CLIENT = "client"
    OBSERVER = "observer"
    NODE = "node"


class AgentChannel(Protocol):
    """The agent's end, to which clients and observers connect.

    A peer that is not permitted to say what it said, or whose frame is no message, gets ``Refused``, and what it said is
    dropped.
    """

    def fileno(self) -> int:
        """Return the descriptor that is readable while ``receive`` has something to do."""
        ...

    def receive(self) -> list[tuple[Peer, FromClient]]:
        """Return messages that have arrived, in the order of each peer; none when there are none."""
        ...

    def send(self, peer: Peer, message: FromAgent | bytes) -> bool:
        """Send a message, or an encoded one. Return False when the peer is gone; True does not mean that it arrived."""
        ...

    def drop(self, peer: Peer) -> None:
        """Have nothing more to do with a peer: close its connection where the transport can, and ignore what it says."""
        ...

    def close(self) -> None:
        """Close all connections after a bounded attempt to send what is queued. Closing twice does nothing."""
        ...


class ClientChannel(Protocol):
    """The client's end: one connection to one agent."""

    def fileno(self) -> int:
        """Return the descriptor that is readable while ``receive`` has something to do."""
        ...

    def receive(self) -> list[FromAgent]:
        """Return messages that have arrived; none when there are none.

        Raises:
            AccessDenied: the agent does not know this key, or one of the two runs as another user.
            Disconnected: the connection is lost, and all that arrived before was returned.
            ProtocolError: a frame is no message.
        """
        ...

    def send(self, message: FromClient | bytes) -> bool:
        """Send a message, or an encoded one. Return False when the connection is lost; ``receive`` then says why."""
        ...

    def close(self) -> None:
        """Close the connection after a bounded attempt to send what is queued. Closing twice does nothing."""
        ...


def may_say(role: Role, message: FromClient) -> bool:
    """Tell whether a peer of this role may send this message."""
    if role is not Role.OBSERVER:
        return role is Role.CLIENT
    if isinstance(message, ClientHello):
        return message.observer
    return isinstance(message, (Heartbeat, Acknowledge, Inspect)) or (isinstance(message, Cancel) and message.number == 0)


def refusal(message: FromClient) -> Refused:
    """Return the answer to a message that its sender may not send."""
    return Refused(
        f"{type(message).__name__} is refused: this key may only observe; connect with the key of the session's client"
    )
