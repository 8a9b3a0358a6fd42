"""Why a file could not be staged, in words that name the value and the remedy."""

from __future__ import annotations

import errno
import os

TEMPORARY = ".pilotage-"
"""How names of files that are not whole yet begin; see ``staging.files``."""


class Unstageable(Exception):
    """One directive cannot be carried out; the message does not name the directive."""


class SourceMissing(Unstageable):
    """There is nothing to stage. A directive with the flag NON_FATAL may pass then."""


class NoRoom(Unstageable):
    """The file system of ``path`` is full, or a quota there is used up: what failed can be done once there is room."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path

    def is_below(self, folder: str) -> bool:
        """Tell whether it is in this folder that there is no room; links are followed, as they may lead out of it."""
        return bool(folder) and _within(os.path.realpath(self.path), os.path.realpath(folder))


class Stopped(Exception):
    """The stager was told to stop before it was done."""


def missing(path: str) -> SourceMissing:
    """Return the failure of a source that is not there."""
    return SourceMissing(f"source {path!r} does not exist; check its name, or set the flag NON_FATAL if it may be missing")


def no_match(pattern: str) -> SourceMissing:
    """Return the failure of a pattern that nothing matches."""
    return SourceMissing(f"nothing matches {pattern!r}; check the pattern, or set the flag NON_FATAL if that may be so")


def no_folder(folder: str) -> Unstageable:
    """Return the failure of a target whose folder is missing and may not be made."""
    return Unstageable(f"the target's folder {folder!r} does not exist; set the flag CREATE_PARENTS, or make it first")


def special_file(path: str) -> Unstageable:
    """Return the failure of a source that has no content to stage."""
    return Unstageable(f"source {path!r} is a device, pipe or socket; only files and folders can be staged")


def inside_itself(source: str, target: str) -> Unstageable:
    """Return the failure of a folder that was to be brought into itself."""
    return Unstageable(f"target {target!r} lies inside the source {source!r}; choose a target outside of it")


def explained(error: OSError, source: str, target: str) -> Unstageable:
    """Return the failure that the system's error amounts to, when ``source`` was being brought to ``target``."""
    path = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
    if os.path.basename(path).startswith(TEMPORARY):
        path = os.path.dirname(path)
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        where = path if path and not _within(path, source) and not error.filename2 else os.path.dirname(target)
        message = f"there is no room for target {target!r} in {where!r}: {reason}; {_FULL[error.errno]}"
        if error.errno not in PASSING:
            return Unstageable(message)
        is_there = _within(target, where) or _within(where, target)
        return (_never_fits(source, target, where) if is_there else None) or NoRoom(message, where)
    if error.errno == errno.EISDIR or (error.errno == errno.EEXIST and os.path.isdir(target)):
        return Unstageable(f"target {target!r} is a folder; name a file, or remove the folder")
    if error.errno == errno.ENOTDIR:
        return Unstageable(
            f"target {target!r} is a file, or lies below one, where a folder is wanted; choose another target, or remove it"
        )
    if error.errno == errno.ENAMETOOLONG:
        return Unstageable(f"target {target!r} has too long a name for its file system; choose a shorter one")
    if path and _within(path, source) and not _within(path, target):
        if error.errno == errno.ENOENT:
            return SourceMissing(f"source {path!r} does not exist any more; stage it when nothing removes it")
        return Unstageable(f"source {path!r} cannot be read: {reason}; {_remedy(error, 'make it readable for you')}")
    if path:
        remedy = _remedy(error, "choose a folder that you may write")
        return Unstageable(f"target {target!r} cannot be written, for {path!r}: {reason}; {remedy}")
    return Unstageable(f"copying {source!r} to {target!r} failed: {reason}; check both file systems")


def no_sandbox(error: OSError, folder: str) -> Unstageable:
    """Return why the sandbox in ``folder`` cannot be made."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"sandbox {folder!r} cannot be made: {reason}; free space there, or choose another sandbox"
    return NoRoom(message, folder) if error.errno in PASSING else Unstageable(message)


def _never_fits(source: str, target: str, where: str) -> Unstageable | None:
    """Return the failure of a file that is larger than all of the file system that had no room for it."""
    try:
        size_bytes = os.stat(source).st_blocks * 512
        status = os.statvfs(where)
    except OSError:
        return None
    whole_bytes = status.f_blocks * status.f_frsize
    if size_bytes <= whole_bytes:
        return None
    return Unstageable(
        f"target {target!r} would never fit: source {source!r} takes {size_bytes} bytes, and the file system of {where!r} has "
        f"{whole_bytes} in all; choose another target"
    )


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _remedy(error: OSError, otherwise: str) -> str:
    if error.errno == errno.EMFILE or error.errno == errno.ENFILE:
        return "too many files are open; raise 'ulimit -n'"
    return "check its file system" if error.errno in (errno.EIO, errno.ESTALE) else otherwise


PASSING = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Errors that are over when somebody frees space."""

_FULL = {
    errno.ENOSPC: "free space (or inodes) there, or choose another target",
    errno.EDQUOT: "delete files of yours, ask for a larger quota, or choose another target",
    errno.EFBIG: "the file is larger than that file system, or your limit ('ulimit -f'), allows: choose another target",
}
