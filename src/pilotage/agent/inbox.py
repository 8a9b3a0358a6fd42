"""Messages of a client that does not stay: files in ``inbox/`` of the pilot's folder, which its agent takes in by itself.

A file is a numbered message as it would travel over the link: its checksum and its frame, under its number. What was handed
over is taken in order, and exactly as if it had come over the link; so a client that comes back learns from the agent's hello
which of its messages are there, and none is taken twice. The agent looks at its start, and now and then while no client is
connected: one that hands over when the agent is up already is heard, too.

A message is there as a whole or not at all. At one that is missing or broken the agent stops: those behind it may depend on
it. It says so, and goes on when a client comes, which sends it all that is not there.

A file is removed once what it says is in the agent's log and on disk, by whichever agent of the pilot sees that first: one that
dies before leaves it to the next, to which its number says that it has been taken. Files that have numbers already may come
again, of a client that was not told that they were taken; they are removed just so.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from pilotage.errors import BackendError, ProtocolError
from pilotage.log.files import make_folder, sync_folder, write_failed, write_parts
from pilotage.wire.codec import decode_from_client
from pilotage.wire.messages import AddPartition, Cancel, EndPilot, PrepareEnvironment, RetirePartition, Submit

INBOX_FOLDER = "inbox"
"""In the pilot's folder, mode 0700."""

LOOK_S = 10.0
"""How often an agent without a client looks whether one was there."""

Handed = Submit | Cancel | EndPilot | PrepareEnvironment | AddPartition | RetirePartition

_CHECKSUM_BYTES = 4


class BrokenInbox(BackendError):
    """A message that was handed over is missing or broken; what is behind it cannot be taken."""


def hand_over(pilot_folder: Path, messages: Iterable[tuple[int, bytes]]) -> None:
    """Write messages, ``(number, frame)``, for the agent to take: durably, and each as a whole or not at all.

    Those that are there already are left as they are: what has a number keeps it. Unfinished files of a client that died over
    them are removed; there is one client at a time.

    Raises:
        BackendError: they cannot be written; ``transient`` if there may be room later.
    """
    folder = pilot_folder / INBOX_FOLDER
    size = 0
    try:
        make_folder(folder)
        there = set(os.listdir(folder))
        for leftover in there:
            if leftover.startswith("."):
                os.unlink(folder / leftover)
        for number, frame in messages:
            if _name(number) not in there:
                size = len(frame)
                _write(folder, number, frame)
        sync_folder(folder)
    except OSError as error:
        raise write_failed(folder, size, error) from error


def _write(folder: Path, number: int, frame: bytes) -> None:
    path = folder / _name(number)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        write_parts(descriptor, [zlib.crc32(frame).to_bytes(_CHECKSUM_BYTES, "big"), frame])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)


def handed_over(pilot_folder: Path, received: int) -> Iterator[Handed]:
    """Return the messages behind ``received``, one after the other, each read when it is asked for.

    Raises:
        BrokenInbox: the next one is missing or broken; says what to do.
    """
    folder = pilot_folder / INBOX_FOLDER
    try:
        # A network file system is asked for what is new in a folder when it is listed.
        numbers = sorted(int(name) for name in os.listdir(folder) if name.isdigit())
    except FileNotFoundError:
        return
    for number in numbers:
        if number <= received:
            continue
        if number != received + 1:
            raise BrokenInbox(_stopped(folder, received + 1, f"is missing, and {number} is there"))
        yield _read(folder, number)
        received = number


def discard(pilot_folder: Path, durable: int) -> None:
    """Remove the messages up to ``durable``, which the agent has on disk elsewhere.

    One that cannot be removed stays, and is tried with those that are taken after it.
    """
    folder = pilot_folder / INBOX_FOLDER
    with suppress(OSError):
        for name in os.listdir(folder):
            if name.isdigit() and int(name) <= durable:
                os.unlink(folder / name)


def _read(folder: Path, number: int) -> Handed:
    try:
        content = (folder / _name(number)).read_bytes()
    except OSError as error:
        raise BrokenInbox(_stopped(folder, number, f"cannot be read: {error.strerror}")) from error
    checksum, frame = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
    if len(checksum) < _CHECKSUM_BYTES or zlib.crc32(frame) != int.from_bytes(checksum, "big"):
        raise BrokenInbox(_stopped(folder, number, f"is damaged: its {len(content)} bytes do not have their checksum"))
    try:
        message = decode_from_client(frame)
    except (ProtocolError, msgspec.DecodeError) as error:
        raise BrokenInbox(_stopped(folder, number, f"is not understood: {error}")) from error
    if not isinstance(message, Handed) or message.number != number:
        raise BrokenInbox(_stopped(folder, number, f"is a {type(message).__name__} that does not belong there"))
    return message


def _stopped(folder: Path, number: int, what: str) -> str:
    return (
        f"message {number} of those that were handed over in {folder} {what}; it and all behind it wait until the session is "
        "attached to again, with: pilotage attach"
    )


def _name(number: int) -> str:
    return f"{number:08d}"
