"""Counts starts that ended where they began, so that a record that kills its reader is noticed.

A start notes the last record of the log before it applies anything, and the first record that it writes itself, or a
clean close, is progress. Starts in a row that see the same last record are crashes at that record.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotage.log.files import make_folder, replace_file

_NAME = "starts.json"


class _Starts(msgspec.Struct):
    last_record: int
    count: int


def note_start(folder: Path, last_record: int) -> int:
    """Count this start, durably, and return how many starts in a row, this one included, saw ``last_record`` as the last.

    1 is a normal start; 3 means that two starts have died at this record.
    """
    path = folder / _NAME
    count = 1
    try:
        before = msgspec.json.decode(path.read_bytes(), type=_Starts)
    except (FileNotFoundError, msgspec.DecodeError):
        pass
    else:
        if before.last_record == last_record:
            count = before.count + 1
    make_folder(folder)
    replace_file(path, [msgspec.json.encode(_Starts(last_record, count))])
    return count


def note_progress(folder: Path) -> None:
    """Forget the starts counted so far: the log got past the record, or the process ends in good order."""
    (folder / _NAME).unlink(missing_ok=True)
