"""Links between a client and its pilots, with the real numbering, acknowledgement and credit, over wires that may fail.

Frames are the real ones, encoded and decoded. A message takes up to ``delay_s``, on each wire in order; after some the
connection breaks, and what was under way is gone. The upper end connects anew, both say hello, and each sends again what the
other has not; what is under way on an older connection is not shown to anybody. A link that was just made anew may deliver once
more what it had delivered before.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Protocol

import msgspec

from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.outcome import Outcome
from pilotage.model.resources import Node
from pilotage.model.workload import Batch
from pilotage.sim.clock import Timeline
from pilotage.sim.processes import Numbers, Process
from pilotage.wire.codec import decode_from_agent, decode_from_client, encode
from pilotage.wire.link import IncomingLink, OutgoingLink, Unacknowledged
from pilotage.wire.messages import (
    PROTOCOL,
    Acknowledge,
    AddPartition,
    AgentHello,
    Cancel,
    ClientHello,
    EndPilot,
    FromAgent,
    FromClient,
    FromPartition,
    GrantNodes,
    NodesReturned,
    Outcomes,
    PilotEnded,
    PrepareEnvironment,
    RecallTasks,
    ReclaimNodes,
    RetirePartition,
    Submit,
    TasksReturned,
    ToHead,
    ToPartition,
)

SESSION = SessionUid("session.simulated")
RECONNECT_S = 0.5
"""A broken link is made anew within this time, on average half of it."""
RETRY_S = 1.0
"""Where nobody listens, another attempt is made after this time."""
WINDOW_MESSAGES = 4
"""Messages of outcomes under way, as between a real agent and its client."""
UPPER_WINDOW_MESSAGES = 8
"""The same of messages of tasks."""
DOUBLES = 0.3
"""Share of new connections on which the last message before comes once more."""

Companion = list[Outcome] | None
"""The outcomes in a message, as the sender has them: decoding them again would tell nothing new."""
BatchCompanion = Batch | None
"""The same for the tasks in a message."""


Downward = Submit | Cancel | EndPilot | PrepareEnvironment | ToPartition | ToHead
Upward = Outcomes | PilotEnded | FromPartition
"""Numbered messages."""


class Troubles(msgspec.Struct, frozen=True):
    """What goes wrong on all links, by chance."""

    chance: random.Random
    delay_s: float = 0.0
    loss: float = 0.0


class Upper(Protocol):
    """Who stands at the upper end: a client, or the metascheduler of a partition, which is named like a pilot here."""

    def greeted(self, pilot: PilotUid, hello: AgentHello) -> None:
        """The agent answered."""

    def heard_from_below(self, pilot: PilotUid, message: FromAgent, outcomes: Companion) -> None:
        """A message came that is new, or a plain one."""


class End:
    """One end: what it has sent and heard. ``load`` makes the frame of a message again, from the state of its owner."""

    def __init__(self, load: Callable[[int], bytes], *, sent: int, delivered: int, received: int, window: int) -> None:
        waiting = [Unacknowledged(number, 0, number) for number in range(delivered + 1, sent + 1)]
        self.outgoing = OutgoingLink(load, last=sent, unacknowledged=waiting, window_messages=window, kept_bytes=0)
        self.incoming = IncomingLink(durable=received, window_messages=window)


class Link:
    """The link to one pilot."""

    def __init__(
        self, timeline: Timeline, troubles: Troubles, pilot: PilotUid, upper: Upper, load: Callable[[int], bytes]
    ) -> None:
        self.broken = 0
        """How often it broke."""
        self._timeline = timeline
        self._troubles = troubles
        self._pilot = pilot
        self._upper_owner = upper
        self._load = load
        self._upper = End(load, sent=0, delivered=0, received=0, window=UPPER_WINDOW_MESSAGES)
        self._upper_there = True
        self._lower_owner: Process | None = None
        self._lower: End | None = None
        self._nodes: list[Node] = []
        self._incarnation = 0
        self._connection = 0
        """Counts connections; what is under way belongs to one of them."""
        self._open = False
        self._closed = False
        self._arrivals = [0.0, 0.0]
        """When the last message that is under way arrives, down and up."""
        self._last_down: bytes = b""
        self._last_up: bytes = b""

    # ------------------------------------------------------------------------------------------------------- the lower end

    def listen(self, owner: Process, end: End, nodes: list[Node]) -> None:
        """An agent is there; another incarnation of it than the one before."""
        self._lower_owner, self._lower, self._nodes = owner, end, nodes
        self._incarnation += 1

    def hang_up(self) -> None:
        """The agent is gone."""
        self._lower_owner, self._lower = None, None
        self._break()

    def close(self) -> None:
        """Nothing will come from the pilot any more: a connection that breaks is not made anew."""
        self._closed = True

    @property
    def lower_has_room(self) -> bool:
        """Whether the agent may send another message now."""
        return self._lower is not None and self._lower.outgoing.may_send()

    def send_up(self, number: int, message: Upward, outcomes: Companion) -> None:
        """Send a numbered message of the agent for the first time."""
        if self._lower is not None:
            frame = encode(message)
            self._lower.outgoing.send(number, frame, number)
            self._up(frame, outcomes)

    def tell_up(self, message: FromAgent) -> None:
        """Send a plain message, if the client is there."""
        if self._open:
            self._up(encode(message), None)

    # ------------------------------------------------------------------------------------------------------- the upper end

    def take_over(self, sent: int, delivered: int, received: int) -> None:
        """Another life of who stands at the upper end goes on, from what its log says; ``connect`` follows."""
        self._upper = End(self._load, sent=sent, delivered=delivered, received=received, window=UPPER_WINDOW_MESSAGES)
        self._upper_there = True

    def let_go(self) -> None:
        """Who stands at the upper end is gone."""
        self._upper_there = False
        self._break()

    def ask(self, message: FromClient) -> None:
        """Send a plain message, if the agent is there."""
        if self._open:
            self._down(encode(message))

    def connect(self) -> None:
        """Say hello, now; if nobody listens, later."""
        if self._closed or self._open or not self._upper_there:
            return
        if self._lower is None:
            self._timeline.at(self._timeline.now + RETRY_S, self.connect)
            return
        self._connection += 1
        self._open = True
        self._arrivals = [0.0, 0.0]
        self._down(encode(ClientHello(PROTOCOL, SESSION, 1, self._upper.incoming.hello())))
        if self._last_down and self._troubles.loss and self._troubles.chance.random() < DOUBLES:
            self._down(self._last_down)

    @property
    def heard_through(self) -> int:
        """The number of the last message of the agent that the client has."""
        return self._upper.incoming.received

    @property
    def next_number(self) -> int:
        """The number of the client's next message."""
        return self._upper.outgoing.next_number

    @property
    def upper_has_room(self) -> bool:
        """Whether the client may send another message now."""
        return self._open and self._upper.outgoing.may_send()

    def send_down(self, number: int, message: Downward, batch: BatchCompanion = None) -> None:
        """Send a numbered message of the client for the first time."""
        frame = encode(message)
        self._upper.outgoing.send(number, frame, number)
        self._down(frame, batch)

    # ------------------------------------------------------------------------------------------------------------ the wires

    def _break(self) -> None:
        """The connection is lost, with all that is under way on it."""
        if not self._open:
            return
        self._open = False
        self.broken += 1
        self._upper.outgoing.disconnected()
        if self._lower is not None:
            self._lower.outgoing.disconnected()
        pause = self._troubles.chance.random() * RECONNECT_S
        self._timeline.at(self._timeline.now + pause, self.connect)

    def _carry(self, direction: int, deliver: Callable[[], None]) -> None:
        timeline, troubles, connection = self._timeline, self._troubles, self._connection
        at = timeline.now
        if troubles.delay_s:
            at += troubles.chance.random() * troubles.delay_s
        at = self._arrivals[direction] = max(at, self._arrivals[direction])

        def arrive() -> None:
            if self._open and self._connection == connection:
                deliver()

        timeline.at(at, arrive)
        if troubles.loss and troubles.chance.random() < troubles.loss:
            timeline.at(timeline.now + troubles.chance.random() * (at - timeline.now), self._breaker(connection))

    def _breaker(self, connection: int) -> Callable[[], None]:
        def happen() -> None:
            if self._connection == connection:
                self._break()

        return happen

    def _down(self, frame: bytes, batch: BatchCompanion = None) -> None:
        self._carry(0, lambda: self._arrived_below(frame, batch))

    def _up(self, frame: bytes, outcomes: Companion) -> None:
        self._carry(1, lambda: self._arrived_above(frame, outcomes))

    def _send_again(self, frames: Iterable[bytes], up: bool) -> None:
        for frame in frames:
            if up:
                self._up(frame, None)
            else:
                self._down(frame)

    def _arrived_below(self, frame: bytes, batch: BatchCompanion) -> None:
        message, end, owner = decode_from_client(frame), self._lower, self._lower_owner
        assert end is not None and owner is not None
        match message:
            case ClientHello():
                hello = end.incoming.hello()
                self._up(encode(AgentHello(PROTOCOL, SESSION, self._pilot, self._incarnation, hello, self._nodes, 0.0)), None)
                if self._last_up and self._troubles.loss and self._troubles.chance.random() < DOUBLES:
                    self._up(self._last_up, None)
                end.outgoing.resume(message.durable)
                self._send_again(end.outgoing.transmit(), up=True)
                owner.hello_heard(message.durable)
            case Acknowledge():
                end.outgoing.acknowledge(message.received, message.durable)
                self._send_again(end.outgoing.transmit(), up=True)
                owner.heard_from_above(message)
            case (
                Submit()
                | Cancel()
                | EndPilot()
                | PrepareEnvironment()
                | GrantNodes()
                | ReclaimNodes()
                | RecallTasks()
                | AddPartition()
                | RetirePartition()
            ):
                size = len(message.batch) if isinstance(message, Submit) else 0
                if not self._is_new(end, message.number, size):
                    return
                self._last_down = frame if self._troubles.loss else b""
                owner.heard_from_above(message, batch)
                # The owner may have died of it, and with it its end.
                if end is self._lower and (told := _acknowledgement(end, message.number)) is not None and self._open:
                    self._up(encode(told), None)
            case _:
                owner.heard_from_above(message)

    def _is_new(self, end: End, number: int, size: int) -> bool:
        verdict = end.incoming.accept(number, size)
        if verdict == "gap":
            self._break()
        return verdict == "new"

    def _arrived_above(self, frame: bytes, outcomes: Companion) -> None:
        message, end, owner, pilot = decode_from_agent(frame), self._upper, self._upper_owner, self._pilot
        match message:
            case AgentHello():
                end.outgoing.resume(message.durable)
                self._send_again(end.outgoing.transmit(), up=False)
                owner.greeted(pilot, message)
            case Acknowledge():
                end.outgoing.acknowledge(message.received, message.durable)
                self._send_again(end.outgoing.transmit(), up=False)
                owner.heard_from_below(pilot, message, None)
            case Outcomes() | PilotEnded() | NodesReturned() | TasksReturned():
                size = len(message.outcomes) if isinstance(message, Outcomes) else 0
                if not self._is_new(end, message.number, size):
                    return
                self._last_up = frame if self._troubles.loss else b""
                owner.heard_from_below(pilot, message, outcomes)
                if (told := _acknowledgement(end, message.number)) is not None and self._open:
                    self._down(encode(told))
            case _:
                owner.heard_from_below(pilot, message, None)


class LinkUp:
    """The lower end of a link, as an agent or metascheduler has it."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent now."""
        return self._link.lower_has_room

    def listen(self, process: Process, numbers: Numbers) -> None:
        """The process is there; its log says how far it has come."""
        end = End(
            lambda number: encode(process.frame(number)),
            sent=numbers.numbered,
            delivered=numbers.delivered,
            received=numbers.received,
            window=WINDOW_MESSAGES,
        )
        self._link.listen(process, end, process.nodes)

    def hang_up(self) -> None:
        """The process is gone."""
        self._link.hang_up()

    def send(self, number: int, message: Upward, outcomes: Companion) -> None:
        """Send a numbered message for the first time."""
        self._link.send_up(number, message, outcomes)

    def tell(self, message: FromAgent) -> None:
        """Send a plain message."""
        self._link.tell_up(message)


def _acknowledgement(end: End, number: int) -> Acknowledge | None:
    """The message is in the log, which is durable here at once; return what to tell the sender."""
    end.incoming.synced(number)
    return end.incoming.acknowledgement()
