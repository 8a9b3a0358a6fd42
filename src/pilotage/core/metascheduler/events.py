"""What the metascheduler's core is told, in the past tense. Each event carries the time at which its shell took note of it.

Of its client it hears in the events of an agent.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent.events import (
    CancelRequested,
    EndRequested,
    EnvironmentAsked,
    JobEnding,
    LinkOpened,
    OutcomesReceived,
    TasksSubmitted,
    TimePassed,
)
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import Load, PartitionSpec

__all__ = [
    "CancelRequested",
    "EndRequested",
    "EnvironmentAsked",
    "Event",
    "JobEnding",
    "LinkOpened",
    "NodesReturned",
    "OutcomesArrived",
    "OutcomesReceived",
    "PartitionAcknowledged",
    "PartitionAsked",
    "PartitionEndArrived",
    "PartitionGreeted",
    "PartitionLinkOpened",
    "PartitionLost",
    "ProgressTold",
    "RetirementAsked",
    "TasksGivenBack",
    "TasksSubmitted",
    "TimePassed",
]


class PartitionGreeted(msgspec.Struct, frozen=True):
    """The partition's agent answered. ``durable``: the last message of the metascheduler that it has on disk."""

    time: float
    partition: str
    incarnation: int
    durable: int


class PartitionAcknowledged(msgspec.Struct, frozen=True):
    """The partition's agent has all messages up to ``durable`` on disk."""

    time: float
    partition: str
    durable: int


class PartitionLinkOpened(msgspec.Struct, frozen=True):
    """The link to the partition takes another message, which has to carry ``number``."""

    time: float
    partition: str
    number: int


class OutcomesArrived(msgspec.Struct, frozen=True):
    """The partition's message ``number`` brought final outcomes, under their leases; ``encoded`` is ``outcomes``."""

    time: float
    partition: str
    number: int
    outcomes: list[Outcome]
    encoded: msgspec.Raw


class NodesReturned(msgspec.Struct, frozen=True):
    """The partition's message ``number`` gives back these nodes, as was asked in ``reclaim``; ``LOST_NODES``: they are lost."""

    time: float
    partition: str
    number: int
    reclaim: int
    nodes: list[int]


class TasksGivenBack(msgspec.Struct, frozen=True):
    """The partition's message ``number`` gives back these tasks, which waited there, as was asked in ``recall``.

    Each is ``(task, lease, number of its last attempt, failed attempts)``.
    """

    time: float
    partition: str
    number: int
    recall: int
    tasks: list[tuple[TaskUid, Binding, Attempt, int]]


class PartitionEndArrived(msgspec.Struct, frozen=True):
    """The partition's message ``number`` said that it has ended, and holds no tasks.

    ``tries``: of tasks that it did not answer for, and that had attempts, the number of the last one, and how many failed.
    ``out_of_time``: it ended as its time was over, which is the pilot's.
    """

    time: float
    partition: str
    number: int
    state: str
    reason: str
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    out_of_time: bool = False


class ProgressTold(msgspec.Struct, frozen=True):
    """The partition says how far it is: tasks under their leases, services that are ready, its load. May be late, or lost."""

    time: float
    partition: str
    started: list[tuple[TaskUid, Binding, Attempt, float]] = []
    services: list[tuple[TaskUid, Binding, Attempt, str]] = []
    unloading: list[tuple[TaskUid, Binding, Attempt]] = []
    load: Load | None = None


class PartitionLost(msgspec.Struct, frozen=True):
    """The partition is gone for certain, without having said so: nothing of it runs any more, and nothing of it will.

    What its log tells, if it could be read (see ``core.agent.aftermath``): ``received``, the last message that it had (None:
    not known), ``outcomes`` that did not arrive (``encoded``: the same), ``not_begun``, tasks that it certainly did not start,
    and ``tries``, for each task the number of its last attempt and how many failed. ``lost_nodes``: nodes that are gone.
    """

    time: float
    partition: str
    reason: str
    received: int | None = None
    outcomes: list[Outcome] = []
    encoded: msgspec.Raw = msgspec.Raw(b"\x90")
    not_begun: list[tuple[TaskUid, Binding]] = []
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    lost_nodes: list[int] = []


class PartitionAsked(msgspec.Struct, frozen=True):
    """The user wants a partition more, on nodes that are free. ``number``: of the client's message, 0 if it was none.

    ``check_addition`` tells before whether it can be had; one that cannot is passed over.
    """

    time: float
    number: int
    spec: PartitionSpec


class RetirementAsked(msgspec.Struct, frozen=True):
    """The user wants a partition ended, after its tasks (``drain``) or now; tasks that need not be ended go elsewhere."""

    time: float
    number: int
    partition: str
    drain: bool = True


Event = (
    TasksSubmitted
    | CancelRequested
    | EndRequested
    | OutcomesReceived
    | EnvironmentAsked
    | LinkOpened
    | TimePassed
    | JobEnding
    | PartitionGreeted
    | PartitionAcknowledged
    | PartitionLinkOpened
    | OutcomesArrived
    | NodesReturned
    | TasksGivenBack
    | PartitionEndArrived
    | ProgressTold
    | PartitionLost
    | PartitionAsked
    | RetirementAsked
)
