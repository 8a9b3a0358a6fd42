"""A simulated pilot with a plan: the real metascheduler's core, and an agent of its own for each partition.

Each partition is a ``SimulatedPilot`` with a launcher of its own, over the same links as between client and pilots. A partition
that is lost gives its nodes back: what was lost is the runtime there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pilotage.core.agent.aftermath import Aftermath
from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.core.metascheduler.state import MetaschedulerState, PartitionRecord, apply
from pilotage.errors import unreachable
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node
from pilotage.model.workload import Batch
from pilotage.sim.links import Companion, Link, LinkUp, Troubles
from pilotage.sim.outboxes import message_of
from pilotage.sim.pilots import SimulatedPilot
from pilotage.sim.processes import Process, Uplink
from pilotage.sim.records import Log
from pilotage.sim.stage import Stage
from pilotage.wire.codec import encode
from pilotage.wire.messages import (
    Acknowledge,
    AddPartition,
    AgentHello,
    AskLoad,
    Cancel,
    EndPilot,
    FromAgent,
    FromClient,
    NodesReturned,
    Outcomes,
    PilotEnded,
    PrepareEnvironment,
    Progress,
    RetirePartition,
    Submit,
    TasksReturned,
)

LOAD_EVERY_S = 1.0
"""Partitions tell their load at most as often as this."""

_encode_outcomes = msgspec.msgpack.Encoder().encode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode

MakePartition = Callable[[str, PartitionSpec, list[int], Uplink, dict[int, float]], SimulatedPilot]
"""Makes a partition of this name that begins with these nodes; the dictionary has the nodes that are lost."""


class SimulatedMetascheduler(Process):
    """A pilot that is divided into partitions."""

    def __init__(
        self,
        stage: Stage,
        uid: PilotUid,
        nodes: Sequence[Node],
        plan: Sequence[PartitionSpec],
        make_partition: MakePartition,
        uplink: Uplink,
        walltime_s: float | None,
    ) -> None:
        kept = bool(stage.faults.kill_agents_at_s)
        super().__init__(stage, uid, nodes, uplink, Log(MetaschedulerState, facts.Fact, apply, kept))
        self.core: MetaschedulerCore | None = None
        self.lost_at: dict[int, float] = {}
        self.partitions: dict[str, SimulatedPilot] = {}
        """All partitions that there ever were."""
        self.node_s: dict[str, float] = {}
        """Nodes of each partition, times how long it owned them."""
        self._owned: dict[str, tuple[int, float]] = {}
        self._plan = list(plan)
        self._make_partition = make_partition
        self._walltime_s = walltime_s
        faults = stage.faults
        self._troubles = Troubles(stage.chance(f"links of {uid}"), faults.message_delay_s, faults.message_loss)
        self._links: dict[str, Link] = {}
        self._offered: set[str] = set()
        """Partitions whose next message is about to be numbered."""

    # ------------------------------------------------------------------------------------------------------- life and death

    @property
    def running_core(self) -> MetaschedulerCore | None:
        """The core; None while there is no process."""
        return self.core

    def begin_life(self) -> None:
        """Recover, and see to all partitions."""
        state = self._log.recover()
        deadline = None if self._walltime_s is None else self._clock.seen(self._walltime_s)
        self.core = MetaschedulerCore(self._plan, self.nodes, deadline=deadline, state=state)
        self.core.recover(self.now())
        self._offered.clear()
        self._uplink.listen(self, state)
        self.take_turn(self.core.start)

    def end_life(self) -> None:
        """The core is gone; the partitions are not."""
        self.core = None
        for link in self._links.values():
            link.let_go()

    def lose(self) -> None:
        """All is gone for good, the partitions too."""
        self.gone = True
        self.fall()
        for partition in self.partitions.values():
            if not partition.gone:
                partition.lose()

    def lose_all_nodes(self) -> None:
        """All nodes are gone."""
        for node in self.nodes:
            self.lost_at.setdefault(node.index, self._timeline.now)

    def lose_node(self, index: int) -> None:
        """A node is gone. Its partition notices; no metascheduler is told of a single node."""
        records = self.core.state.partitions if self.core is not None else {}
        owner = next((self.partitions.get(name) for name, record in records.items() if index in record.nodes), None)
        self.lost_at.setdefault(index, max(self._timeline.now, owner.up_at_s if owner is not None else 0.0))
        for partition in self.partitions.values():
            partition.miss_node(index)

    def lose_partition(self, name: str) -> None:
        """The partition's runtime and agent are gone, with what ran there; ``partition_lost`` tells the metascheduler."""
        self.partitions[name].lose()

    def partition_lost(self, name: str) -> bool:
        """Tell that nothing of a partition runs any more; False while there is nobody to hear it."""
        if self.core is None:
            return self.gone
        record = self.core.state.partitions[name]
        if record.living:
            found = self.partitions[name].aftermath(record.received)
            encoded = msgspec.Raw(_encode_outcomes(found.outcomes))
            reason, lost = "its runtime is gone", sorted(self.lost_at.keys() & record.nodes.keys())
            more = (found.received, found.outcomes, encoded, [*found.not_begun], found.tries, lost)
            self.tell(events.PartitionLost(self.now(), name, reason, *more))
        return True

    def aftermath(self, delivered: int) -> Aftermath:
        """Of a pilot that is lost with all partitions nothing is known."""
        return Aftermath(None, [], [], [(uid, task.binding) for uid, task in self._log.recover().tasks.items()])

    @property
    def links_broken(self) -> int:
        """How often a link to a partition broke."""
        return sum(link.broken for link in self._links.values())

    # ------------------------------------------------------------------------------------------------------------ the turns

    def time_passed(self) -> events.Event:
        """Return the event that says so."""
        return events.TimePassed(self.now())

    def link_opened(self) -> events.Event:
        """Return the event that says so."""
        return events.LinkOpened(self.now())

    def decide(self, core: MetaschedulerCore, event: events.Event) -> object:  # type: ignore[override]
        """Ask the core, and note which partition owns how many nodes from now on."""
        if isinstance(event, events.PartitionLinkOpened):
            self._offered.discard(event.partition)
            if not self._links[event.partition].upper_has_room:
                event = self.time_passed()
        step = core.handle(event)
        self.note_nodes()
        return step

    def note_nodes(self) -> None:
        """Bring the books of who owned what up to now."""
        now = self._timeline.now
        for name, record in self.core.state.partitions.items() if self.core is not None else ():
            owned, since = self._owned.get(name, (0, now))
            if owned != len(record.nodes) or since < now:
                self.node_s[name] = self.node_s.get(name, 0.0) + owned * (now - since)
                self._owned[name] = (len(record.nodes), now)

    def perform(self, action: actions.Action) -> None:
        """Do what the core wants."""
        assert self.core is not None
        match action:
            case actions.SendOutcomes():
                encoded = msgspec.Raw(_encode_outcomes(action.outcomes))
                self._uplink.send(action.number, Outcomes(action.number, encoded), action.outcomes)
            case actions.SendPilotEnded():
                self._uplink.send(action.number, PilotEnded(*msgspec.structs.astuple(action)), None)
            case actions.OfferMessages():
                self._offer(action.partition)
            case actions.SendMessage():
                queued = self._record(action.partition).unacknowledged[action.number]
                self._links[action.partition].send_down(action.number, message_of(action.number, queued))
                self._offer(action.partition)
            case actions.StartPartition():
                self._start_partition(action.partition)
            case actions.DisconnectPartition():
                if action.partition in self._links:
                    self._links[action.partition].close()
            case actions.TellService():
                self._tell_services()
            case actions.TellStarted() | actions.TellUnloading() | actions.TellUser():
                pass
            case _:
                unreachable(action)

    def _start_partition(self, name: str) -> None:
        record, timeline = self._record(name), self._timeline
        if name not in self.partitions:
            link = self._links[name] = Link(
                timeline, self._troubles, PilotUid(name), self, lambda number: self._load(name, number)
            )
            partition = self._make_partition(name, record.spec, list(record.nodes), LinkUp(link), self.lost_at)
            self.partitions[name] = partition
            timeline.at(timeline.now, partition.start)
        else:
            self._links[name].take_over(record.numbered, record.delivered, record.received)
        timeline.at(timeline.now, self._links[name].connect)

    def _load(self, name: str, number: int) -> bytes:
        return encode(message_of(number, self._record(name).unacknowledged[number]))

    def _record(self, name: str) -> PartitionRecord:
        assert self.core is not None
        return self.core.state.partitions[name]

    def _offer(self, name: str) -> None:
        """Have the next message numbered, if the link has room for it."""
        link = self._links.get(name)
        if link is not None and name not in self._offered and self._record(name).outbox and link.upper_has_room:
            self._offered.add(name)
            self._coming.append(events.PartitionLinkOpened(self.now(), name, link.next_number))

    def _tell_services(self) -> None:
        if self.core is not None and (ready := self.core.ready_services()):
            self._uplink.tell(Progress([], ready))

    # --------------------------------------------------------------------------------------------------------- with the client

    def hello_heard(self, durable: int) -> None:
        """The client is there, and has all messages up to this one."""
        self.tell(events.OutcomesReceived(self.now(), durable))
        self._tell_services()

    def heard_from_above(self, message: FromClient, batch: Batch | None = None) -> None:
        """The client sent this; numbered messages are new."""
        now = self.now()
        match message:
            case Submit():
                some = _decode_batch(message.batch) if batch is None else batch
                self.tell(events.TasksSubmitted(now, message.number, message.binding, some))
            case Acknowledge():
                self.tell(events.OutcomesReceived(now, message.durable))
            case Cancel():
                self.tell(events.CancelRequested(now, message.number, message.tasks))
            case EndPilot():
                reason = message.failure or "the pilot was ended by the user"
                self.tell(events.EndRequested(now, message.number, message.drain, reason, bool(message.failure)))
            case PrepareEnvironment():
                self.tell(events.EnvironmentAsked(now, message.number, message.name, message.spec))
            case AddPartition():
                self.tell(events.PartitionAsked(now, message.number, message.spec))
            case RetirePartition():
                self.tell(events.RetirementAsked(now, message.number, message.partition, message.drain))

    def frame(self, number: int) -> FromAgent:
        """Make a message again that was numbered before."""
        assert self.core is not None
        state = self.core.state
        if number == state.ended and state.ending is not None:
            told = (state.begun_tasks, state.tries, state.ending.out_of_time)
            return PilotEnded(number, state.ending.state, state.ending.reason, *told)
        return Outcomes(number, msgspec.Raw(_encode_outcomes(state.undelivered[number])))

    # ----------------------------------------------------------------------------------------------------- with the partitions

    def greeted(self, pilot: PilotUid, hello: AgentHello) -> None:
        """A partition's agent answered."""
        self._links[pilot].ask(AskLoad(LOAD_EVERY_S))
        self.tell(events.PartitionGreeted(self.now(), pilot, hello.incarnation, hello.durable))

    def heard_from_below(self, pilot: PilotUid, message: FromAgent, outcomes: Companion) -> None:
        """A partition's agent sent this; numbered messages are new."""
        now, name = self.now(), str(pilot)
        match message:
            case Outcomes():
                some = _decode_outcomes(message.outcomes) if outcomes is None else outcomes
                self.tell(events.OutcomesArrived(now, name, message.number, some, message.outcomes))
            case Acknowledge():
                self.tell(events.PartitionAcknowledged(now, name, message.durable))
                if self.core is not None:
                    self._offer(name)
                    self.take_turn()
            case NodesReturned():
                self.tell(events.NodesReturned(now, name, message.number, message.reclaim, message.nodes))
            case TasksReturned():
                self.tell(events.TasksGivenBack(now, name, message.number, message.recall, message.tasks))
            case PilotEnded():
                how = message.number, message.state, message.reason, message.tries, message.out_of_time
                self.tell(events.PartitionEndArrived(now, name, *how))
            case Progress():
                told = events.ProgressTold(now, name, message.started, message.services, message.unloading, message.load)
                self.tell(told)
