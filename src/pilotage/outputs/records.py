"""Records of an aggregate's index: one line of text for each attempt that printed something.

A line has these fields, with tabs between them::

    uid  attempt  place  stdout bytes  stderr bytes  stdout left out  stderr left out  checksum

*Place* is where stdout begins in the node's data file, with stderr right behind it; or the name of the pair of files that holds
them, ``<name>.out`` and ``<name>.err`` in the same folder. While a task still writes, its record has a name and no sizes. What
was left out of a stream is counted in bytes; the stream itself says so at that place.

Each line has an empty one before it. So a record that was cut short, by a full disk or the death of its writer, stays by itself
whoever appends next, and its checksum gives it away. A later record of a task takes the place of an earlier one.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple

from pilotage.model.ids import Attempt, TaskUid

DATA, INDEX = ".data", ".index"
"""How the names of a node's files end."""

STREAMS = (".out", ".err")
"""How the names of a pair of files end."""

_ENCODING = ("utf-8", "surrogateescape")


class Record(NamedTuple):
    """Where the output of one attempt is. ``sizes`` is None while the task still writes."""

    uid: TaskUid
    attempt: Attempt
    place: int | str
    sizes: tuple[int, int] | None = None
    left_out: tuple[int, int] = (0, 0)


def key_of(uid: str) -> bytes:
    """Return how the lines of a task begin, up to the first tab.

    >>> key_of("task.000001")
    b'task.000001'
    """
    return uid.encode(*_ENCODING)


def render(record: Record) -> bytes:
    """Return the lines that are appended for a record.

    >>> render(Record(TaskUid("task.000001"), Attempt(1), 4096, (11, 0)))
    b'\\ntask.000001\\t1\\t4096\\t11\\t0\\t0\\t0\\t93bc15e5\\n'
    """
    fields: list[object] = [record.uid, record.attempt, record.place]
    if record.sizes is not None:
        fields += (*record.sizes, *record.left_out)
    line = "\t".join(map(str, fields)).encode(*_ENCODING)
    return b"\n%s\t%08x\n" % (line, zlib.crc32(line))


def parse(line: bytes) -> Record | None:
    """Return the record in a line without its end; None if it is not whole."""
    text, _, checksum = line.rpartition(b"\t")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    uid, attempt, place, *numbers = text.decode(*_ENCODING).split("\t")
    name = TaskUid(uid), Attempt(int(attempt)), int(place) if place.isdigit() else place
    if not numbers:
        return Record(*name)
    stdout, stderr, stdout_left_out, stderr_left_out = map(int, numbers)
    return Record(*name, (stdout, stderr), (stdout_left_out, stderr_left_out))
