"""What the agent's core wants done, in the imperative. Performing an action twice does no harm."""

from __future__ import annotations

import msgspec

from pilotage.core.agent.events import StagingPhase
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import Attempt, Binding, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.services import Service
from pilotage.model.workload import Row


class StartRunner(msgspec.Struct, frozen=True):
    """Start a spawner (``beside`` is None), or a function worker beside that spawner with these variables set.

    It is to be on this host.
    """

    runner: RunnerId
    beside: RunnerId | None
    environment: dict[str, str]
    host: int = 0


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


class SignalExecutions(msgspec.Struct, frozen=True):
    """Send this signal once to the processes of these executions that have begun, however often it is asked for."""

    runner: RunnerId
    executions: list[Execution]
    signal: int


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
    """Send the last message of the pilot. ``begun``: tasks without an outcome that have begun, and go back to the client."""

    number: int
    state: str
    reason: str
    begun: list[TaskUid] = []
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    """Of tasks that go back, the number of the last attempt and how many failed, where there was one."""
    out_of_time: bool = False
    """Whether it ended as its time was over: then those that have ``tries`` were cut short for nothing else."""


class StageTasks(msgspec.Struct, frozen=True):
    """Stage the input, or the output, of these executions; ``StagingEnded`` tells how it went. Doing it again does no harm.

    A row names what is to be done and no more: where output is not wanted it has no directives. After its output the own
    sandbox of a task whose template says ``cleanup`` is removed, unless some of the output could not be staged: then the
    sandbox has the only copy, and a task that runs again still wants its input there. So if output is asked for once more, and
    such a sandbox is gone, all was done before.
    """

    phase: StagingPhase
    tasks: list[tuple[Attempt, Row]]


class EndStaging(msgspec.Struct, frozen=True):
    """Do no more directives of these tasks than are under way. ``StagingEnded`` still tells of each, whatever came of it."""

    tasks: list[TaskUid]


class PrepareEnvironment(msgspec.Struct, frozen=True):
    """Build and evaluate this environment, make it known to the runners, and tell ``EnvironmentPrepared``."""

    name: str
    spec: msgspec.Raw


class WatchService(msgspec.Struct, frozen=True):
    """Look after this attempt at a service, on the node of this index: tell when it is ready, or unwell."""

    attempt: Attempt
    row: Row
    service: Service
    node: int
    ready: bool
    """It was ready before this agent began."""


class UnwatchService(msgspec.Struct, frozen=True):
    """The service is over, or is being ended."""

    service: TaskUid


class TellService(msgspec.Struct, frozen=True):
    """Let the client know that this service is ready; it is told again after each hello."""

    service: TaskUid


class SendNodes(msgspec.Struct, frozen=True):
    """Tell the metascheduler, under this number, which nodes are no longer this partition's, until it is acknowledged.

    It had asked for them in its request ``reclaim``.
    """

    number: int
    reclaim: int
    nodes: list[int]


class SendTasks(msgspec.Struct, frozen=True):
    """Tell the metascheduler, under this number, which tasks are no longer this partition's, until it is acknowledged.

    It had asked for them in its request ``recall``; each is ``(task, lease, number of its last attempt, failed attempts)``.
    """

    number: int
    recall: int
    tasks: list[tuple[TaskUid, Binding, Attempt, int]]


class TellProgress(msgspec.Struct, frozen=True):
    """Let the client know, when there is time, that these tasks run."""

    tasks: list[TaskUid]


Action = (
    StartRunner
    | StopRunner
    | LaunchTasks
    | EndExecutions
    | SignalExecutions
    | RecallTasks
    | ReleaseRunner
    | SendOutcomes
    | SendPilotEnded
    | SendNodes
    | SendTasks
    | TellProgress
    | StageTasks
    | EndStaging
    | PrepareEnvironment
    | WatchService
    | UnwatchService
    | TellService
)
