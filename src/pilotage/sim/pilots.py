"""A simulated pilot, or a partition of one: the real agent's core with a policy, its log, and the runners of ``launching``.

Files are staged and environments prepared at once; a service is ready at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import Aftermath, aftermath
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling.policy import Policy
from pilotage.model.ids import PilotUid
from pilotage.model.partitions import Load
from pilotage.model.resources import Node
from pilotage.model.workload import Batch
from pilotage.sim.delays import Delays
from pilotage.sim.launching import Launching
from pilotage.sim.processes import Process, Uplink
from pilotage.sim.records import Log
from pilotage.sim.stage import Stage
from pilotage.wire.messages import (
    Acknowledge,
    AskLoad,
    Cancel,
    EndPilot,
    FromAgent,
    FromClient,
    GrantNodes,
    NodesReturned,
    Outcomes,
    PilotEnded,
    PrepareEnvironment,
    Progress,
    RecallTasks,
    ReclaimNodes,
    Submit,
    TasksReturned,
)

_encode_outcomes = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode

MakePolicy = Callable[..., Policy]
"""Is told when the pilot ends, by the clock of its agent (``end``, None: never)."""


class SimulatedPilot(Process):
    """A pilot on ``nodes``, or a partition that begins with ``own`` of them.

    ``walltime_s``: the true time at which it ends itself; None for no limit. ``lost_at``: nodes that were lost, and from when
    on they count as such; all partitions of a pilot share it.
    """

    def __init__(
        self,
        stage: Stage,
        uid: PilotUid,
        nodes: Sequence[Node],
        make_policy: MakePolicy,
        delays: Delays,
        uplink: Uplink,
        walltime_s: float | None,
        own: Sequence[int] | None = None,
        lost_at: dict[int, float] | None = None,
    ) -> None:
        faults = stage.faults
        kept = bool(faults.kill_agents_at_s or faults.lose_partitions_at_s)
        super().__init__(stage, uid, nodes, uplink, Log(AgentState, facts.Fact, apply, kept))
        self.lost_at: dict[int, float] = {} if lost_at is None else lost_at
        self.begun_s = stage.timeline.now
        self.up_at_s = stage.timeline.now + delays.startup_s
        """When it places its first task."""
        self.first_nodes = len(self.nodes) if own is None else len(own)
        """With how many nodes it began."""
        self.core: AgentCore | None = None
        self.policy: Policy | None = None
        self.launching = Launching(uid, stage, stage.clock(self._chance), delays)
        self._make_policy = make_policy
        self._walltime_s = walltime_s
        self._own = None if own is None else list(own)
        self._load_every_s = 0.0
        self._load_told: Load | None = None
        self._load_due = float("inf")

    # ------------------------------------------------------------------------------------------------------- life and death

    @property
    def running_core(self) -> AgentCore | None:
        """The core; None while there is no agent."""
        return self.core

    def begin_life(self) -> None:
        """The agent is there at once, and places tasks when the launcher is up."""
        state = self._log.recover()
        deadline = None if self._walltime_s is None else self._clock.seen(self._walltime_s)
        self.policy = self._make_policy(end=deadline)
        self.core = AgentCore(self.policy, spawners=1, deadline=deadline, state=state, nodes=self._own or ())
        self.core.recover(self.now())
        # At its start an agent finds out which nodes there are.
        for index in self._lost_own():
            self.policy.remove_node(index)
        self._load_every_s, self._load_due = 0.0, float("inf")
        self._uplink.listen(self, state)
        life = self._lives
        self._timeline.at(self.up_at_s, lambda: self._come_up(life))

    def _come_up(self, life: int) -> None:
        if self.core is None or life != self._lives:
            return
        known = list(self.core.state.runners)
        self.launching.runners.attach(self.tell, self.now)
        self.take_turn(self.core.start)
        if self.core is not None:
            self.launching.runners.adopt(known)
        self._tell_lost()

    def places_yet(self) -> bool:
        """Tell whether the launcher is up."""
        return self._timeline.now >= self.up_at_s

    def end_life(self) -> None:
        """The agent is gone; its runners are not."""
        self.core = self.policy = None
        self.launching.runners.detach()

    def lose(self) -> None:
        """The agent is gone for good, with all that ran."""
        self.gone = True
        self.fall()
        self.launching.lose_everything()

    def lose_all_nodes(self) -> None:
        """All nodes are gone."""
        for node in self.nodes:
            self.lost_at.setdefault(node.index, max(self._timeline.now, self.up_at_s))

    def lose_node(self, index: int) -> None:
        """A node is gone, with what ran there; while the launcher comes up it counts as such."""
        self.lost_at.setdefault(index, max(self._timeline.now, self.up_at_s))
        self.miss_node(index)

    def miss_node(self, index: int) -> None:
        """A node, of this partition or of another, is gone."""
        if self.gone:
            return
        if self.policy is not None and self._owns(index):
            self.policy.remove_node(index)
        self.launching.lose_node(index)
        self._tell_lost()

    def _lost_own(self) -> list[int]:
        return [index for index in self.lost_at if self._owns(index)]

    def _tell_lost(self) -> None:
        """Tell the core, once it places tasks, which of its nodes are lost."""
        if self.core is not None and self.places_yet() and (lost := self._lost_own()):
            self.tell(events.NodesLost(self.now(), lost))

    def _owns(self, index: int) -> bool:
        """Tell whether a node belongs to it now; a pilot has all of its own."""
        if self._own is None or self.core is None:
            return True
        state = self.core.state
        return index not in state.lost_nodes and (index in state.granted or (index in self._own and index not in state.parted))

    def aftermath(self, delivered: int) -> Aftermath:
        """Return what the log of a pilot that is gone tells the client, who has messages up to ``delivered``."""
        return aftermath(self._log.recover(), delivered)

    # ------------------------------------------------------------------------------------------------------------ the turns

    def decide(self, core: AgentCore, event: Any) -> Step:
        """Ask the core; what happened at the same time is decided together."""
        return core.handle_all(event) if isinstance(event, list) else core.handle(event)

    def time_passed(self) -> events.Event:
        """Return the event that says so."""
        return events.TimePassed(self.now())

    def link_opened(self) -> events.Event:
        """Return the event that says so."""
        return events.LinkOpened(self.now())

    def take_turn(self, first: Callable[[float], Any] | None = None) -> None:
        """Decide what has come; of a partition the load may be another one then."""
        super().take_turn(first)
        if self._load_every_s and self._load_due == float("inf") and not self._busy:
            self._load_due = self._timeline.now + self._load_every_s
            life = self._lives
            self._timeline.at(self._load_due, lambda: self._tell_load(life))

    def _tell_load(self, life: int) -> None:
        if self.core is None or life != self._lives:
            return
        self._load_due = float("inf")
        load = self.core.load()
        if load != self._load_told:
            self._load_told = load
            self._uplink.tell(Progress([], load=load))

    # ------------------------------------------------------------------------------------------------------ to and from others

    def hello_heard(self, durable: int) -> None:
        """The client is there, and has all messages up to this one."""
        self.tell(events.OutcomesReceived(self.now(), durable))
        if self.core is not None and self.core.state.services:
            self._tell_services(list(self.core.state.services))

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
            case GrantNodes():
                self.tell(events.NodesGranted(now, message.number, message.nodes))
                self._tell_lost()
            case ReclaimNodes():
                self.tell(events.NodesReclaimed(now, message.number, message.reclaim, message.count))
            case RecallTasks():
                self.tell(events.TasksRecalled(now, message.number, message.recall, message.tasks))
            case AskLoad():
                self._load_every_s, self._load_told = message.every_s, None
                self._timeline.at(self._timeline.now, partial(self._tell_load, self._lives))

    def perform_all(self, several: Sequence[actions.Action]) -> None:
        """Do several things that the core wants; what it hands to one runner after another is taken over together."""
        launches: list[actions.LaunchTasks] = []
        release = self.launching.runners.release
        for action in several:
            if isinstance(action, actions.LaunchTasks):
                launches.append(action)
            elif isinstance(action, actions.ReleaseRunner):
                release(action.runner, action.through)
            else:
                self._launch(launches)
                launches.clear()
                self.perform(action)
        self._launch(launches)

    def _launch(self, launches: Sequence[actions.LaunchTasks]) -> None:
        if launches:
            assert self.core is not None
            self.launching.launch([(each.runner, each.lanes) for each in launches], self.core.state.templates)

    def perform(self, action: actions.Action) -> None:
        """Do what the core wants."""
        launching, coming, now = self.launching, self._coming, self.now()
        match action:
            case actions.LaunchTasks():
                self._launch((action,))
            case actions.ReleaseRunner():
                launching.runners.release(action.runner, action.through)
            case actions.SendOutcomes():
                encoded = msgspec.Raw(_encode_outcomes(action.outcomes))
                self._uplink.send(action.number, Outcomes(action.number, encoded), action.outcomes)
            case actions.SendPilotEnded():
                self._uplink.send(action.number, PilotEnded(*msgspec.structs.astuple(action)), None)
            case actions.SendNodes():
                self._uplink.send(action.number, NodesReturned(action.number, action.reclaim, action.nodes), None)
            case actions.SendTasks():
                self._uplink.send(action.number, TasksReturned(action.number, action.recall, action.tasks), None)
            case actions.StartRunner():
                launching.runners.start(action.runner)
            case actions.StopRunner():
                launching.runners.stop(action.runner)
            case actions.EndExecutions():
                launching.end(action.runner, action.executions, action.ending, action.message)
            case actions.RecallTasks():
                launching.recall(action.runner, action.executions)
            case actions.StageTasks():
                coming.append(events.StagingEnded(now, action.phase, [(row.uid, attempt) for attempt, row in action.tasks]))
            case actions.PrepareEnvironment():
                coming.append(events.EnvironmentPrepared(now, action.name))
            case actions.WatchService():
                if not action.ready:
                    coming.append(events.ServiceReady(now, action.row.uid, action.attempt, "simulated"))
            case actions.TellService():
                self._tell_services([action.service])
            case actions.TellProgress() | actions.EndStaging() | actions.UnwatchService() | actions.SignalExecutions():
                pass

    def _tell_services(self, services: list[str]) -> None:
        assert self.core is not None
        state = self.core.state
        told = [(uid, task.binding, task.attempt, state.services[uid]) for uid, task in state.tasks.items() if uid in services]
        self._uplink.tell(Progress([], told))

    def frame(self, number: int) -> FromAgent:
        """Make a message again that was numbered before."""
        assert self.core is not None
        state = self.core.state
        if number in state.undelivered_nodes:
            return NodesReturned(number, *state.undelivered_nodes[number])
        if number in state.undelivered_tasks:
            return TasksReturned(number, *state.undelivered_tasks[number])
        if number == state.ended and state.ending is not None:
            told = (state.begun_tasks, state.tries, state.ending.out_of_time)
            return PilotEnded(number, state.ending.state, state.ending.reason, *told)
        return Outcomes(number, msgspec.Raw(_encode_outcomes(state.undelivered[number])))
