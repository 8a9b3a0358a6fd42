"""How much of a stream is kept: its two ends, and a line that says what is missing; and that a disk does not fill meanwhile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pilotage.model.workload import Template
from pilotage.outputs.limits import (
    TAIL_BYTES,
    Limit,
    give_back,
    kept_of,
    kept_of_file,
    left_out_of,
    limit_of,
    marker,
    parse_marker,
    shorten,
)

LIMIT = Limit(1000, 500)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "output"


def numbers(size: int) -> bytes:
    """Content in which each place can be told from the others."""
    return b"".join(b"%08x" % place for place in range(0, size, 8))[:size]


def test_what_is_kept_is_what_the_template_says() -> None:
    assert limit_of(Template()) is None
    assert limit_of(Template(output="aggregate")) is None
    assert limit_of(Template(output_limit_bytes=1001)) == Limit(500, 501)
    assert limit_of(Template(output="tail")) == Limit(0, TAIL_BYTES)
    assert limit_of(Template(output="tail", output_limit_bytes=10)) == Limit(0, 10)


def test_a_line_tells_how_much_is_missing() -> None:
    for left_out in (1, 999, 12_345, 10**15):
        line = marker(left_out)
        assert parse_marker(line + b"more") == (left_out, len(line))
    assert parse_marker(b"[... 1 bytes left out") is None


@pytest.mark.parametrize("size", [0, 1, 1500, 1628, 1629, 1700, 100_000, 5_000_000])
def test_both_ends_are_kept_in_every_way_of_doing_it(file: Path, size: int) -> None:
    content = numbers(size)
    left_out = left_out_of(size, LIMIT)
    wanted = content
    if left_out:
        wanted = content[:1000] + marker(left_out) + content[-500:]
        assert left_out == size - 1500
        assert len(wanted) < size
    file.write_bytes(content)
    assert b"".join(kept_of(content, LIMIT).parts) == wanted
    of_file = kept_of_file(str(file), size, LIMIT)
    assert (b"".join(of_file.parts), of_file.size, of_file.left_out) == (wanted, len(wanted), left_out)
    assert shorten(str(file), LIMIT) == left_out
    assert file.read_bytes() == wanted
    assert shorten(str(file), LIMIT) == 0


def test_a_tail_larger_than_a_chunk_is_moved_whole(file: Path) -> None:
    limit = Limit(0, 3_000_000)
    content = numbers(3_100_000)
    file.write_bytes(content)
    assert shorten(str(file), limit) == 100_000
    assert file.read_bytes() == marker(100_000) + content[-3_000_000:]


def test_a_file_that_grows_without_end_takes_little_room(file: Path) -> None:
    limit = Limit(100_000, 50_000)
    block = numbers(1 << 20)
    with open(file, "ab", buffering=0) as stream:
        given_back, largest = 0, 0
        for _ in range(64):
            stream.write(block)
            given_back = give_back(str(file), limit, given_back)
            largest = max(largest, os.stat(file).st_blocks * 512)
    assert os.stat(file).st_size == 64 << 20
    assert largest < 2 << 20
    assert shorten(str(file), limit) == (64 << 20) - 150_000
    kept = file.read_bytes()
    assert kept == block[:100_000] + marker((64 << 20) - 150_000) + block[-50_000:]


def test_what_is_no_regular_file_is_left_alone(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert give_back(str(pipe), LIMIT, 0) == 0
    assert shorten(str(pipe), LIMIT) == 0
    assert shorten(os.devnull, LIMIT) == 0
