"""What is decided in one step: facts, folded into the state as they are decided, and the actions that they call for."""

from __future__ import annotations

import msgspec

from pilotage.core.agent import actions, facts
from pilotage.core.agent.state import AgentState, apply


class Step(msgspec.Struct):
    """What came of an event: facts to log, then actions to perform."""

    facts: list[facts.Fact]
    actions: list[actions.Action]


class Journal:
    """The state, and what was decided about it in this step. All parts of the core write here, and only here."""

    def __init__(self, state: AgentState) -> None:
        self.state = state
        self.stale = 0
        """Messages about executions that are no longer, or not yet, what they name; ignored."""
        self.new_facts: list[facts.Fact] = []
        """What was decided in this step so far."""
        self._actions: list[actions.Action] = []

    def emit(self, fact: facts.Fact) -> None:
        """Take the fact as true: the next decision of the same step sees it."""
        apply(self.state, fact)
        self.new_facts.append(fact)

    def act(self, action: actions.Action) -> None:
        """Have this done once all facts of the step are in the log."""
        self._actions.append(action)

    def take(self) -> Step:
        """Return what was decided, and begin the next step."""
        step = Step(self.new_facts, self._actions)
        self.new_facts, self._actions = [], []
        return step
