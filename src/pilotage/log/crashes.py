"""Counts starts that ended where they began, so that a record that kills its reader is noticed.

A start notes the last record of the log before it applies anything, and the first record that it writes itself, or a
clean close, is progress. Starts in a row that see the same last record were ended at that record: killed, which says nothing
of the record, or by an error of their own, which ``note_crash`` counts.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotage.log.files import make_folder, replace_file

_NAME = "starts.json"


class _Starts(msgspec.Struct):
    last_record: int
    count: int
    crashes: int = 0


def note_start(folder: Path, last_record: int) -> int:
    """Count this start, durably, and return how many starts in a row, this one included, saw ``last_record`` as the last.

    1 is a normal start; 3 means that two starts have died at this record.
    """
    path = folder / _NAME
    before = _read(path, last_record)
    make_folder(folder)
    replace_file(path, [msgspec.json.encode(_Starts(last_record, before.count + 1, before.crashes))])
    return before.count + 1


def note_crash(folder: Path, last_record: int) -> None:
    """Count, durably, that the process ends by an error of its own while ``last_record`` is the last."""
    path = folder / _NAME
    before = _read(path, last_record)
    replace_file(path, [msgspec.json.encode(_Starts(last_record, before.count, before.crashes + 1))])


def crashes_at(folder: Path, last_record: int) -> int:
    """Return how many processes in a row ended by an error of their own while ``last_record`` was the last."""
    return _read(folder / _NAME, last_record).crashes


def _read(path: Path, last_record: int) -> _Starts:
    try:
        before = msgspec.json.decode(path.read_bytes(), type=_Starts)
    except (FileNotFoundError, msgspec.DecodeError):
        return _Starts(last_record, 0)
    return before if before.last_record == last_record else _Starts(last_record, 0)


def note_progress(folder: Path) -> None:
    """Forget the starts counted so far: the log got past the record, or the process ends in good order."""
    (folder / _NAME).unlink(missing_ok=True)
