"""What the client's core wants done, in the imperative. Performing an action twice does no harm."""

from __future__ import annotations

import msgspec

from pilotage.core.client.state import PilotRecord, TaskRecord
from pilotage.model.ids import PilotUid


class StartPilot(msgspec.Struct, frozen=True):
    """Start the pilot's bootstrap, or prepare its job."""

    pilot: PilotUid


class SubmitJob(msgspec.Struct, frozen=True):
    """Submit the pilot's job, unless there is one of its name already."""

    pilot: PilotUid


class WatchJob(msgspec.Struct, frozen=True):
    """Ask the batch system for the pilot's job, again and again."""

    pilot: PilotUid


class CancelJob(msgspec.Struct, frozen=True):
    """Cancel the pilot's job: at once, or else if it has not ended by itself after a while.

    One that is not submitted yet is not to be, or is cancelled when it has an id: then that is said again.
    """

    pilot: PilotUid
    at_once: bool


class FencePilot(msgspec.Struct, frozen=True):
    """The pilot's job is over: say ``PilotLost``, with what its log tells, unless it has said goodbye."""

    pilot: PilotUid


class OfferMessages(msgspec.Struct, frozen=True):
    """The outbox of this pilot has grown: say ``LinkOpened`` when the link takes a message."""

    pilot: PilotUid


class SendMessage(msgspec.Struct, frozen=True):
    """Send this message, which stays in the pilot's record until the agent has it on disk."""

    pilot: PilotUid
    number: int


class DisconnectPilot(msgspec.Struct, frozen=True):
    """The pilot is over; nothing more will come from it."""

    pilot: PilotUid


class TellTasks(msgspec.Struct, frozen=True):
    """Whoever waits for or listens to these tasks may want to know: they are in a new state."""

    tasks: list[TaskRecord]


class TellPilot(msgspec.Struct, frozen=True):
    """Whoever waits for or listens to this pilot may want to know: it is in a new state."""

    pilot: PilotRecord


class TellWaiting(msgspec.Struct, frozen=True):
    """The number of tasks of a manager that wait for a pilot has changed to ``count``."""

    manager: str
    count: int


class Warn(msgspec.Struct, frozen=True):
    """Tell the user something that may need attention."""

    message: str


Action = (
    StartPilot
    | SubmitJob
    | WatchJob
    | CancelJob
    | FencePilot
    | OfferMessages
    | SendMessage
    | DisconnectPilot
    | TellTasks
    | TellPilot
    | TellWaiting
    | Warn
)
