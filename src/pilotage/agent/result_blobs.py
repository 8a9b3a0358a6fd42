"""Large results that workers wrote: made durable with the log, before a record that names them is called durable.

A worker writes a result to its own pack of blobs, where it survives every process; the agent's log sync makes it survive the
node too. The store is opened with the first large result: most pilots never see one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pilotage.model.payload import Blob

if TYPE_CHECKING:
    from pilotage.log.blobs import BlobStore


class ResultBlobs:
    """The blobs in ``folder`` that outcomes name. ``sync`` is called before each sync of the log, on any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store: BlobStore | None = None

    def cover(self, blob: Blob) -> None:
        """Let the next ``sync`` cover this blob."""
        if self._store is None:
            from pilotage.log.blobs import BlobStore

            self._store = BlobStore(self._folder)
        self._store.sync_later(blob)

    def sync(self) -> None:
        """Make all covered blobs durable. Raises ``BackendError`` if that failed once."""
        if self._store is not None:
            self._store.sync()

    def close(self) -> None:
        """Let go of the store."""
        if self._store is not None:
            self._store.close()
