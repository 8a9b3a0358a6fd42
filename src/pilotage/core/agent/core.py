"""The agent's state machine: one event in, facts and actions out.

``handle`` looks at the event, decides, and folds each fact into the state as it is decided, so that the next decision of the
same step sees it. The shell writes the facts to the log as one record, only then performs the actions, and says so with
``performed``: until then what is launched is known not to have reached its runner, whatever is heard of that runner. What
the scheduler, the runners' loads and the paces know is derived from the state, and is rebuilt from it by ``recover``.

The life of a task here::

    accepted -> waits -> launched in a lane -> (started) -> ended -> numbered for the client -> delivered, forgotten
       |      ^   ^            |                   |        |   ^
       |      |   +- returned -+   <- repeated ----+        |   |     (never began)   (failed or lost, and may run again)
       +------+                                             +---+
     input staged                                        output staged

The core's parts write what they decide to one ``Journal``: ``Acceptance`` takes tasks in, ``Staging`` and ``Environments`` see
to what they need before and after, ``Waiting`` has the queue and ``Dispatch`` hands them to runners, ``Reports`` hears what
becomes of them there, ``Services`` looks after those that are services, ``Endings`` gives all their outcomes and ``Delivery``
sees these to the client. ``Idleness`` notices that nothing is left to do, ``Walltime`` that the pilot's time is nearly over.
Of a partition ``Nodes`` takes in and gives back nodes as its metascheduler says, and ``Recalls`` gives back tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.acceptance import Acceptance
from pilotage.core.agent.alarms import Alarms
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.environments import Environments
from pilotage.core.agent.gangs import Gangs
from pilotage.core.agent.hosts import SPAWNER_FAILURES
from pilotage.core.agent.idleness import Idleness
from pilotage.core.agent.inquiry import Inquiry
from pilotage.core.agent.job_end import Doubtful, JobEnd
from pilotage.core.agent.journal import Journal, Step
from pilotage.core.agent.launches import Launches
from pilotage.core.agent.losses import NODE_LOST
from pilotage.core.agent.nodes import Nodes
from pilotage.core.agent.partition import PartitionDelivery, Recalls
from pilotage.core.agent.reports import Reports
from pilotage.core.agent.runners import RunnerPool
from pilotage.core.agent.services import Services
from pilotage.core.agent.staging import Staging
from pilotage.core.agent.state import AgentState
from pilotage.core.agent.waiting import Waiting
from pilotage.core.agent.walltime import Walltime
from pilotage.core.scheduling.policy import Policy
from pilotage.errors import unreachable
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import Load
from pilotage.model.states import CANCELED, DONE, FAILED

__all__ = ["AgentCore", "Step"]


class AgentCore:
    """Decides for one pilot. Drive it with ``handle``; read ``next_deadline`` to know when time alone is an event.

    ``policy`` places tasks; it must be fresh. ``spawners`` is the number of spawners to keep. ``deadline`` (seconds since the
    epoch, None for no limit) is when the pilot ends itself; it also does after ``idle_timeout_s`` without anything to do (0.0:
    never). ``drain_s`` before the deadline no task begins any more, and those that run get the ``checkpoint_signal`` (0: none).
    ``barrier``: no task begins before so many have arrived. ``nodes``: of a partition, the indices of those that it
    began with, which are the ones that its policy has to begin with. ``hosts``: the number of the host of each node, by the
    node's index; without it all are on host 0. ``launches``: how many launchers may run at once (0: any number),
    in all partitions of the pilot together; there are ``partitions`` of them.
    ``in_job``: it is a batch job, which others may end. ``successor_s``: how long a pilot lives that follows it (0.0: none
    follows): tasks whose declared duration is not longer wait for that one if they would end too late here.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        spawners: int = 2,
        deadline: float | None = None,
        state: AgentState | None = None,
        nodes: Iterable[int] = (),
        idle_timeout_s: float = 0.0,
        barrier: int = 0,
        hosts: Sequence[int] = (),
        launches: int = 0,
        partitions: int = 1,
        drain_s: float = 0.0,
        checkpoint_signal: int = 0,
        in_job: bool = False,
        successor_s: float = 0.0,
    ) -> None:
        self.state = state if state is not None else AgentState()
        self._has_hosts = bool(hosts)
        self._successor_s = successor_s
        self._journal = journal = Journal(self.state)
        self._pool = RunnerPool(spawners, hosts)
        self._alarms = Alarms(self.state)
        self._delivery = PartitionDelivery(journal)
        self._idleness = Idleness(self.state, idle_timeout_s, self._prepares)
        self._waiting = Waiting(self.state, policy, Launches(self.state, launches, len(set(hosts)) > 1, partitions), barrier)
        self._dispatch = Dispatch(journal, policy, self._waiting, self._pool)
        self._endings = Endings(journal, self._waiting, self._delivery)
        self._gangs = Gangs(journal, self._endings)
        self._staging = Staging(journal, self._waiting, self._dispatch, self._endings)
        self._environments = Environments(journal, self._waiting, self._endings)
        self._services = Services(journal, self._waiting, self._dispatch, self._endings)
        self._acceptance = Acceptance(journal, self._waiting, self._endings, self._delivery, self._staging, self._services)
        self._reports = Reports(journal, self._waiting, self._dispatch, self._pool, self._alarms, self._endings)
        self._nodes = Nodes(journal, policy, self._waiting, nodes, len(hosts))
        self._recalls = Recalls(journal, self._waiting)
        self._job_end = JobEnd(self.state, self._pool, self._dispatch, in_job)
        parts = (self._waiting, self._dispatch, self._endings, self._services, self._job_end)
        self._walltime = Walltime(journal, *parts, deadline, drain_s, checkpoint_signal)
        self._inquiry = Inquiry(self.state, policy, self._waiting, self._dispatch, self._endings)
        if hosts:
            self._pool.serve(self._nodes.own())

    # ---------------------------------------------------------------------------------------------------- the surface

    def handle(self, event: events.Event) -> Step:
        """Decide what the event means, fold the facts into the state, and return them with the actions they call for."""
        self._take_in(event)
        self._follow_up(event.time)
        return self._journal.take()

    def handle_all(self, several: Sequence[events.Event]) -> Step:
        """Decide as ``handle`` does, of at least one event heard at the same time; tasks are placed once, behind the last."""
        for event in several:
            self._take_in(event)
        self._follow_up(several[-1].time)
        return self._journal.take()

    def _take_in(self, event: events.Event) -> None:
        now = event.time
        match event:
            case events.TasksEnded():
                if not self._job_end.holds(event):
                    self._reported(event)
            case events.TasksSubmitted():
                if self._is_new(event.number):
                    self._acceptance.submitted(event)
            case events.OutcomesReceived():
                self._delivery.received(event.durable)
            case events.LinkOpened():
                self._delivery.number(now)
            case events.TasksStarted():
                self._reports.started(event)
            case events.TasksReturned():
                self._reports.returned(event)
            case events.CancelRequested():
                if not event.number or self._is_new(event.number):
                    self._cancel_requested(event)
            case events.EndRequested():
                # Who ends the pilot may do so for the same reason, a moment before this agent's clock says so.
                self._walltime.time_passed(now)
                if not event.number or self._is_new(event.number):
                    self._end_requested(event)
            case events.RunnerConnected():
                self._reports.connected(event)
            case events.RunnerReconciled():
                self._take_in_held(self._job_end.released(event.runner))
                self._reports.reconciled(event)
                self._services.mistrust(event.runner)
                self._walltime.reconciled(event.runner)
            case events.RunnerLost() | events.NodesLost():
                if not self._job_end.holds(event):
                    self._reported(event)
            case events.JobEnding():
                self._walltime.job_ends(now, event.reason, event.until)
                self._take_in_held(self._job_end.released())
            case events.JobQuestioned():
                self._job_end.question()
            case events.JobGoesOn():
                self._job_end.go_on()
                self._take_in_held(self._job_end.ripe(now))
            case events.TimePassed():
                self._time_passed(now)
            case events.StagingEnded():
                self._staging.ended(event)
            case events.EnvironmentAsked():
                if self._is_new(event.number):
                    self._environments.asked(event)
            case events.EnvironmentPrepared():
                self._environments.prepared(event)
            case events.ServiceReady():
                self._services.ready(event)
            case events.ServiceUnwell():
                self._services.unwell(event)
            case events.NodesGranted():
                if self._is_new(event.number):
                    self._nodes.granted(event)
                    self._serve(now)
            case events.NodesReclaimed():
                if self._is_new(event.number):
                    self._nodes.reclaimed(event)
                    self._serve(now)
            case events.TasksRecalled():
                if self._is_new(event.number):
                    self._recalls.recalled(event)
            case events.StorageFilled():
                self._dispatch.paused = event.reason
            case events.LaunchesShared():
                self._waiting.launches.share(event.among)
            case events.StorageFreed():
                self._dispatch.paused = ""
                self._staging.go_on()
            case _:
                unreachable(event)

    def _reported(self, event: Doubtful) -> None:
        """Draw the conclusions from what is heard of runners."""
        if self._job_end.came:
            self._reported_at_the_end(event)
            return
        match event:
            case events.TasksEnded():
                self._reports.ended(event)
            case events.RunnerLost():
                given_up = self._reports.lost(event)
                if given_up is not None:
                    self._give_up(event.time, given_up, event.reason)
            case events.NodesLost():
                self._nodes_lost(event)

    def _reported_at_the_end(self, event: Doubtful) -> None:
        """Of what was cut short as the job ends nothing is concluded here."""
        match event:
            case events.TasksEnded():
                ended = self._job_end.well_ended(event)
                if ended is not None:
                    self._reports.ended(ended)
            case events.RunnerLost():
                self._job_end.lost(event.runner)
            case events.NodesLost():
                pass

    def _take_in_held(self, held: Iterable[Doubtful]) -> None:
        for event in held:
            self._reported(event)

    def _follow_up(self, now: float) -> None:
        """Do what the state as it is now calls for, whatever the event was."""
        self._walltime.look(now)
        if self._waiting.barrier:
            self._waiting.lift_barrier(now)
        if self._waiting.held:
            self._environments.settle(now)
        if self.state.ending is not None:
            self._services.stop(now)
        if self._endings.has_gangs:
            self._gangs.settle(now)
        if self._reports.came_back:
            self._reports.came_back = False
            if self.state.lost_nodes and self._are_refused:
                self._end_unplaceable(now)
        self._services.settle(now)
        if self._waiting.launches.waiting:
            self._waiting.enqueue_each(self._waiting.launches.next(), now)
        if self._waiting.for_successor and not self._is_followed:
            for uid, reason in list(self._waiting.for_successor.items()):
                self._end_stranded(now, [uid], reason)
        placed = self._dispatch.place(now)
        for uids, reason in self._dispatch.too_late(now):
            self._end_stranded(now, self._not_left_to_successor(uids, reason), reason)
            placed |= self._dispatch.place(now)
        while not placed and (stranded := self._dispatch.stranded()):
            for uids, reason in stranded:
                self._end_stranded(now, uids, reason)
            # Who was to run beside one of these cannot be placed either.
            placed = self._dispatch.place(now)
        if self._endings.gangs_over:
            self._gangs.settle(now)
        self._idleness.look(now)

    def performed(self) -> None:
        """All actions of all steps so far have been performed. Call it after each commit."""
        self._dispatch.performed()

    def start(self, now: float) -> Step:
        """Begin, or begin again after a recovery: make the runners complete."""
        self._staging.resume(now)
        self._environments.resume()
        return self.handle(events.TimePassed(now))

    def recover(self, now: float) -> None:
        """Rebuild from the state what is derived from it. Call once, after the log was applied and before ``start``."""
        state = self.state
        self._endings.learn(state.templates)
        self._nodes.recover()
        self._dispatch.recover(now)
        self._serve(now)
        self._delivery.recover()
        self._staging.recover()
        self._services.recover()
        self._gangs.recover()
        self._waiting.launches.recover()
        self._walltime.recover()
        waiting = []
        for uid, task in state.tasks.items():
            if not task.lane and uid not in state.inputs and uid not in state.outputs:
                waiting.append(uid)
        self._waiting.enqueue_each(waiting, now)

    def quarantine(self, now: float, uids: Iterable[TaskUid], message: str) -> None:
        """End these tasks as lost, whatever they do. Call it after ``recover``; what comes of it is part of the next step."""
        self._endings.ask(now, 0, [uid for uid in dict.fromkeys(uids) if uid in self.state.tasks], Ending.LOST, message)

    def next_deadline(self) -> float | None:
        """Return the time (seconds since the epoch) at which ``TimePassed`` is due even if nothing else happens."""
        if self._dispatch.more_to_place:
            return 0.0
        dues = (
            self._pool.next_retirement(),
            self._alarms.next(),
            self._pool.next_start() if self._wants_spawners else None,
            self._walltime.due,
            self._dispatch.too_late_from,
            self.idle_end,
            self._pool.next_wake(),
            self._job_end.due,
        )
        return min((due for due in dues if due is not None), default=None)

    @property
    def idle_end(self) -> float | None:
        """When the pilot ends for having nothing to do (seconds since the epoch), if nothing happens; None: it does not."""
        return None if self._job_end.came else self._idleness.due

    @property
    def _wants_spawners(self) -> bool:
        return not self._job_end.came and (self.state.ending is None or bool(self.state.tasks))

    @property
    def stale(self) -> int:
        """How many messages were ignored, as they name what is no longer, or not yet."""
        return self._journal.stale

    @property
    def finished(self) -> bool:
        """Whether the pilot was to end and holds no more tasks."""
        return self._delivery.finished

    def is_left(self, now: float) -> bool:
        """Tell whether the batch system ends the job, and nothing more is to be waited for."""
        return self._job_end.is_left(now)

    @property
    def starved(self) -> bool:
        """Whether tasks wait, after this step, for what services alone hold."""
        return self._dispatch.starved

    @property
    def has_news(self) -> bool:
        """Whether ``LinkOpened`` would make a message for the client."""
        return self._delivery.has_news

    @property
    def told(self) -> bool:
        """Whether the client has on disk that the pilot ended, and all before."""
        return self._delivery.told

    def load(self) -> Load:
        """Return how busy it is; a partition tells its metascheduler now and then."""
        return self._nodes.load(bool(self._dispatch.paused))

    def summary(self) -> dict[str, str | int | float | list[str]]:
        """Return counts for reports: tasks by what becomes of them, lanes, runners, environments, and why nothing is placed."""
        return self._inquiry.summary()

    def doing(self, uid: TaskUid) -> str:
        """Return in a word or two what the task does: "staging input", "awaiting environment", "waiting", "running" ..."""
        return self._inquiry.doing(uid)

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what the task waits for, or does."""
        return self._inquiry.why(uid)

    def _prepares(self) -> bool:
        return any(not each.prepared and not each.error for each in self.state.environments.values())

    # ------------------------------------------------------------------------------------------------------ from the client

    def _is_new(self, number: int) -> bool:
        """Tell whether the client's message of this number is not in the log yet."""
        if number > self.state.received:
            return True
        self._journal.stale += 1
        return False

    def _cancel_requested(self, event: events.CancelRequested) -> None:
        tasks = self.state.tasks
        known = {uid: None for uid, binding in event.tasks if uid in tasks and tasks[uid].binding == binding}
        self._endings.ask(event.time, event.number, known, Ending.CANCELLED, "cancelled by the user")

    def _end_requested(self, event: events.EndRequested) -> None:
        # Only a client that ends the pilot early cancels it; a pilot whose time is over has done its work.
        state = FAILED if event.failed else CANCELED if event.number and not event.drain else DONE
        self._end(event.time, event.number, event.drain, state, event.reason)

    def _end(self, now: float, number: int, drain: bool, state: str, reason: str) -> None:
        before = self.state.ending
        if self.state.ended or (before is not None and (drain or not before.drain)):
            # Nothing changes, but the client is told that its message is in the log, so it must be.
            self._endings.ask(now, number, [], Ending.CANCELLED, reason)
            return
        self._journal.emit(facts.PilotEnding(now, number, drain, state, reason))
        if not drain:
            self._services.stop(now)
            self._endings.ask(now, 0, list(self.state.tasks), Ending.CANCELLED, reason)

    # --------------------------------------------------------------------------------------------------------------- time

    def _time_passed(self, now: float) -> None:
        self._take_in_held(self._job_end.ripe(now))
        for uid in self._alarms.timed_out(now):
            timeout_s = self.state.templates[self.state.tasks[uid].row.template].timeout_s
            self._endings.ask(now, 0, [uid], Ending.TIMED_OUT, f"ran longer than its timeout of {timeout_s:g} s")
        self._dispatch.recall_behind(self._alarms.stalled(now))
        self._walltime.time_passed(now)
        if self.idle_end is not None and now >= self.idle_end:
            self._journal.emit(facts.PilotEnding(now, 0, True, DONE, self._idleness.reason, idle=True))
        if self._wants_spawners:
            for fact, action in self._pool.missing_spawners(self.state, now):
                self._journal.emit(fact)
                self._journal.act(action)
        self._pool.wake(now)
        for runner in self._pool.retire(now):
            self._journal.emit(facts.RunnerRemoved(now, runner, "idle"))
            self._journal.act(actions.StopRunner(runner))

    # -------------------------------------------------------------------------------------------------------------- nodes

    def _nodes_lost(self, event: events.NodesLost) -> None:
        if self._lose(event) and self._are_refused:
            if self._has_hosts and self._nodes.are_for_good and not self._nodes.own():
                self._end(event.time, 0, False, FAILED, f"no node is left; the last was lost: {event.reason}")
            self._end_unplaceable(event.time)

    @property
    def _are_refused(self) -> bool:
        """Whether tasks that cannot be placed now, as nodes were lost, are not to wait here for others.

        A partition may be given nodes; but while it has none, its metascheduler finds another place for its tasks.
        """
        return self._nodes.are_for_good or (self._has_hosts and not self._nodes.own())

    def _give_up(self, now: float, nodes: list[int], reason: str) -> None:
        """No spawner comes up on the host of these nodes."""
        where = f" on {self._nodes.names(nodes)}" if self._pool.has_several_hosts else ""
        reason = f"{SPAWNER_FAILURES} spawners in a row did not come up{where}: {reason}"
        if not self._has_hosts:
            nodes = self._nodes.own()
        self._lose(events.NodesLost(now, nodes, reason))
        if not self._nodes.own():
            self._end(now, 0, False, FAILED, reason)
        elif self._nodes.are_for_good:
            self._end_unplaceable(now)

    def _lose(self, event: events.NodesLost) -> bool:
        """Go on without these nodes; tell whether some of them were here."""
        lost = self._nodes.lost(event)
        if lost:
            self._dispatch.end_on(dict.fromkeys(lost), f"{NODE_LOST}: {event.reason}" if event.reason else NODE_LOST)
            self._serve(event.time)
        return bool(lost)

    def _serve(self, now: float) -> None:
        """The nodes are others: start spawners on their hosts, and let runners go where no node is left."""
        if self._has_hosts:
            for runner in self._pool.serve(self._nodes.own()):
                self._journal.emit(facts.RunnerRemoved(now, runner, "its nodes are no longer used"))
                self._journal.act(actions.StopRunner(runner))

    def _end_unplaceable(self, now: float) -> None:
        for uids, reason in self._dispatch.unplaceable():
            self._end_stranded(now, uids, reason)

    @property
    def _is_followed(self) -> bool:
        """Whether another pilot follows at the end of this one's time; none does if it was ended before."""
        ending = self.state.ending
        return self._successor_s > 0.0 and (ending is None or ending.out_of_time)

    def _not_left_to_successor(self, uids: list[TaskUid], reason: str) -> list[TaskUid]:
        """Let those of these tasks, which would end too late here, wait for the next pilot which would not there."""
        if not self._is_followed:
            return uids
        left = []
        for uid in uids:
            template = self.state.templates[self.state.tasks[uid].row.template]
            if 0.0 < template.duration_s <= self._successor_s and not template.request.gang and template.service is None:
                self._waiting.leave_to_successor(uid, reason)
            else:
                left.append(uid)
        return left

    def _end_stranded(self, now: float, uids: list[TaskUid], reason: str) -> None:
        """These can never be placed: they would wait for ever."""
        # Those that need a service have ended with it, where that was stranded before them.
        uids = [uid for uid in uids if uid in self.state.tasks]
        for uid in uids:
            self._waiting.withdraw(uid)
        self._endings.finish(now, uids, Ending.INFEASIBLE, reason)
        self._services.settle(now)
