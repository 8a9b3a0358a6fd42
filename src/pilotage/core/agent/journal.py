"""The agent's journal; see ``core.journal``."""

from __future__ import annotations

from typing import TypeAlias

from pilotage.core import journal
from pilotage.core.agent import actions, facts
from pilotage.core.agent.state import AgentState, apply

Step: TypeAlias = journal.Step[facts.Fact, actions.Action]


class Journal(journal.Journal[AgentState, facts.Fact, actions.Action]):
    """The agent's state, and what was decided about it in this step."""

    def fold(self, fact: facts.Fact) -> None:
        """Change the state as the fact says."""
        apply(self.state, fact)
