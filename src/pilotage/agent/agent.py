"""The agent's event loop: one thread around the pure core.

Each turn gathers what has arrived from runners, client, crew, clock and disk, lets the core decide on each, writes all facts of
the turn to the log as one record, and only then performs the actions. So what is acted upon is in the log, and a turn under
load pays for one write, whatever the number of tasks.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterable

import msgspec

from pilotage.agent.client_link import ClientLink
from pilotage.agent.crew import Crew
from pilotage.agent.progress import Progress
from pilotage.agent.result_blobs import ResultBlobs
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore, Step
from pilotage.errors import BackendError, unreachable
from pilotage.executors.base import Executor
from pilotage.log.writer import LogWriter
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.payload import Blob
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

_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode


class Agent:
    """Runs one pilot. ``run`` returns when the pilot has ended."""

    def __init__(
        self,
        settings: PilotSettings,
        core: AgentCore,
        log: LogWriter,
        executor: Executor,
        channels: Iterable[AgentChannel],
        link: ClientLink,
        wakeup: int,
        blobs: ResultBlobs,
        crew: Crew,
    ) -> None:
        self._settings = settings
        self._core = core
        self._log = log
        self._executor = executor
        self._channels = {channel.fileno(): channel for channel in channels}
        self._link = link
        self._blobs = blobs
        self._crew = crew
        self._told = Progress(core.state, link, core.load)
        self._facts: list[facts.Fact] = []
        self._actions: list[actions.Action] = []
        self._terminated = ""
        self._finished_at: float | None = None
        self._poll = select.epoll()
        for descriptor in (executor.fileno(), log.wake_fd, wakeup, crew.fileno(), *self._channels):
            self._poll.register(descriptor, select.EPOLLIN)
        self._wakeup = wakeup

    # --------------------------------------------------------------------------------------------------------------- the loop

    def terminate(self, reason: str) -> None:
        """End the pilot at the next turn; may be called from a signal handler."""
        self._terminated = reason

    def run(self) -> None:
        """Work until the pilot has ended and the client knows, or cannot be told."""
        self._note(self._core.start(time.time()))
        self._commit()
        while not self._is_over():
            ready = [descriptor for descriptor, _ in self._poll.poll(self._patience())]
            now = time.time()
            if self._wakeup in ready:
                _drain(self._wakeup)
            if self._log.wake_fd in ready:
                self._link.synced(self._log.take_synced())
            for descriptor in ready:
                if descriptor in self._channels:
                    self._hear(now, self._channels[descriptor])
            self._executor.turn(now)
            if self._crew.fileno() in ready:
                self._hear_crew()
            self._pass_time(now)
            self._commit()
            # Acknowledgements of what was sent just now may have come meanwhile; they are heard in the next turn.
            self._link.acknowledge()

    def _patience(self) -> float:
        """Return how long nothing has to be done unless something arrives, in seconds (-1: for ever)."""
        dues = [
            self._core.next_deadline(),
            self._executor.next_deadline(),
            self._link.next_event(),
            self._told.due,
            self._client_loss_deadline(),
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
            self._handle(events.EndRequested(now, 0, False, self._terminated))
            self._terminated = ""
        loss = self._client_loss_deadline()
        if loss is not None and now >= loss and self._core.state.ending is None:
            drain = self._settings.on_client_loss == "drain"
            reason = f"no client for {self._settings.client_loss_timeout_s:g} s"
            self._handle(events.EndRequested(now, 0, drain, reason))
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

    def _handle(self, event: events.Event) -> None:
        self._note(self._core.handle(event))

    def _note(self, step: Step) -> None:
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
                self._link.logged(self._append(_encode(taken)))
                self._told.changed()
            for action in todo:
                self._perform(action)
            self._core.performed()
            self._executor.flush()
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

    def _perform(self, action: actions.Action) -> None:
        executor = self._executor
        match action:
            case actions.LaunchTasks():
                executor.launch(action.runner, action.lanes, self._core.state.templates)
            case actions.ReleaseRunner():
                executor.release(action.runner, action.through)
            case actions.SendOutcomes():
                self._link.send_outcomes(action.number, action.outcomes)
            case actions.TellProgress():
                self._told.tasks_started(action.tasks)
            case actions.TellService():
                self._told.service_ready(action.service)
            case actions.EndExecutions():
                executor.end(action.runner, action.executions, action.ending, action.message)
            case actions.RecallTasks():
                executor.recall(action.runner, action.executions)
            case actions.StartRunner():
                executor.start_runner(action.runner, action.beside, action.environment)
            case actions.StopRunner():
                executor.stop_runner(action.runner)
            case actions.SendPilotEnded():
                self._link.send_ended(action.number, action.state, action.reason)
            case actions.SendNodes():
                self._link.send_nodes(action.number, action.reclaim, action.nodes)
            case actions.StageTasks():
                if action.phase == "output":
                    self._told.outputs_begun([row.uid for _, row in action.tasks if row.extra is not None])
                self._crew.perform(action, self._core.state.templates)
            case actions.EndStaging() | actions.PrepareEnvironment() | actions.WatchService() | actions.UnwatchService():
                self._crew.perform(action, self._core.state.templates)
            case _:
                unreachable(action)

    # ------------------------------------------------------------------------------------------------------ from the crew

    def _hear_crew(self) -> None:
        for event in self._crew.take():
            if isinstance(event, events.StorageFilled):
                self._storage_full(event.reason)
                continue
            if isinstance(event, events.StorageFreed):
                self._told.notice("there is room again: tasks are placed", lasting=False)
            self._handle(event)

    def _storage_full(self, reason: str) -> None:
        self._crew.storage_full()
        self._handle(events.StorageFilled(time.time(), reason))
        self._told.notice(
            f"storage is full, so no tasks are placed, and no input is staged, until there is room: {reason}", lasting=True
        )

    # ---------------------------------------------------------------------------------------------------- from the client

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
            case wire.Submit():
                if self._link.accept(message):
                    batch = _decode_batch(message.batch)
                    self._handle(events.TasksSubmitted(now, message.number, message.binding, batch))
            case wire.Acknowledge():
                self._link.acknowledged(message)
                self._handle(events.OutcomesReceived(now, message.durable))
            case wire.Cancel():
                if message.number == 0 or self._link.accept(message):
                    self._handle(events.CancelRequested(now, message.number, message.tasks))
            case wire.EndPilot():
                if self._link.accept(message):
                    reason = message.failure or "the pilot was ended by the user"
                    self._handle(events.EndRequested(now, message.number, message.drain, reason, bool(message.failure)))
            case wire.PrepareEnvironment():
                if self._link.accept(message):
                    self._handle(events.EnvironmentAsked(now, message.number, message.name, message.spec))
            case wire.GrantNodes():
                if self._link.accept(message):
                    self._handle(events.NodesGranted(now, message.number, message.nodes))
            case wire.ReclaimNodes():
                if self._link.accept(message):
                    self._handle(events.NodesReclaimed(now, message.number, message.reclaim, message.count))
            case wire.Inspect():
                self._answer(channel, peer, message)
            case wire.AskLoad():
                self._told.ask_load(message.every_s)
            case wire.Heartbeat() | wire.ClientHello():
                pass
            case _:
                unreachable(message)

    def _hear_observer(self, now: float, channel: AgentChannel, peer: Peer, message: wire.FromClient) -> None:
        if isinstance(message, wire.Inspect):
            self._answer(channel, peer, message)
        elif isinstance(message, wire.Cancel) and message.number == 0:
            self._handle(events.CancelRequested(now, 0, message.tasks))
        elif not isinstance(message, wire.Heartbeat | wire.Acknowledge):
            channel.send(peer, wire.Refused("say ClientHello first, or again: this connection is not that of the client"))

    def _answer(self, channel: AgentChannel, peer: Peer, message: wire.Inspect) -> None:
        core = self._core
        answer: dict[str, str | int | float | list[str]]
        if message.task:
            task = core.state.tasks.get(message.task)
            answer = {"state": core.doing(message.task), "why": core.why(message.task)}
            if task is not None:
                answer["binding"] = task.binding
                answer["attempt"] = task.attempt
        else:
            answer = core.summary()
        channel.send(peer, wire.Inspection(message.question, answer))

    # ---------------------------------------------------------------------------------------------------- from runners

    def runner_connected(self, runner: RunnerId, pid: int, started_ticks: int, boot_id: str) -> None:
        """Tell the core; see ``executors.base.RunnerListener``."""
        self._handle(events.RunnerConnected(time.time(), runner, pid, started_ticks, boot_id))

    def runner_reconciled(self, runner: RunnerId, holds: list[Execution]) -> None:
        """Tell the core."""
        self._handle(events.RunnerReconciled(time.time(), runner, holds))

    def runner_lost(
        self,
        runner: RunnerId,
        reason: str,
        exit_code: int | None,
        running: Execution | None,
        not_begun: list[Execution],
    ) -> None:
        """Tell the core."""
        self._handle(events.RunnerLost(time.time(), runner, reason, exit_code, running, not_begun))

    def tasks_started(self, runner: RunnerId, started: list[tuple[TaskUid, Attempt, float]]) -> None:
        """Tell the core."""
        self._handle(events.TasksStarted(time.time(), runner, started))

    def tasks_ended(self, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        """Tell the core, once the log's next sync is sure to make large results durable before their outcomes."""
        for end in ends:
            if type(end.result) is Blob:
                self._blobs.cover(end.result)
        self._handle(events.TasksEnded(time.time(), runner, number, ends))

    def tasks_returned(self, runner: RunnerId, executions: list[Execution]) -> None:
        """Tell the core."""
        self._handle(events.TasksReturned(time.time(), runner, executions))

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        """Place nothing until there is room."""
        self._storage_full(reason)


def _drain(descriptor: int) -> None:
    try:
        while len(os.read(descriptor, 4096)) == 4096:
            pass
    except BlockingIOError:
        return
