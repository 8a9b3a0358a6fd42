"""The descriptors of the worker itself, in a process where functions may close any: how it sees that, and what it does.

A function that closes all descriptors, as programs do that become a daemon, closes the worker's too: its connection, the
files for output and results. What is opened next gets their numbers, and what the worker wrote to them would go there. So
a worker whose descriptors were touched uses none of them any more: it ends at once, and the call that did it is told so. The
ends of the calls before are in the ``outbox``, which is memory; those behind have not begun, and go to another worker.

Seen is it in three ways. The way back to the folder in which calls begin fails, which costs nothing to find out. The
socket is no longer there, or is something that blocks: one system call after each call that is not of the shortest. Where ends
are told the descriptor has to be the file that it was; if not even the last look has found that out, nobody is blamed.

The standard streams are as much the functions' own. One that was closed is opened again as it was, lest something else get
its number and be taken for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import NamedTuple

import msgspec

from pilotage.model.execution import AttemptEnd
from pilotage.model.outcome import Ending

EXIT_BROKEN = 70
"""Exit status of a worker that a fault of its own has ended, or a function that closed its descriptors."""

LOWEST = 64
"""Above what a user's function closes or duplicates by number when it redirects its standard streams."""

CLOSED = frozenset({errno.EBADF, errno.ENOTDIR, errno.ENOTSOCK})
"""What a system call says of a descriptor that was closed, and of one that is something else now."""

_EXPLANATION = (
    "it closed descriptors of its function worker, or put others in their place, which ended the worker; "
    "close only those that the function has opened"
)


class Known(NamedTuple):
    """A descriptor, and the file that it is."""

    number: int
    device: int
    inode: int

    @property
    def is_there(self) -> bool:
        """Whether it is still that file."""
        try:
            status = os.fstat(self.number)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self[1:]


def lifted(descriptor: int) -> int:
    """Return another number for this descriptor, out of the way of functions. Children do not inherit it."""
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, LOWEST)
    finally:
        os.close(descriptor)


def known(descriptor: int) -> Known:
    """Return an open descriptor, to be recognised later."""
    status = os.fstat(descriptor)
    return Known(descriptor, status.st_dev, status.st_ino)


class StandardStreams:
    """Descriptors 0, 1 and 2 as they are now."""

    def __init__(self) -> None:
        self._kept: dict[int, int] = {}
        for number in range(3):
            try:
                self._kept[number] = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, LOWEST)
            except OSError:
                # It was never open.
                continue

    def reopen(self) -> None:
        """Put back those that are closed."""
        for number, kept in self._kept.items():
            try:
                os.get_blocking(number)
            except OSError:
                try:
                    os.dup2(kept, number)
                except OSError:
                    # All descriptors were closed; then the worker has others to miss.
                    return


def broken_end(end: AttemptEnd) -> AttemptEnd:
    """Return the end of a call that did this to its worker, and would have ended like this; if it failed, it has that, too."""
    if end.ending is Ending.RAISED:
        return msgspec.structs.replace(end, message=f"{end.message}; {_EXPLANATION}")
    return AttemptEnd(end.task, end.attempt, Ending.EXITED, EXIT_BROKEN, None, _EXPLANATION, "", end.started, end.ended)
