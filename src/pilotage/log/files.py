"""Writing files so that a crash leaves the old content or the new one, and a full disk one clear error.

A name is durable when its folder was synced, content when the file was. All writes of this package come through here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from pilotage.errors import BackendError

Bytes = bytes | bytearray | memoryview
"""What can be written without a copy; a memoryview must be of single bytes."""

PARTS_PER_WRITE = 1000
"""``writev`` takes at most IOV_MAX (1024) parts."""

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_parts(fd: int, parts: Sequence[Bytes]) -> int:
    """Write ``parts`` one after another, with one system call whenever the kernel takes all; return the bytes written."""
    if len(parts) > PARTS_PER_WRITE:
        parts = [b"".join(parts)]
    wanted = sum(map(len, parts))
    written = os.writev(fd, parts)
    if written != wanted:
        # Short writes come from full disks, quotas and the kernel's limit of 2 GiB: the next call says which.
        rest = memoryview(b"".join(parts))
        while written < wanted:
            written += os.write(fd, rest[written:])
    return written


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(folder: Path) -> None:
    """Create ``folder`` and its parents, for this user alone, with durable names."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        try:
            os.mkdir(each, 0o700)
        except FileExistsError:
            continue
        sync_folder(each.parent)


def replace_file(path: Path, parts: Sequence[Bytes], *, durable: bool = True) -> None:
    """Put ``parts`` at ``path``, whole or not at all; with ``durable``, a return means that it survives node loss.

    Raises ``OSError``; then ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_parts(fd, parts)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_failed(folder: Path, wanted_bytes: int, error: OSError) -> BackendError:
    """Return the error to raise when ``wanted_bytes`` could not be written in ``folder``; transient if space may come."""
    if error.errno not in _NO_SPACE:
        return BackendError(f"cannot write {wanted_bytes} bytes in {folder}: {error.strerror}; see the file system's state")
    what = {errno.EDQUOT: "the quota is used up", errno.EFBIG: "the limit on file size is reached"}
    return BackendError(
        f"no room for {wanted_bytes} bytes in {folder}: {what.get(error.errno or 0, 'the disk is full')}; "
        "make room there or raise the limit, then it goes on",
        transient=True,
    )
