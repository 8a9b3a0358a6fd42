"""The agent's end of its link to the client: who is connected, what it may be sent, what it has, and whether it still lives.

Numbered messages are judged here (new, double, gap); what they mean is for the core. Frames that are not acknowledged are not
kept: they are made again from the core's state, which holds their outcomes until they are delivered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from pilotage.agent.settings import PilotSettings
from pilotage.core.agent.client_side import ClientSide
from pilotage.core.agent.state import AgentState
from pilotage.model.outcome import Outcome
from pilotage.wire.channel import AgentChannel, Peer
from pilotage.wire.codec import encode
from pilotage.wire.link import IncomingLink, Liveness, OutgoingLink, Unacknowledged
from pilotage.wire.messages import (
    PROTOCOL,
    Acknowledge,
    AgentHello,
    Cancel,
    ClientHello,
    EndPilot,
    FromAgent,
    FromPartition,
    Heartbeat,
    NodesReturned,
    Outcomes,
    PilotEnded,
    PrepareEnvironment,
    Refused,
    Submit,
    TasksReturned,
    ToHead,
    ToPartition,
)

HEARTBEAT_S = 5.0
LOSS_S = 20.0
WINDOW_MESSAGES = 4
"""Messages of outcomes under way. Few, so that they grow when the client is slow to take them."""

_encode_outcomes = msgspec.msgpack.Encoder().encode


class ClientLink:
    """The link to the one client; observers come and go beside it. ``sync`` makes the log durable now."""

    def __init__(
        self, settings: PilotSettings, state: ClientSide, incarnation: int, active_since: float, sync: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._state = state
        self._incarnation = incarnation
        self._active_since = active_since
        self._sync = sync
        self._epoch = settings.client_epoch
        self._peer: Peer | None = None
        self._channel: AgentChannel | None = None
        unacknowledged = [Unacknowledged(number, 0, number) for number in range(state.delivered + 1, state.numbered + 1)]
        self._outgoing = OutgoingLink(
            self._frame,
            last=state.numbered,
            unacknowledged=unacknowledged,
            window_messages=WINDOW_MESSAGES,
            kept_bytes=0,
        )
        self._incoming = IncomingLink(durable=state.received)
        self._logged: deque[tuple[int, int]] = deque()
        self._liveness: Liveness | None = None
        self.lost_since: float | None = None
        """Since when no client is heard of; None while one is."""

    @property
    def connected(self) -> bool:
        """Whether a client is connected."""
        return self._peer is not None

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent now."""
        return self._outgoing.may_send()

    @property
    def received(self) -> int:
        """Number of the last message of the client that was taken."""
        return self._incoming.received

    @property
    def durable(self) -> int:
        """Number of the last message of the client that is in the log on disk."""
        return self._incoming.durable

    def hello(self, now: float, channel: AgentChannel, peer: Peer, hello: ClientHello) -> bool:
        """Answer a hello; return True when this is the client from now on."""
        settings = self._settings
        reason = ""
        if hello.protocol != PROTOCOL:
            reason = (
                f"the client speaks protocol {hello.protocol}, this agent {PROTOCOL}; "
                "use the same version of Pilotage on both sides"
            )
        elif hello.session != settings.session:
            reason = f"this pilot belongs to session {settings.session}, not to {hello.session}"
        elif not hello.observer and hello.client_epoch < self._epoch:
            reason = (
                f"the session was taken over: this client's epoch is {hello.client_epoch}, the newest {self._epoch}; "
                "work with the program that holds the session now, or resume it"
            )
        elif not hello.observer and hello.durable > self._state.numbered:
            reason = f"the client has message {hello.durable}, the agent's log ends at {self._state.numbered}"
        if reason:
            channel.send(peer, Refused(reason))
            return False
        if not hello.observer:
            if self._peer is not None and self._peer != peer and self._channel is not None:
                # Of the same epoch it is the same client, who may have connected twice; the first hello may come last.
                if hello.client_epoch > self._epoch:
                    self._channel.send(self._peer, Refused("another client has taken this session over"))
                self._channel.drop(self._peer)
            self._epoch = hello.client_epoch
            self._peer, self._channel = peer, channel
            self._sync()
            self._incoming.synced(self._incoming.received)
            self._logged.clear()
        channel.send(
            peer,
            AgentHello(
                PROTOCOL,
                settings.session,
                settings.pilot,
                self._incarnation,
                self._incoming.durable if hello.observer else self._incoming.hello(),
                settings.nodes,
                self._active_since,
            ),
        )
        if hello.observer:
            return False
        self._outgoing.resume(hello.durable)
        self._liveness = Liveness(HEARTBEAT_S, LOSS_S, now)
        self.lost_since = None
        self._send_frames(self._outgoing.transmit())
        return True

    def is_client(self, channel: AgentChannel, peer: Peer) -> bool:
        """Tell whether this peer is the client."""
        return peer == self._peer and channel is self._channel

    def heard(self, now: float) -> None:
        """Something came from the client."""
        if self._liveness is not None:
            self._liveness.heard(now)

    def accept(self, message: Submit | Cancel | EndPilot | PrepareEnvironment | ToPartition | ToHead) -> bool:
        """Judge a numbered message; return True when it is new. A gap drops the client, who will connect again."""
        verdict = self._incoming.accept(message.number, len(message.batch) if isinstance(message, Submit) else 0)
        if verdict == "gap":
            self.drop()
        return verdict == "new"

    def logged(self, record: int) -> None:
        """All that was accepted so far is in the log up to this record."""
        received = self._incoming.received
        if received > self._incoming.durable and (not self._logged or self._logged[-1][1] < received):
            self._logged.append((record, received))

    def synced(self, record: int) -> None:
        """The log is on disk up to this record."""
        while self._logged and self._logged[0][0] <= record:
            self._incoming.synced(self._logged.popleft()[1])

    def acknowledge(self) -> None:
        """Tell the client how far we are, if that is due."""
        message = self._incoming.acknowledgement() if self._peer is not None else None
        if message is not None:
            self._send(message)

    def acknowledged(self, message: Acknowledge) -> None:
        """The client tells how far it is."""
        self._outgoing.acknowledge(message.received, message.durable)
        self._send_frames(self._outgoing.transmit())

    def send_outcomes(self, number: int, outcomes: list[Outcome]) -> None:
        """Send a message of outcomes for the first time."""
        frame = encode(Outcomes(number, msgspec.Raw(_encode_outcomes(outcomes))))
        self._outgoing.send(number, frame, number)
        self._send(frame)

    def send_ended(self, message: PilotEnded) -> None:
        """Send the last message for the first time."""
        frame = encode(message)
        self._outgoing.send(message.number, frame, message.number)
        self._send(frame)

    def send_answer(self, message: FromPartition) -> None:
        """Send nodes or tasks that are given back for the first time."""
        frame = encode(message)
        self._outgoing.send(message.number, frame, message.number)
        self._send(frame)

    def reaches_client(self) -> bool:
        """Tell whether the client can be spoken to at this moment: its silence alone would be noticed much later."""
        self.send(Heartbeat())
        return self.connected

    def send(self, message: FromAgent) -> None:
        """Send a plain message, if a client is there."""
        if self._peer is not None:
            self._send(message)

    def tick(self, now: float) -> None:
        """Send a heartbeat if one is due; notice that the client is gone, or has never come."""
        if self._peer is not None and self._liveness is not None:
            if self._liveness.lost(now):
                self.drop()
            elif self._liveness.due(now):
                self._send(Heartbeat())
                self._liveness.said(now)
        if self._peer is None and self.lost_since is None:
            self.lost_since = now

    def next_event(self) -> float | None:
        """Return when ``tick`` is due."""
        if self._peer is None:
            # Lost while something was sent to it, since the last tick: from when, that has still to be noted.
            return 0.0 if self.lost_since is None else None
        return self._liveness.next_event() if self._liveness is not None else None

    def drop(self) -> None:
        """Have nothing to do with the present connection of the client any more; the client may connect again."""
        if self._channel is not None and self._peer is not None:
            self._channel.drop(self._peer)
        self._peer, self._channel = None, None
        self._outgoing.disconnected()

    def _send(self, message: FromAgent | bytes) -> None:
        assert self._channel is not None and self._peer is not None
        if not self._channel.send(self._peer, message):
            self.drop()

    def _send_frames(self, frames: list[bytes]) -> None:
        for frame in frames:
            if self._peer is not None:
                self._send(frame)

    def _frame(self, number: int) -> bytes:
        state = self._state
        if number == state.ended and state.ending is not None:
            ending = state.ending
            told = (state.begun_tasks, state.tries, ending.out_of_time)
            return encode(PilotEnded(number, ending.state, ending.reason, *told))
        if isinstance(state, AgentState) and number in state.undelivered_nodes:
            return encode(NodesReturned(number, *state.undelivered_nodes[number]))
        if isinstance(state, AgentState) and number in state.undelivered_tasks:
            return encode(TasksReturned(number, *state.undelivered_tasks[number]))
        return encode(Outcomes(number, msgspec.Raw(_encode_outcomes(state.undelivered[number]))))
