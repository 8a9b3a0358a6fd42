"""Keys and addresses, in files that their owner alone can read.

A key pair is CURVE's, in its printable form (Z85, 40 characters). The agent writes ``Connection``: where it listens, its
public key, and who it is. The client writes the allow-list: the public keys that may talk to the agent, and in which role.
For the hosts of a pilot's nodes the agent writes ``HostAccess``, which holds their key pair, too.
Secrets are handed over in such files only, never in arguments, environments or batch scripts.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from pilotage.errors import InvalidRequest, ProtocolError
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.wire.channel import Role

_Document = TypeVar("_Document")


class KeyPair(msgspec.Struct, frozen=True):
    """A CURVE key pair; ``public`` and ``secret`` in Z85."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public!r}, secret=...)"


class Connection(msgspec.Struct, frozen=True):
    """How to reach an agent, and which one it is.

    ``socket``: path of its Unix socket, empty if there is none. ``tcp``: endpoints as ``tcp://host:port``, to be tried in
    this order. ``pid`` and ``started_ticks`` name its process on ``host``, booted as ``boot_id``.
    """

    pilot: PilotUid
    incarnation: int
    host: str
    boot_id: str
    pid: int
    started_ticks: int
    socket: str = ""
    tcp: tuple[str, ...] = ()
    server_key: str = ""
    """Public key of the agent, for ``tcp``."""


class AllowList(msgspec.Struct, frozen=True):
    """The public keys (Z85) that may talk to an agent, with their roles."""

    keys: dict[str, Role]


class HostAccess(msgspec.Struct, frozen=True):
    """How the hosts of a pilot's nodes reach its agent.

    ``tcp``: endpoints as ``tcp://host:port``, to be tried in this order. ``server_key``: the agent's public key. ``keys``: the
    key pair of all hosts. ``names``: those of the nodes that have hosts.
    """

    session: SessionUid
    pilot: PilotUid
    tcp: tuple[str, ...]
    server_key: str
    keys: KeyPair
    names: tuple[str, ...]
    orphan_timeout_s: float = 60.0
    """A host without its agent for so long ends its tasks and itself."""
    partition: str = ""
    """Whose tasks are this host's to end: those of this partition; empty: the pilot has none."""


def generate_key_pair() -> KeyPair:
    """Return a new key pair."""
    import zmq

    public, secret = zmq.curve_keypair()
    return KeyPair(public.decode("ascii"), secret.decode("ascii"))


def require_private_folder(folder: Path) -> None:
    """Check that a folder is ours and closed to others.

    Raises:
        InvalidRequest: it is not a folder of mode 0700 that belongs to the current user.
    """
    try:
        status = folder.lstat()
    except FileNotFoundError as error:
        raise InvalidRequest(f"there is no folder {folder}; make it with mode 0700") from error
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidRequest(f"{folder} is not a folder; use one of mode 0700")
    _require_owner(folder, status)
    # Only the permissions: project folders on clusters commonly hand their setgid bit down.
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if mode != 0o700:
        raise InvalidRequest(f"folder {folder} has mode {mode:04o} where 0700 is required; run: chmod 700 {folder}")


def write_key_pair(path: Path, pair: KeyPair) -> None:
    """Write a key pair to a file of mode 0600 in a folder of mode 0700, at once or not at all."""
    _write(path, pair)


def read_key_pair(path: Path) -> KeyPair:
    """Read a key pair. Raises as ``read_connection`` does."""
    return _read(path, KeyPair)


def own_key_pair(path: Path) -> KeyPair:
    """Return the key pair in ``path``; if there is none, make one. Raises as ``read_connection`` does."""
    try:
        return read_key_pair(path)
    except FileNotFoundError:
        write_key_pair(path, generate_key_pair())
    # If another process made one at the same time, the last counts for both.
    return read_key_pair(path)


def write_allow_list(path: Path, allowed: AllowList) -> None:
    """Write an allow-list to a file of mode 0600 in a folder of mode 0700, at once or not at all."""
    _write(path, allowed)


def read_allow_list(path: Path) -> AllowList:
    """Read an allow-list. Raises as ``read_connection`` does."""
    return _read(path, AllowList)


def write_connection(path: Path, connection: Connection) -> None:
    """Write an agent's address to a file of mode 0600 in a folder of mode 0700, at once or not at all."""
    _write(path, connection)


def read_connection(path: Path) -> Connection:
    """Read an agent's address.

    Raises:
        FileNotFoundError: the agent has not written it yet.
        InvalidRequest: the file belongs to another user, or others can read or write it.
        ProtocolError: it does not hold what it should.
    """
    return _read(path, Connection)


def write_host_access(path: Path, access: HostAccess) -> None:
    """Write how hosts reach their agent to a file of mode 0600 in a folder of mode 0700, at once or not at all."""
    _write(path, access)


def read_host_access(path: Path) -> HostAccess:
    """Read how hosts reach their agent. Raises as ``read_connection`` does."""
    return _read(path, HostAccess)


def _write(path: Path, document: KeyPair | AllowList | Connection | HostAccess) -> None:
    require_private_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(msgspec.json.encode(document))
            file.flush()
            os.fsync(descriptor)
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read(path: Path, kind: type[_Document]) -> _Document:
    # The check is made on the open file, so that what was checked is what is read.
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        _require_owner(path, status)
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise InvalidRequest(f"{path} has mode {mode:04o}, open to other users; its keys may be known, so write it anew")
        content = file.read()
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"{path} does not hold a {kind.__name__}: {error}; remove it and let it be written anew") from error


def _require_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid != os.geteuid():
        raise InvalidRequest(f"{path} belongs to user {status.st_uid}, not to {os.geteuid()}; use one of your own")
