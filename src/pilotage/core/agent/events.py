"""What the agent's core is told, in the past tense. Each event carries the time at which its shell took note of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, Binding, RunnerId, TaskUid
from pilotage.model.workload import Batch

StagingPhase = Literal["input", "output"]


class TasksSubmitted(msgspec.Struct, frozen=True):
    """The client bound these tasks to the pilot, in its message of this number."""

    time: float
    number: int
    binding: Binding
    batch: Batch


class CancelRequested(msgspec.Struct, frozen=True):
    """The client (or an observer: ``number`` 0) wants these tasks cancelled."""

    time: float
    number: int
    tasks: list[tuple[TaskUid, Binding]]


class EndRequested(msgspec.Struct, frozen=True):
    """The pilot is to end: after its tasks (``drain``) or at once. ``number`` is 0 when it wasn't the client who asked.

    ``failed``: the reason makes it a pilot that failed, not one that somebody ended.
    """

    time: float
    number: int
    drain: bool
    reason: str
    failed: bool = False


class JobEnding(msgspec.Struct, frozen=True):
    """The batch system ends the job that the pilot is; it may begin it again.

    ``until``: what runs is to be over by then, if that is known (seconds since the epoch).
    """

    time: float
    reason: str
    until: float | None = None


class JobQuestioned(msgspec.Struct, frozen=True):
    """The batch system is asked whether it ends the job: ``JobEnding`` or ``JobGoesOn`` is to follow."""

    time: float


class JobGoesOn(msgspec.Struct, frozen=True):
    """It does not, as far as it can be learned."""

    time: float


class OutcomesReceived(msgspec.Struct, frozen=True):
    """The client has all messages up to ``durable`` on disk."""

    time: float
    durable: int


class RunnerConnected(msgspec.Struct, frozen=True):
    """A runner said hello. ``pid``, ``started_ticks`` and ``boot_id`` name its process."""

    time: float
    runner: RunnerId
    pid: int
    started_ticks: int
    boot_id: str


class RunnerReconciled(msgspec.Struct, frozen=True):
    """After a reconnect all endings of this runner are in: what it neither ended nor ``holds`` never reached it."""

    time: float
    runner: RunnerId
    holds: list[Execution]


class RunnerLost(msgspec.Struct, frozen=True):
    """The runner's process is gone.

    ``not_begun``: executions of which there is proof that they never began. ``running``: the one that ran, if that is known.
    ``exit_code`` is the runner's (negative: a signal), None when not known.
    """

    time: float
    runner: RunnerId
    reason: str
    exit_code: int | None = None
    running: Execution | None = None
    not_begun: list[Execution] = []


class TasksStarted(msgspec.Struct, frozen=True):
    """Executions that began, and when (by the clock by which it is ``time``). A runner that is found again tells it again."""

    time: float
    runner: RunnerId
    started: list[tuple[TaskUid, Attempt, float]]


class TasksEnded(msgspec.Struct, frozen=True):
    """Executions that are over, in the runner's message of this number."""

    time: float
    runner: RunnerId
    number: int
    ends: list[AttemptEnd]


class TasksReturned(msgspec.Struct, frozen=True):
    """Executions that the runner gave back without having begun them."""

    time: float
    runner: RunnerId
    executions: list[Execution]


class StagingEnded(msgspec.Struct, frozen=True):
    """Stagers are done with these tasks' input (``phase`` "input") or output: as wanted, or ``failed`` with why.

    ``put_off``: there was no room for their files, as ``StorageFilled`` has told before; nothing is half done, and they are to
    be staged again when there is room. An execution names the attempt after which output was staged; input is staged once,
    before the first (attempt 0).
    """

    time: float
    phase: StagingPhase
    done: list[Execution]
    failed: list[tuple[Execution, str]] = []
    put_off: list[Execution] = []


class EnvironmentAsked(msgspec.Struct, frozen=True):
    """The client wants this environment prepared, in its message of this number. ``spec`` means nothing to the core."""

    time: float
    number: int
    name: str
    spec: msgspec.Raw


class EnvironmentPrepared(msgspec.Struct, frozen=True):
    """The environment is there, and the runners know it; or (``error``) it cannot be had."""

    time: float
    name: str
    error: str = ""


class ServiceReady(msgspec.Struct, frozen=True):
    """The service answers; ``info`` is what tasks are told of it."""

    time: float
    service: TaskUid
    attempt: Attempt
    info: str


class ServiceUnwell(msgspec.Struct, frozen=True):
    """The service did not get ready in time, or answers no more: it is to be ended, and started again if it may be."""

    time: float
    service: TaskUid
    attempt: Attempt
    message: str


class NodesGranted(msgspec.Struct, frozen=True):
    """The metascheduler gives these nodes, by index, to this partition, in its message of this number."""

    time: float
    number: int
    nodes: list[int]


class NodesReclaimed(msgspec.Struct, frozen=True):
    """The metascheduler wants up to ``count`` nodes back that are idle now, in its message of this number.

    ``reclaim`` names the request in the answer.
    """

    time: float
    number: int
    reclaim: int
    count: int


class TasksRecalled(msgspec.Struct, frozen=True):
    """The metascheduler wants those of these tasks back that wait, in its message of this number: ``(task, lease)``.

    ``recall`` names the request in the answer.
    """

    time: float
    number: int
    recall: int
    tasks: list[tuple[TaskUid, Binding]]


class StorageFilled(msgspec.Struct, frozen=True):
    """There is no room for sandboxes or output: nothing is to be placed, and no input staged, until ``StorageFreed``."""

    time: float
    reason: str


class LaunchesShared(msgspec.Struct, frozen=True):
    """The launches that the pilot may have under way at once are divided ``among`` so many partitions, of which this is one."""

    time: float
    among: int


class StorageFreed(msgspec.Struct, frozen=True):
    """There is room again."""

    time: float


class NodesLost(msgspec.Struct, frozen=True):
    """These nodes are gone for good. What ran there is told apart, by ``RunnerLost``; to tell it again does no harm."""

    time: float
    nodes: list[int]
    reason: str = ""


class LinkOpened(msgspec.Struct, frozen=True):
    """The client's link has room for a message."""

    time: float


class TimePassed(msgspec.Struct, frozen=True):
    """The time that ``AgentCore.next_deadline`` named has come (or any other)."""

    time: float


Event = (
    TasksSubmitted
    | CancelRequested
    | EndRequested
    | JobEnding
    | JobQuestioned
    | JobGoesOn
    | OutcomesReceived
    | RunnerConnected
    | RunnerReconciled
    | RunnerLost
    | TasksStarted
    | TasksEnded
    | TasksReturned
    | StagingEnded
    | EnvironmentAsked
    | EnvironmentPrepared
    | ServiceReady
    | ServiceUnwell
    | NodesGranted
    | NodesReclaimed
    | TasksRecalled
    | NodesLost
    | StorageFilled
    | StorageFreed
    | LaunchesShared
    | LinkOpened
    | TimePassed
)
