"""What the metascheduler's core wants done, in the imperative. Performing an action twice does no harm."""

from __future__ import annotations

import msgspec

from pilotage.core.agent.actions import SendOutcomes, SendPilotEnded, TellService
from pilotage.model.ids import Attempt, TaskUid

__all__ = [
    "Action",
    "DisconnectPartition",
    "OfferMessages",
    "SendMessage",
    "SendOutcomes",
    "SendPilotEnded",
    "StartPartition",
    "TellService",
    "TellStarted",
    "TellUnloading",
    "TellUser",
]


class StartPartition(msgspec.Struct, frozen=True):
    """See to it that the partition's agent runs: start it, or find it again, and say hello to it.

    Its ``PartitionRecord`` has its spec, and the nodes that it has now; the nodes that it begins with are in the settings with
    which it was started first.
    """

    partition: str


class OfferMessages(msgspec.Struct, frozen=True):
    """The outbox of this partition has grown: say ``PartitionLinkOpened`` when the link takes a message."""

    partition: str


class SendMessage(msgspec.Struct, frozen=True):
    """Send this message, which stays in the partition's record until its agent has it on disk."""

    partition: str
    number: int


class DisconnectPartition(msgspec.Struct, frozen=True):
    """The partition is over; nothing more will come from it."""

    partition: str


class TellStarted(msgspec.Struct, frozen=True):
    """Let the client know, when there is time, that these tasks run: ``(task, attempt, started)``."""

    started: list[tuple[TaskUid, Attempt, float]]


class TellUnloading(msgspec.Struct, frozen=True):
    """Let the client know, when there is time, that the output of these tasks is being staged: ``(task, attempt)``."""

    tasks: list[tuple[TaskUid, Attempt]]


class TellUser(msgspec.Struct, frozen=True):
    """Let the user know something that may need attention."""

    message: str


Action = (
    SendOutcomes
    | SendMessage
    | OfferMessages
    | StartPartition
    | DisconnectPartition
    | TellStarted
    | TellUnloading
    | TellService
    | TellUser
    | SendPilotEnded
)
