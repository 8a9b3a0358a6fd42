"""A simulated pilot: the real agent's core with a policy, its log, and the runners of ``launching``.

Its agent does what the real one does: events to the core, facts to the log, then the actions; and it may die between any two of
these. The next one recovers from the log alone, and finds the runners that the log names. Files are staged and environments
prepared at once; a service is ready at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from pilotage.core.agent import actions, events
from pilotage.core.agent.aftermath import Aftermath, aftermath
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.state import AgentState
from pilotage.core.scheduling.policy import Policy
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Outcome
from pilotage.model.resources import Node
from pilotage.model.workload import Batch
from pilotage.sim.delays import Delays
from pilotage.sim.launching import Launching
from pilotage.sim.records import AgentLog
from pilotage.sim.stage import EPOCH_S, Stage
from pilotage.wire.messages import (
    Acknowledge,
    Cancel,
    EndPilot,
    FromAgent,
    FromClient,
    GrantNodes,
    Outcomes,
    PilotEnded,
    PrepareEnvironment,
    Progress,
    ReclaimNodes,
    Submit,
)

DIES_WITHIN_S = 1.0
"""An agent that is to die does so in its next turn, if one comes within this time."""

_encode_outcomes = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode

MakePolicy = Callable[[], Policy]


class Uplink(Protocol):
    """The agent's way to who has bound the tasks to it."""

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent now."""

    def listen(self, pilot: SimulatedPilot, state: AgentState) -> None:
        """An agent is there; ``state`` is what its log holds."""

    def hang_up(self) -> None:
        """The agent is gone."""

    def send(self, number: int, message: Outcomes | PilotEnded, outcomes: list[Outcome] | None) -> None:
        """Send a numbered message for the first time."""

    def tell(self, message: FromAgent) -> None:
        """Send a plain message."""


class _Nobody:
    has_room = False

    def listen(self, pilot: SimulatedPilot, state: AgentState) -> None:
        pass

    def hang_up(self) -> None:
        pass

    def send(self, number: int, message: Outcomes | PilotEnded, outcomes: list[Outcome] | None) -> None:
        raise AssertionError(f"{message} is sent to nobody")

    def tell(self, message: FromAgent) -> None:
        pass


_NOBODY = _Nobody()


class _Died(Exception):
    """The agent's process is gone, in the middle of what it did."""


class SimulatedPilot:
    """A pilot on ``nodes``. ``walltime_s`` is the true time at which it ends itself; None for no limit."""

    def __init__(
        self,
        stage: Stage,
        uid: PilotUid,
        nodes: Sequence[Node],
        make_policy: MakePolicy,
        delays: Delays,
        walltime_s: float | None,
    ) -> None:
        self.uid = uid
        self.nodes = list(nodes)
        self.deaths = 0
        self.gone = False
        """Whether all of it is lost."""
        self.lost_at: dict[int, float] = {}
        """Nodes that were lost, and when."""
        self.startup_s = delays.startup_s
        self.core: AgentCore | None = None
        self.policy: Policy | None = None
        self._stage = stage
        self._timeline = stage.timeline
        self._chance = stage.chance(f"agent {uid}")
        self._make_policy = make_policy
        self._uplink: Uplink = _NOBODY
        self._walltime_s = walltime_s
        self._log = AgentLog(bool(stage.faults.kill_agents_at_s or stage.faults.lose_partitions_at_s))
        self.launching = Launching(uid, stage, stage.clock(self._chance), delays)
        self._coming: deque[events.Event | list[events.Event]] = deque()
        self._busy = False
        self._alarm = float("inf")
        self._doomed = -1
        """How far the agent gets in its next turn before it dies; negative: it lives."""
        self._agents = 0

    # ------------------------------------------------------------------------------------------------------- life and death

    def use(self, uplink: Uplink) -> None:
        """This is the way to who hands out the tasks. Call it before ``start``."""
        self._uplink = uplink

    def start(self) -> None:
        """Begin, now: the agent is there at once, and places tasks when the launcher is up."""
        self._start_agent(AgentState())

    def _start_agent(self, state: AgentState) -> None:
        self._agents += 1
        agent = self._agents
        self._clock = self._stage.clock(self._chance)
        self.policy = self._make_policy()
        # At its start an agent finds out which nodes there are.
        for index in self.lost_at:
            self.policy.remove_node(index)
        deadline = None if self._walltime_s is None else EPOCH_S + self._walltime_s
        self.core = AgentCore(self.policy, spawners=1, deadline=deadline, state=state)
        self.core.recover(self._clock.now())
        self._coming.clear()
        self._uplink.listen(self, state)
        self._timeline.at(self.startup_s, lambda: self._begin(agent))

    def _begin(self, agent: int) -> None:
        if self.core is None or agent != self._agents:
            return
        known = list(self.core.state.runners)
        self.launching.attach(self.tell)
        self._take_turn(self.core.start)
        if self.core is not None:
            self.launching.adopt(self.tell, known)

    def kill(self) -> None:
        """Let the agent die, at some point of its next turn; another is started."""
        if self.core is None or self._doomed >= 0:
            return
        self._doomed, agent = self._chance.choice((0, 1, 2, 3, 5)), self._agents

        def give_up() -> None:
            if self._doomed >= 0 and agent == self._agents:
                self._die()

        self._timeline.at(self._timeline.now + DIES_WITHIN_S, give_up)

    def _die(self) -> None:
        self.deaths += 1
        self._fall()
        self._timeline.at(self._timeline.now + self._stage.faults.restart_s, self._start_next)

    def _start_next(self) -> None:
        if not self.gone:
            self._start_agent(self._log.recover())

    def _fall(self) -> None:
        self.core = self.policy = None
        self._doomed = -1
        self._coming.clear()
        self._alarm = float("inf")
        self.launching.detach()
        self._uplink.hang_up()

    def lose(self) -> None:
        """All nodes are gone, with the agent and all that ran."""
        self.gone = True
        self._fall()
        self.launching.lose_everything()
        for node in self.nodes:
            self.lost_at.setdefault(node.index, self._timeline.now)

    def lose_node(self, index: int) -> None:
        """A node is gone, with what ran there."""
        if self.gone or index in self.lost_at:
            return
        self.lost_at[index] = self._timeline.now
        if self.policy is not None:
            self.policy.remove_node(index)
        self.launching.lose_node(index)
        self.tell(events.TimePassed(self.now()))

    def aftermath(self, delivered: int) -> Aftermath:
        """Return what the log of a pilot that is gone tells the client, who has messages up to ``delivered``."""
        return aftermath(self._log.recover(), delivered)

    def now(self) -> float:
        """Return the agent's time."""
        return self._clock.now()

    @property
    def finished(self) -> bool:
        """Whether it has ended, and its client will hear of it or has heard."""
        return self.gone or (self.core is not None and self.core.finished)

    # ------------------------------------------------------------------------------------------------------------ the turns

    def tell(self, event: events.Event | list[events.Event]) -> None:
        """Something has happened, or several things at the same time. Without an agent nobody hears of it."""
        if self.core is None:
            return
        self._coming.append(event)
        self._take_turn(None)

    def _take_turn(self, first: Callable[[float], Step] | None) -> None:
        if self._busy:
            return
        self._busy = True
        effort = self._stage.effort
        try:
            while (core := self.core) is not None:
                if first is None and not self._coming and not (core.has_news and self._uplink.has_room):
                    break
                began = effort.begin()
                if first is not None:
                    step, first = first(self.now()), None
                else:
                    event = self._coming.popleft() if self._coming else events.LinkOpened(self.now())
                    step = core.handle_all(event) if isinstance(event, list) else core.handle(event)
                effort.end(began)
                self._commit(core, step)
        except _Died:
            self._die()
        finally:
            self._busy = False
        self._set_alarm()

    def _commit(self, core: AgentCore, step: Step) -> None:
        self._come_closer_to_death()
        if step.facts:
            self._stage.digest.note(step.facts)
            self._log.append(step.facts, core.state)
        self._come_closer_to_death()
        for action in step.actions:
            self._perform(action)
            self._come_closer_to_death()
        core.performed()

    def _come_closer_to_death(self) -> None:
        if self._doomed >= 0:
            self._doomed -= 1
            if self._doomed < 0:
                raise _Died

    def _set_alarm(self) -> None:
        core = self.core
        due = core.next_deadline() if core is not None and self._timeline.now >= self.startup_s else None
        if due is None:
            return
        at = max(self._timeline.now, self._clock.true(due))
        if at < self._alarm:
            self._alarm = at
            agent = self._agents
            self._timeline.at(at, lambda: self._ring(at, agent))

    def _ring(self, at: float, agent: int) -> None:
        if at == self._alarm:
            self._alarm = float("inf")
            if agent == self._agents:
                self.tell(events.TimePassed(self.now()))

    # ------------------------------------------------------------------------------------------------------ to and from others

    def hello_heard(self, durable: int) -> None:
        """The client is there, and has all messages up to this one."""
        self.tell(events.OutcomesReceived(self.now(), durable))
        if self.core is not None and self.core.state.services:
            self._tell_services(list(self.core.state.services))

    def heard(self, message: FromClient) -> None:
        """The client sent this; numbered messages are new."""
        now = self.now()
        match message:
            case Submit():
                batch = _decode_batch(message.batch)
                self.tell(events.TasksSubmitted(now, message.number, message.binding, batch))
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
            case ReclaimNodes():
                self.tell(events.NodesReclaimed(now, message.number, message.reclaim, message.count))

    def _perform(self, action: actions.Action) -> None:
        launching, coming, now = self.launching, self._coming, self.now()
        match action:
            case actions.LaunchTasks():
                assert self.core is not None
                launching.launch(action.runner, action.lanes, self.core.state.templates)
            case actions.ReleaseRunner():
                launching.release(action.runner, action.through)
            case actions.SendOutcomes():
                encoded = msgspec.Raw(_encode_outcomes(action.outcomes))
                self._uplink.send(action.number, Outcomes(action.number, encoded), action.outcomes)
            case actions.SendPilotEnded():
                self._uplink.send(action.number, PilotEnded(action.number, action.state, action.reason), None)
            case actions.StartRunner():
                launching.start_runner(action.runner)
            case actions.StopRunner():
                launching.stop_runner(action.runner)
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
            case actions.TellProgress() | actions.EndStaging() | actions.UnwatchService():
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
        if number == state.ended and state.ending is not None:
            return PilotEnded(number, state.ending.state, state.ending.reason)
        return Outcomes(number, msgspec.Raw(_encode_outcomes(state.undelivered[number])))
