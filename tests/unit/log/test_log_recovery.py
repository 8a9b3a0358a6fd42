"""What is recovered is what was appended, a prefix of it, or an error: never anything else."""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_support import NEVER_S, MemoryFolders, record, recovered_numbers, write_log

from pilotage.errors import LogCorrupted
from pilotage.log.format import list_segments
from pilotage.log.reader import read_history, recover
from pilotage.log.writer import LogWriter


def only_segment(folder: Path) -> Path:
    (segment,) = list_segments(folder)
    return segment.path


def frame_ends(folder: Path, last: int) -> list[int]:
    """Return where each of the frames 1 to ``last`` of a log with one segment ends, and before them the header."""
    sizes = [16 + len(record(number)) for number in range(1, last + 1)]
    ends = [only_segment(folder).stat().st_size - sum(sizes)]
    for size in sizes:
        ends.append(ends[-1] + size)
    return ends


def test_an_absent_folder_is_an_empty_log(tmp_path: Path) -> None:
    recovered = recover(tmp_path / "absent")
    assert (recovered.snapshot, list(recovered.records), recovered.last, recovered.cut_bytes) == (None, [], 0, 0)


def test_numbers_go_on_over_writers(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    write_log(tmp_path, 3, first=4)
    write_log(tmp_path, 5, first=4)
    assert recovered_numbers(tmp_path) == [1, 2, 3, 4, 5]
    assert recover(tmp_path).last == 5


def test_a_record_in_parts_is_the_record_of_their_concatenation(tmp_path: Path) -> None:
    many = [b"%d," % index for index in range(3000)]
    with LogWriter.open(tmp_path, writer="test") as log:
        log.append([b"one ", memoryview(b"two "), bytearray(b"three")])
        log.append(many)
    assert list(recover(tmp_path).records) == [(1, b"one two three"), (2, b"".join(many))]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    records=st.lists(st.lists(st.binary(max_size=9000), min_size=1, max_size=4).filter(any), max_size=12),
    segment_bytes=st.integers(1, 20_000),
    sessions=st.lists(st.integers(0, 11), max_size=3),
)
def test_whatever_is_appended_is_recovered(
    folders: MemoryFolders, records: list[list[bytes]], segment_bytes: int, sessions: list[int]
) -> None:
    folder = folders.make()
    log = LogWriter.open(folder, writer="test", segment_bytes=segment_bytes, sync_interval_s=NEVER_S)
    for index, parts in enumerate(records):
        if index in sessions:
            log.close()
            log = LogWriter.open(folder, writer="test", segment_bytes=segment_bytes, sync_interval_s=NEVER_S)
        log.append(parts)
    log.close()
    expected = [(number, b"".join(parts)) for number, parts in enumerate(records, start=1)]
    assert list(recover(folder).records) == expected
    assert list(read_history(folder)) == expected


def test_a_log_cut_at_any_byte_holds_the_records_before_the_cut_and_goes_on(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    write_log(whole, 6)
    ends = frame_ends(whole, 6)
    content = only_segment(whole).read_bytes()
    for size in range(len(content) + 1):
        folder = tmp_path / str(size)
        folder.mkdir()
        (folder / only_segment(whole).name).write_bytes(content[:size])
        complete = sum(end <= size for end in ends[1:])
        recovered = recover(folder)
        assert recovered.last == complete
        assert recovered.cut_bytes == size - max((end for end in ends if end <= size), default=0)
        write_log(folder, complete + 2, first=complete + 1)
        assert recovered_numbers(folder) == list(range(1, complete + 3))
        assert recover(folder).cut_bytes == 0


def test_a_flipped_byte_is_reported_or_cuts_the_last_record(tmp_path: Path) -> None:
    write_log(tmp_path, 6)
    segment = only_segment(tmp_path)
    content = segment.read_bytes()
    last_frame = frame_ends(tmp_path, 6)[5]
    for offset in range(len(content)):
        for mask in (0x01, 0x80, 0xFF):
            flipped = bytearray(content)
            flipped[offset] ^= mask
            segment.write_bytes(flipped)
            if offset >= last_frame:
                assert recovered_numbers(tmp_path) == [1, 2, 3, 4, 5]
                assert recover(tmp_path).cut_bytes == len(content) - last_frame
            else:
                with pytest.raises(LogCorrupted):
                    recover(tmp_path)


def test_a_flipped_byte_in_an_earlier_segment_is_always_reported(tmp_path: Path) -> None:
    write_log(tmp_path, 3)
    write_log(tmp_path, 4, first=4)
    segment = list_segments(tmp_path)[0].path
    content = segment.read_bytes()
    for offset in range(len(content)):
        flipped = bytearray(content)
        flipped[offset] ^= 0x10
        segment.write_bytes(flipped)
        with pytest.raises(LogCorrupted):
            list(recover(tmp_path).records)


def test_the_error_names_file_offset_record_and_remedy_and_the_remedy_works(tmp_path: Path) -> None:
    write_log(tmp_path, 6)
    segment = only_segment(tmp_path)
    offset = frame_ends(tmp_path, 6)[3]
    content = bytearray(segment.read_bytes())
    content[offset + 20] ^= 1
    segment.write_bytes(content)
    with pytest.raises(LogCorrupted) as caught:
        recover(tmp_path)
    for part in (str(segment), f"offset {offset}", "record 4", f"truncate -s {offset}"):
        assert part in str(caught.value)
    with pytest.raises(LogCorrupted):
        LogWriter.open(tmp_path, writer="test")
    os.truncate(segment, offset)
    assert recovered_numbers(tmp_path) == [1, 2, 3]


def test_several_bad_records_before_a_valid_one_are_reported(tmp_path: Path) -> None:
    write_log(tmp_path, 40)
    ends = frame_ends(tmp_path, 40)
    content = bytearray(only_segment(tmp_path).read_bytes())
    content[ends[10] : ends[38]] = bytes(ends[38] - ends[10])
    only_segment(tmp_path).write_bytes(content)
    with pytest.raises(LogCorrupted, match="record 11 "):
        recover(tmp_path)


def test_what_was_synced_survives_any_loss_behind_it(tmp_path: Path) -> None:
    """Node loss may leave the unsynced tail short, or as zeros, or as anything else."""
    folder = tmp_path / "log"
    log = LogWriter.open(folder, writer="test", sync_interval_s=NEVER_S)
    for number in range(1, 5):
        log.append(record(number))
    log.sync()
    durable = only_segment(folder).stat().st_size
    for number in range(5, 9):
        log.append(record(number))
    log.close()
    content = only_segment(folder).read_bytes()
    copy = tmp_path / "copy"
    for size in range(durable, len(content)):
        for tail in (b"", bytes(len(content) - size), b"\xff" * (len(content) - size)):
            shutil.rmtree(copy, ignore_errors=True)
            copy.mkdir()
            (copy / only_segment(folder).name).write_bytes(content[:size] + tail)
            numbers = recovered_numbers(copy)
            assert numbers[:4] == [1, 2, 3, 4]
            assert numbers == list(range(1, len(numbers) + 1))


def test_a_missing_segment_is_reported(tmp_path: Path) -> None:
    write_log(tmp_path, 9, segment_bytes=60)
    segments = list_segments(tmp_path)
    assert len(segments) > 3
    kept = segments[1].path.read_bytes()
    segments[1].path.unlink()
    with pytest.raises(LogCorrupted):
        list(recover(tmp_path).records)
    segments[1].path.write_bytes(kept)
    segments[0].path.unlink()
    with pytest.raises(LogCorrupted, match="records 1 to"):
        recover(tmp_path)


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    write_log(tmp_path, 1)
    segment = only_segment(tmp_path)
    content = bytearray(segment.read_bytes())
    header_end = frame_ends(tmp_path, 1)[0]
    content[8] = 2
    content[header_end - 4 : header_end] = zlib.crc32(content[: header_end - 4]).to_bytes(4, "little")
    segment.write_bytes(content)
    with pytest.raises(LogCorrupted, match="format 2"):
        recover(tmp_path)


def test_a_writer_that_lost_the_log_cannot_change_it(tmp_path: Path) -> None:
    lost = LogWriter.open(tmp_path, writer="lost", sync_interval_s=NEVER_S)
    lost.append(record(1))
    write_log(tmp_path, 3, first=2)
    lost.append(b"written by one who should not")
    lost.close()
    assert recovered_numbers(tmp_path) == [1, 2, 3]
    assert [number for number, _ in read_history(tmp_path)] == [1, 2, 3]
    write_log(tmp_path, 4, first=4)
    assert recovered_numbers(tmp_path) == [1, 2, 3, 4]
