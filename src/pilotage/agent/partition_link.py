"""The head's link to the agent of one partition: to that, the head is the client of a pilot."""

from __future__ import annotations

import select
from pathlib import Path

from pilotage.agent.outbox import message_of
from pilotage.agent.settings import CONNECTION_FILE, PilotSettings
from pilotage.core.metascheduler.state import PartitionRecord, Queued, QueuedGrant, QueuedRecall, QueuedReclaim
from pilotage.wire.agent_link import AgentLink
from pilotage.wire.codec import encode
from pilotage.wire.messages import GrantNodes, RecallTasks, ReclaimNodes


class PartitionLink(AgentLink):
    """The link to one partition's agent; ``folder`` is that agent's. ``epoch``: which incarnation of the head this is."""

    def __init__(self, settings: PilotSettings, epoch: int, record: PartitionRecord, folder: Path, poll: select.epoll) -> None:
        super().__init__(
            settings.session,
            epoch,
            folder / CONNECTION_FILE,
            poll,
            self._frame,
            last=record.numbered,
            unacknowledged=record.unacknowledged,
            durable=record.received,
            retry_at=None,
        )
        self._record = record

    @property
    def takes_messages(self) -> bool:
        """Whether the partition is not over: then its record has no messages any more."""
        return self._record.living

    def send_first(self, number: int) -> None:
        """Send a message, which is in the log, for the first time."""
        frame = self._frame(number)
        self.outgoing.send(number, frame, number)
        self.send(frame)

    def _frame(self, number: int) -> bytes:
        return _encoded(number, self._record.unacknowledged[number])


def _encoded(number: int, queued: Queued) -> bytes:
    match queued:
        case QueuedGrant():
            return encode(GrantNodes(number, queued.nodes))
        case QueuedReclaim():
            return encode(ReclaimNodes(number, queued.reclaim, queued.count))
        case QueuedRecall():
            return encode(RecallTasks(number, queued.recall, queued.tasks))
        case _:
            return encode(message_of(number, queued))
