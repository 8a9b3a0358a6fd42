"""The client's end of its link to one agent: connecting, the hello, numbered messages, heartbeats, connecting again.

Clients have one for each pilot, and the head of a pilot with partitions has one for each of these. A link is in one of three
states: *waiting* (the next attempt to connect is due at ``retry_at``; None: it waits to be told), *greeting* (connected, the
agent has not answered) and *open*. A connection that breaks is made anew, as often as needed. Who is no longer there is for
others to find out.

An agent on another machine may tell several addresses, of which some lead nowhere from here. They are tried one after the
other, and longer in each round; the one that worked is tried first the next time.
"""

from __future__ import annotations

import select
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from pilotage.errors import ProtocolError
from pilotage.model.ids import SessionUid
from pilotage.system.processes import boot_id
from pilotage.wire.channel import AccessDenied, ClientChannel, Disconnected
from pilotage.wire.connect import connect
from pilotage.wire.keys import Connection, read_connection, read_key_pair
from pilotage.wire.link import IncomingLink, Liveness, OutgoingLink, Unacknowledged
from pilotage.wire.messages import (
    PROTOCOL,
    Acknowledge,
    AgentHello,
    ClientHello,
    FromAgent,
    FromPartition,
    Heartbeat,
    Outcomes,
    PilotEnded,
)

HEARTBEAT_S = 5.0
LOSS_S = 20.0
RETRY_FIRST_S = 0.02
RETRY_LONGEST_S = 1.0
PATIENCES_S = (3.0, 6.0, 12.0)
"""How long an agent of several addresses has to answer at one of them, by round."""
INCOMING_WINDOW_MESSAGES = 4
"""The agent keeps few messages under way, so that they grow when the client is slow; credit is given back accordingly."""


class AgentLink:
    """The link to one agent, which tells in the file ``address`` where it listens.

    ``epoch`` is that of this client. ``frame(number)`` encodes a message that is not known to have arrived: ``unacknowledged``
    are the numbers of those, ``last`` is that of the last message, ``durable`` that of the last one of the agent. ``key_file``
    holds the key pair for agents that are reached over the network. ``retry_at``: when to connect first.
    """

    def __init__(
        self,
        session: SessionUid,
        epoch: int,
        address: Path,
        poll: select.epoll,
        frame: Callable[[int], bytes],
        *,
        last: int,
        unacknowledged: Iterable[int],
        durable: int,
        retry_at: float | None,
        key_file: Path | None = None,
    ) -> None:
        self.address = address
        self.retry_at = retry_at
        self.is_open = False
        self.refusal = ""
        self.channel: ClientChannel | None = None
        self._channel_fd = -1
        self._session = session
        self._epoch = epoch
        self._key_file = key_file
        self._attempts = 0
        self._patience_until: float | None = None
        self._last_refusal = ""
        self._poll = poll
        self._retry_s = RETRY_FIRST_S
        self._connection: Connection | None = None
        self._liveness: Liveness | None = None
        self.outgoing = OutgoingLink(
            frame,
            last=last,
            unacknowledged=[Unacknowledged(number, 0, number) for number in sorted(unacknowledged)],
            kept_bytes=0,
        )
        self.incoming = IncomingLink(durable=durable, window_messages=INCOMING_WINDOW_MESSAGES)
        self._logged: deque[tuple[int, int]] = deque()

    # finding the agent

    def connect(self, now: float) -> None:
        """Try to connect, and say hello. The log was synced before."""
        self.retry_at = None
        try:
            self._connection = read_connection(self.address)
            self.channel = self._open(self._connection)
        except AccessDenied as error:
            self._refused(error)
            self._retry_later(now)
            return
        except (OSError, Disconnected, ProtocolError):
            self._retry_later(now)
            return
        self._channel_fd = self.channel.fileno()
        self._poll.register(self._channel_fd, select.EPOLLIN)
        self.incoming.synced(self.incoming.received)
        self._logged.clear()
        self._liveness = Liveness(HEARTBEAT_S, LOSS_S, now)
        if len(self._connection.tcp) > 1:
            in_rounds = (self._attempts - 1) // len(self._connection.tcp)
            self._patience_until = now + PATIENCES_S[min(in_rounds, len(PATIENCES_S) - 1)]
        self.channel.send(ClientHello(PROTOCOL, self._session, self._epoch, self.incoming.hello()))

    def _open(self, connection: Connection) -> ClientChannel:
        if not connection.tcp:
            return connect(connection, boot_id(), None)
        # The platform asked for the network, so that is the way even where the socket could be reached.
        keys = read_key_pair(self._key_file) if self._key_file is not None else None
        attempt, self._attempts = self._attempts, self._attempts + 1
        return connect(msgspec.structs.replace(connection, socket=""), boot_id(), keys, attempt)

    def _refused(self, error: AccessDenied | ProtocolError) -> None:
        # Every attempt may fail alike; the user is told once.
        if str(error) != self._last_refusal:
            self.refusal = self._last_refusal = str(error)

    def _retry_later(self, now: float) -> None:
        self.retry_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_LONGEST_S)

    # messages

    def receive(self, now: float) -> list[FromAgent]:
        """Return what has arrived; a broken connection is noted, and made anew later."""
        if self.channel is None:
            return []
        try:
            messages = self.channel.receive()
        except (AccessDenied, ProtocolError) as error:
            self._refused(error)
            self.disconnect(now)
            return []
        except Disconnected:
            self.disconnect(now)
            return []
        if messages and self._liveness is not None:
            self._liveness.heard(now)
        return messages

    def greeted(self, hello: AgentHello) -> None:
        """The agent answered the hello: send again what it lacks, and open the link."""
        self.is_open = True
        if self._patience_until is not None and self._connection is not None:
            self._patience_until = None
            self._attempts = (self._attempts - 1) % len(self._connection.tcp)
        self._retry_s = RETRY_FIRST_S
        self.outgoing.resume(hello.durable)
        self._send_again()

    def accept(self, now: float, message: Outcomes | PilotEnded | FromPartition) -> bool:
        """Judge a numbered message; True when it is new. A gap breaks the connection, so that it is sent again."""
        size = len(message.outcomes) if isinstance(message, Outcomes) else 0
        verdict = self.incoming.accept(message.number, size)
        if verdict == "gap":
            self.disconnect(now)
        return verdict == "new"

    def acknowledged(self, message: Acknowledge) -> None:
        """The agent tells how far it has come."""
        self.outgoing.acknowledge(message.received, message.durable)
        self._send_again()

    def send(self, frame: bytes) -> None:
        """Send a frame. If the connection is lost it is sent again after the next hello."""
        if self.channel is not None:
            self.channel.send(frame)

    def may_number(self) -> bool:
        """Tell whether a new message may be numbered and sent now."""
        return self.is_open and self.outgoing.may_send()

    @property
    def takes_messages(self) -> bool:
        """Whether the agent still takes messages; one that has ended only waits for the last acknowledgement."""
        return True

    def _send_again(self) -> None:
        if self.takes_messages:
            for frame in self.outgoing.transmit():
                self.send(frame)

    # acknowledging

    def logged(self, record: int) -> None:
        """All that was received is in the log up to this record."""
        received = self.incoming.received
        if received > self.incoming.durable and (not self._logged or self._logged[-1][1] < received):
            self._logged.append((record, received))

    def synced(self, record: int) -> None:
        """The log is on disk up to this record."""
        while self._logged and self._logged[0][0] <= record:
            self.incoming.synced(self._logged.popleft()[1])

    def acknowledge(self) -> None:
        """Tell the agent how far we are, if that is due."""
        message = self.incoming.acknowledgement() if self.is_open else None
        if message is not None and self.channel is not None:
            self.channel.send(message)

    # time and end

    def tick(self, now: float) -> bool:
        """Send a heartbeat if one is due, and notice silence; return True when it is time to connect."""
        if self.channel is not None and self._liveness is not None:
            if self._liveness.lost(now) or (self._patience_until is not None and now >= self._patience_until):
                self.disconnect(now)
            elif self._liveness.due(now):
                self.channel.send(Heartbeat())
                self._liveness.said(now)
        return self.retry_at is not None and now >= self.retry_at

    def next_event(self) -> float | None:
        """Return when ``tick`` is due."""
        if self.channel is not None and self._liveness is not None:
            due = self._liveness.next_event()
            return due if self._patience_until is None else min(due, self._patience_until)
        return self.retry_at

    def owns(self, descriptor: int) -> bool:
        """Tell whether this is the descriptor of the link's channel."""
        return descriptor == self._channel_fd

    def disconnect(self, now: float) -> None:
        """Drop the connection, and try again soon."""
        self._drop_channel()
        self._retry_later(now)

    def close(self) -> None:
        """Release the connection; the link is over."""
        self._drop_channel()
        self.retry_at = None

    def _drop_channel(self) -> None:
        if self.channel is not None:
            self._poll.unregister(self._channel_fd)
            self.channel.close()
            self.channel, self._channel_fd = None, -1
        self.is_open = False
        self._liveness = None
        self._patience_until = None
        self.outgoing.disconnected()
