"""A log that writes nothing, to measure what writing costs. What it is given does not survive, and is never called durable."""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.log.files import Bytes
from pilotage.log.writer import LogWriter


class UnwrittenLog(LogWriter):
    """Counts records, and forgets them."""

    def append(self, record: Bytes | Sequence[Bytes]) -> int:
        """Count a record."""
        self.written += 1
        return self.written

    def sync(self) -> None:
        """Nothing is there to be synced."""

    def should_snapshot(self, state_estimate_bytes: int) -> bool:
        """Never."""
        return False
