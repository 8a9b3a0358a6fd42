"""What a pilot's state knows of its client: messages taken and sent, outcomes on their way, the pilot's end.

Agents and metaschedulers have this in common, and the facts by which it changes.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent import facts
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Outcome


class EndingPilot(msgspec.Struct, array_like=True, frozen=True):
    """Why and how the pilot ends."""

    since: float
    drain: bool
    state: str
    reason: str
    idle: bool = False
    """Whether it ends as nothing was left to do, or nobody or no time to do it: tasks that arrive do not begin."""
    out_of_time: bool = False
    """Whether it ends as its time is over."""


class ClientSide(msgspec.Struct):
    """The part of a pilot's state that its client has to do with."""

    received: int = 0
    """Number of the client's last message that is in the log."""
    numbered: int = 0
    """Number of the last message to the client."""
    delivered: int = 0
    """Number of the last message that the client has on disk."""
    unsent: list[Outcome] = []
    """Outcomes that belong to no message yet."""
    undelivered: dict[int, list[Outcome]] = {}
    """Outcomes by the message that carries them, until the client has it on disk."""
    outcomes: int = 0
    """Final outcomes so far."""
    ending: EndingPilot | None = None
    ended: int = 0
    """Number of the message that ends the pilot; 0: none yet."""
    begun_tasks: list[TaskUid] = []
    """Tasks that have begun, have no outcome, and go back to the client when the pilot ends."""
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    """Of tasks that go back to the client, the number of the last attempt and how many failed, where there was one."""

    @property
    def busy(self) -> bool:
        """Whether something is left to do before the pilot can end."""
        raise NotImplementedError


def take_outcomes(state: ClientSide, outcomes: list[Outcome]) -> None:
    """Have final outcomes sent to the client."""
    state.outcomes += len(outcomes)
    state.unsent.extend(outcomes)


def apply_to_client_side(
    state: ClientSide, fact: facts.OutcomesNumbered | facts.OutcomesDelivered | facts.PilotEnding | facts.PilotEnded
) -> None:
    """Fold a fact that is about nothing else."""
    match fact:
        case facts.OutcomesNumbered():
            state.undelivered[fact.number] = state.unsent[: fact.count]
            del state.unsent[: fact.count]
            state.numbered = fact.number
        case facts.OutcomesDelivered():
            for number in range(state.delivered + 1, fact.number + 1):
                state.undelivered.pop(number, None)
            state.delivered = fact.number
        case facts.PilotEnding():
            if fact.number:
                state.received = fact.number
            state.ending = EndingPilot(fact.time, fact.drain, fact.state, fact.reason, fact.idle, fact.out_of_time)
        case facts.PilotEnded():
            state.numbered = state.ended = fact.number


def tell_again(state: ClientSide, fact: facts.Rebound, over: list[TaskUid]) -> None:
    """Have the outcomes of these tasks, which are over, sent once more under the binding that the client knows."""
    # What was numbered stays as it was: the client has no use for it, but for its number.
    told = (*state.undelivered.values(), state.unsent)
    known = {outcome.task: outcome for outcomes in told for outcome in outcomes}
    state.unsent.extend(msgspec.structs.replace(known[uid], binding=fact.binding) for uid in over)
