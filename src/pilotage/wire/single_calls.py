"""The files by which a spawner and a function's own process speak: the call, and how it ended.

Plain values, written by ``marshal``: it needs no import, all versions of Python read it, and nothing runs when it is opened.
Of the standard library alone, as the process may run under a Python of the user's.
"""

from __future__ import annotations

import marshal
import os
from typing import NamedTuple, TypedDict, cast

FORMAT = 4
"""The version of marshal's format that all supported versions of Python read and write."""


class Stored(NamedTuple):
    """Where a value lies that is too large for a message: ``size`` bytes of a file, from ``offset`` on.

    ``digest``: the hexadecimal SHA-256 of its bytes, or ``crc32:`` and their CRC-32.
    """

    path: str
    offset: int
    size: int
    digest: str


class Call(TypedDict):
    """What is to be called, and where. A value above 4 KiB is a ``Stored``, as a plain tuple."""

    task: str
    function: bytes | tuple[str, int, int, str]
    payload: bytes | tuple[str, int, int, str] | None
    folder: str
    """Where the call is made: the folder of the user's program, as in workers."""
    ranks: int
    mpi: bool
    packs: str
    """Folder for a result above ``inline_bytes``."""
    inline_bytes: int
    path: list[str] | None
    """All of ``sys.path``; None under a Python that is not ours, where ``user_path`` and ``package_path`` are added."""
    user_path: list[str]
    package_path: list[str]
    version: str


class End(TypedDict, total=False):
    """What a rank tells: its ``result``, pickled, or where that is ``stored``, or one of the others."""

    ended: float
    result: bytes
    stored: tuple[str, int, int, str]
    """Its path is the name of its pack."""
    raised: tuple[bytes | None, str, str]
    """The pickled exception, one line, and the traceback."""
    refused: str
    """Why the function could not be called at all."""
    alone: tuple[int, str]
    """How many ranks this one sees, and the MPI library that it has loaded."""


def write_call(path: str, call: Call) -> None:
    """Write a call, readable by its owner alone."""
    _write(path, dict(call))


def write_end(path: str, rank: int, end: End) -> None:
    """Write, whole or not at all, how the call of this file ended in a rank."""
    _write(f"{path}.{rank}.new", dict(end))
    os.rename(f"{path}.{rank}.new", f"{path}.{rank}")


def read_end(path: str, rank: int) -> End | None:
    """Return what this rank told; None if it told nothing."""
    try:
        with open(f"{path}.{rank}", "rb") as file:
            return cast(End, marshal.load(file))
    except FileNotFoundError:
        return None


def remove_call(path: str, ranks: int) -> None:
    """Remove the files of a call."""
    for name in (path, *(f"{path}.{rank}{ending}" for rank in range(ranks) for ending in ("", ".new"))):
        try:
            os.unlink(name)
        except FileNotFoundError:
            continue


def _write(path: str, content: dict[str, object]) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        marshal.dump(content, file, FORMAT)
