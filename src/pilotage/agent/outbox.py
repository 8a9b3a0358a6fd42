"""What waits in an outbox, as the message that it is sent as.

Clients have an outbox for each pilot, and metaschedulers one of the same kind for each partition.
"""

from __future__ import annotations

from pilotage.core.client.state import (
    Queued,
    QueuedCancel,
    QueuedEnd,
    QueuedEnvironment,
    QueuedPartition,
    QueuedRetirement,
    QueuedTasks,
)
from pilotage.errors import unreachable
from pilotage.wire.messages import AddPartition, Cancel, EndPilot, PrepareEnvironment, RetirePartition, Submit, ToHead


def message_of(number: int, queued: Queued) -> Submit | Cancel | EndPilot | PrepareEnvironment | ToHead:
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
        case _:
            return unreachable(queued)
