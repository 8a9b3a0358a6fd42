"""The agent's event loop: one thread around the pure core, which hears of runners, client, crew, clock and disk."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable

import msgspec

from pilotage.agent.client_link import ClientLink
from pilotage.agent.crew import Crew
from pilotage.agent.job_watch import JobWatch, Verdict
from pilotage.agent.loop import PilotLoop
from pilotage.agent.progress import Progress
from pilotage.agent.result_blobs import ResultBlobs
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent import actions, events
from pilotage.core.agent.core import AgentCore
from pilotage.errors import ProtocolError, unreachable
from pilotage.executors.base import Executor
from pilotage.log.writer import LogWriter
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.payload import Blob
from pilotage.wire import messages as wire
from pilotage.wire.channel import AgentChannel


class Agent(PilotLoop[AgentCore]):
    """Runs one pilot, or one partition of a pilot. ``run`` returns when it has ended."""

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
        watch: JobWatch | None = None,
    ) -> None:
        told = Progress(core.state, link, core.load)
        super().__init__(settings, core, log, channels, link, wakeup, told, (executor.fileno(), crew.fileno()), watch)
        self._told: Progress = told
        self._executor = executor
        self._blobs = blobs
        self._crew = crew
        self.abandoned = ""
        """Why this agent ends without an end of its pilot, or partition: what is there of a partition is for its head to judge;
        and the job that is ended around a pilot may be begun again, or else the client learns from it what to make of that."""
        self._is_questioned = False
        """Whether it was said that the batch system is asked whether the job ends."""
        self._verdict: Verdict | None = None
        """Of a partition: what its head is to know of the job's end."""
        self._head_knows = False
        self._told_of_starvation = False

    # --------------------------------------------------------------------------------------------------------------- the loop

    def notice(self, text: str) -> None:
        """Let the user know, when a client is there."""
        self._told.notice(text, lasting=False)

    def _gather(self, now: float, ready: Collection[int]) -> None:
        self._executor.turn(now)
        if self._watch is not None and self._watch.was_asked and not self._is_questioned:
            self._is_questioned = True
            self._handle(events.JobQuestioned(now))
        if self._verdict is not None:
            self._tell_head(self._verdict)
        if self._crew.fileno() in ready:
            self._hear_crew()

    def _dues(self) -> list[float | None]:
        return [self._executor.next_deadline()]

    def _is_over(self) -> bool:
        if self._job_ends and self._core.is_left(time.time()):
            self.abandoned = self._job_ends
        return bool(self.abandoned) or super()._is_over()

    def _told_to_end(self, now: float, reason: str) -> None:
        if self._settings.batch != "local":
            # The agent of a partition hears it of the batch system or of its head, or of both.
            if not self._job_ends:
                self._end_with_job(now, reason)
                if self._settings.partition and self._watch is not None:
                    # The head may know when, and a signal does not tell.
                    self._watch.look()
        elif self._settings.partition and not self._link.reaches_client():
            # A head that lives hears how all ends; without one what runs is ended, and nothing is said of it.
            self.abandoned = reason
        else:
            super()._told_to_end(now, reason)

    def _job_end_learned(self, now: float, verdict: Verdict) -> None:
        if self._settings.partition and not self._job_ends:
            self._verdict = verdict
            self._tell_head(verdict)
        super()._job_end_learned(now, verdict)

    def _tell_head(self, verdict: Verdict) -> None:
        """Have the head know before this agent is gone, which another is not to follow."""
        if not self._head_knows:
            self._link.send(wire.JobEnds(verdict.reason, verdict.end_s))
        self._head_knows = self._link.connected

    def _job_goes_on(self, now: float) -> None:
        self._is_questioned = False
        self._handle(events.JobGoesOn(now))

    def _client_lost(self, now: float) -> None:
        if self._settings.partition:
            self.abandoned = f"no head for {self._settings.client_loss_timeout_s:g} s"
        else:
            super()._client_lost(now)

    def _commit(self) -> None:
        super()._commit()
        self._look_for_starvation()

    def _look_for_starvation(self) -> None:
        # Once: where small tasks come and go beside a large one that waits, it would be told with each of them.
        if not self._told_of_starvation and self._core.starved:
            self._told_of_starvation = True
            self._told.notice(
                "tasks wait for resources, and nothing runs but services, which keep what they have until they end or are "
                "cancelled; see why with: pilotage task why UID",
                lasting=False,
            )

    def _performed(self) -> None:
        self._executor.flush()

    def _follow_head(self, now: float, message: wire.ToPartition) -> None:
        match message:
            case wire.GrantNodes():
                self._handle(events.NodesGranted(now, message.number, message.nodes))
            case wire.ReclaimNodes():
                self._handle(events.NodesReclaimed(now, message.number, message.reclaim, message.count))
            case wire.RecallTasks():
                self._handle(events.TasksRecalled(now, message.number, message.recall, message.tasks))
            case _:
                unreachable(message)

    def _share_launches(self, now: float, message: wire.ShareLaunches) -> None:
        self._handle(events.LaunchesShared(now, message.among))

    def _change_plan(self, now: float, message: wire.ToHead) -> None:
        raise ProtocolError(f"the client changes the plan ({type(message).__name__}) of a pilot that has none")

    def _partitions_told(self, message: wire.AskPartitions) -> wire.PartitionsTold:
        return wire.PartitionsTold(message.question, [], "this pilot has no partitions")

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
            case actions.SignalExecutions():
                executor.signal(action.runner, action.executions, action.signal)
            case actions.RecallTasks():
                executor.recall(action.runner, action.executions)
            case actions.StartRunner():
                executor.start_runner(action.runner, action.beside, action.environment, action.host)
            case actions.StopRunner():
                executor.stop_runner(action.runner)
            case actions.SendPilotEnded():
                self._link.send_ended(wire.PilotEnded(*msgspec.structs.astuple(action)))
            case actions.SendNodes():
                self._link.send_answer(wire.NodesReturned(action.number, action.reclaim, action.nodes))
            case actions.SendTasks():
                self._link.send_answer(wire.TasksReturned(action.number, action.recall, action.tasks))
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

    def service_spoke(self, service: TaskUid, attempt: Attempt, lines: dict[str, str]) -> None:
        """Let the watch over services know."""
        self._crew.service_spoke(service, attempt, lines)

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        """Place nothing until there is room."""
        self._storage_full(reason)

    def nodes_lost(self, nodes: list[int], reason: str) -> None:
        """Tell the core."""
        self._handle(events.NodesLost(time.time(), nodes, reason))
