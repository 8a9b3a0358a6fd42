"""Arguments of functions that are too large for a message, on their way from pickling to the store, a batch at a time.

Large arguments are stored while their list is pickled, not after it: what has just been pickled is still in the processor's
cache, and its memory serves for what is pickled next. Fresh memory for all of it costs three times the pickling.
"""

from __future__ import annotations

import msgspec

from pilotage.log.blobs import BlobStore
from pilotage.model.payload import Blob, Payload
from pilotage.model.workload import Row

STORE_BYTES = 1 << 19
"""Pickled arguments that are written to the store together."""

_TO_BE_NAMED = Blob("", 0)


class LargeArguments:
    """The large arguments of one list of tasks."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._packed: list[bytes] = []
        self._packed_bytes = 0
        self._names: list[Payload] = []

    def add(self, packed: bytes) -> Payload:
        """Take arguments, and return what stands for them in the row until ``named``."""
        self._packed.append(packed)
        self._packed_bytes += len(packed)
        if self._packed_bytes >= STORE_BYTES:
            self._store()
        return _TO_BE_NAMED

    def named(self, rows: list[Row]) -> list[Row]:
        """Return the rows with the names of what was added, in the order in which it was; all of it is stored then."""
        self._store()
        if not self._names:
            return rows
        names = iter(self._names)
        replace = msgspec.structs.replace
        return [replace(row, payload=next(names)) if row.payload is _TO_BE_NAMED else row for row in rows]

    def _store(self) -> None:
        self._names += self._blobs.put_many(self._packed)
        self._packed.clear()
        self._packed_bytes = 0
