"""Writing an aggregate: output is appended to the two files of this node, which all its runners write to at the same time.

No lock is needed. What one system call appends is in one piece, and the position of the file afterwards tells where it ends;
so an attempt's output is one ``writev`` to the data file and then one ``write`` to the index. Whoever reads the index finds
nothing there that is not in the data file yet. An attempt that printed nothing has no record, unless an earlier one has.

A file that was written to is removed, and made again by the next task that opens it. To empty it instead would cost a hundred
times as much: file systems take care that a file is not lost that is emptied and written anew, and write it to disk.
"""

from __future__ import annotations

import errno
import os
import sys

from pilotage.model.ids import Attempt, TaskUid
from pilotage.outputs.files import OUTPUT_FOLDER
from pilotage.outputs.limits import Kept, Limit, kept_of, kept_of_file, shorten
from pilotage.outputs.records import DATA, INDEX, STREAMS, Record, render

LARGE_BYTES = 4 << 20
"""A stream that is larger is not copied: it stays in its file."""

PAIRS_IN_FOLDER = 1000
_APPEND = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_MODE = 0o666


class Aggregate:
    """One runner's way to its node's aggregate. Nothing is made before the first use.

    ``runner`` names it among all runners of the pilot.
    """

    def __init__(self, pilot_folder: str, runner: str) -> None:
        self._folder = os.path.join(pilot_folder, OUTPUT_FOLDER)
        self._runner = runner
        self._data = self._index = -1
        self._free: list[str] = []
        self._pairs = 0
        self._unwritten: list[bytes] = []
        """Records that found no room."""

    # pairs of files

    def take_pair(self) -> str:
        """Return the name of a pair of files for a task to write to: empty, or to be made.

        Raises:
            OSError: they cannot be made.
        """
        return self._free.pop() if self._free else self._make_pair()

    def paths(self, pair: str) -> tuple[str, str]:
        """Return the paths of a pair's files."""
        return f"{self._folder}/{pair}{STREAMS[0]}", f"{self._folder}/{pair}{STREAMS[1]}"

    def return_pair(self, pair: str) -> None:
        """Take back a pair that nothing was written to."""
        self._free.append(pair)

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
        sizes = _size(paths[0]), _size(paths[1])
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
                    _remove(path)
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

    def close(self) -> None:
        """Remove the files that no task writes to."""
        try:
            self.settle()
        except OSError as error:
            sys.stderr.write(f"{len(self._unwritten)} tasks have output in {self._folder}, but not in its index: {error}\n")
        for pair in self._free:
            for path in self.paths(pair):
                _remove(path)
        self._free.clear()
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
                _remove(path)

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
        return Record(uid, attempt, pair, (_size(stdout), _size(stderr)), left_out)

    def _record(self, record: Record) -> None:
        self._unwritten.append(render(record))
        self.settle()

    def _make_pair(self) -> str:
        while True:
            self._pairs += 1
            shard = self._pairs // PAIRS_IN_FOLDER
            name = f"{self._runner}.{self._pairs}"
            pair = f"{shard:04d}/{name}" if shard else name
            try:
                for path in self.paths(pair):
                    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
            except FileExistsError:
                # From another life of this runner: it holds output, of tasks that were lost or that was too large to copy.
                continue
            return pair

    def _open(self) -> None:
        if self._index < 0:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            base = os.path.join(self._folder, os.uname().nodename)
            self._data = os.open(base + DATA, _APPEND, _MODE)
            self._index = os.open(base + INDEX, _APPEND, _MODE)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        # The task has removed it.
        return 0


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        # It is not there: the task has removed it, or nothing was written to it since.
        return


def _shorten(path: str, limit: Limit) -> int:
    try:
        return shorten(path, limit)
    except OSError:
        # It stays as long as it is.
        return 0
