"""The metascheduler's journal; see ``core.journal``."""

from __future__ import annotations

from typing import TypeAlias

from pilotage.core import journal
from pilotage.core.metascheduler import actions, facts
from pilotage.core.metascheduler.state import MetaschedulerState, apply
from pilotage.model.outcome import Outcome

Step: TypeAlias = journal.Step[facts.Fact, actions.Action]


class Journal(journal.Journal[MetaschedulerState, facts.Fact, actions.Action]):
    """The metascheduler's state, and what was decided about it in this step."""

    def fold(self, fact: facts.Fact) -> None:
        """Change the state as the fact says."""
        apply(self.state, fact)

    def emit_outcomes(self, fact: facts.OutcomesTaken, outcomes: list[Outcome]) -> None:
        """Take the fact as true; ``outcomes`` are what it holds encoded."""
        apply(self.state, fact, outcomes=outcomes)
        self.new_facts.append(fact)
