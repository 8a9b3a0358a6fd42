"""Files and folders brought to their places, whole or not at all.

What is copied gets a temporary name beside its target, and the target's name when it is whole; so does a folder with all
that is in it. Whatever is interrupted leaves the old target or the new one, and at worst a temporary name, which
who does it again removes. A folder that is brought to a folder that exists is merged into it, file by file; done
twice, that is as good as once.

Modes and times are kept, owners and the set-user-ID bits are not. A symbolic link in a folder is copied as a link, and goes on
to name what it named.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count

from pilotage.staging.failures import TEMPORARY, Stopped, Unstageable, inside_itself, special_file

Identity = tuple[int, int]
"""Device and inode: what a file keeps when it is renamed."""

SMALL_BYTES = 1 << 16
"""Files up to this size are read and written at once."""
PIECE_BYTES = 1 << 26
"""A large file is copied in pieces of this size, between which the stager may be stopped."""
_BLOCK_BYTES = 1 << 20

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe without a writer must not hold the stager up
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_PERMISSIONS = 0o777

_NO_KERNEL_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF, errno.ETXTBSY}
)
_NO_HARD_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES})

NoteMove = Callable[[Identity, Identity, bool], None]
"""Told before something vanishes: the identity of the source, that of the target when all is done, and whether the target
is all that is left to look at (a merged folder is not)."""


def identity(path: str) -> Identity | None:
    """Return which file ``path`` names, not following a link; None: none."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_dev, status.st_ino


class Files:
    """Copies, links and moves. ``stopped`` is asked between pieces of work.

    ``owner`` marks temporary names. Before one is made in a folder, those of ``heir_of`` are removed there: of
    owners that are dead, whose names begin so.

    All methods raise ``OSError`` as the system does, ``Unstageable`` and ``Stopped``, and then have left no temporary name.
    """

    def __init__(self, owner: str, stopped: Callable[[], bool] = lambda: False, heir_of: str = "") -> None:
        self._prefix = f"{TEMPORARY}{owner}-"
        self._left = f"{TEMPORARY}{heir_of}" if heir_of else ""
        self._swept: set[str] = set()
        self._numbers = count()
        self._stopped = stopped

    @contextmanager
    def placing(self, target: str) -> Iterator[str]:
        """Give a name beside ``target``: what is there at the end of the block replaces the target at once."""
        temporary = self._temporary(os.path.dirname(target))
        try:
            yield temporary
            os.rename(temporary, target)
        except BaseException:
            with suppress(OSError):
                remove(temporary)
            raise

    def discard(self, path: str) -> None:
        """Remove a file or folder so that it is there as a whole, or not at all."""
        temporary = self._temporary(os.path.dirname(path))
        os.rename(path, temporary)
        remove(temporary)

    def _temporary(self, folder: str) -> str:
        if self._left and folder not in self._swept:
            self._sweep(folder)
        return f"{folder}/{self._prefix}{next(self._numbers)}"

    def _sweep(self, folder: str) -> None:
        try:
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            if name.startswith(self._left) and not name.startswith(self._prefix):
                remove(f"{folder}/{name}")
        self._swept.add(folder)

    # copying

    def copy(self, source: str, target: str) -> None:
        """Copy a file, or a folder with all that is in it. ``source`` may be a link to either."""
        mode = os.stat(source).st_mode
        if stat.S_ISREG(mode):
            with self.placing(target) as temporary:
                self._write(source, temporary)
        elif stat.S_ISDIR(mode):
            require_outside(source, target)
            if os.path.isdir(target):
                self._merge(source, target, self._copy_entry)
            elif os.path.lexists(target):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), target)
            else:
                self._copy_new_folder(source, target)
        else:
            raise special_file(source)

    def _copy_new_folder(self, source: str, target: str) -> None:
        try:
            with self.placing(target) as temporary:
                self._write_tree(source, temporary)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not os.path.isdir(target):
                raise
            # Somebody else has made it meanwhile.
            self._merge(source, target, self._copy_entry)

    def _merge(self, source: str, target: str, bring: Callable[[str, str], None]) -> None:
        """Bring each entry of ``source`` to where it belongs in ``target``; folders that both have are merged."""
        pairs = [(source, target)]
        for folder, into in pairs:
            with os.scandir(folder) as scanned:
                entries = list(scanned)
            for entry in entries:
                goal = os.path.join(into, entry.name)
                if entry.is_dir(follow_symlinks=False) and os.path.isdir(goal):
                    pairs.append((entry.path, goal))
                elif not entry.name.startswith(TEMPORARY):
                    bring(entry.path, goal)

    def _copy_entry(self, source: str, target: str) -> None:
        """Copy what is in a folder: a link stays one."""
        mode = os.lstat(source).st_mode
        if stat.S_ISDIR(mode):
            self._copy_new_folder(source, target)
            return
        with self.placing(target) as temporary:
            self._write_entry(source, mode, temporary, os.path.dirname(source))

    def _write_tree(self, source: str, target: str, durable: bool = False) -> None:
        """Make ``target`` a copy of the folder ``source``."""
        os.mkdir(target, 0o700)
        folders = [(source, target)]
        for folder, into in folders:
            with os.scandir(folder) as entries:
                for entry in entries:
                    goal = f"{into}/{entry.name}"
                    if entry.name.startswith(TEMPORARY):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        os.mkdir(goal, 0o700)
                        folders.append((entry.path, goal))
                    elif entry.is_file(follow_symlinks=False):
                        self._write(entry.path, goal, durable)
                    else:
                        self._write_entry(entry.path, os.lstat(entry.path).st_mode, goal, source)
        # Last, as a folder that may not be written can hold nothing new; the innermost first, as it may not even be entered.
        for folder, into in reversed(folders):
            status = os.stat(folder)
            inherited = os.stat(into).st_mode & ~_PERMISSIONS
            os.chmod(into, stat.S_IMODE(inherited) | status.st_mode & _PERMISSIONS)
            os.utime(into, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _write_entry(self, source: str, mode: int, target: str, root: str) -> None:
        if stat.S_ISREG(mode):
            self._write(source, target)
        elif stat.S_ISLNK(mode):
            os.symlink(_link_text(source, root), target)
        elif stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
            os.mknod(target, mode)
        else:
            raise special_file(source)

    def _write(self, source: str, target: str, durable: bool = False) -> None:
        """Make ``target``, which must not exist, a copy of the file ``source``."""
        if self._stopped():
            raise Stopped
        reader = os.open(source, _READ)
        try:
            status = os.fstat(reader)
            if not stat.S_ISREG(status.st_mode):
                raise special_file(source)
            permissions = status.st_mode & _PERMISSIONS
            writer = os.open(target, _CREATE, permissions)
            try:
                self._copy_content(reader, writer, status)
                # The mode above went through the umask.
                os.fchmod(writer, permissions)
                os.utime(writer, ns=(status.st_atime_ns, status.st_mtime_ns))
                if durable:
                    os.fsync(writer)
            finally:
                os.close(writer)
        finally:
            os.close(reader)

    def _copy_content(self, reader: int, writer: int, status: os.stat_result) -> None:
        size = status.st_size
        if size <= SMALL_BYTES:
            # A file of the kernel's own (/proc) says that it is empty, and is not.
            done = 0
            while content := os.read(reader, SMALL_BYTES):
                _write_all(writer, content)
                done += len(content)
                if done == size:
                    return
            return
        end = 0
        for begin, end in _extents(reader, size) if status.st_blocks * 512 < size else [(0, size)]:
            os.lseek(writer, begin, os.SEEK_SET)
            while begin < end:
                if self._stopped():
                    raise Stopped
                begin += _copy_piece(reader, writer, begin, min(end - begin, PIECE_BYTES))
        if end < size:
            os.ftruncate(writer, size)

    # linking

    def link(self, source: str, target: str) -> None:
        """Give a file another name: a hard link, or a symbolic one for a folder and where there can be no other."""
        real = os.path.realpath(source)
        folder = os.path.isdir(real)
        if folder and os.path.isdir(target) and not os.path.islink(target):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
        if os.path.exists(target) and os.path.samefile(real, target):
            # Renaming one name of a file to another of its names does nothing, and would leave the first.
            return
        with self.placing(target) as temporary:
            if folder:
                os.symlink(real, temporary)
                return
            try:
                os.link(real, temporary)
            except OSError as error:
                if error.errno not in _NO_HARD_LINK:
                    raise
                os.symlink(real, temporary)

    # moving

    def move(self, source: str, target: str, note: NoteMove) -> None:
        """Move a file or folder. ``source`` is gone when the target is whole, and ``note`` was told before.

        Of a symbolic link, what it names is copied; then the link is removed.
        """
        status = os.lstat(source)
        mine = status.st_dev, status.st_ino
        if stat.S_ISDIR(status.st_mode):
            require_outside(source, target)
        if stat.S_ISLNK(status.st_mode):
            if os.path.isdir(source) and os.path.isdir(target):
                self.copy(source, target)
                os.unlink(source)
            else:
                self._carry(source, target, mine, note)
            return
        note(mine, mine, True)
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno == errno.EXDEV:
                self._carry(source, target, mine, note)
            elif error.errno in (errno.ENOTEMPTY, errno.EEXIST) and stat.S_ISDIR(status.st_mode):
                self._merge_away(source, target, mine, note)
            elif identity(target) != mine or identity(source) is not None:  # NFS may do it, and then not find it to be done
                raise
        else:
            if status.st_nlink > 1 and identity(source) == mine and not stat.S_ISDIR(status.st_mode):
                # Both were names of one file, so the system saw nothing to do.
                os.unlink(source)

    def _carry(self, source: str, target: str, mine: Identity, note: NoteMove) -> None:
        """Copy, make the copy durable, and remove the source."""
        folder = os.path.isdir(source)
        if folder and os.path.isdir(target) and os.listdir(target):
            self._merge_away(source, target, mine, note)
            return
        with self.placing(target) as temporary:
            (self._write_tree if folder else self._write)(source, temporary, True)
            copied = identity(temporary)
            assert copied is not None
            note(mine, copied, True)
        remove(source)

    def _merge_away(self, source: str, target: str, mine: Identity, note: NoteMove) -> None:
        into = os.stat(target)
        note(mine, (into.st_dev, into.st_ino), False)
        self._merge(source, target, self._move_entry)
        # What is left are folders without a file; one that was filled meanwhile is not removed.
        for folder, _, _ in os.walk(source, topdown=False):
            os.rmdir(folder)

    def _move_entry(self, source: str, target: str) -> None:
        try:
            os.rename(source, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            self._copy_entry(source, target)
            remove(source)


def require_outside(source: str, target: str) -> None:
    """Raise ``Unstageable`` if ``target`` lies in the folder ``source``."""
    real = os.path.realpath(source)
    goal = real_name(target)
    if goal.startswith(real.rstrip("/") + "/"):
        raise inside_itself(source, target)


def real_name(path: str) -> str:
    """Return the one name of this directory entry, whatever links lead to its folder."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def remove(path: str) -> None:
    """Remove a file, a link, or a folder with all that is in it; nothing there is as good."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        try:
            shutil.rmtree(path)
        except PermissionError:
            # A folder whose mode was kept may be one that nothing can be removed from.
            for folder, _, _ in os.walk(path):
                os.chmod(folder, 0o700)
            shutil.rmtree(path)


def _link_text(link: str, root: str) -> str:
    """Return what a copy of ``link`` has to say: the same, unless it is relative and leads out of ``root``."""
    text = os.readlink(link)
    if os.path.isabs(text):
        return text
    named = os.path.join(os.path.dirname(link), text)
    if os.path.normpath(named).startswith(os.path.normpath(root) + "/"):
        return text
    return os.path.join(os.path.realpath(os.path.dirname(named)), os.path.basename(named))


def _extents(reader: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield where a sparse file has content."""
    end = 0
    while end < size:
        try:
            begin = os.lseek(reader, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            if error.errno == errno.EINVAL:
                yield end, size
                return
            raise
        end = min(os.lseek(reader, begin, os.SEEK_HOLE), size)
        yield begin, end


def _copy_piece(reader: int, writer: int, begin: int, size: int) -> int:
    """Copy up to ``size`` bytes at ``begin`` to where the writer stands; return how many."""
    try:
        copied = os.copy_file_range(reader, writer, size, begin)
    except OSError as error:
        if error.errno not in _NO_KERNEL_COPY:
            raise
        copied = 0
    if copied:
        return copied
    content = os.pread(reader, min(size, _BLOCK_BYTES), begin)
    if not content:
        raise Unstageable("the source became shorter while it was copied; stage it when nothing writes to it any more")
    _write_all(writer, content)
    return len(content)


def _write_all(writer: int, content: bytes) -> None:
    written = os.write(writer, content)
    while written < len(content):
        written += os.write(writer, memoryview(content)[written:])
