"""The reading sides of the log: recovery by the owner, and followers in other processes, without locks.

Nothing here writes. What ends a log is judged in one place, ``end_of_records``: bytes behind the last valid frame are
the torn tail of a crash unless a valid frame follows them, and then history is damaged and reading stops with the place
and the remedy. Only the last segment can have a torn tail; the writer syncs a segment before it begins another one.

Segments may move to the history folder, or be removed after a snapshot, while somebody reads: a file is always looked up
by the number of its first record, and an open one stays readable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from pilotage.errors import BackendError, LogCorrupted
from pilotage.log.format import (
    FRAME_HEADER,
    HISTORY_FOLDER,
    Segment,
    decode_snapshot,
    frame_end,
    has_frame_after,
    list_segments,
    list_snapshots,
    segment_header_bytes,
)

READ_BYTES = 1 << 20
_HEADER_READ_BYTES = 1 << 17
"""Larger than any segment header, whose writer is at most 64 KiB."""

_LOOKUPS = 5
"""How often a file that moved between look-up and opening is looked up again."""


class EndOfRecords(msgspec.Struct, frozen=True, gc=False):
    """Where the records of a segment end. ``cut_bytes``: what follows ``offset``, the torn tail of a crash."""

    last: int
    offset: int
    cut_bytes: int


class Recovered:
    """What a log holds: ``snapshot`` covers the records up to ``snapshot_number``, ``records`` those after it.

    ``last`` is the number of the last record of all, ``cut_bytes`` the length of the incomplete record cut behind it.
    """

    def __init__(
        self, folder: Path, snapshot: bytes | None, snapshot_number: int, segments: list[Segment], end: EndOfRecords
    ) -> None:
        self.snapshot = snapshot
        self.snapshot_number = snapshot_number
        self.last = max(end.last, snapshot_number)
        self.cut_bytes = end.cut_bytes
        self._folder = folder
        self._segments = segments
        # A segment ends where the next one begins.
        self._limits = [*[segment.first for segment in segments], end.last + 1][1:]

    @property
    def records(self) -> Iterator[tuple[int, bytes]]:
        """Return a new iterator over (number, record) after the snapshot; it reads one segment at a time.

        Raises ``LogCorrupted`` at a record that does not check, ``BackendError`` when the owner has meanwhile replaced
        the segments with a snapshot.
        """
        for segment, limit in zip(self._segments, self._limits, strict=True):
            content = _read_segment(self._folder, segment)
            number = segment.first
            offset = segment_header_bytes(content, segment) if number < limit else 0
            while number < limit:
                end = frame_end(content, offset, number) if offset else 0
                if not end:
                    raise _corrupted(segment, offset, number)
                if number > self.snapshot_number:
                    yield number, content[offset + FRAME_HEADER.size : end]
                offset = end
                number += 1


def recover(folder: Path) -> Recovered:
    """Read the newest valid snapshot in ``folder`` and find the records after it; an absent folder is an empty log.

    Raises ``LogCorrupted``, here or while ``records`` is read, when a record or snapshot that is needed does not check.
    """
    for _ in range(_LOOKUPS):
        snapshots = list_snapshots(folder)
        try:
            return _recover(folder, snapshots)
        except FileNotFoundError:
            # The owner replaced segments between our listing them and opening them.
            continue
        except LogCorrupted:
            # What seems to be missing may be in a snapshot that was not there yet when we looked.
            if list_snapshots(folder) == snapshots:
                raise
    raise BackendError(f"{folder}: the log changes faster than it can be read; try again", transient=True)


def _recover(folder: Path, snapshots: list[tuple[int, Path]]) -> Recovered:
    snapshot, number, broken = None, 0, None
    for last, path in reversed(snapshots):
        try:
            snapshot, number = decode_snapshot(path.read_bytes(), last, path), last
            break
        except LogCorrupted as error:
            broken = broken or error
    segments = _all_segments(folder)
    while len(segments) > 1 and segments[1].first <= number + 1:
        del segments[0]
    if segments and segments[0].first > number + 1:
        cause = f"{broken}, and " if broken else ""
        missing = f"the records {number + 1} to {segments[0].first - 1} are missing"
        raise LogCorrupted(f"{cause}{folder}: {missing}. Restore the files from a copy") from broken
    end = end_of_records(segments[-1]) if segments else EndOfRecords(0, 0, 0)
    if broken and max(end.last, number) < snapshots[-1][0]:
        raise LogCorrupted(
            f"{broken}, and the records end at {max(end.last, number)}. Restore it from a copy, or delete it to give up "
            f"the records up to {snapshots[-1][0]}"
        ) from broken
    return Recovered(folder, snapshot, number, segments, end)


def end_of_records(segment: Segment) -> EndOfRecords:
    """Find the last valid record of the last segment. Raises ``LogCorrupted`` if valid records follow an invalid one."""
    content = segment.path.read_bytes()
    offset = segment_header_bytes(content, segment)
    number = segment.first
    while offset and (end := frame_end(content, offset, number)):
        offset = end
        number += 1
    if offset < len(content) and has_frame_after(content, offset, number - (offset == 0)):
        raise _corrupted(segment, offset, number)
    return EndOfRecords(number - 1, offset, len(content) - offset)


def read_history(folder: Path) -> Iterator[tuple[int, bytes]]:
    """Iterate over all records ever kept, in order, as far as they are complete; a writer may be appending.

    Where history was not kept, the records that a snapshot replaced are left out.
    """
    cursor = Cursor(folder, skip_removed=True)
    try:
        while batch := cursor.read():
            yield from batch
    finally:
        cursor.close()


class Cursor:
    """Follows a live log from a record on, across segments, without locks, from any process and node.

    ``number`` is the last record that was read. ``skip_removed``: go on after records that are no longer kept.
    """

    def __init__(self, folder: Path, after: int = 0, *, skip_removed: bool = False) -> None:
        self.number = after
        self._folder = folder
        self._skip_removed = skip_removed
        self._segment: Segment | None = None
        self._fd = -1
        self._offset = 0
        self._at = 0

    def read(self, max_bytes: int = 16 << 20) -> list[tuple[int, bytes]]:
        """Return the (number, record) pairs that follow, about ``max_bytes`` of them; none when there is nothing new.

        Raises ``BackendError`` if the next record was replaced by a snapshot: start again with ``recover``.
        Raises ``LogCorrupted`` if a record of a finished segment does not check.
        """
        found: list[tuple[int, bytes]] = []
        while not found:
            segments = _all_segments(self._folder)
            reopened = self._segment is None
            if reopened and not self._open_segment(segments):
                break
            current = self._segment.first if self._segment else 0
            limit = min((each.first for each in segments if each.first > current), default=None)
            self._read_frames(limit, max_bytes, found)
            if limit is not None and self._at >= limit:
                self.close()
            elif not found:
                segment, offset, at = self._segment, self._offset, self._at
                if at == (segment.first if segment else at):
                    # An empty segment is replaced when a new owner opens the log: look it up again the next time.
                    self.close()
                if limit is None:
                    break
                # A finished segment must hold all its records, but a network file system may show an old state of it.
                self.close()
                if reopened and segment is not None:
                    raise _corrupted(segment, offset, at)
        return found

    def close(self) -> None:
        """Release the file; reading opens it again."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1
        self._segment = None

    def _open_segment(self, segments: list[Segment]) -> bool:
        if not segments:
            return False
        wanted = self.number + 1
        if segments[0].first > wanted:
            if not self._skip_removed:
                raise BackendError(
                    f"{self._folder}: the records {wanted} to {segments[0].first - 1} were replaced by a snapshot; "
                    "read the log again from the snapshot",
                    transient=True,
                )
            self.number = segments[0].first - 1
        segment = [each for each in segments if each.first <= self.number + 1][-1]
        self._fd = _open(self._folder, segment)
        header = os.pread(self._fd, _HEADER_READ_BYTES, 0)
        self._segment, self._at, self._offset = segment, segment.first, segment_header_bytes(header, segment)
        return True

    def _read_frames(self, limit: int | None, max_bytes: int, found: list[tuple[int, bytes]]) -> None:
        taken = 0
        wanted_bytes = READ_BYTES
        while self._offset and taken < max_bytes and (limit is None or self._at < limit):
            content = os.pread(self._fd, wanted_bytes, self._offset)
            position = 0
            while (limit is None or self._at < limit) and (end := frame_end(content, position, self._at)):
                if self._at > self.number:
                    found.append((self._at, content[position + FRAME_HEADER.size : end]))
                    self.number = self._at
                    taken += end - position
                position = end
                self._at += 1
            self._offset += position
            if not position:
                if len(content) < wanted_bytes:
                    return
                # The next frame may be longer than what was read; beyond its length there is no use in reading on.
                wanted_bytes = FRAME_HEADER.size + FRAME_HEADER.unpack_from(content)[0]
                if wanted_bytes <= len(content):
                    return


def _all_segments(folder: Path) -> list[Segment]:
    # First the live ones: one that moves meanwhile is then seen twice rather than not at all.
    live = {segment.first: segment for segment in list_segments(folder)}
    kept = {segment.first: segment for segment in list_segments(folder / HISTORY_FOLDER)}
    return sorted({**kept, **live}.values())


def _open(folder: Path, segment: Segment) -> int:
    for path in (segment.path, folder / HISTORY_FOLDER / segment.path.name):
        try:
            return os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
    raise BackendError(
        f"{segment.path}: this segment was replaced by a snapshot while it was read; read the log again", transient=True
    )


def _read_segment(folder: Path, segment: Segment) -> bytes:
    with open(_open(folder, segment), "rb") as file:
        return file.read()


def _corrupted(segment: Segment, offset: int, number: int) -> LogCorrupted:
    return LogCorrupted(
        f"{segment.path}: record {number} at offset {offset} does not check, but later records follow it. Recovery "
        f"stops here, for the outcomes of tasks may be wrong without it. Restore the file from a copy; or, to give up "
        f"record {number} and all after it, cut the file with `truncate -s {offset}` and remove later segments"
    )
