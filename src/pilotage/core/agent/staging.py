"""Files of tasks on their way: input before a task waits for resources, output after its last attempt.

The stagers are asked for many tasks at once and tell of each how it went. What an agent had asked for before it died is asked
for again by the next one.

While storage is full no input is staged. Output is, as that may free space; what finds no room is put off until there is some.
Of what is put off the log says nothing: to the next agent it is files that are being staged.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import NOBODY, Endings, wants_output
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.waiting import Waiting
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending

BEFORE_ANY_ATTEMPT = Attempt(0)


class Staging:
    """Has files staged, and draws the conclusions."""

    def __init__(self, journal: Journal, waiting: Waiting, dispatch: Dispatch, endings: Endings) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._dispatch = dispatch
        self._endings = endings
        self._left_over: tuple[list[TaskUid], list[TaskUid]] = ([], [])
        """Tasks whose input, and whose output, an agent before this one had asked for."""

    def recover(self) -> None:
        """Take over what the state says."""
        self._left_over = (list(self._state.inputs), list(self._state.outputs))

    def resume(self, now: float) -> None:
        """Ask again for what an agent before this one had asked for; what was to be ended meanwhile is."""
        tasks, outputs = self._state.tasks, self._state.outputs
        (inputs, left), self._left_over = self._left_over, ([], [])
        given_up = [uid for uid in (*left, *inputs) if tasks[uid].ending is not None]
        self._endings.stage_outputs([outputs[uid] for uid in left if tasks[uid].ending is None])
        self.stage_inputs([uid for uid in inputs if tasks[uid].ending is None])
        self._endings.give_up(now, given_up)

    def stage_inputs(self, uids: Iterable[TaskUid]) -> None:
        """Have the input of these staged, when there is room."""
        if self._dispatch.paused:
            self._endings.put_off.update(dict.fromkeys(uids))
            return
        handed = [(BEFORE_ANY_ATTEMPT, self._state.tasks[uid].row) for uid in uids]
        if handed:
            self._journal.act(actions.StageTasks("input", handed))

    def go_on(self) -> None:
        """There is room: have staged what was put off."""
        put_off, self._endings.put_off = self._endings.put_off, {}
        self._endings.stage_outputs([self._state.outputs[uid] for uid in put_off if uid in self._state.outputs])
        self.stage_inputs([uid for uid in put_off if uid in self._state.inputs])

    def ended(self, event: events.StagingEnded) -> None:
        """Let go on, or end, what the stagers are done with."""
        done = [uid for uid, attempt in event.done if self._is_staged(event.phase, (uid, attempt))]
        failed = [(execution[0], why) for execution, why in event.failed if self._is_staged(event.phase, execution)]
        put_off = [execution[0] for execution in event.put_off if self._is_staged(event.phase, execution)]
        told = len(event.done) + len(event.failed) + len(event.put_off)
        self._journal.stale += told - len(done) - len(failed) - len(put_off)
        self._endings.put_off.update(dict.fromkeys(put_off))
        self._endings.give_up(event.time, [uid for uid in put_off if self._state.tasks[uid].ending is not None])
        if event.phase == "input":
            self._inputs_ended(event.time, done, failed)
        else:
            self._outputs_ended(event.time, done, failed)

    def _is_staged(self, phase: events.StagingPhase, execution: Execution) -> bool:
        uid, attempt = execution
        if phase == "input":
            return uid in self._state.inputs
        outcome = self._state.outputs.get(uid)
        return outcome is not None and outcome.attempt == attempt

    def _inputs_ended(self, now: float, done: list[TaskUid], failed: list[tuple[TaskUid, str]]) -> None:
        tasks = self._state.tasks
        there: list[TaskUid] = []
        repeated: list[TaskUid] = []
        ended: list[TaskUid] = []
        for uid in done:
            (there if tasks[uid].ending is None else ended).append(uid)
        if there:
            self._journal.emit(facts.InputsStaged(now, there))
            self._waiting.enqueue_each(there, now)
        for uid, why in failed:
            if tasks[uid].ending is not None:
                ended.append(uid)
            elif self._endings.repeats(tasks[uid], Ending.STAGING_FAILED, None):
                repeated.append(uid)
            else:
                self._endings.finish(now, [uid], Ending.STAGING_FAILED, f"its input could not be staged: {why}")
        if repeated:
            self._journal.emit(facts.Repeated(now, NOBODY, 0, repeated))
            self.stage_inputs(repeated)
        self._end_inputs(now, ended)

    def _end_inputs(self, now: float, uids: Iterable[TaskUid]) -> None:
        """End tasks whose end was asked for while their input was staged."""
        for uid in uids:
            task = self._state.tasks[uid]
            self._endings.finish(now, [uid], task.ending or Ending.CANCELLED, task.ending_message)

    def _outputs_ended(self, now: float, done: list[TaskUid], failed: list[tuple[TaskUid, str]]) -> None:
        self._endings.output_staged(now, done)
        repeated = [uid for uid, _ in failed if self._fails_for_that(uid)]
        self._endings.output_failed(now, [(uid, why) for uid, why in failed if uid not in repeated])
        if repeated:
            self._journal.emit(facts.Repeated(now, NOBODY, 0, repeated))
            self._waiting.enqueue_each(repeated, now)

    def _fails_for_that(self, uid: TaskUid) -> bool:
        """Tell whether a failure to stage its output is the failure of an attempt that is followed by another."""
        done = self._state.outputs[uid].ending is Ending.DONE
        return done and self._wants_output(uid) and self._endings.repeats(self._state.tasks[uid], Ending.STAGING_FAILED, None)

    def _wants_output(self, uid: TaskUid) -> bool:
        row = self._state.tasks[uid].row
        return wants_output(row, self._state.templates[row.template], self._state.outputs[uid])
