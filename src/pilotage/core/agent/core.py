"""The agent's state machine: one event in, facts and actions out.

``handle`` looks at the event, decides, and folds each fact into the state as it is decided, so that the next decision of the
same step sees it. The shell writes the facts to the log as one record, only then performs the actions, and says so with
``performed``: until then what is launched is known not to have reached its runner, whatever is heard of that runner. What
the scheduler, the runners' loads and the paces know is derived from the state, and is rebuilt from it by ``recover``.

The life of a task here::

    accepted -> waits -> launched in a lane -> (started) -> ended -> numbered for the client -> delivered, forgotten
                  ^            |                   |
                  +- returned -+   <- repeated ----+      (never began)   (failed or lost, and may run again)
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable

import msgspec

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.lanes import EXECUTABLE, HORIZON_S, Pace, group_of
from pilotage.core.agent.losses import lost_end
from pilotage.core.agent.runners import SPAWNER_FAILURES, WORKER_FAILURES, RunnerPool
from pilotage.core.agent.state import AgentState, TaskRecord, apply
from pilotage.core.scheduling.policy import GroupKey, Policy
from pilotage.errors import unreachable
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, Binding, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.states import CANCELED, DONE, FAILED
from pilotage.model.workload import Batch, Row

OPENED_AT_ONCE = 1024
"""Lanes opened in one step; more are opened in the next, so that messages are read in between."""

STALL_S = 0.1
"""A task seen running for this long loses those that wait behind it in its lane."""

OUTCOMES_PER_MESSAGE = 8192
BYTES_PER_MESSAGE = 4 << 20

PACES_KEPT = 4096
"""Groups without lanes whose pace is remembered."""


class Step(msgspec.Struct):
    """What came of an event: facts to log, then actions to perform."""

    facts: list[facts.Fact]
    actions: list[actions.Action]


class AgentCore:
    """Decides for one pilot. Drive it with ``handle``; read ``next_deadline`` to know when time alone is an event.

    ``policy`` places tasks; it must be fresh. ``spawners`` is the number of spawners to keep. ``deadline`` (seconds since the
    epoch, None for no limit) is when the pilot ends itself.
    """

    def __init__(
        self, policy: Policy, *, spawners: int = 2, deadline: float | None = None, state: AgentState | None = None
    ) -> None:
        self.state = state if state is not None else AgentState()
        self._policy = policy
        self._pool = RunnerPool(spawners)
        self._deadline = deadline
        self._under_way: dict[TaskUid, Binding] = {}
        """Tasks whose outcomes the client does not have on disk yet."""
        self._groups: dict[TemplateId, GroupKey] = {}
        self._paces: dict[GroupKey, Pace] = {}
        self._alarms: list[tuple[float, TaskUid, Attempt]] = []
        self._stalls: list[tuple[float, TaskUid, Attempt]] = []
        self._recalled: set[LaneId] = set()
        """Lanes of which tasks were asked back."""
        self._more_to_place = False
        self._in_hand: list[actions.LaunchTasks] = []
        self._facts: list[facts.Fact] = []
        self._actions: list[actions.Action] = []
        self.stale = 0
        """Messages about executions that are no longer, or not yet, what they name; ignored."""

    # ---------------------------------------------------------------------------------------------------- the surface

    def handle(self, event: events.Event) -> Step:
        """Decide what the event means, fold the facts into the state, and return them with the actions they call for."""
        now = event.time
        match event:
            case events.TasksEnded():
                self._tasks_ended(event)
            case events.TasksSubmitted():
                self._tasks_submitted(event)
            case events.OutcomesReceived():
                if event.durable > self.state.delivered:
                    self._forget_under_way(event.durable)
                    self._emit(facts.OutcomesDelivered(min(event.durable, self.state.numbered)))
            case events.LinkOpened():
                self._number_outcomes(now)
            case events.TasksStarted():
                self._tasks_started(event)
            case events.TasksReturned():
                self._note_unwilling(event)
                self._tasks_returned(now, event.executions)
            case events.CancelRequested():
                self._cancel_requested(event)
            case events.EndRequested():
                self._end_requested(event)
            case events.RunnerConnected():
                self._runner_connected(event)
            case events.RunnerReconciled():
                self._runner_reconciled(event)
            case events.RunnerLost():
                self._runner_lost(event)
            case events.TimePassed():
                self._time_passed(now)
            case (
                events.StagingEnded()
                | events.EnvironmentAsked()
                | events.EnvironmentPrepared()
                | events.ServiceReady()
                | events.ServiceUnwell()
                | events.StorageFilled()
                | events.StorageFreed()
            ):
                pass
            case _:
                unreachable(event)
        self._dispatch(now)
        step = Step(self._facts, self._actions)
        self._facts, self._actions = [], []
        return step

    def performed(self) -> None:
        """All actions of all steps so far have been performed. Call it after each commit."""
        self._in_hand.clear()

    def start(self, now: float) -> Step:
        """Begin, or begin again after a recovery: make the runners complete."""
        return self.handle(events.TimePassed(now))

    def recover(self, now: float) -> None:
        """Rebuild from the state what is derived from it. Call once, after the log was applied and before ``start``."""
        state, policy = self.state, self._policy
        for lane_id, lane in state.lanes.items():
            group = self._group(lane.template)
            policy.occupy(lane.placement, group.request)
            self._pace(group).lanes.add(lane_id)
        self._pool.rebuild(state, now)
        for outcomes in (state.unsent, *state.undelivered.values()):
            self._under_way.update([(outcome.task, outcome.binding) for outcome in outcomes])
        for uid, task in state.tasks.items():
            if not task.lane:
                policy.enqueue(uid, self._group(task.row.template), now)
            elif task.started:
                self._set_alarm(uid, task)

    def quarantine(self, now: float, uids: Iterable[TaskUid], message: str) -> None:
        """End these tasks as lost, whatever they do. Call it after ``recover``; what comes of it is part of the next step."""
        self._end_tasks(now, 0, [uid for uid in dict.fromkeys(uids) if uid in self.state.tasks], Ending.LOST, message)

    def next_deadline(self) -> float | None:
        """Return the time (seconds since the epoch) at which ``TimePassed`` is due even if nothing else happens."""
        if self._more_to_place:
            return 0.0
        due = self._pool.next_retirement()
        for queue in (self._alarms, self._stalls):
            if queue and (due is None or queue[0][0] < due):
                due = queue[0][0]
        if self._wants_spawners:
            start = self._pool.next_start()
            if start is not None and (due is None or start < due):
                due = start
        if self._deadline is not None and self._may_end_sooner and (due is None or self._deadline < due):
            due = self._deadline
        return due

    @property
    def _wants_spawners(self) -> bool:
        return self.state.ending is None or bool(self.state.tasks)

    @property
    def _may_end_sooner(self) -> bool:
        return self.state.ending is None or (self.state.ending.drain and bool(self.state.tasks))

    @property
    def finished(self) -> bool:
        """Whether the pilot was to end and holds no more tasks."""
        return self.state.ending is not None and not self.state.tasks

    @property
    def has_news(self) -> bool:
        """Whether ``LinkOpened`` would make a message for the client."""
        return bool(self.state.unsent) or (self.finished and not self.state.ended)

    @property
    def told(self) -> bool:
        """Whether the client has on disk that the pilot ended, and all before."""
        state = self.state
        return state.ended > 0 and not state.unsent and state.delivered == state.numbered

    def summary(self) -> dict[str, str | int | float | list[str]]:
        """Return counts for reports: tasks by what becomes of them, lanes, runners, what the policy says of free resources."""
        state = self.state
        return {
            "waiting": self._policy.waiting(),
            "launched": sum(len(lane.tasks) for lane in state.lanes.values()),
            "lanes": len(state.lanes),
            "runners": list(state.runners),
            "final": state.outcomes,
            "undelivered": len(state.unsent) + sum(len(outcomes) for outcomes in state.undelivered.values()),
            "ending": state.ending.reason if state.ending is not None else "",
        }

    def why(self, uid: TaskUid) -> str:
        """Return in a sentence what the task waits for, or does."""
        task = self.state.tasks.get(uid)
        if task is None:
            return "is not known to this pilot: it ended and was delivered, or it was never submitted here"
        if not task.lane:
            return self._policy.why(uid)
        runner = self.state.lanes[task.lane].runner
        if task.ending is not None:
            return f"is being ended on {runner}: {task.ending_message}"
        return f"was handed to {runner}, attempt {task.attempt}" + (", and runs" if task.started else "")

    # ------------------------------------------------------------------------------------------------ facts and derived

    def _emit(self, fact: facts.Fact) -> None:
        if type(fact) is facts.Ended:
            self._under_way.update([(outcome.task, outcome.binding) for outcome in fact.outcomes])
        apply(self.state, fact)
        self._facts.append(fact)

    def _group(self, template: TemplateId) -> GroupKey:
        group = self._groups.get(template)
        if group is None:
            group = self._groups[template] = group_of(self.state.templates[template])
        return group

    def _pace(self, group: GroupKey) -> Pace:
        pace = self._paces.get(group)
        if pace is None:
            pace = self._paces[group] = Pace(group)
        return pace

    def _forget_under_way(self, durable: int) -> None:
        state = self.state
        for number in range(state.delivered + 1, min(durable, state.numbered) + 1):
            for outcome in state.undelivered.get(number, ()):
                self._under_way.pop(outcome.task, None)

    def _set_alarm(self, uid: TaskUid, task: TaskRecord) -> None:
        timeout_s = self.state.templates[task.row.template].timeout_s
        if timeout_s:
            # Alarms of tasks that ended in time are not looked for one by one: they go when they are most of all.
            if len(self._alarms) > 2 * len(self.state.tasks) + 1024:
                self._alarms = [alarm for alarm in self._alarms if self._runs(alarm[1], alarm[2])]
                heapq.heapify(self._alarms)
            heapq.heappush(self._alarms, (task.started + timeout_s, uid, task.attempt))

    def _runs(self, uid: TaskUid, attempt: Attempt) -> bool:
        task = self.state.tasks.get(uid)
        return task is not None and task.attempt == attempt and bool(task.lane)

    # ------------------------------------------------------------------------------------------------------ from the client

    def _tasks_submitted(self, event: events.TasksSubmitted) -> None:
        if event.number <= self.state.received:
            self.stale += 1
            return
        rows = self._new_rows(event)
        batch = event.batch if len(rows) == len(event.batch.rows) else Batch(event.batch.templates, rows)
        self._emit(facts.TasksAccepted(event.time, event.number, event.binding, batch))
        if self.state.ending is not None:
            uids = [row.uid for row in rows]
            message = f"the pilot was ending when the task arrived: {self.state.ending.reason}"
            self._finish(event.time, uids, Ending.CANCELLED, message)
            return
        run: list[TaskUid] = []
        current: TemplateId | None = None
        for row in rows:
            if row.template != current:
                if current is not None:
                    self._enqueue(run, current, event.time)
                run, current = [], row.template
            run.append(row.uid)
        if current is not None:
            self._enqueue(run, current, event.time)

    def _new_rows(self, event: events.TasksSubmitted) -> list[Row]:
        """Leave out the tasks that are here, or whose outcome is under way: the client lost its node, and forgot them."""
        tasks, under_way, binding = self.state.tasks, self._under_way, event.binding
        rows = event.batch.rows
        known = [row.uid for row in rows if row.uid in tasks or (under_way and under_way.get(row.uid) == binding)]
        if not known:
            return rows
        self.stale += len(known)
        return [row for row in rows if row.uid not in known]

    def _enqueue(self, uids: list[TaskUid], template: TemplateId, now: float) -> None:
        group = self._group(template)
        refusal = self._policy.refusal(group.request)
        if refusal is None:
            self._policy.enqueue_many(uids, group, now)
        else:
            self._finish(now, uids, Ending.INFEASIBLE, refusal)

    def _cancel_requested(self, event: events.CancelRequested) -> None:
        if event.number and event.number <= self.state.received:
            self.stale += 1
            return
        tasks = self.state.tasks
        known = {uid: None for uid, binding in event.tasks if uid in tasks and tasks[uid].binding == binding}
        self._end_tasks(event.time, event.number, list(known), Ending.CANCELLED, "cancelled by the user")

    def _end_requested(self, event: events.EndRequested) -> None:
        if event.number and event.number <= self.state.received:
            self.stale += 1
            return
        # Only a client that ends the pilot early cancels it; a pilot whose time is over has done its work.
        state = CANCELED if event.number and not event.drain else DONE
        self._end(event.time, event.number, event.drain, state, event.reason)

    def _end(self, now: float, number: int, drain: bool, state: str, reason: str) -> None:
        before = self.state.ending
        if self.state.ended or (before is not None and (drain or not before.drain)):
            # Nothing changes, but the client is told that its message is in the log, so it must be.
            self._end_tasks(now, number, [], Ending.CANCELLED, reason)
            return
        self._emit(facts.PilotEnding(now, number, drain, state, reason))
        if not drain:
            self._end_tasks(now, 0, list(self.state.tasks), Ending.CANCELLED, reason)

    def _end_tasks(self, now: float, number: int, uids: list[TaskUid], ending: Ending, message: str) -> None:
        tasks = self.state.tasks
        # A task that is out of time may have another attempt; one that was cancelled meanwhile has not.
        final = ending is not Ending.TIMED_OUT
        uids = [uid for uid in uids if tasks[uid].ending is None or (final and tasks[uid].ending is Ending.TIMED_OUT)]
        if not uids and not number:
            return
        self._emit(facts.EndAsked(now, number, uids, ending, message))
        waiting = []
        running: dict[RunnerId, list[Execution]] = {}
        for uid in uids:
            task = tasks[uid]
            if not task.lane:
                self._policy.withdraw(uid)
                waiting.append(uid)
            else:
                running.setdefault(self.state.lanes[task.lane].runner, []).append((uid, task.attempt))
        self._finish(now, waiting, ending, message)
        for runner, executions in running.items():
            self._actions.append(actions.EndExecutions(runner, executions, ending, message))

    def _finish(self, now: float, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """Give final outcomes to tasks that no runner holds."""
        outcomes = []
        for uid in uids:
            task = self.state.tasks[uid]
            times = Times(accepted=task.accepted, launched=task.launched, ended=now)
            outcomes.append(Outcome(uid, task.binding, task.attempt, ending, message=message, times=times))
        if outcomes:
            self._emit(facts.Ended(now, RunnerId(""), 0, outcomes))

    # ------------------------------------------------------------------------------------------------------- from runners

    def _tasks_started(self, event: events.TasksStarted) -> None:
        tasks = self.state.tasks
        # A start is told again after a reconnect.
        started = [item for item in event.started if self._runs(item[0], item[1]) and not tasks[item[0]].started]
        self.stale += len(event.started) - len(started)
        if started:
            self._emit(facts.Started(event.time, started))
            for uid, attempt, _ in started:
                self._set_alarm(uid, tasks[uid])
                if len(self.state.lanes[tasks[uid].lane].tasks) > 1:
                    heapq.heappush(self._stalls, (event.time + STALL_S, uid, attempt))
            self._actions.append(actions.TellProgress([uid for uid, _, _ in started]))

    def _tasks_ended(self, event: events.TasksEnded) -> None:
        runner = self.state.runners.get(event.runner)
        if runner is None or event.number <= runner.released:
            self.stale += 1
        else:
            self._take_ends(event.time, event.runner, event.number, event.ends)
        self._actions.append(actions.ReleaseRunner(event.runner, event.number))

    def _take_ends(self, now: float, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        tasks, lanes = self.state.tasks, self.state.lanes
        outcomes: list[Outcome] = []
        repeated: list[TaskUid] = []
        spent: dict[LaneId, list[float]] = {}
        for end in ends:
            task = tasks.get(end.task)
            if task is None or task.attempt != end.attempt or not task.lane:
                self.stale += 1
                continue
            durations = spent.get(task.lane)
            if durations is None:
                durations = spent[task.lane] = []
            durations.append(end.ended - end.started)
            if end.ending is not Ending.DONE and self._runs_again(task, end.ending):
                repeated.append(end.task)
                continue
            outcomes.append(
                Outcome(
                    end.task,
                    task.binding,
                    end.attempt,
                    end.ending,
                    end.exit_code,
                    end.result,
                    end.message,
                    end.detail,
                    Times(task.accepted, task.launched, end.started, end.ended),
                )
            )
        for lane_id, durations in spent.items():
            self._pace(self._group(lanes[lane_id].template)).note(sum(durations), len(durations))
        if repeated:
            self._emit(facts.Repeated(now, runner, 0 if outcomes else number, repeated))
        if outcomes or not repeated:
            self._emit(facts.Ended(now, runner, number, outcomes))
        self._wait_again(repeated, now)
        self._pool.relieve(runner, len(outcomes) + len(repeated))
        self._pool.hungry.update(dict.fromkeys(spent))

    def _runs_again(self, task: TaskRecord, ending: Ending) -> bool:
        if task.ending not in (None, Ending.TIMED_OUT) or (self.state.ending is not None and not self.state.ending.drain):
            return False
        template = self.state.templates[task.row.template]
        if task.failures < template.retries:
            return True
        return template.restartable and ending in (Ending.LOST, Ending.NODE_FAILED, Ending.PREEMPTED)

    def _wait_again(self, uids: list[TaskUid], now: float) -> None:
        for uid in uids:
            self._policy.enqueue(uid, self._group(self.state.tasks[uid].row.template), now)

    def _note_unwilling(self, event: events.TasksReturned) -> None:
        """A spawner that gives back what nobody asked for is about to end: it would give back all that it is handed."""
        for uid, attempt in event.executions:
            task = self.state.tasks.get(uid)
            if task is not None and self._runs(uid, attempt) and task.ending is None and task.lane not in self._recalled:
                self._pool.shun(event.runner)
                return

    def _tasks_returned(self, now: float, executions: list[Execution]) -> None:
        tasks, lanes = self.state.tasks, self.state.lanes
        uids = [uid for uid, attempt in dict.fromkeys(executions) if self._runs(uid, attempt)]
        self.stale += len(executions) - len(uids)
        if not uids:
            return
        for uid in uids:
            lane_id = tasks[uid].lane
            self._pool.hungry[lane_id] = None
            self._pool.relieve(lanes[lane_id].runner, 1)
        self._emit(facts.Returned(now, uids))
        unwanted = [uid for uid in uids if tasks[uid].ending is not None]
        self._wait_again([uid for uid in uids if tasks[uid].ending is None], now)
        for uid in unwanted:
            self._finish(now, [uid], tasks[uid].ending or Ending.CANCELLED, tasks[uid].ending_message)

    def _runner_connected(self, event: events.RunnerConnected) -> None:
        record = self.state.runners.get(event.runner)
        if record is None:
            self._actions.append(actions.StopRunner(event.runner))
            return
        self._pool.note_success(event.runner)
        if record.pid != event.pid or record.started_ticks != event.started_ticks:
            self._emit(facts.RunnerIdentified(event.time, event.runner, event.pid, event.started_ticks, event.boot_id))

    def _runner_reconciled(self, event: events.RunnerReconciled) -> None:
        held = dict.fromkeys(event.holds)
        in_hand = self._not_handed_over(event.runner)
        missing: list[Execution] = []
        unwanted: dict[tuple[Ending, str], list[Execution]] = {}
        for lane_id in self._pool.lanes_of(event.runner):
            for uid in self.state.lanes[lane_id].tasks:
                task = self.state.tasks[uid]
                execution = (uid, task.attempt)
                if execution in held:
                    del held[execution]
                elif execution not in in_hand:
                    missing.append(execution)
                    continue
                if task.ending is not None:
                    unwanted.setdefault((task.ending, task.ending_message), []).append(execution)
        if held:
            unwanted.setdefault((Ending.CANCELLED, "the agent does not know of this attempt"), []).extend(held)
        self._tasks_returned(event.time, missing)
        for (ending, message), executions in unwanted.items():
            self._actions.append(actions.EndExecutions(event.runner, executions, ending, message))

    def _not_handed_over(self, runner: RunnerId) -> dict[Execution, None]:
        """Return, in order, what is about to be handed to the runner: what was heard of it just now is older."""
        return {
            (row.uid, attempt): None
            for launch in self._in_hand
            if launch.runner == runner
            for lane in launch.lanes
            for attempt, row in lane.tasks
        }

    def _runner_lost(self, event: events.RunnerLost) -> None:
        record = self.state.runners.get(event.runner)
        if record is None:
            return
        came_up = bool(record.pid)
        failures = 0 if came_up else self._pool.note_failure(event.runner)
        held = [
            (uid, self.state.tasks[uid].attempt)
            for lane_id in self._pool.lanes_of(event.runner)
            for uid in self.state.lanes[lane_id].tasks
        ]
        if record.beside is not None and failures >= WORKER_FAILURES:
            # No worker comes up: to wait for one would be to wait for ever.
            not_begun = []
        elif came_up:
            not_begun = list(dict.fromkeys([*event.not_begun, *self._not_handed_over(event.runner)]))
        else:
            # It never said hello, before which nothing is handed over.
            not_begun = held
        self._tasks_returned(event.time, not_begun)
        ends = [lost_end(self.state.tasks[uid], event, came_up) for uid, attempt in held if self._runs(uid, attempt)]
        if ends:
            self._take_ends(event.time, event.runner, 0, ends)
        self._pool.remove(event.runner)
        self._emit(facts.RunnerRemoved(event.time, event.runner, event.reason))
        if record.beside is None and failures >= SPAWNER_FAILURES:
            self._end(event.time, 0, False, FAILED, f"{SPAWNER_FAILURES} spawners in a row did not come up: {event.reason}")

    # --------------------------------------------------------------------------------------------------------------- time

    def _time_passed(self, now: float) -> None:
        alarms, tasks = self._alarms, self.state.tasks
        late: list[TaskUid] = []
        while alarms and alarms[0][0] <= now:
            _, uid, attempt = heapq.heappop(alarms)
            if self._runs(uid, attempt):
                late.append(uid)
        for uid in late:
            timeout_s = self.state.templates[tasks[uid].row.template].timeout_s
            message = f"ran longer than its timeout of {timeout_s:g} s"
            self._end_tasks(now, 0, [uid], Ending.TIMED_OUT, message)
        self._recall_stalled(now)
        if self._deadline is not None and now >= self._deadline and self._may_end_sooner:
            self._end_requested(events.EndRequested(now, 0, False, "the pilot's runtime is over"))
        if self._wants_spawners:
            for fact, action in self._pool.missing_spawners(self.state, now):
                self._emit(fact)
                self._actions.append(action)
        for runner in self._pool.retire(now):
            self._emit(facts.RunnerRemoved(now, runner, "idle"))
            self._actions.append(actions.StopRunner(runner))

    def _recall_stalled(self, now: float) -> None:
        """Take back the tasks that wait in a lane behind one that turns out to be long; others may run them sooner."""
        stalls, tasks = self._stalls, self.state.tasks
        while stalls and stalls[0][0] <= now:
            _, uid, attempt = heapq.heappop(stalls)
            if not self._runs(uid, attempt):
                continue
            lane = self.state.lanes[tasks[uid].lane]
            behind = [(other, tasks[other].attempt) for other in lane.tasks if other != uid]
            if behind:
                self._pace(self._group(lane.template)).note(HORIZON_S, 1)
                self._recalled.add(tasks[uid].lane)
                self._actions.append(actions.RecallTasks(lane.runner, behind))

    # ------------------------------------------------------------------------------------------------------------ dispatch

    def _dispatch(self, now: float) -> None:
        """Refill lanes that run low, close those that stay empty, and open new ones for what waits."""
        launches: list[facts.LaneLaunch] = []
        if self._pool.hungry:
            launches += self._refill(now)
        self._more_to_place = False
        if self._policy.waiting() and self._pool.ready and not (self.state.ending and not self.state.ending.drain):
            launches += self._open_lanes(now)
        if launches:
            self._launch(now, launches)
        elif self._policy.waiting() and not self.state.lanes and self._pool.ready:
            self._end_stranded(now)

    def _end_stranded(self, now: float) -> None:
        """Nothing runs and nothing can be placed: end what can never be, as the node of its tag is too small, or lost."""
        for uids, reason in self._policy.stranded():
            for uid in uids:
                self._policy.withdraw(uid)
            self._finish(now, uids, Ending.INFEASIBLE, reason)

    def _refill(self, now: float) -> list[facts.LaneLaunch]:
        lanes = self.state.lanes
        launches, empty = [], []
        for lane_id in self._pool.hungry:
            lane = lanes.get(lane_id)
            if lane is None:
                continue
            held = len(lane.tasks)
            drawn = self._draw(self._pace(self._group(lane.template)), held) if lane.runner in self.state.runners else []
            if drawn:
                launches.append(facts.LaneLaunch(lane_id, lane.runner, None, drawn))
            elif not held:
                empty.append(lane_id)
        self._pool.hungry.clear()
        if empty:
            self._close_lanes(now, empty)
        return launches

    def _close_lanes(self, now: float, lane_ids: list[LaneId]) -> None:
        for lane_id in lane_ids:
            lane = self.state.lanes[lane_id]
            group = self._group(lane.template)
            self._policy.release(lane.placement, group.request)
            self._recalled.discard(lane_id)
            pace = self._paces[group]
            pace.lanes.discard(lane_id)
            if not pace.lanes and len(self._paces) > PACES_KEPT:
                del self._paces[group]
            self._pool.detach(lane.runner, lane_id, now)
        self._emit(facts.LanesClosed(now, lane_ids))

    def _draw(self, pace: Pace, held: int) -> list[tuple[TaskUid, Attempt]]:
        """Take waiting tasks of the group for a lane that holds ``held``, leaving the other lanes of the group their share."""
        depth = pace.depth()
        if depth < 2 or held > depth // 2:
            return []
        waiting = self._policy.waiting_in(pace.group)
        wanted = min(depth - held, -(-waiting // (2 * len(pace.lanes) or 1)))
        tasks = self.state.tasks
        return [(uid, Attempt(tasks[uid].attempt + 1)) for uid in self._policy.draw(pace.group, wanted)] if wanted else []

    def _open_lanes(self, now: float) -> list[facts.LaneLaunch]:
        assignments = self._policy.schedule(now, OPENED_AT_ONCE)
        self._more_to_place = len(assignments) == OPENED_AT_ONCE
        launches = []
        last = self.state.last_lane
        tasks = self.state.tasks
        for assignment in assignments:
            last = LaneId(last + 1)
            group = assignment.group
            if group.lane_kind == EXECUTABLE:
                runner = self._pool.spawner()
            else:
                runner, added = self._pool.worker(self.state, assignment.placement, now)
                if added is not None:
                    fact, action = added
                    self._emit(fact)
                    self._actions.append(action)
            pace = self._pace(group)
            pace.lanes.add(last)
            self._pool.attach(runner, last)
            first = [(uid, Attempt(tasks[uid].attempt + 1)) for uid in assignment.tasks]
            launches.append(facts.LaneLaunch(last, runner, assignment.placement, first))
        for launch in launches:
            pace = self._pace(self._group(tasks[launch.tasks[0][0]].row.template))
            launch.tasks.extend(self._draw(pace, len(launch.tasks)))
        return launches

    def _launch(self, now: float, launches: list[facts.LaneLaunch]) -> None:
        self._emit(facts.LaunchRequested(now, launches))
        tasks = self.state.tasks
        by_runner: dict[RunnerId, list[LaneTasks]] = {}
        for launch in launches:
            rows = [(attempt, tasks[uid].row) for uid, attempt in launch.tasks]
            # With its placement each time: the runner may be another life of the process that had the lane's first tasks.
            placement = self.state.lanes[launch.lane].placement
            by_runner.setdefault(launch.runner, []).append(LaneTasks(launch.lane, placement, rows))
            self._pool.burden(launch.runner, len(rows))
        for runner, lanes in by_runner.items():
            action = actions.LaunchTasks(runner, lanes)
            self._actions.append(action)
            self._in_hand.append(action)

    # ------------------------------------------------------------------------------------------------------- to the client

    def _number_outcomes(self, now: float) -> None:
        """Make the next message for the client."""
        state = self.state
        number = state.numbered + 1
        if state.unsent:
            count, size = 0, 0
            for outcome in state.unsent:
                count += 1
                if type(outcome.result) is bytes:
                    size += len(outcome.result)
                if count == OUTCOMES_PER_MESSAGE or size > BYTES_PER_MESSAGE:
                    break
            self._emit(facts.OutcomesNumbered(number, count))
            self._actions.append(actions.SendOutcomes(number, state.undelivered[number]))
        elif state.ending is not None and self.has_news:
            self._emit(facts.PilotEnded(now, number))
            self._actions.append(actions.SendPilotEnded(number, state.ending.state, state.ending.reason))
