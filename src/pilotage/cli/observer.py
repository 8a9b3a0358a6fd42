"""Asking a living agent, as an observer: it answers and takes cancellations, and the session's client goes on undisturbed."""

from __future__ import annotations

import select
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pilotage.cli.lookup import living_agent
from pilotage.client.session_folder import CLIENT_FOLDER, OBSERVER_KEY_FILE
from pilotage.errors import BackendError, ProtocolError
from pilotage.model.ids import Binding, SessionUid, TaskUid
from pilotage.model.partitions import PartitionStatus
from pilotage.system.processes import boot_id
from pilotage.wire.channel import ClientChannel, Disconnected
from pilotage.wire.connect import connect
from pilotage.wire.keys import KeyPair, read_key_pair
from pilotage.wire.messages import (
    PROTOCOL,
    AgentHello,
    AskPartitions,
    Cancel,
    ClientHello,
    FromAgent,
    Inspect,
    Inspection,
    PartitionsTold,
    Refused,
)

ANSWER_S = 10.0


class Observer:
    """A connection to the agent of one pilot; use it as a context manager."""

    def __init__(self, channel: ClientChannel, session: str, pilot: str) -> None:
        self._channel = channel
        self._pilot = pilot
        self._questions = 0
        self._say(ClientHello(PROTOCOL, SessionUid(session), 0, 0, observer=True))
        self._await(AgentHello)

    @classmethod
    def of(cls, pilot_folder: Path, session_folder: Path) -> Observer | None:
        """Connect to the agent of the pilot in this folder; None if none can be reached.

        Over the network it shows the observers' key, which lies in the session's folder.

        Raises:
            BackendError: it refuses, or does not answer.
        """
        connection = living_agent(pilot_folder)
        if connection is None:
            return None
        try:
            channel = connect(connection, boot_id(), _observer_key(session_folder) if connection.tcp else None)
        except Disconnected:
            return None
        try:
            return cls(channel, session_folder.name, connection.pilot)
        except BaseException:
            channel.close()
            raise

    def ask(self, task: str = "") -> dict[str, Any]:
        """Return what the agent says of a task, or of the pilot. Raises ``BackendError`` if it does not answer."""
        self._questions += 1
        self._say(Inspect(self._questions, TaskUid(task)))
        while True:
            answer = self._await(Inspection)
            if isinstance(answer, Inspection) and answer.question == self._questions:
                return dict(answer.answer)

    def partitions(self) -> list[PartitionStatus]:
        """Return how the partitions of the pilot are. Raises ``BackendError`` if it does not answer."""
        self._questions += 1
        self._say(AskPartitions(self._questions))
        while True:
            answer = self._await(PartitionsTold)
            if isinstance(answer, PartitionsTold) and answer.question == self._questions:
                return answer.partitions

    def cancel(self, tasks: Sequence[tuple[TaskUid, Binding]]) -> None:
        """Have tasks cancelled; returns when the agent has heard it."""
        self._say(Cancel(0, list(tasks)))
        # Messages of one connection are taken in order: who has answered this has taken the cancellation.
        self.ask()

    def _say(self, message: ClientHello | Inspect | Cancel | AskPartitions) -> None:
        self._channel.send(message)

    def _await(self, kind: type[AgentHello] | type[Inspection] | type[PartitionsTold]) -> FromAgent:
        until = time.monotonic() + ANSWER_S
        while (left := until - time.monotonic()) > 0:
            select.select([self._channel], [], [], left)
            try:
                for message in self._channel.receive():
                    if isinstance(message, Refused):
                        raise BackendError(f"the agent of pilot {self._pilot} refuses: {message.reason}")
                    if isinstance(message, kind):
                        return message
            except (Disconnected, ProtocolError) as error:
                raise BackendError(f"the agent of pilot {self._pilot} went away: {error}", transient=True) from error
        raise BackendError(f"the agent of pilot {self._pilot} did not answer within {ANSWER_S:g} s", transient=True)

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._channel.close()


def _observer_key(session_folder: Path) -> KeyPair | None:
    try:
        return read_key_pair(session_folder / CLIENT_FOLDER / OBSERVER_KEY_FILE)
    except FileNotFoundError:
        return None
