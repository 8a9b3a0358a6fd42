"""How tasks come to their end: on request, or as there is nothing more to be done for them.

An attempt that was the last is the end of its task, unless the task has output to stage, or a sandbox to remove: then its
outcome is kept (``OutputsBegun``) until that is done. What is asked of a task whose files are being staged takes effect when
the stagers are done with it, so that nothing is done for a task after its outcome.

What is ended as the pilot's time is over gets no outcome if it may begin elsewhere: it is the client's again (``TasksLeft``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pilotage.core.agent import actions, facts
from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.retry import is_excused, runs_again
from pilotage.core.agent.state import TaskRecord
from pilotage.core.agent.waiting import Waiting
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.workload import OWN_SANDBOX, Row, Template

NOBODY = RunnerId("")

OF_AN_ATTEMPT = (Ending.TIMED_OUT, Ending.EXITED, Ending.OUT_OF_WALLTIME)
"""Endings that are asked for an attempt: the task may have another. Those asked for a task are for good."""

_FOR_GOOD = (Ending.CANCELLED, Ending.LOST)
"""Endings that are asked for a task, other than the DONE of a service that is stopped."""

_NOTHING_TO_SHOW = (Ending.CANCELLED, Ending.LOST)
"""Endings after which no output is staged, even if it is wanted of failures."""


class Endings:
    """Gives tasks their outcomes."""

    def __init__(self, journal: Journal, waiting: Waiting, delivery: Delivery) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._delivery = delivery
        self.cleans = False
        """Whether some tasks have a sandbox that is removed at their end."""
        self.restarts = False
        """Whether some services are started again even if they ended well."""
        self.has_gangs = False
        """Whether some tasks start together."""
        self.gangs_over: dict[str, str] = {}
        """Gangs that came to their end before they began, and why; their other tasks are still to be ended."""
        self.put_off: dict[TaskUid, None] = {}
        """Tasks whose files are to be staged when there is room; no stager has them."""

    def learn(self, templates: Mapping[TemplateId, Template]) -> None:
        """There will be tasks that follow these."""
        for template in templates.values():
            self.cleans |= template.cleanup
            self.restarts |= template.service is not None and template.service.restart == "always"
            self.has_gangs |= bool(template.request.gang)

    # ----------------------------------------------------------------------------------------------------------- on request

    def ask(self, now: float, number: int, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """End these tasks, whatever they do; ``number`` is that of the client's message that wants it, or 0."""
        tasks, inputs, outputs = self._state.tasks, self._state.inputs, self._state.outputs
        for_good = ending not in OF_AN_ATTEMPT
        chosen = [uid for uid in uids if tasks[uid].ending is None or (for_good and tasks[uid].ending in OF_AN_ATTEMPT)]
        if not chosen and not number:
            return
        self._journal.emit(facts.EndAsked(now, number, chosen, ending, message))
        waiting, staging, put_off = [], [], []
        running: dict[RunnerId, list[Execution]] = {}
        for uid in chosen:
            task = tasks[uid]
            if task.lane:
                running.setdefault(self._state.lanes[task.lane].runner, []).append((uid, task.attempt))
            elif uid in self.put_off:
                put_off.append(uid)
            elif uid in inputs or uid in outputs:
                staging.append(uid)
            else:
                self._waiting.withdraw(uid)
                waiting.append(uid)
        self.finish(now, waiting, ending, message)
        for runner, executions in running.items():
            self._journal.act(actions.EndExecutions(runner, executions, ending, message))
        if staging:
            self._journal.act(actions.EndStaging(staging))
        self.give_up(now, put_off)

    def give_up(self, now: float, uids: Iterable[TaskUid]) -> None:
        """Stage no more for these, whose end was asked for, and which no stager has."""
        tasks, outputs = self._state.tasks, self._state.outputs
        unstaged, cleaned = [], []
        before: dict[tuple[Ending, str], list[TaskUid]] = {}
        for uid in uids:
            self.put_off.pop(uid, None)
            task, outcome = tasks[uid], outputs.get(uid)
            if outcome is None:
                before.setdefault((task.ending or Ending.CANCELLED, task.ending_message), []).append(uid)
            elif wants_output(task.row, self._state.templates[task.row.template], outcome):
                unstaged.append((uid, task.ending_message))
            else:
                cleaned.append(outcome)
        for (ending, message), each in before.items():
            self.finish(now, each, ending, message)
        self.output_failed(now, unstaged)
        self.stage_outputs(cleaned)

    # ------------------------------------------------------------------------------------------------- nothing more to be done

    def turn_away(self, now: float, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """End tasks for which nothing has been done."""
        outcomes = self._outcomes(now, uids, ending, message)
        if outcomes:
            self.conclude(now, NOBODY, 0, outcomes, [])

    def finish(self, now: float, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """End tasks that neither a runner nor a stager has."""
        if ending is Ending.OUT_OF_WALLTIME:
            self.leave(now, uids)
            return
        final: list[Outcome] = []
        staged: list[Outcome] = []
        for outcome in self._outcomes(now, uids, ending, message):
            self.sort(self._state.tasks[outcome.task], outcome, final, staged)
        if final or staged:
            self.conclude(now, NOBODY, 0, final, staged)

    def _outcomes(self, now: float, uids: Iterable[TaskUid], ending: Ending, message: str) -> list[Outcome]:
        outcomes = []
        for uid in uids:
            task = self._state.tasks[uid]
            times = Times(accepted=task.accepted, launched=task.launched, ended=now)
            outcomes.append(Outcome(uid, task.binding, task.attempt, ending, message=message, times=times))
        return outcomes

    def sort(self, task: TaskRecord, outcome: Outcome, final: list[Outcome], staged: list[Outcome]) -> None:
        """Put the outcome of a last attempt with those that are ``final``, or with those that wait for output ``staged``."""
        extra, template = task.row.extra, self._state.templates[task.row.template]
        outcome = self._unless_ended(task, outcome)
        ran = outcome.attempt > 0
        leaves_sandbox = template.cleanup and template.sandbox == OWN_SANDBOX
        has_sandbox = ran or (extra is not None and bool(extra.input_staging))
        if wants_output(task.row, template, outcome) or (leaves_sandbox and has_sandbox):
            staged.append(outcome)
        else:
            final.append(outcome)

    def conclude(self, now: float, runner: RunnerId, number: int, final: list[Outcome], staged: list[Outcome]) -> None:
        """These attempts were the last; ``runner`` told of them in its message ``number``."""
        if self.has_gangs and runner == NOBODY:
            self._note_gangs(now, (*final, *staged))
        if staged:
            self._journal.emit(facts.OutputsBegun(now, runner, number, staged))
            self.stage_outputs(staged)
        if final or not staged:
            self._delivery.note(final)
            self._journal.emit(facts.Ended(now, runner, number, final))

    def _note_gangs(self, now: float, outcomes: Iterable[Outcome]) -> None:
        """Note whose gangs can't begin any more. Before the outcomes are: the log never has these alone."""
        for outcome in outcomes:
            gang = self._state.templates[self._state.tasks[outcome.task].row.template].request.gang
            if gang and not outcome.attempt and gang not in self._state.gangs_over:
                message = f"its gang {gang!r} cannot begin, as task {outcome.task!r} ended before: {outcome.message}"
                self._journal.emit(facts.GangOver(now, gang, message))
                self.gangs_over[gang] = message

    def stage_outputs(self, outcomes: Iterable[Outcome]) -> None:
        """Have the output of these attempts staged, or just their sandboxes removed."""
        handed: list[tuple[Attempt, Row]] = []
        for outcome in outcomes:
            row = self._state.tasks[outcome.task].row
            if not wants_output(row, self._state.templates[row.template], outcome):
                row = msgspec.structs.replace(row, extra=None)
            handed.append((outcome.attempt, row))
        if handed:
            self._journal.act(actions.StageTasks("output", handed))

    def output_staged(self, now: float, uids: Iterable[TaskUid]) -> None:
        """The stagers did all that was to be done for these."""
        tasks, outputs = self._state.tasks, self._state.outputs
        self._close(now, [self._unless_ended(tasks[uid], outputs[uid]) for uid in uids])

    def output_failed(self, now: float, failures: Iterable[tuple[TaskUid, str]]) -> None:
        """The output of these could not be staged, and why; a sandbox that cannot be removed is no failure of its task."""
        outcomes = []
        left: list[tuple[TaskUid, int]] = []
        for uid, why in failures:
            task = self._state.tasks[uid]
            outcome = self._unless_ended(task, self._state.outputs[uid])
            if wants_output(task.row, self._state.templates[task.row.template], outcome):
                message = f"its output could not be staged: {why}"
                if outcome.ending is Ending.DONE and task.ending is Ending.OUT_OF_WALLTIME:
                    failed = self.leaves(task, Ending.OUT_OF_WALLTIME, None)
                    if failed is not None:
                        left.append((uid, failed))
                        continue
                    message = f"{task.ending_message} before its output was staged"
                    outcome = msgspec.structs.replace(outcome, ending=task.ending, message=message, result=None)
                elif outcome.ending is Ending.DONE:
                    outcome = msgspec.structs.replace(outcome, ending=Ending.STAGING_FAILED, message=message, result=None)
                else:
                    both = f"{outcome.message}; {message}" if outcome.message else message
                    outcome = msgspec.structs.replace(outcome, message=both)
            outcomes.append(outcome)
        if left:
            self._journal.emit(facts.TasksLeft(now, NOBODY, 0, [], left))
        self._close(now, outcomes)

    def _close(self, now: float, outcomes: list[Outcome]) -> None:
        if outcomes:
            self._delivery.note(outcomes)
            self._journal.emit(facts.Ended(now, NOBODY, 0, outcomes))

    def _unless_ended(self, task: TaskRecord, outcome: Outcome) -> Outcome:
        """A task with output to stage is not done before that is staged: a cancel before that counts."""
        extra = task.row.extra
        if outcome.ending is not Ending.DONE or task.ending not in _FOR_GOOD or extra is None or not extra.output_staging:
            return outcome
        return msgspec.structs.replace(outcome, ending=task.ending, message=task.ending_message, result=None)

    # --------------------------------------------------------------------------------------------------- once more, elsewhere

    def leave(self, now: float, uids: Iterable[TaskUid]) -> None:
        """Let tasks be the client's again that neither a runner nor a stager has; the pilot's time is over."""
        waiting = list(uids)
        if waiting:
            self._journal.emit(facts.TasksLeft(now, NOBODY, 0, waiting, []))

    def leaves(self, task: TaskRecord, ending: Ending, exit_code: int | None) -> int | None:
        """Return how many attempts failed so far if one that ended like this is followed by another in another pilot.

        So are those that were cut short as this pilot's time is nearly over, and in the end those that failed.
        """
        if task.ending is not None and task.ending not in OF_AN_ATTEMPT:
            return None
        over = self._state.ending is not None and self._state.ending.out_of_time
        if not over and not (self._state.draining and ending is Ending.OUT_OF_WALLTIME):
            return None
        template = self._state.templates[task.row.template]
        # A service is its pilot's own, and ends with it.
        if template.service is not None or not runs_again(template, task.failures, ending, exit_code):
            return None
        return task.failures if is_excused(template, ending) else task.failures + 1

    # --------------------------------------------------------------------------------------------------------- once more

    def repeats(self, task: TaskRecord, ending: Ending, exit_code: int | None) -> bool:
        """Tell whether an attempt that ended like this is followed by another."""
        if task.ending is not None and task.ending not in OF_AN_ATTEMPT:
            return False
        if self._state.ending is not None and not self._state.ending.drain:
            return False
        return runs_again(self._state.templates[task.row.template], task.failures, ending, exit_code)


def wants_output(row: Row, template: Template, outcome: Outcome) -> bool:
    """Tell whether output is to be staged after an attempt that ended like this."""
    if row.extra is None or not row.extra.output_staging or not outcome.attempt:
        return False
    return outcome.ending is Ending.DONE or (template.stage_on_error and outcome.ending not in _NOTHING_TO_SHOW)
