"""Writing an aggregate: output is appended to the two files of this node, which all its runners write to at the same time.

No lock is needed. What one system call appends is in one piece, and the position of the file afterwards tells where it ends;
so an attempt's output is one ``writev`` to the data file and then one ``write`` to the index. Whoever reads the index finds
nothing there that is not in the data file yet. An attempt that printed nothing has no record, unless an earlier one has.
"""

from __future__ import annotations

import errno
import os
import sys

from pilotage.model.ids import Attempt, TaskUid
from pilotage.outputs.limits import Kept, Limit, kept_of, kept_of_file, shorten
from pilotage.outputs.pairs import Pairs, remove, size_of
from pilotage.outputs.records import DATA, INDEX, Record, render

LARGE_BYTES = 4 << 20
"""A stream that is larger is not copied: it stays in its file."""

_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE = 0o600


class Aggregate(Pairs):
    """One runner's way to its node's aggregate, and the pairs of files that its tasks write to meanwhile.

    ``runner`` names it among all runners of the pilot.
    """

    def __init__(self, pilot_folder: str, runner: str) -> None:
        super().__init__(pilot_folder, runner)
        self._data = self._index = -1
        self._unwritten: list[bytes] = []
        """Records that found no room."""

    # pairs of files

    def announce(self, uid: TaskUid, attempt: Attempt, pair: str) -> None:
        """Let readers know where a task writes that is not over."""
        try:
            self._open()
            os.write(self._index, render(Record(uid, attempt, pair)))
        except OSError:
            # They find what it has written when it has ended.
            return

    def end(
        self, uid: TaskUid, attempt: Attempt, pair: str, limit: Limit | None, *, announced: bool, shared: bool = False
    ) -> None:
        """Append what an attempt has written to a pair of files, and take them back.

        ``announced``: readers know of them. ``shared``: processes that the task left behind may go on writing to them.

        Raises:
            OSError: there was no room, or no access. Nothing is lost: it stays where it is, and if not even its record could
                be written, ``settle`` will do it.
        """
        paths = self.paths(pair)
        sizes = size_of(paths[0]), size_of(paths[1])
        if sizes == (0, 0):
            self._take_back(pair, shared)
            if announced or attempt > 1:
                self._record(Record(uid, attempt, 0, sizes))
            return
        record, trouble = None, None
        if all(size <= LARGE_BYTES or (limit is not None and sum(limit) <= LARGE_BYTES) for size in sizes):
            try:
                stdout, stderr = kept_of_file(paths[0], sizes[0], limit), kept_of_file(paths[1], sizes[1], limit)
                record = self._put(uid, attempt, stdout, stderr)
            except OSError as error:
                trouble = error
        if record is None:
            record = self._keep(uid, attempt, pair, limit)
        else:
            for path, size in zip(paths, sizes, strict=True):
                if size:
                    remove(path)
            self._take_back(pair, shared)
        self._record(record)
        if trouble is not None:
            raise trouble

    # appending

    def append(self, uid: TaskUid, attempt: Attempt, stdout: bytes, stderr: bytes, limit: Limit | None) -> None:
        """Append what an attempt has printed that wrote to no files.

        Raises:
            OSError: there was no room, or no access; the output is lost.
        """
        self._record(self._put(uid, attempt, kept_of(stdout, limit), kept_of(stderr, limit)))

    @property
    def unsettled(self) -> bool:
        """Whether there are records that found no room."""
        return bool(self._unwritten)

    def settle(self) -> None:
        """Write the records that found no room.

        Raises:
            OSError: there is none yet.
        """
        if self._unwritten:
            self._open()
            lines = b"".join(self._unwritten)
            if os.write(self._index, lines) < len(lines):
                # All of it again when there is room: a record that was cut short does no harm, nor one that is there twice.
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._folder)
            self._unwritten.clear()

    def start_over(self) -> None:
        """Let go of the two files without closing them: their descriptors may be something else by now."""
        self._data = self._index = -1

    def close(self) -> None:
        """Remove the files that no task writes to."""
        try:
            self.settle()
        except OSError as error:
            sys.stderr.write(f"{len(self._unwritten)} tasks have output in {self._folder}, but not in its index: {error}\n")
        super().close()
        for descriptor in (self._data, self._index):
            if descriptor >= 0:
                os.close(descriptor)
        self._data = self._index = -1

    # inside

    def _take_back(self, pair: str, shared: bool) -> None:
        if not shared:
            self._free.append(pair)
        else:
            for path in self.paths(pair):
                remove(path)

    def _put(self, uid: TaskUid, attempt: Attempt, stdout: Kept, stderr: Kept) -> Record:
        """Append to the data file and return the record of it."""
        self._open()
        sizes = stdout.size, stderr.size
        if os.writev(self._data, [*stdout.parts, *stderr.parts]) < sum(sizes):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._folder)
        # Where our own write has left the position, whoever has written since.
        begin = os.lseek(self._data, 0, os.SEEK_CUR) - sum(sizes)
        return Record(uid, attempt, begin, sizes, (stdout.left_out, stderr.left_out))

    def _keep(self, uid: TaskUid, attempt: Attempt, pair: str, limit: Limit | None) -> Record:
        """Leave output in its files, in its final form, and return the record of it."""
        stdout, stderr = self.paths(pair)
        left_out = (0, 0) if limit is None else (_shorten(stdout, limit), _shorten(stderr, limit))
        return Record(uid, attempt, pair, (size_of(stdout), size_of(stderr)), left_out)

    def _record(self, record: Record) -> None:
        self._unwritten.append(render(record))
        self.settle()

    def _open(self) -> None:
        if self._index < 0:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            base = os.path.join(self._folder, os.uname().nodename)
            self._data = os.open(base + DATA, _APPEND, _MODE)
            self._index = os.open(base + INDEX, _APPEND, _MODE)


def _shorten(path: str, limit: Limit) -> int:
    try:
        return shorten(path, limit)
    except OSError:
        # It stays as long as it is.
        return 0
