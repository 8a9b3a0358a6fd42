"""The event loop of a head: the agent of a pilot with partitions, around the metascheduler's core.

To the client it is an agent like any other; to the partitions' agents it is their client (see ``agent.sub_agents``).
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

import msgspec

from pilotage.agent.client_link import ClientLink
from pilotage.agent.head_progress import HeadProgress
from pilotage.agent.job_watch import JobWatch, Verdict
from pilotage.agent.loop import Answer, PilotLoop
from pilotage.agent.settings import PilotSettings
from pilotage.agent.sub_agent import SubAgent
from pilotage.agent.sub_agents import SubAgents
from pilotage.core.metascheduler import actions, events
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.errors import ProtocolError, unreachable
from pilotage.log.writer import LogWriter
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import LOST_NODES
from pilotage.model.states import FAILED
from pilotage.wire import messages as wire
from pilotage.wire.channel import AgentChannel, Peer
from pilotage.wire.codec import encode

LOAD_EVERY_S = 0.5
"""Partitions tell their load at most so often."""

ANSWER_S = 2.0
"""A partition that is asked about a task has so long to answer."""

_NAMES_SHOWN = 5

_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


class _Asked(msgspec.Struct):
    """A question that was passed on to a partition."""

    channel: AgentChannel
    peer: Peer
    question: int
    answer: Answer
    until: float


class Head(PilotLoop[MetaschedulerCore]):
    """Runs one pilot with partitions. ``run`` returns when it has ended; then ``close`` sees its agents off."""

    def __init__(
        self,
        settings: PilotSettings,
        core: MetaschedulerCore,
        log: LogWriter,
        channels: Iterable[AgentChannel],
        link: ClientLink,
        wakeup: int,
        incarnation: int,
        watch: JobWatch | None = None,
    ) -> None:
        told = HeadProgress(core, link, core.load)
        super().__init__(settings, core, log, channels, link, wakeup, told, (), watch)
        self._told: HeadProgress = told
        self._agents = SubAgents(settings, incarnation, core.state, self._poll, self._hear_partition, log.sync)
        self._offered: dict[str, None] = {}
        """Partitions for which messages wait."""
        self._questions = 0
        self._asked: dict[int, _Asked] = {}
        self._was_ending = False
        self._sharing = 0
        """Among how many partitions launches are divided, as these were told last."""
        self.abandoned = ""
        """Why this head ends without an end of its pilot: as its job is ended around it; see ``Agent.abandoned``."""

    def notice(self, text: str) -> None:
        """Let the user know, when a client is there."""
        self._told.notice(text, lasting=False)

    def close(self) -> None:
        """Wait for the partitions' agents to go."""
        if self.abandoned:
            self._agents.abandon()
        else:
            self._agents.close()
        super().close()

    # --------------------------------------------------------------------------------------------------------------- the loop

    def _gather(self, now: float, ready: Collection[int]) -> None:
        self._agents.serve(ready, now)
        for lost in self._agents.take_lost(now):
            self._told.notice(f"partition {lost.partition!r} was lost: {lost.reason}", lasting=False)
            self._handle(lost)
        for number in [number for number, asked in self._asked.items() if now >= asked.until]:
            self._answer_late(self._asked.pop(number))
        self._offer(now)

    def _dues(self) -> list[float | None]:
        return [self._agents.next_event(), *(asked.until for asked in self._asked.values())]

    def _logged(self, record: int) -> None:
        super()._logged(record)
        self._agents.logged(record)

    def _synced(self, record: int) -> None:
        super()._synced(record)
        self._agents.synced(record)

    def _acknowledge(self) -> None:
        super()._acknowledge()
        self._agents.acknowledge()

    def _is_over(self) -> bool:
        if self._job_ends and (self._agents.are_gone or self._core.is_left(time.time())):
            self.abandoned = self._job_ends
        return bool(self.abandoned) or super()._is_over()

    def _told_to_end(self, now: float, reason: str) -> None:
        if self._settings.batch != "local":
            if not self._job_ends:
                self._end_with_job(now, reason)
            return
        super()._told_to_end(now, reason)
        self._agents.hurry_since = now
        self._agents.look_at_ends(now)

    def _end_with_job(self, now: float, reason: str, until: float | None = None) -> None:
        super()._end_with_job(now, reason, until)
        self._agents.pass_job_end_on()

    def _storage_full(self, reason: str) -> None:
        self._told.notice(reason, lasting=True)

    def _follow_head(self, now: float, message: wire.ToPartition) -> None:
        raise ProtocolError(f"the client moves nodes or tasks ({type(message).__name__}), which only a metascheduler does")

    def _share_launches(self, now: float, message: wire.ShareLaunches) -> None:
        raise ProtocolError("the client divides the pilot's launches, which only a metascheduler does")

    def _change_plan(self, now: float, message: wire.ToHead) -> None:
        if isinstance(message, wire.AddPartition):
            self._handle(events.PartitionAsked(now, message.number, message.spec))
        else:
            self._handle(events.RetirementAsked(now, message.number, message.partition, message.drain))

    def _partitions_told(self, message: wire.AskPartitions) -> wire.PartitionsTold:
        core, refusal = self._core, ""
        if message.add is not None:
            refusal = core.against_addition(message.add)
        elif message.retire:
            refusal = core.against_retirement(message.retire, message.drain)
        return wire.PartitionsTold(message.question, core.partitions(), refusal)

    # ------------------------------------------------------------------------------------------------------ facts and actions

    def _perform(self, action: actions.Action) -> None:
        match action:
            case actions.SendOutcomes():
                self._link.send_outcomes(action.number, action.outcomes)
            case actions.SendMessage():
                agent = self._agents.get(action.partition)
                if agent is not None:
                    agent.link.send_first(action.number)
            case actions.OfferMessages():
                self._offered[action.partition] = None
            case actions.TellStarted():
                self._told.tasks_started(action.started)
            case actions.TellUnloading():
                self._told.outputs_begun(action.tasks)
            case actions.TellService():
                self._told.service_ready(action.service)
            case actions.StartPartition():
                self._agents.start(action.partition, time.time())
            case actions.DisconnectPartition():
                self._agents.disconnect(action.partition, time.time())
            case actions.TellUser():
                self._told.notice(action.message, lasting=False)
            case actions.SendPilotEnded():
                self._link.send_ended(wire.PilotEnded(*msgspec.structs.astuple(action)))
            case _:
                unreachable(action)

    def _performed(self) -> None:
        now = time.time()
        ending = self._core.state.ending is not None and not self._core.state.ending.drain
        if ending and not self._was_ending:
            self._was_ending = True
            self._agents.look_at_ends(now)
        self._share_anew()
        self._offer(now)

    def _share_anew(self) -> None:
        """Tell all partitions when others have come or gone."""
        living = self._agents.living
        if living != self._sharing:
            self._sharing = living
            told = encode(wire.ShareLaunches(max(1, living)))
            for agent in self._agents:
                if agent.link.is_open:
                    agent.link.send(told)

    def _offer(self, now: float) -> None:
        """Have the core number messages that links have room for: one of each, which is logged before the next."""
        offered, self._offered = self._offered, {}
        for name in offered:
            agent = self._agents.get(name)
            if agent is None or not agent.record.outbox or not agent.link.may_number():
                continue
            self._handle(events.PartitionLinkOpened(now, name, agent.link.outgoing.next_number))
            if agent.record.outbox:
                self._offered[name] = None

    # -------------------------------------------------------------------------------------------------------- from partitions

    def _hear_partition(self, agent: SubAgent, message: wire.FromAgent) -> None:
        now, name, link = time.time(), agent.name, agent.link
        match message:
            case wire.Outcomes():
                if link.accept(now, message):
                    outcomes = _decode_outcomes(message.outcomes)
                    self._handle(events.OutcomesArrived(now, name, message.number, outcomes, message.outcomes))
            case wire.Acknowledge():
                link.acknowledged(message)
                if message.durable > agent.record.delivered:
                    self._handle(events.PartitionAcknowledged(now, name, message.durable))
                self._offered[name] = None
            case wire.Progress():
                self._hear_progress(now, agent, message)
            case wire.AgentHello():
                link.greeted(message)
                link.send(encode(wire.AskLoad(LOAD_EVERY_S)))
                link.send(encode(wire.ShareLaunches(max(1, self._agents.living))))
                self._handle(events.PartitionGreeted(now, name, message.incarnation, message.durable))
                self._offered[name] = None
            case wire.NodesReturned():
                if link.accept(now, message):
                    if message.reclaim == LOST_NODES:
                        self._tell_lost(name, message.nodes)
                    self._handle(events.NodesReturned(now, name, message.number, message.reclaim, message.nodes))
            case wire.TasksReturned():
                if link.accept(now, message):
                    self._handle(events.TasksGivenBack(now, name, message.number, message.recall, message.tasks))
            case wire.PilotEnded():
                if link.accept(now, message):
                    if agent.record.life != "retiring" or message.state == FAILED:
                        self._told.notice(f"partition {name!r} ended: {message.reason}", lasting=False)
                    told = message.number, message.state, message.reason, message.tries, message.out_of_time
                    self._handle(events.PartitionEndArrived(now, name, *told))
            case wire.JobEnds():
                # Of several agents each says so.
                if not self._job_ends:
                    self._job_end_learned(now, Verdict(message.reason, message.end_s))
            case wire.Inspection():
                self._pass_answer_on(name, message)
            case wire.Refused():
                raise ProtocolError(f"the agent of partition {name!r} refuses its head: {message.reason}")
            case wire.Heartbeat() | wire.PartitionsTold():
                pass
            case _:
                unreachable(message)

    def _tell_lost(self, partition: str, nodes: list[int]) -> None:
        names = ", ".join(node.name for node in self._settings.nodes if node.index in nodes[:_NAMES_SHOWN])
        more = f" and {len(nodes) - _NAMES_SHOWN} more" if len(nodes) > _NAMES_SHOWN else ""
        self._told.notice(f"partition {partition!r} lost {names}{more}: nothing starts there any more", lasting=False)

    def _hear_progress(self, now: float, agent: SubAgent, message: wire.Progress) -> None:
        if message.started or message.services or message.unloading or message.load is not None:
            told = message.started, message.services, message.unloading, message.load
            self._handle(events.ProgressTold(now, agent.name, *told))
        if message.notice:
            self._told.notice(f"partition {agent.name!r}: {message.notice}", lasting=False)

    # ------------------------------------------------------------------------------------------------------------- questions

    def _answer(self, channel: AgentChannel, peer: Peer, message: wire.Inspect) -> None:
        task = self._core.state.tasks.get(message.task) if message.task else None
        agent = self._agents.get(task.partition) if task is not None and task.partition else None
        if agent is None or not agent.link.is_open:
            super()._answer(channel, peer, message)
            return
        self._questions += 1
        answer = {**self._answer_to(message), "partition": agent.name}
        self._asked[self._questions] = _Asked(channel, peer, message.question, answer, time.time() + ANSWER_S)
        agent.link.send(encode(wire.Inspect(self._questions, message.task)))

    def _pass_answer_on(self, name: str, message: wire.Inspection) -> None:
        asked = self._asked.pop(message.question, None)
        if asked is None:
            return
        if message.answer.get("state") != "unknown":
            asked.answer["state"] = message.answer["state"]
            asked.answer["why"] = f"in partition {name!r}: {message.answer['why']}"
            asked.answer["attempt"] = message.answer.get("attempt", 0)
        self._answer_late(asked)

    @staticmethod
    def _answer_late(asked: _Asked) -> None:
        asked.channel.send(asked.peer, wire.Inspection(asked.question, asked.answer))
