"""The log of a session as its steps need it: the facts of a step go into it as one record, before anything is done.

Facts that may be lost with the program wait for the next record, so that they cost no write of their own. While the disk is
full a step stands still, for some time: nothing may be done that is not in the log. All calls are made with the lock of the
session's steps.
"""

from __future__ import annotations

import time

import msgspec

from pilotage.core.client import facts
from pilotage.core.client.state import ClientState
from pilotage.errors import BackendError
from pilotage.log.writer import LogWriter

DISK_FULL_PAUSE_S = 0.25
DISK_FULL_PATIENCE_S = 30.0
BYTES_PER_TASK = 512
"""Estimate of what a task takes in a snapshot."""

_encode = msgspec.msgpack.Encoder().encode


class FactLog:
    """The facts of one session on their way to ``writer``."""

    def __init__(self, writer: LogWriter) -> None:
        self._writer = writer
        self.late: list[facts.Fact] = []
        """What waits for the next record."""
        self.wake_fd = writer.wake_fd
        """Readable when ``take_synced`` has news."""

    def append(self, new_facts: list[facts.Fact]) -> int | None:
        """Write the facts of a step; return the number of their record, None where they wait for the next one.

        Raises:
            BackendError: the log cannot be written, or the disk is full for longer than ``DISK_FULL_PATIENCE_S``.
        """
        if all(isinstance(fact, facts.LATE_FACTS) for fact in new_facts):
            self.late += new_facts
            return None
        record = _encode([*self.late, *new_facts] if self.late else new_facts)
        self.late.clear()
        return self._write(record)

    def append_late(self) -> None:
        """Write what waits for the next record. Raises ``BackendError`` as ``append``."""
        if self.late:
            self._write(_encode(self.late))

    def _write(self, record: bytes) -> int:
        until = time.monotonic() + DISK_FULL_PATIENCE_S
        while True:
            try:
                return self._writer.append(record)
            except BackendError as error:
                if not error.transient or time.monotonic() > until:
                    raise
            time.sleep(DISK_FULL_PAUSE_S)

    def sync(self) -> int:
        """Make all records durable; return the number of the last one."""
        self._writer.sync()
        return self._writer.synced

    def take_synced(self) -> int:
        """Return the number of the last record that is durable."""
        return self._writer.take_synced()

    def snapshot_if_due(self, state: ClientState) -> None:
        """Replace the records by ``state``, which they lead to, when they have become much longer than it."""
        if self._writer.should_snapshot(BYTES_PER_TASK * len(state.tasks)):
            self._writer.snapshot(_encode(state))

    def close(self) -> None:
        """Write all to the disk, and close the file."""
        self._writer.close()
