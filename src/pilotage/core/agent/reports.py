"""What runners report: tasks started, ended and given back; runners come up, found again, and lost."""

from __future__ import annotations

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.alarms import Alarms
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import Endings
from pilotage.core.agent.hosts import SPAWNER_FAILURES, WORKER_FAILURES, lies_on
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.losses import NODE_LOST, lost_end
from pilotage.core.agent.runners import RunnerPool
from pilotage.core.agent.waiting import Waiting
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import LaneId, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome, Times


class Reports:
    """Draws the conclusions from what is heard of runners."""

    def __init__(
        self,
        journal: Journal,
        waiting: Waiting,
        dispatch: Dispatch,
        pool: RunnerPool,
        alarms: Alarms,
        endings: Endings,
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._dispatch = dispatch
        self._pool = pool
        self._alarms = alarms
        self._endings = endings
        self.came_back = False
        """Whether tasks wait again, since this was taken back last."""

    # ------------------------------------------------------------------------------------------------------------ of tasks

    def started(self, event: events.TasksStarted) -> None:
        """Note what began, and when its time will be over."""
        state = self._state
        running = [item for item in event.started if state.runs(item[0], item[1])]
        # A start is told again after a reconnect. An agent that was restarted may have a clock of its own: what counts is told
        # now, not what the log says.
        started = [item for item in running if not state.tasks[item[0]].started]
        self._journal.stale += len(event.started) - len(started)
        for uid, _, at in running:
            self._alarms.set_timeout(uid, at)
        if started:
            self._journal.emit(facts.Started(event.time, started))
            for uid, _, _ in started:
                if len(state.lanes[state.tasks[uid].lane].tasks) > 1:
                    self._alarms.set_stall(uid, event.time)
            self._journal.act(actions.TellProgress([uid for uid, _, _ in started]))

    def ended(self, event: events.TasksEnded) -> None:
        """Take in a runner's message, unless it is known."""
        runner = self._state.runners.get(event.runner)
        if runner is None or event.number <= runner.released:
            self._journal.stale += 1
        else:
            self._take_ends(event.time, event.runner, event.number, event.ends)
        self._journal.act(actions.ReleaseRunner(event.runner, event.number))

    def _take_ends(self, now: float, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        tasks, endings = self._state.tasks, self._endings
        cleans, restarts = endings.cleans, endings.restarts
        outcomes: list[Outcome] = []
        staged: list[Outcome] = []
        repeated: list[TaskUid] = []
        left: list[tuple[TaskUid, int]] = []
        spent: dict[LaneId, tuple[float, int]] = {}
        for end in ends:
            task = tasks.get(end.task)
            if task is None or task.attempt != end.attempt or not (lane := task.lane):
                self._journal.stale += 1
                continue
            if lane in spent:
                total_s, count = spent[lane]
                spent[lane] = (total_s + (end.ended - end.started), count + 1)
            else:
                spent[lane] = (end.ended - end.started, 1)
            if end.ending is not Ending.DONE and (failed := endings.leaves(task, end.ending, end.exit_code)) is not None:
                left.append((end.task, failed))
                continue
            if (restarts or end.ending is not Ending.DONE) and endings.repeats(task, end.ending, end.exit_code):
                repeated.append(end.task)
                continue
            outcome = Outcome(
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
            if cleans or task.row.extra is not None:
                endings.sort(task, outcome, outcomes, staged)
            else:
                outcomes.append(outcome)
        self._dispatch.note_spent(spent)
        if repeated:
            self._journal.emit(facts.Repeated(now, runner, 0 if outcomes or staged or left else number, repeated))
        if left:
            self._journal.emit(facts.TasksLeft(now, runner, 0 if outcomes or staged else number, [], left))
        if outcomes or staged or not (repeated or left):
            endings.conclude(now, runner, number, outcomes, staged)
        if repeated:
            self.came_back = True
            self._waiting.enqueue_each(repeated, now)
        self._pool.relieve(runner, len(outcomes) + len(staged) + len(repeated) + len(left))

    def returned(self, event: events.TasksReturned) -> None:
        """Let what a runner gave back wait again."""
        self._note_unwilling(event)
        self._take_back(event.time, event.executions)

    def _note_unwilling(self, event: events.TasksReturned) -> None:
        """A spawner that gives back what nobody asked for, and not for want of room, is about to end, and would go on so."""
        if self._dispatch.paused:
            return
        for uid, attempt in event.executions:
            task = self._state.tasks.get(uid)
            if (
                task is not None
                and self._state.runs(uid, attempt)
                and task.ending is None
                and not self._dispatch.was_recalled(task.lane)
            ):
                self._pool.shun(event.runner)
                return

    def _take_back(self, now: float, executions: list[Execution]) -> None:
        tasks, lanes = self._state.tasks, self._state.lanes
        uids = [uid for uid, attempt in dict.fromkeys(executions) if self._state.runs(uid, attempt)]
        self._journal.stale += len(executions) - len(uids)
        if not uids:
            return
        for uid in uids:
            self._pool.relieve(lanes[tasks[uid].lane].runner, 1)
        self._dispatch.note_hungry(tasks[uid].lane for uid in uids)
        self._journal.emit(facts.Returned(now, uids))
        self.came_back = True
        self._waiting.enqueue_each([uid for uid in uids if tasks[uid].ending is None], now)
        for uid in uids:
            if uid in tasks and (ending := tasks[uid].ending) is not None:
                self._endings.finish(now, [uid], ending, tasks[uid].ending_message)

    # ---------------------------------------------------------------------------------------------------------- of runners

    def connected(self, event: events.RunnerConnected) -> None:
        """Note who a runner is; one that nobody knows may go."""
        record = self._state.runners.get(event.runner)
        if record is None:
            self._journal.act(actions.StopRunner(event.runner))
            return
        self._pool.note_success(event.runner)
        if record.pid != event.pid or record.started_ticks != event.started_ticks:
            self._journal.emit(facts.RunnerIdentified(event.time, event.runner, event.pid, event.started_ticks, event.boot_id))

    def reconciled(self, event: events.RunnerReconciled) -> None:
        """Compare what the runner holds with what it was handed."""
        held = dict.fromkeys(event.holds)
        in_hand = self._dispatch.not_handed_over(event.runner)
        missing: list[Execution] = []
        unwanted: dict[tuple[Ending, str], list[Execution]] = {}
        lost_nodes = self._state.lost_nodes
        for lane_id in self._pool.lanes_of(event.runner):
            lane = self._state.lanes[lane_id]
            node_lost = bool(lost_nodes) and lies_on(lane.placement, lost_nodes)
            for uid in lane.tasks:
                task = self._state.tasks[uid]
                execution = (uid, task.attempt)
                if execution in held:
                    del held[execution]
                elif execution not in in_hand:
                    missing.append(execution)
                    continue
                if task.ending is not None:
                    unwanted.setdefault((task.ending, task.ending_message), []).append(execution)
                elif node_lost:
                    unwanted.setdefault((Ending.NODE_FAILED, NODE_LOST), []).append(execution)
                    self._dispatch.note_recalled(lane_id)
        if held:
            unwanted.setdefault((Ending.CANCELLED, "the agent does not know of this attempt"), []).extend(held)
        self._take_back(event.time, missing)
        for (ending, message), executions in unwanted.items():
            self._journal.act(actions.EndExecutions(event.runner, executions, ending, message))

    def lost(self, event: events.RunnerLost) -> list[int] | None:
        """Settle what the runner held; return the nodes of its host if they have to be given up: no spawner comes up there."""
        record = self._state.runners.get(event.runner)
        if record is None:
            return None
        came_up = bool(record.pid)
        failures = 0 if came_up else self._pool.note_failure(event.runner)
        lanes = self._pool.lanes_of(event.runner)
        held = [(uid, self._state.tasks[uid].attempt) for lane_id in lanes for uid in self._state.lanes[lane_id].tasks]
        if record.beside is not None and failures >= WORKER_FAILURES and not self._pool.rest(event.runner, event.time):
            # No worker comes up anywhere: to wait for one would be to wait for ever.
            not_begun = []
        elif came_up:
            not_begun = list(dict.fromkeys([*event.not_begun, *self._dispatch.not_handed_over(event.runner)]))
        else:
            # It never said hello, before which nothing is handed over.
            not_begun = held
        self._take_back(event.time, not_begun)
        ends = [
            lost_end(self._state.tasks[uid], event, came_up, self._lost_node(uid))
            for uid, attempt in held
            if self._state.runs(uid, attempt)
        ]
        if ends:
            self._take_ends(event.time, event.runner, 0, ends)
        self._dispatch.note_hungry(lanes)
        is_hopeless = record.beside is None and failures >= SPAWNER_FAILURES and self._pool.is_alone(self._state, event.runner)
        given_up = self._pool.nodes_beside(event.runner) if is_hopeless else None
        self._pool.remove(event.runner)
        self._journal.emit(facts.RunnerRemoved(event.time, event.runner, event.reason))
        return given_up

    def _lost_node(self, uid: TaskUid) -> bool:
        """Tell whether a node of the task's lane is lost."""
        lost = self._state.lost_nodes
        return bool(lost) and lies_on(self._state.lanes[self._state.tasks[uid].lane].placement, lost)
