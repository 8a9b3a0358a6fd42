"""The way of outcomes to the client: numbered in messages, kept until the client has them on disk, forgotten then.

Agents and metaschedulers deliver alike.
"""

from __future__ import annotations

from typing import Protocol

from pilotage.core.agent import actions, facts
from pilotage.core.agent.client_side import ClientSide
from pilotage.model.ids import Binding, TaskUid
from pilotage.model.outcome import Outcome

OUTCOMES_PER_MESSAGE = 8192
BYTES_PER_MESSAGE = 4 << 20


class ClientJournal(Protocol):
    """What delivery needs of a core's journal."""

    @property
    def state(self) -> ClientSide:
        """The state, as far as the client is concerned."""
        ...

    def emit(self, fact: facts.OutcomesNumbered | facts.OutcomesDelivered | facts.PilotEnded) -> None:
        """Take the fact as true."""
        ...

    def act(self, action: actions.SendOutcomes | actions.SendPilotEnded) -> None:
        """Have this done."""
        ...


class Delivery:
    """Makes messages for the client whenever its link has room."""

    def __init__(self, journal: ClientJournal) -> None:
        self._journal = journal
        self.under_way: dict[TaskUid, Binding] = {}
        """Tasks whose outcomes the client does not have on disk yet."""

    def recover(self) -> None:
        """Take over what the state says."""
        state = self._journal.state
        for outcomes in (*state.undelivered.values(), state.unsent):
            self.note(outcomes)

    @property
    def finished(self) -> bool:
        """Whether the pilot was to end and has nothing left to do."""
        state = self._journal.state
        return state.ending is not None and not state.busy

    @property
    def has_news(self) -> bool:
        """Whether there is something to make a message of."""
        state = self._journal.state
        return bool(state.unsent) or (self.finished and not state.ended)

    @property
    def told(self) -> bool:
        """Whether the client has on disk that the pilot ended, and all before."""
        state = self._journal.state
        return state.ended > 0 and not state.unsent and state.delivered == state.numbered

    def note(self, outcomes: list[Outcome]) -> None:
        """These are final."""
        under_way = self.under_way
        for outcome in outcomes:
            under_way[outcome.task] = outcome.binding

    def received(self, durable: int) -> None:
        """The client has all messages up to ``durable`` on disk."""
        state = self._journal.state
        if durable <= state.delivered:
            return
        through, forget = min(durable, state.numbered), self.under_way.pop
        for number in range(state.delivered + 1, through + 1):
            for outcome in state.undelivered.get(number, ()):
                forget(outcome.task, None)
        self._journal.emit(facts.OutcomesDelivered(through))

    def number(self, now: float) -> None:
        """Make the next message."""
        journal, state = self._journal, self._journal.state
        number = state.numbered + 1
        if state.unsent:
            count = size = 0
            for outcome in state.unsent[:OUTCOMES_PER_MESSAGE]:
                count += 1
                if type(outcome.result) is bytes:
                    size += len(outcome.result)
                    if size > BYTES_PER_MESSAGE:
                        break
            journal.emit(facts.OutcomesNumbered(number, count))
            journal.act(actions.SendOutcomes(number, state.undelivered[number]))
        elif state.ending is not None and self.has_news:
            journal.emit(facts.PilotEnded(now, number))
            ending, begun, tries = state.ending, list(state.begun_tasks), dict(state.tries)
            journal.act(actions.SendPilotEnded(number, ending.state, ending.reason, begun, tries, ending.out_of_time))
