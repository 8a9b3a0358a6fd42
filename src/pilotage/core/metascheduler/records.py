"""What the metascheduler knows of a task, and of a partition; see ``state``."""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotage.core.client.state import QueuedCancel, QueuedEnd, QueuedEnvironment, QueuedTasks
from pilotage.model.ids import Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.model.workload import Row

NOWHERE = ""
"""The partition of a task that waits."""

Life = Literal["awaited", "starting", "active", "retiring", "ended", "lost", "refused"]
"""*Awaited* partitions have no nodes yet; of *refused* ones nothing was ever there but the request."""
LIVING: tuple[Life, ...] = ("starting", "active", "retiring")
HIRING: tuple[Life, ...] = ("starting", "active")
"""Partitions that take tasks, now or when they become active."""


class TaskRecord(msgspec.Struct, array_like=True, gc=False):
    """A task that has no final outcome yet. ``lease`` counts the partitions that had it."""

    row: Row
    binding: Binding
    accepted: float
    partition: str = NOWHERE
    lease: int = 0
    attempt: int = 0
    """The number of the last attempt in partitions that do not have it any more."""
    failures: int = 0
    """Those of these attempts that failed or were lost."""
    ending: Ending | None = None
    """The ending that was asked for."""
    ending_message: str = ""
    leased: float = 0.0
    """Since when its partition has it."""
    recalls: int = 0
    """How often a partition gave it back."""


class QueuedGrant(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Nodes for the partition."""

    nodes: list[int]


class QueuedReclaim(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A request to give back nodes."""

    reclaim: int
    count: int


class QueuedRecall(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """A request to give back tasks that wait."""

    recall: int
    tasks: list[tuple[TaskUid, Binding]]


Queued = QueuedTasks | QueuedCancel | QueuedEnd | QueuedEnvironment | QueuedGrant | QueuedReclaim | QueuedRecall


class PartitionRecord(msgspec.Struct):
    """A partition: the nodes that it owns, what it was told, and how many tasks it has."""

    spec: PartitionSpec
    nodes: dict[int, None]
    added: float
    life: Life = "starting"
    reason: str = ""
    incarnation: int = 0
    outbox: list[Queued] = []
    unacknowledged: dict[int, Queued] = {}
    numbered: int = 0
    delivered: int = 0
    received: int = 0
    known_templates: dict[TemplateId, None] = {}
    leased: int = 0
    gained: float = 0.0
    """When it last got nodes."""
    size: int = 0
    """With how many nodes it began."""
    number: int = 1
    """Counts the partitions of the same spec, each started after the one before was let go."""
    released: bool = False
    """Whether it ends, or ended, as there was nothing to do; it may be started again under another name."""
    reclaims: dict[int, int] = {}
    """Requests for nodes that it has not answered: for how many."""
    recalls: dict[int, int] = {}
    """Requests for tasks that it has not answered: for how many."""

    @property
    def living(self) -> bool:
        """Whether something of it may run."""
        return self.life in LIVING

    @property
    def may_come(self) -> bool:
        """Whether it is not there, and is started when there are nodes and it is wanted."""
        return self.life == "awaited" or (self.released and not self.living)

    @property
    def hires(self) -> bool:
        """Whether it takes tasks, now or when it becomes active."""
        return self.life in HIRING
