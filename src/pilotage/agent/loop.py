"""The event loop of a pilot's agent, around a pure core: what is common to those that run tasks and to heads of partitions.

Each turn gathers what has arrived, lets the core decide on each event, writes all facts of the turn to the log as one record,
and only then performs the actions. So what is acted upon is in the log, and a turn under load pays for one write, whatever the
number of tasks.
"""

from __future__ import annotations

import os
import select
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from pilotage.agent.client_link import ClientLink
from pilotage.agent.inbox import LOOK_S, BrokenInbox, Handed, discard, handed_over
from pilotage.agent.job_watch import JobWatch, Verdict
from pilotage.agent.progress import News
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent import events
from pilotage.core.journal import Step
from pilotage.errors import BackendError, unreachable
from pilotage.log.writer import LogWriter
from pilotage.model.ids import TaskUid
from pilotage.model.workload import Batch
from pilotage.wire import messages as wire
from pilotage.wire.channel import AgentChannel, Peer

FAREWELL_S = 5.0
"""How long an agent that has ended waits for the client to have everything on disk."""

LONGEST_SLEEP_S = 3600.0
"""What Linux can be asked to wait for is limited; an idle agent looks at the clock once an hour."""

DISK_FULL_PAUSE_S = 0.5
DISK_FULL_GIVE_UP_S = 600.0
BYTES_PER_TASK = 512
"""Estimate of what a task takes in a snapshot."""

Answer = dict[str, str | int | float | list[str]]

FromClient = (
    events.TasksSubmitted
    | events.CancelRequested
    | events.EndRequested
    | events.OutcomesReceived
    | events.EnvironmentAsked
    | events.LinkOpened
    | events.TimePassed
)
"""What all cores are told."""

_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode


class Core(Protocol):
    """What the loop needs of its core."""

    state: Any

    def start(self, now: float) -> Step[Any, Any]:
        """Begin, or begin again after a recovery."""
        ...

    def handle(self, event: FromClient) -> Step[Any, Any]:
        """Decide what an event means."""
        ...

    def performed(self) -> None:
        """All actions of all steps so far have been performed."""
        ...

    def next_deadline(self) -> float | None:
        """Return when time alone is an event."""
        ...

    @property
    def idle_end(self) -> float | None:
        """When it ends for having nothing to do, if nothing arrives; None: it does not."""
        ...

    @property
    def finished(self) -> bool:
        """Whether the pilot was to end and has nothing left to do."""
        ...

    @property
    def has_news(self) -> bool:
        """Whether there is something to make a message for the client of."""
        ...

    @property
    def told(self) -> bool:
        """Whether the client has on disk that the pilot ended, and all before."""
        ...

    def summary(self) -> Answer:
        """Return how the pilot is."""
        ...

    def doing(self, uid: TaskUid) -> str:
        """Return in a word or two what a task does."""
        ...

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what a task waits for, or does."""
        ...


CoreT = TypeVar("CoreT", bound=Core)


class PilotLoop(ABC, Generic[CoreT]):
    """Runs one agent. ``run`` returns when its pilot has ended. ``sources``: descriptors that wake it beside its own.

    ``watch``: over the pilot's job; None if it is none.
    """

    def __init__(
        self,
        settings: PilotSettings,
        core: CoreT,
        log: LogWriter,
        channels: Iterable[AgentChannel],
        link: ClientLink,
        wakeup: int,
        told: News,
        sources: Iterable[int],
        watch: JobWatch | None = None,
    ) -> None:
        self._settings = settings
        self._watch = watch
        self._job_ends = ""
        """Why the job around the pilot is being ended, by others."""
        self.job_end_s: float | None = None
        """When that job ends, if it was not said by a signal but learned (seconds since the epoch)."""
        self._core = core
        self._log = log
        self._channels = {channel.fileno(): channel for channel in channels}
        self._link = link
        self._told = told
        self._facts: list[Any] = []
        self._actions: list[Any] = []
        self._terminated = ""
        self._inbox_due = 0.0
        self._to_discard = 0
        self._finished_at: float | None = None
        self._poll = select.epoll()
        watched = () if watch is None else (watch.fileno(),)
        for descriptor in (*sources, *watched, log.wake_fd, wakeup, *self._channels):
            self._poll.register(descriptor, select.EPOLLIN)
        self._wakeup = wakeup

    def terminate(self, reason: str) -> None:
        """End the pilot at the next turn; may be called from a signal handler."""
        self._terminated = reason

    def close(self) -> None:
        """Let go of what the loop itself holds."""
        if self._watch is not None:
            self._watch.close()
        self._poll.close()

    def run(self) -> None:
        """Work until the pilot has ended and the client knows, or cannot be told."""
        self._note(self._core.start(time.time()))
        self._commit()
        self._look_into_inbox(time.time())
        while not self._is_over():
            ready = [descriptor for descriptor, _ in self._poll.poll(self._patience())]
            now = time.time()
            if self._wakeup in ready:
                _drain(self._wakeup)
            if self._log.wake_fd in ready:
                self._synced(self._log.take_synced())
            for descriptor in ready:
                if descriptor in self._channels:
                    self._hear(now, self._channels[descriptor])
            self._watch_job(now)
            self._gather(now, ready)
            self._pass_time(now)
            self._commit()
            # Acknowledgements of what was sent just now may have come meanwhile; they are heard in the next turn.
            self._acknowledge()
        if self._to_discard:
            self._log.sync()
            self._synced(self._log.take_synced())

    # what is each loop's own

    @abstractmethod
    def _gather(self, now: float, ready: Collection[int]) -> None:
        """Take in what has arrived from others than the client."""

    @abstractmethod
    def _perform(self, action: Any) -> None:
        """Do what the core wants done."""

    def _dues(self) -> list[float | None]:
        """Return when something has to be done for others than the client."""
        return []

    def _logged(self, record: int) -> None:
        """All that was heard so far is in the log up to this record."""
        self._link.logged(record)

    def _synced(self, record: int) -> None:
        """The log is on disk up to this record."""
        self._link.synced(record)
        self._discard()

    def _acknowledge(self) -> None:
        """Tell who has sent us something how far we are."""
        self._link.acknowledge()

    @abstractmethod
    def _performed(self) -> None:
        """The actions of a step were performed: send what they left to be sent."""

    @abstractmethod
    def _storage_full(self, reason: str) -> None:
        """The log finds no room."""

    def _told_to_end(self, now: float, reason: str) -> None:
        self._handle(events.EndRequested(now, 0, False, reason))

    def _watch_job(self, now: float) -> None:
        verdict = self._watch.take(now) if self._watch is not None else None
        if verdict is not None and verdict.reason:
            self._job_end_learned(now, verdict)
        elif verdict is not None:
            self._job_goes_on(now)

    def _job_end_learned(self, now: float, verdict: Verdict) -> None:
        """The batch system, or who has asked it, says that the job ends."""
        if not self._job_ends:
            self.job_end_s = now if verdict.end_s is None else verdict.end_s
        until = None
        if verdict.end_s is not None:
            # The pilot takes its time to end, too; of a short one the tasks get half.
            left_s = max(0.0, verdict.end_s - now)
            until = now + left_s - min(self._settings.end_margin_s, 0.5 * left_s)
        self._end_with_job(now, verdict.reason, until)

    def _end_with_job(self, now: float, reason: str, until: float | None = None) -> None:
        """The job ends: nothing begins any more, and what runs has its time, till ``until`` at the longest if that is given."""
        self._job_ends = self._job_ends or reason
        if self._watch is not None:
            self._watch.job_ends()
        self._handle(events.JobEnding(now, reason, until))

    def _job_goes_on(self, now: float) -> None:
        """It was asked whether the job ends, and it does not, as far as it can be learned."""

    def _client_lost(self, now: float) -> None:
        drain = self._settings.on_client_loss == "drain"
        reason = f"no client for {self._settings.client_loss_timeout_s:g} s"
        self._handle(events.EndRequested(now, 0, drain, reason))

    # time

    def _patience(self) -> float:
        """Return how long nothing has to be done unless something arrives, in seconds (-1: for ever)."""
        dues = [
            self._core.next_deadline(),
            self._link.next_event(),
            self._told.due,
            self._client_loss_deadline(),
            self._inbox_due if self._has_inbox else None,
            self._watch.due if self._watch is not None else None,
            *self._dues(),
        ]
        if self._finished_at is not None:
            dues.append(self._finished_at + FAREWELL_S)
        due = min((when for when in dues if when is not None), default=None)
        if due is None:
            return -1
        # epoll counts in milliseconds and rounds up; a little late is better than a turn too early.
        return min(max(0.0, due - time.time()), LONGEST_SLEEP_S)

    def _is_over(self) -> bool:
        if not self._core.finished:
            return False
        if self._finished_at is None:
            self._finished_at = time.time()
        return self._core.told or not self._link.connected or time.time() >= self._finished_at + FAREWELL_S

    def _pass_time(self, now: float) -> None:
        self._link.tick(now)
        if self._terminated:
            self._told_to_end(now, self._terminated)
            self._terminated = ""
        if self._link.connected:
            # What it hands over when it goes is there before it is gone.
            self._inbox_due = now
        elif self._has_inbox and (now >= self._inbox_due or self._ends_for_idleness(now)):
            self._look_into_inbox(now)
        loss = self._client_loss_deadline()
        if loss is not None and now >= loss and self._core.state.ending is None:
            self._client_lost(now)
        due = self._core.next_deadline()
        if due is not None and now >= due:
            self._handle(events.TimePassed(now))
        if self._told.due is not None and now >= self._told.due:
            self._told.tell()

    def _client_loss_deadline(self) -> float | None:
        settings = self._settings
        if settings.on_client_loss == "continue" or self._link.lost_since is None or self._core.state.ending is not None:
            return None
        return self._link.lost_since + settings.client_loss_timeout_s

    # ------------------------------------------------------------------------------------------------------ facts and actions

    def _handle(self, event: Any) -> None:
        self._note(self._core.handle(event))

    def _note(self, step: Step[Any, Any]) -> None:
        self._facts += step.facts
        self._actions += step.actions

    def _commit(self) -> None:
        """Write the facts of this turn, then act on them."""
        if self._core.has_news and self._link.has_room:
            self._handle(events.LinkOpened(time.time()))
        while self._facts or self._actions:
            taken, self._facts = self._facts, []
            todo, self._actions = self._actions, []
            if taken:
                self._logged(self._append(_encode(taken)))
                self._told.changed()
            for action in todo:
                self._perform(action)
            self._core.performed()
            self._performed()
            if self._core.has_news and self._link.has_room:
                self._handle(events.LinkOpened(time.time()))
        if self._log.should_snapshot(BYTES_PER_TASK * len(self._core.state.tasks)):
            self._log.snapshot(_encode(self._core.state))

    def _append(self, record: bytes) -> int:
        until = time.monotonic() + DISK_FULL_GIVE_UP_S
        told = False
        while True:
            try:
                return self._log.append(record)
            except BackendError as error:
                if not error.transient or time.monotonic() > until:
                    raise
                if not told:
                    told = True
                    self._storage_full(f"the pilot stands still: {error}")
                    self._told.tell()
            # Nothing may be done that is not in the log, so the pilot stands still until there is room again.
            time.sleep(DISK_FULL_PAUSE_S)

    # ---------------------------------------------------------------------------------------------------- from the client

    def _ends_for_idleness(self, now: float) -> bool:
        """Whether there is nothing left to do unless something was handed over since the last look."""
        end = self._core.idle_end
        return end is not None and now >= end

    @property
    def _has_inbox(self) -> bool:
        """Whether a client may have handed something over, and nobody is there who would send it."""
        return not self._settings.partition and not self._link.connected and self._core.state.ended == 0

    def _look_into_inbox(self, now: float) -> None:
        """Take what a client has handed over that did not stay."""
        self._inbox_due = now + LOOK_S
        if not self._has_inbox:
            return
        try:
            for message in handed_over(self._settings.agent_folder, self._link.received):
                if self._link.accept(message):
                    self._follow(now, message)
                # One after the other: a million tasks need not be in memory twice.
                self._commit()
        except BrokenInbox as error:
            self._told.notice(str(error), lasting=False)
        # What came over the link may lie here, too, of a client that left before it was told.
        if self._settings.log:
            self._to_discard = self._link.received
            self._discard()

    def _discard(self) -> None:
        """Remove what was handed over, once all of it that was taken is on disk."""
        if self._to_discard and self._link.durable >= self._to_discard:
            discard(self._settings.agent_folder, self._link.durable)
            self._to_discard = 0

    def _hear(self, now: float, channel: AgentChannel) -> None:
        for peer, message in channel.receive():
            if isinstance(message, wire.ClientHello):
                # The answer says what is on disk; what was heard on another connection in this turn has to be there, too.
                self._commit()
                if self._link.hello(now, channel, peer, message):
                    self._told.greeted()
                    self._handle(events.OutcomesReceived(now, message.durable))
            elif self._link.is_client(channel, peer):
                self._link.heard(now)
                self._hear_client(now, channel, peer, message)
            else:
                self._hear_observer(now, channel, peer, message)

    def _hear_client(self, now: float, channel: AgentChannel, peer: Peer, message: wire.FromClient) -> None:
        match message:
            case wire.Cancel() if message.number == 0:
                self._handle(events.CancelRequested(now, 0, message.tasks))
            case (
                wire.Submit()
                | wire.Cancel()
                | wire.EndPilot()
                | wire.PrepareEnvironment()
                | wire.AddPartition()
                | wire.RetirePartition()
            ):
                if self._link.accept(message):
                    self._follow(now, message)
            case wire.Acknowledge():
                self._link.acknowledged(message)
                self._handle(events.OutcomesReceived(now, message.durable))
            case wire.GrantNodes() | wire.ReclaimNodes() | wire.RecallTasks():
                if self._link.accept(message):
                    self._follow_head(now, message)
            case wire.AskPartitions():
                channel.send(peer, self._partitions_told(message))
            case wire.Inspect():
                self._answer(channel, peer, message)
            case wire.AskLoad():
                self._told.ask_load(message.every_s)
            case wire.ShareLaunches():
                self._share_launches(now, message)
            case wire.Heartbeat() | wire.ClientHello():
                pass
            case _:
                unreachable(message)

    def _follow(self, now: float, message: Handed) -> None:
        """Do what the client wants, however it said it; the message is a new one."""
        match message:
            case wire.Submit():
                self._handle(events.TasksSubmitted(now, message.number, message.binding, _decode_batch(message.batch)))
            case wire.Cancel():
                self._handle(events.CancelRequested(now, message.number, message.tasks))
            case wire.EndPilot():
                reason = message.failure or "the pilot was ended by the user"
                self._handle(events.EndRequested(now, message.number, message.drain, reason, bool(message.failure)))
            case wire.PrepareEnvironment():
                self._handle(events.EnvironmentAsked(now, message.number, message.name, message.spec))
            case wire.AddPartition() | wire.RetirePartition():
                self._change_plan(now, message)
            case _:
                unreachable(message)

    @abstractmethod
    def _follow_head(self, now: float, message: wire.ToPartition) -> None:
        """The metascheduler gives or wants nodes, or wants tasks."""

    @abstractmethod
    def _share_launches(self, now: float, message: wire.ShareLaunches) -> None:
        """The metascheduler divides what the launcher bears."""

    @abstractmethod
    def _change_plan(self, now: float, message: wire.ToHead) -> None:
        """The client wants a partition more, or one less."""

    @abstractmethod
    def _partitions_told(self, message: wire.AskPartitions) -> wire.PartitionsTold:
        """Return how the partitions are, and what is against a change."""

    def _hear_observer(self, now: float, channel: AgentChannel, peer: Peer, message: wire.FromClient) -> None:
        if isinstance(message, wire.Inspect):
            self._answer(channel, peer, message)
        elif isinstance(message, wire.AskPartitions):
            channel.send(peer, self._partitions_told(message))
        elif isinstance(message, wire.Cancel) and message.number == 0:
            self._handle(events.CancelRequested(now, 0, message.tasks))
        elif not isinstance(message, wire.Heartbeat | wire.Acknowledge):
            channel.send(peer, wire.Refused("say ClientHello first, or again: this connection is not that of the client"))

    def _answer(self, channel: AgentChannel, peer: Peer, message: wire.Inspect) -> None:
        channel.send(peer, wire.Inspection(message.question, self._answer_to(message)))

    def _answer_to(self, message: wire.Inspect) -> Answer:
        core = self._core
        answer: Answer
        if message.task:
            task = core.state.tasks.get(message.task)
            answer = {"state": core.doing(message.task), "why": core.why(message.task)}
            if task is not None:
                answer["binding"] = task.binding
                answer["attempt"] = task.attempt
        else:
            answer = core.summary()
        return answer


def _drain(descriptor: int) -> None:
    try:
        while len(os.read(descriptor, 4096)) == 4096:
            pass
    except BlockingIOError:
        return
