"""Messages between an agent and its runners: the spawners and the function workers of its node.

They travel as frames (see ``wire.framing``) over a Unix stream socket in the agent's private folder. The agent listens, a
runner connects and says ``RunnerHello``; when the agent dies the runner connects again to the next one, tells what it still
holds, and repeats the endings that the agent has not released. So a restarted agent adopts what runs.

An execution is named ``(task, attempt)`` here; the binding stays with the agent.
"""

from __future__ import annotations

import msgspec

from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template

DOUBT_S = 0.1
"""How long TERM to a spawner may be behind that to what runs beside it, where a batch system tells all processes of a step."""

ENDED_WITH_PILOT = "ended with its pilot"
"""What a runner says of an attempt that it ends, or that was cut short, as it is itself told to end."""


class RunnerHello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A runner introduces itself. ``started_ticks`` is its start time from ``/proc/<pid>/stat``, against reuse of pids."""

    runner: RunnerId
    pid: int
    started_ticks: int
    boot_id: str
    holds: list[Execution]
    """What it was handed and has not ended: waiting in a lane, or running."""
    sent: int
    """Number of the last ``TasksEnded`` it sent; those not released are sent again after the welcome."""


class Welcome(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The agent's answer: it has logged all ``TasksEnded`` of this runner up to ``released``."""

    incarnation: int
    released: int


class DefineTemplates(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Templates that later tasks of this runner follow. An id keeps its meaning for the life of the pilot."""

    templates: dict[TemplateId, Template]


class Launch(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Run these. A lane's tasks wait their turn in the runner, so that no time is lost between short tasks."""

    lanes: list[LaneTasks]


class EndTasks(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """End these executions: TERM, after their template's grace KILL, and report them with this ending.

    One that has not begun is reported as returned by ``TasksReturned``; one that has already ended is passed over.
    """

    executions: list[Execution]
    ending: Ending
    message: str


class RecallTasks(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Give back what of these has not begun."""

    executions: list[Execution]


class Release(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The agent has logged all ``TasksEnded`` up to this number; the runner may forget them."""

    through: int


class StartWorker(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Start a function worker beside this spawner, with these environment variables on top of the tasks' own."""

    worker: RunnerId
    environment: dict[str, str]


class EndWorker(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Kill this worker and what it started."""

    worker: RunnerId


class StopRunner(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """End everything that still runs (TERM, ``grace_s``, KILL), then exit."""

    grace_s: float


class DefineEnvironment(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """A named environment of the pilot: these variables are set, and those are unset, on top of the user's own."""

    name: str
    variables: dict[str, str]
    unset: list[str]


class SignalTasks(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Send a signal to what has begun of these, to each once, however often it is asked for.

    It tells them that the pilot's time is nearly over: one that fails from then on was cut short.
    """

    executions: list[Execution]
    signal: int


class TasksEnded(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Executions that are over, numbered from 1 over the runner's life and kept by it until released."""

    number: int
    ends: list[AttemptEnd]


class TasksStarted(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Executions that began and still run: ``(task, attempt, pid, started)``; left out for those that ended at once.

    ``sent``: what the runner's clock showed when it told. The agent's own may show something else (see ``by_own_clock``).
    """

    started: list[tuple[TaskUid, Attempt, int, float]]
    sent: float


class TasksReturned(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Executions that never began and will not; the answer to a recall, or to an end."""

    executions: list[Execution]


class WorkerExited(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """A function worker's process is gone; ``status`` is its exit code, negative for a signal.

    ``cut_short``: as a batch system ends the spawner and all beside it, and nobody else had asked for its end.
    """

    worker: RunnerId
    pid: int
    status: int
    message: str
    cut_short: bool = False


class EndedByOthers(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """A batch system ends the spawner and its workers, since ``at`` (seconds since the epoch). Said before what comes of that.

    A call that raised later than ``DOUBT_S`` before may have been cut short by it.
    """

    at: float


class StorageFull(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """There is no room for sandboxes or output; tasks that were to begin are returned."""

    reason: str


ToRunner = (
    Welcome
    | DefineTemplates
    | Launch
    | EndTasks
    | RecallTasks
    | Release
    | StartWorker
    | EndWorker
    | StopRunner
    | DefineEnvironment
    | SignalTasks
)
FromRunner = RunnerHello | TasksEnded | TasksStarted | TasksReturned | WorkerExited | EndedByOthers | StorageFull


def by_own_clock(message: TasksStarted, now: float) -> list[tuple[TaskUid, Attempt, float]]:
    """Return what began and when, by the clock of who got the message and on which it is ``now``, in seconds.

    What counts is how long ago it was when the message was sent, so that clocks that differ end no task before its time. The
    time that the message was under way makes a start seem later, never earlier.

    >>> by_own_clock(TasksStarted([(TaskUid("a"), Attempt(1), 12, 70.0)], sent=72.0), now=103.0)
    [('a', 1, 101.0)]
    """
    ahead_s = now - message.sent
    return [(task, attempt, started + ahead_s) for task, attempt, _, started in message.started]
