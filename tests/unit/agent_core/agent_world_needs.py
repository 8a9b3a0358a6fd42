"""Tasks of ``agent_world`` that need services: when they may be launched, what they are told, and what is taken back.

Like the rest of the witness it judges what is written to the log and what is handed over, by what the log says of services.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pilotage.core.agent import actions
from pilotage.core.agent.state import AgentState
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome

if TYPE_CHECKING:
    from agent_world import World

SAID_BY_CLIENT = "as the client knew it"
ELSEWHERE = TaskUid("elsewhere")
"""A service that runs in another pilot."""


def needs(chance: random.Random, submitted: Sequence[TaskUid], ready: Sequence[TaskUid]) -> dict[str, TaskUid]:
    """The services that a task needs, by the variables that tell of them: ready mostly, but they may be anything by now."""
    likely = ready if ready and chance.random() < 0.8 else (*submitted[-4:], ELSEWHERE)
    chosen = {chance.choice(likely) for _ in range(chance.choice((1, 1, 2)))}
    return {f"ADDRESS{number}": uid for number, uid in enumerate(sorted(chosen))}


class Needs:
    """Judges tasks that need services."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._told: dict[Execution, dict[TaskUid, str]] = {}
        """What was said of services of this pilot to executions that were handed over."""
        self._recalled: set[Execution] = set()
        self._reconciled: set[RunnerId] = set()
        """Runners of which the present agent knows what they hold."""
        self.launched = self.waited = self.outdated = 0
        self.forsaken: set[TaskUid] = set()

    def _of(self, uid: TaskUid) -> dict[str, TaskUid]:
        extra = self._world.client.rows[uid].extra
        return {} if extra is None else extra.services

    def agent_started(self) -> None:
        """It knows nothing of what the one before it took back, and runners may not have heard of that."""
        self._recalled.clear()
        self._reconciled.clear()

    def judge_launch(self, uid: TaskUid, shadow: AgentState) -> None:
        """No task is launched unless each service that it needs and that is, or was, here is ready."""
        for service in self._of(uid).values():
            assert service not in self._world.final, f"{uid} is launched, which needs {service}, and that is over"
            record = shadow.tasks.get(service)
            if record is not None:
                assert service in shadow.services, f"{uid} is launched, which needs {service}, and that is not ready"
                assert record.ending is None, f"{uid} is launched, which needs {service}, and that is being ended"
                self.launched += 1

    def note(self, action: actions.Action) -> None:
        """Judge what the core wants, as it decides so."""
        if isinstance(action, actions.RecallTasks):
            self._recalled.update((uid, attempt) for uid, attempt in action.executions)
        elif isinstance(action, actions.LaunchTasks):
            for lane in action.lanes:
                for attempt, row in lane.tasks:
                    if row.extra is not None and row.extra.services:
                        self._note_told(row.uid, attempt, row.extra.variables)

    def _note_told(self, uid: TaskUid, attempt: Attempt, variables: dict[str, str]) -> None:
        state = self._world.core.state
        told = self._told[uid, attempt] = {}
        for variable, service in self._of(uid).items():
            if service in state.tasks:
                told[service] = variables[variable]
                assert variables[variable] == state.services[service], f"{uid} is told {variables}"
            else:
                assert variables[variable] == SAID_BY_CLIENT
        assert variables.get("A") == self._world.client.rows[uid].extra.variables.get("A"), "what else it is told is gone"  # type: ignore[union-attr]

    def reconciled(self, runner: RunnerId) -> None:
        """The agent hears what a runner holds, which may not have heard what was taken back from it."""
        state = self._world.core.state
        self._reconciled.add(runner)
        for uid, attempt in list(self._recalled):
            task = state.tasks.get(uid)
            if task is None or not task.lane or state.lanes[task.lane].runner == runner:
                self._recalled.discard((uid, attempt))

    def check(self) -> None:
        """What was handed over and has not begun knows where its services are, or is asked back; who waits has to."""
        core, state = self._world.core, self._world.core.state
        for uid in state.tasks:
            if self._of(uid) and core.doing(uid) == "awaiting service":
                here = [service for service in self._of(uid).values() if service in state.tasks]
                assert any(service not in state.services or state.tasks[service].ending for service in here), f"{uid} waits on"
                self.waited += 1
        for lane in state.lanes.values():
            if lane.runner not in self._reconciled:
                continue
            for uid in lane.tasks:
                task = state.tasks[uid]
                execution = (uid, task.attempt)
                if task.started or execution not in self._told:
                    continue
                for service, info in self._told[execution].items():
                    record = state.tasks.get(service)
                    if record is None or record.ending is not None or state.services.get(service) != info:
                        self.outdated += 1
                        assert execution in self._recalled, f"{execution} was told {info}, and is left where it is"

    def may_be_cancelled(self, outcome: Outcome) -> bool:
        """Tell whether a task was cancelled as a service that it needs is over."""
        over = [service for service in self._of(outcome.task).values() if service in self._world.final]
        if outcome.ending is Ending.CANCELLED and any(
            f"service {service!r}, which it needs" in outcome.message for service in over
        ):
            self.forsaken.add(outcome.task)
            return True
        return False
