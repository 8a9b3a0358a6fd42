"""Who submits tasks in a simulation, and hears of their outcomes.

``SimulatedClient`` is a whole client: its core binds tasks to pilots, sends them and takes outcomes, over ``links``. A
``PlainClient`` hands tasks to its one pilot as they come, which costs less and remembers nothing of what is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pilotage.core.client import actions, events, facts
from pilotage.core.client.core import ClientCore
from pilotage.core.client.state import Queued, QueuedCancel, QueuedEnd, QueuedEnvironment, QueuedTasks
from pilotage.errors import unreachable
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.states import FINAL
from pilotage.model.workload import Batch
from pilotage.sim.links import Companion, Link, LinkUp, Troubles
from pilotage.sim.metaschedulers import SimulatedMetascheduler
from pilotage.sim.outboxes import message_of
from pilotage.sim.pilots import SimulatedPilot
from pilotage.sim.processes import Uplink
from pilotage.sim.stage import Stage
from pilotage.wire.codec import encode
from pilotage.wire.messages import (
    Acknowledge,
    AgentHello,
    FromAgent,
    Outcomes,
    PilotEnded,
    Progress,
)

PILOTS, TASKS = "pmgr.0000", "tmgr.0000"

_encode = msgspec.msgpack.Encoder().encode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode
_NOTHING = msgspec.Raw(_encode({}))
_NO_BATCH = (_NOTHING, None)

AnyPilot = SimulatedPilot | SimulatedMetascheduler

Hear = Callable[[Sequence[Outcome]], None]
"""What the user's program is told."""


class Client(Protocol):
    """What the world asks of a client."""

    def add_pilot(self, pilot: AnyPilot) -> None:
        """The user asks for this pilot, whose way up is ``open_link``."""

    def open_link(self, pilot: PilotUid) -> Uplink:
        """Return the way of a pilot to the client."""

    def submit(self, batch: Batch) -> None:
        """The user submits tasks."""

    def cancel(self, tasks: Sequence[TaskUid]) -> None:
        """The user cancels tasks."""

    def prepare(self, pilot: PilotUid, name: str) -> None:
        """The user wants an environment in a pilot."""

    def end(self, pilots: Sequence[PilotUid], drain: bool) -> None:
        """The user ends pilots."""

    def pilot_lost(self, pilot: AnyPilot, reason: str) -> None:
        """The pilot is gone, and nothing of it runs any more."""

    def is_over(self, pilot: PilotUid) -> bool:
        """Tell whether the pilot takes nothing and will say nothing any more."""

    @property
    def links_broken(self) -> int:
        """How often a link broke."""


class SimulatedClient:
    """The real client's core, and a link for each pilot."""

    def __init__(self, stage: Stage, hear: Hear) -> None:
        self.core = ClientCore()
        self._stage = stage
        self._hear = hear
        chance = stage.chance("client")
        self._clock = stage.clock(chance)
        self._troubles = Troubles(stage.chance("links"), stage.faults.message_delay_s, stage.faults.message_loss)
        self._links: dict[PilotUid, Link] = {}
        self._batches: dict[int, tuple[msgspec.Raw, Batch]] = {}
        """What was submitted and is not sent yet, encoded and as it is, by the identity of the former."""
        self._handle(events.SessionOpened(self._now(), 1))
        self._handle(events.ManagerCreated(self._now(), PILOTS, "pilots"))
        self._handle(events.ManagerCreated(self._now(), TASKS, "tasks"))

    def _now(self) -> float:
        return self._clock.now()

    # What the user does.

    def add_pilot(self, pilot: AnyPilot) -> None:
        """The user asks for this pilot, and adds it to the manager of tasks; it starts at once."""
        uid = pilot.uid
        link = self._links[uid]
        self._handle(events.PilotSubmitted(self._now(), PILOTS, uid, _NOTHING, pilot.nodes))
        self._handle(events.PilotsAttached(self._now(), TASKS, [uid]))
        self._stage.timeline.at(self._stage.timeline.now, pilot.start)
        self._stage.timeline.at(self._stage.timeline.now, link.connect)

    def open_link(self, pilot: PilotUid) -> Uplink:
        """Return the way of a pilot to this client."""
        records = self.core.state.pilots

        def load(number: int) -> bytes:
            return encode(message_of(number, records[pilot].unacknowledged[number]))

        link = self._links[pilot] = Link(self._stage.timeline, self._troubles, pilot, self, load)
        return LinkUp(link)

    def submit(self, batch: Batch) -> None:
        """Hand tasks to the core, as a manager does."""
        encoded = msgspec.Raw(_encode(batch))
        if len(self._links) == 1:
            # It goes to the pilot as it is; tasks for several are put together anew.
            self._batches[id(encoded)] = (encoded, batch)
        self._handle(events.TasksSubmitted(self._now(), TASKS, PilotUid(""), batch, encoded))

    def cancel(self, tasks: Sequence[TaskUid]) -> None:
        """Cancel tasks."""
        self._handle(events.CancelRequested(self._now(), list(tasks)))

    def prepare(self, pilot: PilotUid, name: str) -> None:
        """Ask for an environment."""
        self._handle(events.EnvironmentAsked(self._now(), pilot, name, _NOTHING))

    def end(self, pilots: Sequence[PilotUid], drain: bool) -> None:
        """End pilots."""
        self._handle(events.PilotCancelRequested(self._now(), list(pilots), drain))

    def pilot_lost(self, pilot: AnyPilot, reason: str) -> None:
        """Read what the pilot's log tells, as it is fenced, and give it up."""
        record = self.core.state.pilots[pilot.uid]
        found = pilot.aftermath(record.received)
        encoded = msgspec.Raw(_encode(found.outcomes))
        self._handle(
            events.PilotLost(self._now(), pilot.uid, reason, found.received, found.outcomes, encoded, [*found.not_begun])
        )

    def is_over(self, pilot: PilotUid) -> bool:
        """Tell whether the pilot has said goodbye, or is given up."""
        return self.core.state.pilots[pilot].state in FINAL

    @property
    def links_broken(self) -> int:
        """How often a link broke."""
        return sum(link.broken for link in self._links.values())

    # What pilots say.

    def greeted(self, pilot: PilotUid, hello: AgentHello) -> None:
        """An agent answered."""
        self._handle(events.AgentGreeted(self._now(), pilot, hello.incarnation, hello.durable, hello.nodes))

    def heard_from_below(self, pilot: PilotUid, message: FromAgent, outcomes: Companion) -> None:
        """An agent sent this; numbered messages are new."""
        now = self._now()
        match message:
            case Outcomes():
                some = _decode_outcomes(message.outcomes) if outcomes is None else outcomes
                self._handle(events.OutcomesArrived(now, pilot, message.number, some, message.outcomes))
            case Acknowledge():
                self._handle(events.AgentAcknowledged(now, pilot, message.durable))
                self._offer(pilot)
            case PilotEnded():
                self._handle(events.PilotEndArrived(now, pilot, *msgspec.structs.astuple(message)))
            case Progress():
                if message.services:
                    self._handle(events.ServicesSeen(now, pilot, message.services))
            case _:
                raise AssertionError(f"{pilot} sends {message}")

    # Steps.

    def _handle(self, event: events.Event) -> None:
        effort = self._stage.effort
        began = effort.begin()
        decision = self.core.handle(event)
        effort.end(began)
        self._note(decision.facts)
        told: list[Outcome] = []
        for action in decision.actions:
            match action:
                case actions.OfferMessages():
                    self._offer(action.pilot)
                case actions.TellTasks():
                    told += [record.outcome for record in action.tasks if record.outcome is not None]
                case actions.DisconnectPilot():
                    self._links[action.pilot].close()
                case (
                    actions.SendMessage()
                    | actions.StartPilot()
                    | actions.SubmitJob()
                    | actions.WatchJob()
                    | actions.CancelJob()
                    | actions.FencePilot()
                    | actions.TellPilot()
                    | actions.TellWaiting()
                    | actions.Warn()
                ):
                    pass
                case _:
                    unreachable(action)
        if told:
            self._hear(told)

    def _note(self, some: Sequence[facts.Fact]) -> None:
        if some:
            self._stage.digest.note(some)

    def _offer(self, pilot: PilotUid) -> None:
        """Number and send what the link has room for now."""
        link, record, effort = self._links[pilot], self.core.state.pilots[pilot], self._stage.effort
        while record.outbox and link.upper_has_room:
            number = link.next_number
            began = effort.begin()
            decision = self.core.handle(events.LinkOpened(pilot, number))
            effort.end(began)
            self._note(decision.facts)
            queued = record.unacknowledged[number]
            _, batch = self._batches.pop(id(queued.batch), _NO_BATCH) if isinstance(queued, QueuedTasks) else _NO_BATCH
            link.send_down(number, message_of(number, queued), batch)


class PlainClient:
    """Hands tasks to one pilot over a link, and counts what comes back: nothing is decided, and nothing kept."""

    def __init__(self, stage: Stage, hear: Hear) -> None:
        self._stage = stage
        self._hear = hear
        self._troubles = Troubles(stage.chance("links"), stage.faults.message_delay_s, stage.faults.message_loss)
        self._link: Link | None = None
        self._outbox: deque[tuple[Queued, Batch | None]] = deque()
        self._unacknowledged: dict[int, Queued] = {}
        self._over = False

    def add_pilot(self, pilot: AnyPilot) -> None:
        """This is the pilot; there is no other."""
        assert self._link is not None
        timeline = self._stage.timeline
        timeline.at(timeline.now, pilot.start)
        timeline.at(timeline.now, self._link.connect)

    def open_link(self, pilot: PilotUid) -> Uplink:
        """Return the way of the pilot to this client."""
        if self._link is not None:
            raise ValueError("without a client there is nobody to choose among pilots; simulate with client=True, or one pilot")
        self._link = Link(self._stage.timeline, self._troubles, pilot, self, self._load)
        return LinkUp(self._link)

    def _load(self, number: int) -> bytes:
        return encode(message_of(number, self._unacknowledged[number]))

    def submit(self, batch: Batch) -> None:
        """Send tasks."""
        self._send(QueuedTasks(Binding(1), msgspec.Raw(_encode(batch))), batch)

    def cancel(self, tasks: Sequence[TaskUid]) -> None:
        """Have tasks cancelled."""
        self._send(QueuedCancel([(uid, Binding(1)) for uid in tasks]))

    def prepare(self, pilot: PilotUid, name: str) -> None:
        """Ask for an environment."""
        self._send(QueuedEnvironment(name, _NOTHING))

    def end(self, pilots: Sequence[PilotUid], drain: bool) -> None:
        """End the pilot."""
        self._send(QueuedEnd(drain))

    def pilot_lost(self, pilot: AnyPilot, reason: str) -> None:
        """Take what its log says. What is left of its tasks is lost, or never began."""
        if self._over:
            return
        self._over = True
        found = pilot.aftermath(self._link.heard_through if self._link is not None else 0)
        self._hear(found.outcomes)
        self._give_up([uid for uid, _ in found.may_have_run if uid in self._stage.witness.open], Ending.LOST, reason)
        self._give_up(list(self._stage.witness.open), Ending.CANCELLED, reason)

    def _give_up(self, tasks: Sequence[TaskUid], ending: Ending, message: str) -> None:
        """Nothing will be heard of these."""
        self._hear([Outcome(uid, Binding(1), Attempt(0), ending, message=message) for uid in tasks])

    def is_over(self, pilot: PilotUid) -> bool:
        """Tell whether the pilot has said goodbye, or is given up."""
        return self._over

    @property
    def links_broken(self) -> int:
        """How often the link broke."""
        return self._link.broken if self._link is not None else 0

    def greeted(self, pilot: PilotUid, hello: AgentHello) -> None:
        """The agent answered."""
        self._forget(hello.durable)

    def heard_from_below(self, pilot: PilotUid, message: FromAgent, outcomes: Companion) -> None:
        """The agent sent this; numbered messages are new."""
        match message:
            case Outcomes():
                self._hear(_decode_outcomes(message.outcomes) if outcomes is None else outcomes)
            case Acknowledge():
                self._forget(message.durable)
            case PilotEnded():
                self._over = True
                self._give_up(list(self._stage.witness.open), Ending.CANCELLED, "the pilot ended before it had the task")
            case _:
                pass

    def _forget(self, durable: int) -> None:
        while self._unacknowledged and next(iter(self._unacknowledged)) <= durable:
            del self._unacknowledged[next(iter(self._unacknowledged))]
        self._offer()

    def _send(self, queued: Queued, batch: Batch | None = None) -> None:
        self._outbox.append((queued, batch))
        self._offer()

    def _offer(self) -> None:
        link = self._link
        while link is not None and self._outbox and link.upper_has_room:
            number, (queued, batch) = link.next_number, self._outbox.popleft()
            self._unacknowledged[number] = queued
            link.send_down(number, message_of(number, queued), batch)
