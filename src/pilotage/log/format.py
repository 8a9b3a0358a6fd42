"""The bytes of the log: segments of frames, and snapshots.

::

    segment-<first record>.log    header, then frames to the end of the file
        header   magic 8, format version u32, first record number u64, length of writer u16, writer, crc32 u32
        frame    length u32, crc32 u32, record number u64, payload
    snapshot-<last record>.bin    the state after this record
        header   magic 8, format version u32, last record number u64, length of the state u64, crc32 u32, then the state

All numbers are little-endian. The checksum of a frame covers record number and payload, the others all bytes before
them, that of a snapshot the state too. Record numbers start at 1 and go up by 1 over the life of the log. A segment ends
where the next one begins: what stands behind that in it was written by a writer that had lost the log, and is ignored.
"""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import msgspec

from pilotage.errors import LogCorrupted

FORMAT_VERSION = 1
SEGMENT_MAGIC = b"PILOTLOG"
SNAPSHOT_MAGIC = b"PILOTSNP"

FRAME_HEADER = struct.Struct("<IIQ")
RECORD_NUMBER = struct.Struct("<Q")
MAX_RECORD_BYTES = 1 << 30
HISTORY_FOLDER = "history"

_SEGMENT_HEADER = struct.Struct("<8sIQH")
_SNAPSHOT_HEADER = struct.Struct("<8sIQQ")
_CHECKSUM = struct.Struct("<I")


class Segment(msgspec.Struct, frozen=True, order=True):
    """A segment file, by the number of its first record."""

    first: int
    path: Path


def segment_name(first: int) -> str:
    return f"segment-{first:020d}.log"


def snapshot_name(last: int) -> str:
    return f"snapshot-{last:020d}.bin"


def list_segments(folder: Path) -> list[Segment]:
    """Return the segments directly in ``folder``, oldest first; none when it does not exist."""
    return sorted(Segment(number, path) for number, path in _numbered(folder, "segment-", ".log"))


def list_snapshots(folder: Path) -> list[tuple[int, Path]]:
    """Return (last record, path) of the snapshots in ``folder``, oldest first."""
    return sorted(_numbered(folder, "snapshot-", ".bin"))


def _numbered(folder: Path, prefix: str, suffix: str) -> list[tuple[int, Path]]:
    try:
        paths = list(folder.iterdir())
    except FileNotFoundError:
        return []
    return [
        (int(path.name[len(prefix) : -len(suffix)]), path)
        for path in paths
        if path.name.startswith(prefix) and path.name.endswith(suffix)
    ]


def encode_segment_header(first: int, writer: str) -> bytes:
    name = writer.encode()
    header = _SEGMENT_HEADER.pack(SEGMENT_MAGIC, FORMAT_VERSION, first, len(name)) + name
    return header + _CHECKSUM.pack(zlib.crc32(header))


def segment_header_bytes(content: bytes | memoryview, segment: Segment) -> int:
    """Return the length of the header that ``content`` starts with; 0 if there is no valid one.

    Raises ``LogCorrupted`` for a valid header of a format that this version does not read.
    """
    if len(content) < _SEGMENT_HEADER.size + _CHECKSUM.size:
        return 0
    magic, version, first, writer_bytes = _SEGMENT_HEADER.unpack_from(content)
    end: int = _SEGMENT_HEADER.size + writer_bytes
    if magic != SEGMENT_MAGIC or first != segment.first or len(content) < end + _CHECKSUM.size:
        return 0
    if _CHECKSUM.unpack_from(content, end)[0] != zlib.crc32(content[:end]):
        return 0
    _check_version(version, segment.path)
    return end + _CHECKSUM.size


def frame_end(content: bytes | memoryview, offset: int, number: int) -> int:
    """Return where the frame of record ``number`` at ``offset`` ends; 0 if no valid frame of this number is there."""
    payload = offset + FRAME_HEADER.size
    if payload > len(content):
        return 0
    length, checksum, found = FRAME_HEADER.unpack_from(content, offset)
    end: int = payload + length
    if found != number or end > len(content):
        return 0
    return end if zlib.crc32(memoryview(content)[offset + 8 : end]) == checksum else 0


def has_frame_after(content: bytes, offset: int, number: int) -> bool:
    """Tell whether any valid frame with a number above ``number`` starts behind ``offset``.

    Where a frame does not check its length cannot be trusted, so every byte may start the next one.
    """
    highest = number + (len(content) - offset) // FRAME_HEADER.size
    # All possible numbers share their upper bytes, and no payload is empty: the pattern leaves few places to look at.
    shared = next(n for n in range(8, -1, -1) if number >> 8 * (8 - n) == highest >> 8 * (8 - n))
    upper = RECORD_NUMBER.pack(highest)[8 - shared :]
    candidate = re.compile(rb"(?s)(?=(?!\0{4}).{%d}%b)" % (16 - shared, re.escape(upper)))
    for match in candidate.finditer(content, offset + 1):
        length, _, found = FRAME_HEADER.unpack_from(content, match.start())
        fits = length <= len(content) - match.start() - FRAME_HEADER.size
        if number < found <= highest and fits and frame_end(content, match.start(), found):
            return True
    return False


def encode_snapshot_header(last: int, state: bytes) -> bytes:
    header = _SNAPSHOT_HEADER.pack(SNAPSHOT_MAGIC, FORMAT_VERSION, last, len(state))
    return header + _CHECKSUM.pack(zlib.crc32(state, zlib.crc32(header)))


def decode_snapshot(content: bytes, last: int, path: Path) -> bytes:
    """Return the state that a snapshot file holds. Raises ``LogCorrupted`` when it does not check."""
    start = _SNAPSHOT_HEADER.size + _CHECKSUM.size
    if len(content) >= start:
        magic, version, found, length = _SNAPSHOT_HEADER.unpack_from(content)
        (checksum,) = _CHECKSUM.unpack_from(content, _SNAPSHOT_HEADER.size)
        header_checksum = zlib.crc32(content[: _SNAPSHOT_HEADER.size])
        intact = magic == SNAPSHOT_MAGIC and found == last and length == len(content) - start
        if intact and zlib.crc32(memoryview(content)[start:], header_checksum) == checksum:
            _check_version(version, path)
            return content[start:]
    raise LogCorrupted(f"{path}: this snapshot does not check")


def _check_version(version: int, path: Path) -> None:
    if version != FORMAT_VERSION:
        raise LogCorrupted(
            f"{path}: has log format {version}, this version of Pilotage reads format {FORMAT_VERSION}; "
            "open the session with the version that wrote it"
        )
