"""What is decided in one step: facts, folded into the state as they are decided, and the actions that they call for.

The cores of agents and of metaschedulers each have a journal of their own kind; see ``core.agent.journal``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import msgspec

StateT = TypeVar("StateT")
FactT = TypeVar("FactT")
ActionT = TypeVar("ActionT")


class Step(msgspec.Struct, Generic[FactT, ActionT]):
    """What came of an event: facts to log, then actions to perform."""

    facts: list[FactT]
    actions: list[ActionT]


class Journal(ABC, Generic[StateT, FactT, ActionT]):
    """The state, and what was decided about it in this step. All parts of the core write here, and only here."""

    def __init__(self, state: StateT) -> None:
        self.state = state
        self.stale = 0
        """Messages about executions that are no longer, or not yet, what they name; ignored."""
        self.new_facts: list[FactT] = []
        """What was decided in this step so far."""
        self._actions: list[ActionT] = []

    @abstractmethod
    def fold(self, fact: FactT) -> None:
        """Change the state as the fact says."""

    def emit(self, fact: FactT) -> None:
        """Take the fact as true: the next decision of the same step sees it."""
        self.fold(fact)
        self.new_facts.append(fact)

    def act(self, action: ActionT) -> None:
        """Have this done once all facts of the step are in the log."""
        self._actions.append(action)

    def take(self) -> Step[FactT, ActionT]:
        """Return what was decided, and begin the next step."""
        step = Step(self.new_facts, self._actions)
        self.new_facts, self._actions = [], []
        return step
