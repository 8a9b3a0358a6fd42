"""What the client may conclude from the log of an agent that is gone for good.

Only for a *fenced* pilot: its agent, its runners and their tasks are known to be gone. Then the log is the last word: what
it holds as an outcome happened, what it never launched did not begin, and of the rest nothing is known. If the node was lost
the end of the log may be missing; then what is absent from it proves nothing.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent.client_side import EndingPilot
from pilotage.core.agent.endings import wants_output
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Ending, Outcome


class Aftermath(msgspec.Struct, frozen=True):
    """What is left of a pilot.

    ``received``: number of the last message of the client that the agent had, None if that is not known. ``outcomes``: those
    that the client does not have, in order, and last of those whose output was being staged. ``not_begun``: tasks that may be
    bound elsewhere. ``may_have_run``: tasks that were launched, or may have been, and have no outcome.
    """

    received: int | None
    outcomes: list[Outcome]
    not_begun: list[tuple[TaskUid, Binding]]
    may_have_run: list[tuple[TaskUid, Binding]]
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    """Of those two, and of those cut short, the number of the last attempt and how many failed, where there was one."""
    cut_short: list[TaskUid] = []
    """Tasks that have begun, and were cut short as the pilot's time was over; they may begin again. Each has its ``tries``."""
    ending: EndingPilot | None = None
    """How the pilot ended, if it did so in good order; its client may have been away."""


def aftermath(state: AgentState, delivered: int, *, complete: bool = True) -> Aftermath:
    """Read the recovered state of a pilot whose messages up to ``delivered`` the client has.

    ``complete``: whether nothing of the log can have been lost with the node.
    """
    outcomes = [outcome for number, message in sorted(state.undelivered.items()) if number > delivered for outcome in message]
    tasks = [(uid, task) for uid, task in state.tasks.items() if uid not in state.outputs]
    answers = [answer for number, answer in sorted(state.undelivered_tasks.items()) if number > delivered]
    given_back = [each for _, some in (*answers, *state.unsent_tasks) for each in some]
    tries = {uid: (attempt, failures) for uid, _, attempt, failures in given_back if attempt}
    return Aftermath(
        state.received if complete else None,
        [*outcomes, *state.unsent, *(_cut_short(state, outcome) for outcome in state.outputs.values())],
        [
            *((uid, task.binding) for uid, task in tasks if complete and not task.lane),
            *((uid, binding) for uid, binding, *_ in given_back),
            *state.late.items(),
        ],
        [(uid, task.binding) for uid, task in tasks if task.lane or not complete],
        tries | state.tries | {uid: (task.attempt, task.failures) for uid, task in tasks if task.attempt},
        state.begun_tasks,
        None if state.tasks else state.ending,
    )


def _cut_short(state: AgentState, outcome: Outcome) -> Outcome:
    """Return what became of a task whose output was being staged when the pilot was lost."""
    row = state.tasks[outcome.task].row
    if outcome.ending is not Ending.DONE or not wants_output(row, state.templates[row.template], outcome):
        return outcome
    message = "the pilot was lost while the task's output was staged"
    return msgspec.structs.replace(outcome, ending=Ending.STAGING_FAILED, message=message, result=None)
