"""Payloads too large for a message: content-addressed blobs in a folder that client, agent and workers share.

A blob comes to lie in one of two places, and its name says where::

    ab/abcdef...          one blob, durable when ``put`` returns: for what is used often, such as functions
    packs/<random name>   blobs one after another, as batches wrote them: for arguments and results

One write puts a whole batch in the pack of its process. Then it survives the death of any process; to survive the loss of
the node before a fact that names it does, ``sync`` belongs in the ``sync_before`` of the log that records the fact. A pack
that another process wrote takes part in that after ``sync_later``. Every read checks size and SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from pilotage.errors import BackendError
from pilotage.log.files import PARTS_PER_WRITE, make_folder, replace_file, sync_folder, write_failed, write_parts
from pilotage.model.payload import INLINE_LIMIT_BYTES, Blob, Payload

PACK_BYTES = 256 << 20
"""A new pack begins when one has reached this size."""

_OPEN_PACKS = 16
_REMEMBERED_BLOBS = 8192

SHARED_BYTES = 64 << 10
"""In a pack, a value of at least this size is named by its content and kept once; a smaller one is kept as it comes."""

_CHECKSUM = "crc32:"
_CHECKSUM_STEP_BYTES = 5120
_HASH_STEP_BYTES = 2047
_HASH_STEPS = 16


def digest_of(value: bytes | memoryview) -> str:
    """Return the hexadecimal SHA-256 of ``value``.

    hashlib lets other threads run whenever it is given 2 KiB or more; if the user's thread is busy, each such gift costs
    the interpreter's switch interval of 5 ms. So values of a common size go in steps; large ones are worth the gift.
    """
    if not _HASH_STEP_BYTES < len(value) <= _HASH_STEPS * _HASH_STEP_BYTES:
        return hashlib.sha256(value).hexdigest()
    view = memoryview(value)
    sha256 = hashlib.sha256()
    for start in range(0, len(view), _HASH_STEP_BYTES):
        sha256.update(view[start : start + _HASH_STEP_BYTES])
    return sha256.hexdigest()


def checksum_of(value: bytes | memoryview) -> str:
    """Return the CRC-32 of ``value`` as the name of a small value in a pack, which its place names already.

    A checksum finds damage at a fifth of the cost of a digest. Only what is worth keeping once is named by its content.
    """
    checksum = 0
    # In steps for the same reason as in ``digest_of``: zlib lets others run above 5 KiB.
    view = memoryview(value)
    for start in range(0, len(view), _CHECKSUM_STEP_BYTES):
        checksum = zlib.crc32(view[start : start + _CHECKSUM_STEP_BYTES], checksum)
    return f"{_CHECKSUM}{checksum:08x}"


class _OpenPack:
    """The pack that this process writes."""

    def __init__(self, folder: Path) -> None:
        self.name = os.urandom(8).hex()
        self.pid = os.getpid()
        self.size = 0
        self.fd = os.open(folder / self.name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)


class BlobStore:
    """Writes and reads the blobs in ``folder``; any number of processes may, and any thread of each.

    ``flush_batches``: each batch is synced before its names are returned. Needed where a reader on another node sees
    only what was synced (NFS); elsewhere it costs speed and gives nothing.
    """

    def __init__(self, folder: Path, *, pack_bytes: int = PACK_BYTES, flush_batches: bool = False) -> None:
        self.folder = folder
        self._packs_folder = folder / "packs"
        self._pack_bytes = pack_bytes
        self._flush_batches = flush_batches
        self._write_lock = threading.Lock()
        self._pack: _OpenPack | None = None
        self._remembered: dict[str, Blob] = {}
        self._unsynced: set[str] = set()
        self._failure: str | None = None
        self._sync_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._open_packs: OrderedDict[str, int] = OrderedDict()

    def put(self, value: bytes) -> Blob:
        """Keep ``value`` in a file of its own, durably, and return its name; the same value is kept once.

        Raises ``BackendError``, transient when the disk is full.
        """
        blob = Blob(digest_of(value), len(value))
        path = self._path(blob)
        try:
            if path.stat().st_size == blob.size:
                return blob
        except FileNotFoundError:
            pass
        try:
            make_folder(path.parent)
            replace_file(path, [value])
        except OSError as error:
            raise write_failed(self.folder, len(value), error) from error
        return blob

    def put_many(self, values: Sequence[bytes]) -> list[Payload]:
        """Return each small value as it is and the name of each larger one, all of which are in the pack then.

        They survive the death of any process now, the loss of the node after the next ``sync``.
        Raises ``BackendError``, transient when the disk is full; then none of them is kept.
        """
        digests = [_name_in_pack(value) if len(value) > INLINE_LIMIT_BYTES else "" for value in values]
        payloads: list[Payload] = []
        parts: list[bytes] = []
        placed: dict[str, Blob] = {}
        with self._write_lock:
            if self._failure is not None:
                raise BackendError(self._failure)
            pack = self._pack_to_fill() if any(digests) else None
            offset = pack.size if pack else 0
            for value, digest in zip(values, digests, strict=True):
                if not pack or not digest:
                    payloads.append(value)
                    continue
                shared = len(value) >= SHARED_BYTES
                blob = self._remembered.get(digest) or placed.get(digest) if shared else None
                if blob is None:
                    size = len(value)
                    blob = Blob(digest, size, pack.name, offset)
                    if shared:
                        placed[digest] = blob
                    parts.append(value)
                    offset += size
                payloads.append(blob)
            if pack and parts:
                self._write(pack, parts, offset)
                self._unsynced.add(pack.name)
                if len(self._remembered) + len(placed) > _REMEMBERED_BLOBS:
                    self._remembered.clear()
                self._remembered.update(placed)
        if self._flush_batches:
            self.sync()
        return payloads

    def pack(self, value: bytes) -> Payload:
        """Return ``value`` itself if it is small enough to travel inline, otherwise the name of its own durable file."""
        return value if len(value) <= INLINE_LIMIT_BYTES else self.put(value)

    def load(self, payload: Payload) -> bytes:
        """Return the bytes that a payload stands for. Raises ``BackendError`` like ``get``."""
        return self.get(payload) if isinstance(payload, Blob) else payload

    def get(self, blob: Blob) -> bytes:
        """Return the bytes of a blob. Raises ``BackendError`` if it is missing, or not what its name says."""
        try:
            value = self._read_packed(blob) if blob.pack else self._path(blob).read_bytes()
        except OSError as error:
            raise self._unreadable(blob, error.strerror or repr(error)) from error
        if len(value) != blob.size:
            raise self._unreadable(blob, f"{len(value)} bytes are there")
        if (checksum_of(value) if blob.digest.startswith(_CHECKSUM) else digest_of(value)) != blob.digest:
            raise self._unreadable(blob, "its content has changed")
        return value

    def sync_later(self, payload: Payload | None) -> None:
        """Let the next ``sync`` cover a payload that another process of this node has put in its pack."""
        if isinstance(payload, Blob) and payload.pack:
            with self._write_lock:
                self._unsynced.add(payload.pack)

    def sync(self) -> None:
        """Make all that was put, or named to ``sync_later``, before this call durable. Raises ``BackendError``.

        A failed sync is final: the kernel may have dropped the data, so the store refuses further batches.
        """
        # Held during the sync, so that nobody returns before the sync that covers its blobs has ended.
        with self._sync_lock:
            with self._write_lock:
                names, self._unsynced = self._unsynced, set()
            if names and self._failure is None:
                try:
                    for name in names:
                        self._sync_pack(name)
                    sync_folder(self._packs_folder)
                except OSError as error:
                    self._failure = f"the blobs in {self.folder} failed: sync: {error.strerror}; check the file system"
            if self._failure is not None:
                raise BackendError(self._failure)

    def close(self) -> None:
        """Release the files; what was put and not synced is left to the kernel."""
        with self._write_lock, self._read_lock:
            if self._pack is not None:
                os.close(self._pack.fd)
                self._pack = None
            for fd in self._open_packs.values():
                os.close(fd)
            self._open_packs.clear()

    def _path(self, blob: Blob) -> Path:
        if not blob.digest.isalnum():
            raise self._unreadable(blob, "it is not a digest")
        return self.folder / blob.digest[:2] / blob.digest

    def _unreadable(self, blob: Blob, reason: str) -> BackendError:
        place = f"pack {blob.pack} at offset {blob.offset}" if blob.pack else "a file of its own"
        return BackendError(
            f"blob {blob.digest} of {blob.size} bytes in {self.folder}, {place}, cannot be opened: {reason}; "
            "submit again what it belongs to, or restore the folder from a copy"
        )

    def _pack_to_fill(self) -> _OpenPack:
        pack = self._pack
        if pack is not None and pack.size < self._pack_bytes and pack.pid == os.getpid():
            return pack
        try:
            make_folder(self._packs_folder)
            filled = _OpenPack(self._packs_folder)
        except OSError as error:
            raise write_failed(self.folder, 1, error) from error
        if pack is not None:
            os.close(pack.fd)
        self._pack = filled
        return filled

    def _write(self, pack: _OpenPack, parts: list[bytes], size: int) -> None:
        try:
            for start in range(0, len(parts), PARTS_PER_WRITE):
                write_parts(pack.fd, parts[start : start + PARTS_PER_WRITE])
        except OSError as error:
            try:
                os.ftruncate(pack.fd, pack.size)
            except OSError:
                # Its end is not known any more: the next batch begins another pack.
                pack.size = self._pack_bytes
            raise write_failed(self.folder, size - pack.size, error) from error
        pack.size = size

    def _sync_pack(self, name: str) -> None:
        # Any descriptor of a file syncs all of it, so the one that writes need not be kept from being closed.
        fd = os.open(self._packs_folder / name, os.O_RDONLY)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def _read_packed(self, blob: Blob) -> bytes:
        with self._read_lock:
            fd = self._open_packs.get(blob.pack)
            if fd is not None:
                self._open_packs.move_to_end(blob.pack)
                value = _read_at(fd, blob.size, blob.offset)
                if len(value) == blob.size:
                    return value
                # A network file system may show the file as it was when it was opened.
                os.close(self._open_packs.pop(blob.pack))
            if not blob.pack.isalnum():
                raise self._unreadable(blob, "it is not the name of a pack")
            if len(self._open_packs) >= _OPEN_PACKS:
                os.close(self._open_packs.popitem(last=False)[1])
            fd = self._open_packs[blob.pack] = os.open(self._packs_folder / blob.pack, os.O_RDONLY)
            return _read_at(fd, blob.size, blob.offset)


def _name_in_pack(value: bytes) -> str:
    return digest_of(value) if len(value) >= SHARED_BYTES else checksum_of(value)


def _read_at(fd: int, size: int, offset: int) -> bytes:
    value = os.pread(fd, size, offset)
    if len(value) == size:
        return value
    # One call gives at most 2 GiB.
    parts = [value]
    read_bytes = len(value)
    while read_bytes < size and parts[-1]:
        parts.append(os.pread(fd, size - read_bytes, offset + read_bytes))
        read_bytes += len(parts[-1])
    return b"".join(parts)
