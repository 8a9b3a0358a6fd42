"""Folds an agent's log into a run: attempts, waits, lanes and runners, which only agents know.

The client's log must have been folded before, as far as there is one: it says which tasks went on to another pilot.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotage.core.agent import facts as agent
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Attempt, Binding, LaneId, PilotUid, RunnerId, TaskUid
from pilotage.model.resources import Node, Placement
from pilotage.model.workload import Row
from pilotage.trace.records import PILOT_LOG, SETTINGS_FILE, agent_facts, read_log
from pilotage.trace.run import STAGING_IN, STAGING_OUT, Run, RunnerTrace
from pilotage.trace.templates import Templates, take_cause, take_outcome

_UNTIMED = (agent.OutcomesNumbered, agent.OutcomesDelivered, agent.NodesNumbered, agent.TasksNumbered)


class _Settings(msgspec.Struct):
    """What is needed of a pilot's settings file."""

    nodes: list[Node] = []


class AgentFold:
    """Folds an agent's log into a run."""

    def __init__(self, run: Run, folder: Path) -> None:
        self._run = run
        self._tasks = run.tasks
        self._folder = folder
        self._pilot = run.pilot(PilotUid(folder.name))
        self._templates = Templates(run.tasks)
        self._rows: dict[TaskUid, int] = {}
        """Tasks that this agent has, or had, by their row."""
        self._elsewhere: set[int] = set()
        """Tasks that went on to another pilot: their columns are not this agent's to write."""
        self._attempts: dict[TaskUid, int] = {}
        """The attempts that are not over."""
        self._waits: dict[TaskUid, int] = {}
        """The waits that are not over."""
        self._staging: set[TaskUid] = set()
        """Tasks that do not wait for resources yet: their input is being staged."""
        self._unloading: set[TaskUid] = set()
        """Tasks whose attempts are over, and whose output is being staged."""
        self._final_state = ""
        self._lanes: dict[LaneId, int] = {}

    def read(self) -> None:
        pilot = self._pilot
        if not pilot.nodes:
            pilot.nodes = self._nodes()
        state, records = read_log(self._folder / PILOT_LOG, AgentState, agent_facts, self._run.remarks)
        if state is not None:
            self._take_state(state)
        for record in records:
            for fact in record:
                self._apply(fact)
                if not isinstance(fact, _UNTIMED):
                    pilot.first = pilot.first or fact.time
                    pilot.last = max(pilot.last, fact.time)
        if state is not None:
            # Its runners said hello in records that were not kept.
            pilot.ready = pilot.first

    def _nodes(self) -> list[Node]:
        try:
            return msgspec.json.decode((self._folder / SETTINGS_FILE).read_bytes(), type=_Settings).nodes
        except FileNotFoundError:
            return []
        except (OSError, msgspec.DecodeError) as error:
            self._run.remarks.append(f"{self._folder / SETTINGS_FILE}: {error}")
            return []

    def _take_state(self, state: AgentState) -> None:
        """Begin with a state: lanes are known from the launch of their first task that is not over."""
        self._templates.learn(state.templates)
        self._pilot.first = min((task.accepted for task in state.tasks.values()), default=0.0)
        for uid, lane in state.lanes.items():
            if lane.tasks:
                opened = min(state.tasks[task_uid].launched for task_uid in lane.tasks)
                self._open_lane(uid, lane.runner, lane.placement, opened)
        for runner, known in state.runners.items():
            self._pilot.runners[self._runner(runner)] = RunnerTrace(self._runner(runner), known.node, 0.0)
        rows = [task.row for task in state.tasks.values()]
        self._templates.indices(rows)
        for task in state.tasks.values():
            self._accept([task.row], task.binding, task.accepted)
            if task.row.uid not in state.inputs:
                self._staging.discard(task.row.uid)
                self._tasks.aside.pop(self._rows[task.row.uid], None)
                self._wait(task.row.uid, task.accepted)
            if task.row.uid in state.outputs:
                self._unloading.add(task.row.uid)
                self._stop_waiting(task.row.uid, task.launched)
                if self._rows[task.row.uid] not in self._elsewhere:
                    self._tasks.aside[self._rows[task.row.uid]] = STAGING_OUT
            if task.lane:
                self._launch(task.lane, [(task.row.uid, task.attempt)], task.launched)
                self._start(task.row.uid, task.started)
        if state.ending is not None:
            self._note_ending(state.ending.since, state.ending.state, state.ending.reason)
        # What ended and is not with the client yet; who was accepted in records that were not kept, only the client knows.
        for outcome in (*state.unsent, *(outcome for sent in state.undelivered.values() for outcome in sent)):
            i = self._tasks.index.get(outcome.task)
            if i is not None and self._tasks.binding[i] == outcome.binding and self._tasks.ending[i] is None:
                take_outcome(self._tasks, i, outcome)

    def _apply(self, fact: agent.Fact) -> None:
        pilot = self._pilot
        match fact:
            case agent.Ended():
                self._end(fact)
            case agent.LaunchRequested():
                for launch in fact.lanes:
                    if launch.placement is not None:
                        self._open_lane(launch.lane, launch.runner, launch.placement, fact.time)
                    self._launch(launch.lane, launch.tasks, fact.time)
            case agent.TasksAccepted():
                self._templates.learn(fact.batch.templates)
                self._accept(fact.batch.rows, fact.binding, fact.time)
            case agent.LanesClosed():
                closed = pilot.lanes.closed
                for lane in fact.lanes:
                    if lane in self._lanes:
                        closed[self._lanes.pop(lane)] = fact.time
            case agent.Started():
                for uid, _, at in fact.started:
                    self._start(uid, at)
            case agent.Returned():
                self._leave(fact.tasks, fact.time, ran=False)
            case agent.Repeated():
                self._leave(fact.tasks, fact.time, ran=True)
            case agent.TasksGivenBack():
                for uid, *_ in fact.tasks:
                    self._stop_waiting(uid, fact.time)
            case agent.TasksLeft():
                self._leave([uid for uid, _ in fact.begun if uid in self._attempts], fact.time, ran=True)
                for uid in agent.tasks_named(fact):
                    self._stop_waiting(uid, fact.time)
            case agent.InputsStaged():
                self._stage_in(fact.tasks, fact.time)
            case agent.OutputsBegun():
                self._end_attempts(fact)
            case agent.RunnerAdded():
                runner = self._runner(fact.runner)
                pilot.runners[runner] = RunnerTrace(runner, fact.node, fact.time)
            case agent.RunnerIdentified():
                pilot.ready = pilot.ready or fact.time
                runner = self._runner(fact.runner)
                if runner in pilot.runners:
                    pilot.runners[runner].identified = fact.time
            case agent.RunnerRemoved():
                runner = self._runner(fact.runner)
                if runner in pilot.runners:
                    pilot.runners[runner].removed, pilot.runners[runner].reason = fact.time, fact.reason
            case agent.PilotEnding():
                self._note_ending(fact.time, fact.state, fact.reason)
            case agent.PilotEnded():
                pilot.ended = fact.time
                if not pilot.final:
                    pilot.state = self._final_state
            case _:
                pass  # nothing that a run shows

    def _note_ending(self, time: float, state: str, reason: str) -> None:
        self._final_state = state
        self._pilot.ending = self._pilot.ending or time
        if not self._pilot.final:
            self._pilot.reason = reason

    def _open_lane(self, uid: LaneId, runner: RunnerId, placement: Placement, opened: float) -> None:
        lanes = self._pilot.lanes
        self._lanes[uid] = len(lanes)
        first = int.from_bytes(placement[0].cores, "little")
        lanes.uid.append(uid)
        lanes.runner.append(self._runner(runner))
        lanes.placement.append(placement)
        lanes.nodes.append(1 if len(placement) == 1 else len({share.node for share in placement}))
        lanes.node.append(placement[0].node)
        lanes.first_core.append((first & -first).bit_length() - 1)
        lanes.cores.append(sum(int.from_bytes(share.cores, "little").bit_count() for share in placement))
        lanes.gpu_shares.append(sum(taken for share in placement for _, taken in share.gpus))
        lanes.opened.append(opened)
        lanes.closed.append(0.0)

    def _accept(self, rows: list[Row], binding: Binding, time: float) -> None:
        tasks, waits = self._tasks, self._pilot.waits
        for row, i in zip(rows, self._templates.indices(rows), strict=True):
            self._rows[row.uid] = i
            if row.extra is not None and row.extra.input_staging:
                self._staging.add(row.uid)
            else:
                self._waits[row.uid] = waits.add(i, time)
            if self._is_elsewhere(i, binding):
                self._elsewhere.add(i)
                continue
            self._elsewhere.discard(i)
            self._take(i, binding, time)
            if row.uid in self._staging:
                tasks.aside[i] = STAGING_IN

    def _runner(self, runner: RunnerId) -> RunnerId:
        """Return the name of a runner of this agent among all those of the pilot."""
        return runner

    def _is_elsewhere(self, i: int, binding: Binding) -> bool:
        """Tell whether another agent has the task by now."""
        known = self._tasks.binding[i]
        return known > binding or (known == binding and self._tasks.pilot[i] != self._pilot.uid)

    def _take(self, i: int, binding: Binding, time: float) -> None:
        """This agent has the task."""
        self._tasks.pilot[i], self._tasks.binding[i], self._tasks.accepted[i] = self._pilot.uid, binding, time

    def _stage_in(self, uids: list[TaskUid], time: float) -> None:
        for uid in uids:
            self._staging.discard(uid)
            self._wait(uid, time)
            i = self._rows.get(uid)
            if i is not None and i not in self._elsewhere:
                self._tasks.staged_in[i] = time
                self._tasks.aside.pop(i, None)

    def _launch(self, lane: LaneId, executions: list[tuple[TaskUid, Attempt]], time: float) -> None:
        lane_row = self._lanes.get(lane)
        if lane_row is None:
            return
        tasks, attempts, rows, elsewhere = self._tasks, self._pilot.attempts, self._rows, self._elsewhere
        node = self._pilot.lanes.node[lane_row]
        for uid, attempt in executions:
            i = rows.get(uid)
            if i is None:
                continue
            self._attempts[uid] = attempts.add(i, lane_row, time)
            self._stop_waiting(uid, time)
            if i not in elsewhere:
                tasks.lane[i], tasks.node[i], tasks.attempt[i] = lane, node, attempt
                tasks.launched[i] = time
                if tasks.ending[i] is None:
                    tasks.started[i] = 0.0

    def _start(self, uid: TaskUid, at: float) -> None:
        attempt = self._attempts.get(uid)
        if attempt is not None:
            self._pilot.attempts.started[attempt] = at
            i, tasks = self._rows[uid], self._tasks
            # By the time that the news was under way this is later than what the outcome says, which may be known already.
            if i not in self._elsewhere and (tasks.ending[i] is None or not tasks.started[i]):
                tasks.started[i] = at

    def _leave(self, uids: list[TaskUid], time: float, *, ran: bool) -> None:
        tasks, attempts = self._tasks, self._pilot.attempts
        for uid in uids:
            i = self._rows.get(uid)
            if i is None or uid in self._staging:
                continue
            attempt = self._attempts.pop(uid, None)
            if attempt is not None:
                attempts.ended[attempt] = time
                if not ran:
                    attempts.started[attempt] = 0.0
            self._wait(uid, time)
            self._unloading.discard(uid)
            if i not in self._elsewhere and tasks.ending[i] is None:
                tasks.launched[i] = tasks.started[i] = tasks.ended[i] = tasks.collected[i] = 0.0
                tasks.aside.pop(i, None)

    def _wait(self, uid: TaskUid, time: float) -> None:
        """The task waits for resources from now on, if it did not before."""
        if uid in self._rows and uid not in self._waits:
            self._waits[uid] = self._pilot.waits.add(self._rows[uid], time)

    def _stop_waiting(self, uid: TaskUid, time: float) -> None:
        wait = self._waits.pop(uid, None)
        if wait is not None:
            self._pilot.waits.until[wait] = time

    def _end_attempts(self, fact: agent.OutputsBegun) -> None:
        attempts = self._pilot.attempts
        for outcome in fact.outcomes:
            self._unloading.add(outcome.task)
            attempt = self._attempts.pop(outcome.task, None)
            if attempt is not None:
                attempts.started[attempt] = outcome.times.started
                attempts.ended[attempt] = outcome.times.ended or fact.time
            else:
                self._stop_waiting(outcome.task, fact.time)
            i = self._rows.get(outcome.task)
            if i is not None and i not in self._elsewhere:
                self._tasks.collected[i] = fact.time
                self._tasks.aside[i] = STAGING_OUT
                if self._tasks.ending[i] is None:
                    self._tasks.started[i], self._tasks.ended[i] = outcome.times.started, outcome.times.ended

    def _end(self, fact: agent.Ended) -> None:
        # One turn per task: columns are bound to names before.
        tasks, attempts, rows = self._tasks, self._pilot.attempts, self._rows
        started, ended, collected, ending = tasks.started, tasks.ended, tasks.collected, tasks.ending
        for outcome in fact.outcomes:
            times = outcome.times
            attempt = self._attempts.pop(outcome.task, None)
            if attempt is not None:
                attempts.started[attempt] = times.started
                attempts.ended[attempt] = times.ended or fact.time
            else:
                self._stop_waiting(outcome.task, fact.time)
            i = rows.get(outcome.task)
            if i is None or i in self._elsewhere:
                continue
            if outcome.task in self._unloading:
                self._unloading.discard(outcome.task)
                tasks.staged_out[i] = fact.time
                tasks.aside.pop(i, None)
            else:
                collected[i] = fact.time
            if ending[i] is None:
                ending[i] = outcome.ending
                tasks.exit_code[i] = outcome.exit_code
                started[i], ended[i] = times.started, times.ended
                take_cause(tasks, i, outcome)
