"""The lease of a session's folder: one process at a time owns it, on any node that shares the file system.

Each holder has a file of its own, ``lease.<epoch>``, and the highest epoch owns the folder. A taker writes a file with
the next epoch under another name and links it to its place. Of several takers one succeeds, on NFS too, and no moment
exists in which nobody or two own the folder. The file stays when the lease is released, so that epochs only go up.

A holder on this machine lives as long as its process does, even if it is stopped. Of a holder elsewhere, or in another
container, only the heartbeat can be seen: the time of its file, compared with the time that the file server gives to a
file written now, so that the clocks of the nodes do not matter. A file of the time 0 is a lease that was released when
nothing could be written.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import time
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from pilotage.errors import BackendError, SessionForked, SessionInUse
from pilotage.log.files import make_folder, write_failed
from pilotage.system.processes import boot_id, is_alive, started_ticks

log = logging.getLogger("pilotage")

HEARTBEAT_S = 5.0
STALE_S = 30.0
_ATTEMPTS = 10
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})


class Holder(msgspec.Struct, frozen=True):
    """Who holds, or held, a lease. ``since``: in seconds since the epoch by the clock of ``host``."""

    host: str
    pid: int
    started_ticks: int
    boot: str
    pid_namespace: str
    epoch: int
    since: float
    released: bool = False


def holder_of(folder: Path) -> Holder | None:
    """Return who holds the lease of ``folder`` or held it last; None when nobody ever did."""
    newest = _newest(folder)
    return newest[1] if newest else None


class Lease:
    """A lease that this process holds. ``epoch`` is higher than that of any holder before."""

    def __init__(self, folder: Path, holder: Holder, heartbeat_s: float) -> None:
        self.folder = folder
        self.holder = holder
        self.epoch = holder.epoch
        self._path = _path(folder, holder.epoch)
        self._heartbeat_s = heartbeat_s
        self._renewed_at = time.monotonic()
        self._released = False

    @classmethod
    def acquire(cls, folder: Path, *, heartbeat_s: float = HEARTBEAT_S, stale_s: float = STALE_S) -> Lease:
        """Take the lease of ``folder``, which is created if need be.

        ``stale_s``: a holder on another machine is taken for dead when its last heartbeat is older than this.

        Raises ``SessionInUse`` when a living process holds it, ``BackendError`` when the folder cannot be written.
        """
        try:
            make_folder(folder)
            for _ in range(_ATTEMPTS):
                before = _newest(folder)
                if before is not None and _lives(folder, *before, stale_s):
                    raise _in_use(folder, before[1], stale_s)
                epoch = before[0] + 1 if before is not None else 1
                holder = _myself(epoch)
                if not _link(folder, holder):
                    continue
                # A slow taker may have linked an epoch that has passed and was cleaned away: then a higher one is there.
                if _epochs(folder)[-1] == epoch:
                    _remove_older(folder, epoch)
                    return cls(folder, holder, heartbeat_s)
        except OSError as error:
            raise write_failed(folder, 512, error) from error
        raise BackendError(f"{folder}: other processes keep taking this session; try again", transient=True)

    def renew(self) -> None:
        """Show that the holder lives, if the last time is ``heartbeat_s`` ago; cheap, for the owner's loop.

        Raises ``SessionInUse`` if somebody took the lease over, ``SessionForked`` in a forked child.
        """
        now = time.monotonic()
        if now - self._renewed_at < self._heartbeat_s:
            return
        self.check()
        try:
            os.utime(self._path)
        except FileNotFoundError:
            self.check()
        except OSError as error:
            raise write_failed(self.folder, 0, error) from error
        self._renewed_at = now

    def check(self) -> None:
        """Raise ``SessionInUse`` if somebody took the lease over, ``SessionForked`` in a forked child."""
        if os.getpid() != self.holder.pid:
            raise SessionForked(f"{self.folder}: this session belongs to process {self.holder.pid}; open one of your own")
        # The winner of an epoch removes all but the one before it, so one of the two tells.
        if _path(self.folder, self.epoch + 1).exists() or not self._path.exists():
            successor = holder_of(self.folder)
            by = f"by process {successor.pid} on {successor.host}" if successor else "because its lease was removed"
            raise SessionInUse(f"{self.folder}: this session was taken over {by}; end here and open it again")

    def release(self) -> None:
        """Give the lease back; again, in a forked child, or after a takeover, does nothing.

        Where it cannot be written, as on a full disk, it is released by the time of its file, and a warning says so.
        """
        if self._released or os.getpid() != self.holder.pid:
            return
        self._released = True
        if _path(self.folder, self.epoch + 1).exists() or not self._path.exists():
            return
        temporary = _temporary(self.folder)
        try:
            temporary.touch(mode=0o600)
            temporary.write_bytes(msgspec.json.encode(msgspec.structs.replace(self.holder, released=True)))
            # A taker that wins meanwhile has a higher epoch, so what happens to this file does not matter to it.
            os.rename(temporary, self._path)
        except OSError as error:
            self._release_by_time(error)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _release_by_time(self, error: OSError) -> None:
        """Release without a file written, for which there may be no room: the time of a file is where its name is."""
        said = f"{self.folder}: the end of this session could not be noted as usual ({error.strerror or error})"
        try:
            os.utime(self._path, ns=(0, 0))
        except FileNotFoundError:
            return  # taken over meanwhile
        except OSError as second:
            reason = second.strerror or repr(second)
            log.warning("%s, nor otherwise (%s); others can open it once process %d has ended", said, reason, self.holder.pid)
        else:
            log.warning("%s; the lease is released all the same", said)

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"lease.{epoch}"


def _temporary(folder: Path) -> Path:
    return folder / f".lease.{os.urandom(8).hex()}"


def _pid_namespace() -> str:
    return os.readlink("/proc/self/ns/pid")


def _myself(epoch: int) -> Holder:
    pid = os.getpid()
    ticks = started_ticks(pid)
    assert ticks is not None, "this process lives"
    return Holder(socket.gethostname(), pid, ticks, boot_id(), _pid_namespace(), epoch, time.time())


def _epochs(folder: Path) -> list[int]:
    names = (name[len("lease.") :] for name in os.listdir(folder) if name.startswith("lease."))
    return sorted(int(name) for name in names if name.isdigit())


def _newest(folder: Path) -> tuple[int, Holder | None] | None:
    """Return the highest epoch and its holder, which is None if its file cannot be read; None if there is no epoch."""
    try:
        epochs = _epochs(folder)
    except FileNotFoundError:
        return None
    if not epochs:
        return None
    path = _path(folder, epochs[-1])
    try:
        holder = msgspec.json.decode(path.read_bytes(), type=Holder)
        if path.stat().st_mtime_ns == 0:
            holder = msgspec.structs.replace(holder, released=True)
        return epochs[-1], holder
    except (FileNotFoundError, msgspec.DecodeError):
        # Being written, where links are not supported; or damaged by the loss of a node: its time then decides.
        return epochs[-1], None


def _lives(folder: Path, epoch: int, holder: Holder | None, stale_s: float) -> bool:
    if holder is not None:
        if holder.released:
            return False
        if holder.boot == boot_id() and holder.pid_namespace == _pid_namespace():
            return is_alive(holder.pid, holder.started_ticks, holder.boot)
    return _heartbeat_age_s(folder, epoch) < stale_s


def _heartbeat_age_s(folder: Path, epoch: int) -> float:
    """Return the age of the last heartbeat by the clock of the file server."""
    probe = _temporary(folder)
    try:
        probe.touch(mode=0o600)
        probe.write_bytes(b"?")
        # Opening a file makes NFS ask the server for its times.
        with open(probe, "rb") as now, open(_path(folder, epoch), "rb") as then:
            return os.fstat(now.fileno()).st_mtime - os.fstat(then.fileno()).st_mtime
    except FileNotFoundError:
        # Removed by the winner of a later epoch, who lives.
        return 0.0
    finally:
        probe.unlink(missing_ok=True)


def _link(folder: Path, holder: Holder) -> bool:
    """Put the holder's file at its epoch if nobody has; tell whether this was done."""
    temporary = _temporary(folder)
    try:
        with open(temporary, "xb", opener=_private) as file:
            file.write(msgspec.json.encode(holder))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, _path(folder, holder.epoch))
        except FileExistsError:
            # NFS may repeat a request whose answer was lost, and then refuse what it has done.
            return os.stat(temporary).st_nlink == 2
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _create(folder, holder)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _create(folder: Path, holder: Holder) -> bool:
    """As ``_link``, on a file system without links: readers may see the file while it is still empty."""
    try:
        with open(_path(folder, holder.epoch), "xb", opener=_private) as file:
            file.write(msgspec.json.encode(holder))
    except FileExistsError:
        return False
    return True


def _private(path: str, flags: int) -> int:
    """Open a file that only its user may read or write, if it is new."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _remove_older(folder: Path, epoch: int) -> None:
    for older in _epochs(folder):
        if older < epoch - 1:
            _path(folder, older).unlink(missing_ok=True)


def _in_use(folder: Path, holder: Holder | None, stale_s: float) -> SessionInUse:
    if holder is None:
        return SessionInUse(f"{folder}: another process is opening this session; try again in {stale_s:g} s")
    since = datetime.fromtimestamp(holder.since, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return SessionInUse(
        f"{folder}: process {holder.pid} on {holder.host} has had this session open since {since}. "
        f"Close it there; if that process is gone, this works {stale_s:g} s after its last sign of life"
    )
