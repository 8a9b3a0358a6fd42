"""What the client may conclude from the log of an agent that is gone for good.

Only for a *fenced* pilot: its agent, its runners and their tasks are known to be gone. Then the log is the last word: what
it holds as an outcome happened, what it never launched did not begin, and of the rest nothing is known. If the node was lost
the end of the log may be missing; then what is absent from it proves nothing.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Binding, TaskUid
from pilotage.model.outcome import Outcome


class Aftermath(msgspec.Struct, frozen=True):
    """What is left of a pilot.

    ``received``: number of the last message of the client that the agent had, None if that is not known. ``outcomes``: those
    that the client does not have, in order. ``not_begun``: tasks that may be bound elsewhere. ``may_have_run``: tasks that
    were launched, or may have been, and have no outcome.
    """

    received: int | None
    outcomes: list[Outcome]
    not_begun: list[tuple[TaskUid, Binding]]
    may_have_run: list[tuple[TaskUid, Binding]]


def aftermath(state: AgentState, delivered: int, *, complete: bool = True) -> Aftermath:
    """Read the recovered state of a pilot whose messages up to ``delivered`` the client has.

    ``complete``: whether nothing of the log can have been lost with the node.
    """
    outcomes = [outcome for number, message in sorted(state.undelivered.items()) if number > delivered for outcome in message]
    tasks = state.tasks.items()
    return Aftermath(
        state.received if complete else None,
        [*outcomes, *state.unsent],
        [(uid, task.binding) for uid, task in tasks if complete and not task.lane],
        [(uid, task.binding) for uid, task in tasks if task.lane or not complete],
    )
