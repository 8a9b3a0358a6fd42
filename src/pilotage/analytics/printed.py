"""What agents, spawners and workers printed, line by line, to be held against the trace.

They print little: a traceback, a warning of a library, the complaint of a launcher. A line that begins with a time has it; one
that does not has that of the line before it; a file without any time has that of its last write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl

from pilotage.trace.reader import agent_folders
from pilotage.trace.records import PARTITIONS_FOLDER, partition_folders

TAIL_BYTES = 4 << 20
"""What is read of each file, from its end."""

_DATE = re.compile(r"\W{0,2}(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)")
_SECONDS = re.compile(r"\W{0,2}(\d{10}\.\d+)\b")
_COLUMNS = {
    "pilot": pl.String,
    "process": pl.String,
    "stream": pl.String,
    "line": pl.Int64,
    "time": pl.Float64,
    "text": pl.String,
}


def printed_lines(session_folder: Path) -> pl.DataFrame:
    """Return all lines that the processes of a session's pilots printed: ``pilot``, ``process``, ``stream``, ``line`` (its
    number in what is read of the file), ``time`` and ``text``."""
    rows = [row for folder in agent_folders(session_folder) for path in _printed_files(folder) for row in _lines(folder, path)]
    return pl.DataFrame(rows, schema=_COLUMNS, orient="row")


def _printed_files(folder: Path) -> list[Path]:
    return sorted(
        path for place in (folder, *partition_folders(folder)) for kind in ("*.err", "*.out") for path in place.glob(kind)
    )


def _lines(folder: Path, path: Path) -> Iterator[tuple[str, str, str, int, float, str]]:
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        written = path.stat().st_mtime
    except OSError:
        return  # gone meanwhile, or not ours to read
    process, _, stream = path.relative_to(folder).as_posix().removeprefix(f"{PARTITIONS_FOLDER}/").rpartition(".")
    time = next((found for line in lines if (found := time_of(line)) is not None), written)
    for number, line in enumerate(lines, start=1):
        time = time_of(line) or time
        if line.strip():
            yield folder.name, process, stream, number, time, line


def time_of(line: str) -> float | None:
    """Return the time with which a line begins, in seconds since the epoch; one without a zone is of this machine's zone.

    >>> time_of("1700000000.25 INFO hello"), time_of("[2023-11-14T22:13:20Z] hello"), time_of("hello")
    (1700000000.25, 1700000000.0, None)
    """
    if found := _SECONDS.match(line):
        return float(found[1])
    if found := _DATE.match(line):
        text = found[1].replace(",", ".").replace("Z", "+00:00")
        head, dot, rest = text.partition(".")
        digits = re.match(r"\d*", rest)
        # Before Python 3.11 a fraction has three or six digits.
        fraction = (digits[0] if digits else "").ljust(6, "0")[:6]
        zone = rest[digits.end() :] if digits else rest
        try:
            return datetime.fromisoformat(f"{head}.{fraction}{zone}" if dot else text).timestamp()
        except ValueError:
            return None
    return None
