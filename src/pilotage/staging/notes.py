"""What is noted before a file is moved, so that it is known for certain afterwards whether it was.

A copy that was interrupted is made again. A move that was interrupted may have taken its source away: when that is missing,
only a note can tell a move that was made from a source that never was. So each move is noted, with which file it is (device
and inode, which a rename keeps), in a file of the pilot, by one write before the source can vanish. A stager that does the
work of a dead one reads what was noted, and begins with the directive of the last move: those before it were done, and it may
have moved away what they need. Of those that could not be done, that is noted too.

Notes of work whose end is in the agent's log are dropped, so the file stays small.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterable, Sequence

import msgspec

from pilotage.staging.files import Identity

REWRITE_BYTES = 1 << 20
"""A file of this size is written anew with the notes that are still needed."""

Errand = tuple[str, str, int]
"""Whose files are staged, the phase, and the attempt: what is staged, or staged again, as a whole."""


class Move(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """A move that was about to be made. ``index`` is that of the directive, in the order in which they are done.

    ``was`` was the source; ``becomes`` is the target when all is done. ``whole``: a target of that identity is all there is
    to it; else the source, too, has to be gone.
    """

    errand: Errand
    index: int
    source: str
    target: str
    was: Identity
    becomes: Identity
    whole: bool


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=2, gc=False):
    """A directive that could not be carried out, while the others go on."""

    errand: Errand
    index: int
    message: str


Note = Move | Failure

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Note).decode


class Notes:
    """The notes in the file at ``path``; any number of threads may share them. Nothing is opened before it is needed."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._notes: dict[Errand, list[Note]] | None = None
        self._file = -1
        self._size = 0

    def add(self, note: Note) -> None:
        """Note a move that is about to be made, or a failure. Raises ``OSError``: the move must not be made then."""
        line = _encode(note) + b"\n"
        with self._lock:
            notes = self._read()
            if self._file < 0:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
                os.ftruncate(self._file, self._size)
            try:
                written = os.write(self._file, line)
            except OSError as error:
                # It says where, as it is seldom the file system of what is moved.
                raise OSError(error.errno, os.strerror(error.errno or 0), self.path) from error
            if written != len(line):
                os.ftruncate(self._file, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.path)
            self._size += len(line)
            notes.setdefault(note.errand, []).append(note)

    def of(self, errand: Errand) -> Sequence[Note]:
        """Return what was noted for this errand, by this process or one before it."""
        with self._lock:
            return tuple(self._read().get(errand, ()))

    def drop(self, errands: Iterable[Errand]) -> None:
        """Forget errands that will not be done again."""
        with self._lock:
            if not self._notes:
                return
            before = len(self._notes)
            for errand in errands:
                self._notes.pop(errand, None)
            if len(self._notes) == before or self._file < 0:
                return
            if not self._notes:
                os.ftruncate(self._file, 0)
                self._size = 0
            elif self._size > REWRITE_BYTES:
                self._rewrite(self._notes)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1

    def _read(self) -> dict[Errand, list[Note]]:
        if self._notes is None:
            self._notes = {}
            try:
                with open(self.path, "rb") as file:
                    content = file.read()
            except FileNotFoundError:
                content = b""
            # What follows the last line end is a note that was cut; what it was for was not begun.
            for line in content.split(b"\n")[:-1]:
                note: Note = _decode(line)
                self._notes.setdefault(note.errand, []).append(note)
            self._size = content.rfind(b"\n") + 1
        return self._notes

    def _rewrite(self, notes: dict[Errand, list[Note]]) -> None:
        content = b"".join(_encode(note) + b"\n" for noted in notes.values() for note in noted)
        fresh = f"{self.path}.new"
        try:
            file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError:
            return  # the old file serves as well, and the next time may be a better one
        try:
            if os.write(file, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fresh)
            os.rename(fresh, self.path)
        except OSError:
            os.close(file)
            return
        os.close(self._file)
        self._file, self._size = file, len(content)
