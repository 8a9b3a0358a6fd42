"""What the agent's core wants done, in the imperative. Performing an action twice does no harm."""

from __future__ import annotations

import msgspec

from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome


class StartRunner(msgspec.Struct, frozen=True):
    """Start a spawner (``beside`` is None), or a function worker beside that spawner with these variables set."""

    runner: RunnerId
    beside: RunnerId | None
    environment: dict[str, str]


class StopRunner(msgspec.Struct, frozen=True):
    """Let a runner that holds nothing exit."""

    runner: RunnerId


class LaunchTasks(msgspec.Struct, frozen=True):
    """Hand these to the runner."""

    runner: RunnerId
    lanes: list[LaneTasks]


class EndExecutions(msgspec.Struct, frozen=True):
    """End these executions, whatever they are doing; each is reported as ended, or as returned if it had not begun."""

    runner: RunnerId
    executions: list[Execution]
    ending: Ending
    message: str


class RecallTasks(msgspec.Struct, frozen=True):
    """Ask back what of these has not begun; something before them in their lane takes long."""

    runner: RunnerId
    executions: list[Execution]


class ReleaseRunner(msgspec.Struct, frozen=True):
    """All endings of this runner up to ``through`` are in the log."""

    runner: RunnerId
    through: int


class SendOutcomes(msgspec.Struct, frozen=True):
    """Send these outcomes to the client under this number, until they are acknowledged."""

    number: int
    outcomes: list[Outcome]


class SendPilotEnded(msgspec.Struct, frozen=True):
    """Send the last message of the pilot."""

    number: int
    state: str
    reason: str


class TellProgress(msgspec.Struct, frozen=True):
    """Let the client know, when there is time, that these tasks run."""

    tasks: list[TaskUid]


Action = (
    StartRunner
    | StopRunner
    | LaunchTasks
    | EndExecutions
    | RecallTasks
    | ReleaseRunner
    | SendOutcomes
    | SendPilotEnded
    | TellProgress
)
