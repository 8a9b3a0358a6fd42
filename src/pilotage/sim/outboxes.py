"""What clients and metaschedulers have queued for those below them, as messages."""

from __future__ import annotations

from pilotage.core.client.state import Queued as QueuedForPilot
from pilotage.core.client.state import (
    QueuedCancel,
    QueuedEnd,
    QueuedEnvironment,
    QueuedPartition,
    QueuedRetirement,
    QueuedTasks,
)
from pilotage.core.metascheduler.state import Queued, QueuedGrant, QueuedRecall, QueuedReclaim
from pilotage.errors import unreachable
from pilotage.sim.links import Downward
from pilotage.wire.messages import (
    AddPartition,
    Cancel,
    EndPilot,
    GrantNodes,
    PrepareEnvironment,
    RecallTasks,
    ReclaimNodes,
    RetirePartition,
    Submit,
)


def message_of(number: int, queued: Queued | QueuedForPilot) -> Downward:
    """Return the message that a queued one is sent as."""
    match queued:
        case QueuedTasks():
            return Submit(number, queued.binding, queued.batch)
        case QueuedCancel():
            return Cancel(number, queued.tasks)
        case QueuedEnd():
            return EndPilot(number, queued.drain, queued.failure)
        case QueuedEnvironment():
            return PrepareEnvironment(number, queued.name, queued.spec)
        case QueuedPartition():
            return AddPartition(number, queued.spec)
        case QueuedRetirement():
            return RetirePartition(number, queued.partition, queued.drain)
        case QueuedGrant():
            return GrantNodes(number, queued.nodes)
        case QueuedReclaim():
            return ReclaimNodes(number, queued.reclaim, queued.count)
        case QueuedRecall():
            return RecallTasks(number, queued.recall, queued.tasks)
        case _:
            return unreachable(queued)
