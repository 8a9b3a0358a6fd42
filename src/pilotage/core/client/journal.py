"""What is decided in one step: facts, folded into the state as they are decided, and the actions that they call for."""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.client import actions
from pilotage.core.client.actions import Action
from pilotage.core.client.applying import apply
from pilotage.core.client.facts import Fact
from pilotage.core.client.state import ClientState
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.outcome import Outcome
from pilotage.model.workload import Batch


class Decision:
    """What one event led to: facts, already applied and to be logged before any of the actions is performed."""

    __slots__ = ("actions", "facts")

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.actions: list[Action] = []


class Journal:
    """The state, and what was decided about it in this step. All parts of the core write here, and only here."""

    def __init__(self, state: ClientState) -> None:
        self.state = state
        self.decision = Decision()
        self.ended: list[TaskUid] = []
        """Tasks that became final in this step, and may have others waiting for them."""
        self._warned: set[str] = set()

    def begin(self) -> Decision:
        """Begin the next step, and return what will hold what it leads to."""
        self.decision = Decision()
        return self.decision

    def emit(self, fact: Fact, *, batch: Batch | None = None, outcomes: list[Outcome] | None = None) -> None:
        """Take the fact as true; ``batch`` and ``outcomes`` are what it holds encoded, if at hand."""
        apply(self.state, fact, batch=batch, outcomes=outcomes)
        self.decision.facts.append(fact)

    def act(self, action: Action) -> None:
        """Have this done once all facts of the step are in the log."""
        self.decision.actions.append(action)

    def tell_tasks(self, tasks: Iterable[TaskUid]) -> None:
        """Whoever waits for these tasks is told that they changed."""
        records = self.state.tasks
        self.act(actions.TellTasks([records[uid] for uid in tasks]))

    def tell_pilot(self, pilot: PilotUid) -> None:
        """Whoever waits for this pilot is told that it changed."""
        self.act(actions.TellPilot(self.state.pilots[pilot]))

    def tell_waiting(self, manager: str) -> None:
        """Whoever listens is told how many tasks of the manager wait."""
        self.act(actions.TellWaiting(manager, len(self.state.managers[manager].waiting)))

    def warn_once(self, topic: str, message: str) -> None:
        """The user is told, once for each topic."""
        if topic not in self._warned:
            self._warned.add(topic)
            self.act(actions.Warn(message))
