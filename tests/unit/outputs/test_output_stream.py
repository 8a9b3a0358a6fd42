"""Following a stream: every byte once, wherever it lies at the moment, and a line where bytes were left out."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.outputs.aggregate import LARGE_BYTES, Aggregate
from pilotage.outputs.limits import Limit, give_back, marker, shorten
from pilotage.outputs.reader import Extent, Outputs
from pilotage.outputs.stream import OutputStream, StreamFile

A, FIRST = TaskUid("a"), Attempt(1)
MIB = 1 << 20


@pytest.fixture
def aggregate(tmp_path: Path) -> Iterator[Aggregate]:
    made = Aggregate(str(tmp_path), RunnerId("spawner.0"))
    yield made
    made.close()


def numbers(size: int) -> bytes:
    return b"".join(b"%08x" % place for place in range(0, size, 8))[:size]


def rest(stream: OutputStream) -> bytes:
    """Return all that there is at present."""
    return b"".join(iter(stream.read, b""))


def add(path: str | Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


def of_aggregate(folder: Path, stream: str = "stdout", limit: Limit | None = None) -> OutputStream:
    return OutputStream(partial(Outputs(folder).extent, A, stream, FIRST), limit)  # type: ignore[arg-type]


def of_file(path: Path, limit: Limit | None = None) -> OutputStream:
    return OutputStream(lambda: Extent(str(path)), limit)


def test_a_file_is_followed_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.out"
    stream = of_file(path)
    assert rest(stream) == b""
    add(path, b"one\n")
    assert rest(stream) == b"one\n"
    assert rest(stream) == b""
    add(path, numbers(3 * MIB))
    assert rest(stream) == numbers(3 * MIB)


@pytest.mark.parametrize("size", [5, LARGE_BYTES + 5])
def test_a_task_is_followed_into_the_aggregate(tmp_path: Path, aggregate: Aggregate, size: int) -> None:
    stdout, stderr = of_aggregate(tmp_path), of_aggregate(tmp_path, "stderr")
    pair = aggregate.take_pair()
    assert rest(stdout) == b""
    aggregate.announce(A, FIRST, pair)
    add(aggregate.paths(pair)[0], b"begin")
    add(aggregate.paths(pair)[1], b"oops")
    assert (rest(stdout), rest(stderr)) == (b"begin", b"oops")
    add(aggregate.paths(pair)[0], numbers(size))
    aggregate.end(A, FIRST, pair, None, announced=True)
    other = aggregate.take_pair()
    add(aggregate.paths(other)[0], b"another task writes to the same files, and more than the first")
    assert (rest(stdout), rest(stderr)) == (numbers(size), b"")


def test_files_that_change_hands_while_they_are_read_are_read_again(tmp_path: Path, aggregate: Aggregate) -> None:
    outputs = Outputs(tmp_path)
    pair = aggregate.take_pair()
    aggregate.announce(A, FIRST, pair)
    add(aggregate.paths(pair)[0], b"mine")
    looks = 0

    def locate() -> Extent | None:
        nonlocal looks
        looks += 1
        if looks == 2:
            # Between the reading and the look afterwards.
            aggregate.end(A, FIRST, pair, None, announced=True)
            add(aggregate.paths(aggregate.take_pair())[0], b"another's")
        return outputs.extent(A, "stdout", FIRST)

    stream = OutputStream(locate)
    assert rest(stream) == b"mine"
    assert looks > 2


def test_a_task_that_is_run_once_more_is_followed_from_the_beginning(tmp_path: Path, aggregate: Aggregate) -> None:
    stream = OutputStream(partial(Outputs(tmp_path).extent, A, "stdout"))
    aggregate.append(A, FIRST, b"first", b"", None)
    assert rest(stream) == b"first"
    aggregate.append(A, Attempt(2), b"second time", b"", None)
    assert rest(stream) == b"second time"
    path = tmp_path / "a.out"
    stream = of_file(path)
    path.write_bytes(b"first")
    assert rest(stream) == b"first"
    path.write_bytes(b"")
    assert rest(stream) == b""
    add(path, b"second time")
    assert rest(stream) == b"second time"


def test_a_stream_can_be_read_as_a_file(tmp_path: Path) -> None:
    path = tmp_path / "a.out"
    add(path, b"one\ntwo\nthree")
    assert list(io.BufferedReader(StreamFile(of_file(path)))) == [b"one\n", b"two\n", b"three"]
    assert io.BufferedReader(StreamFile(of_file(path))).read() == b"one\ntwo\nthree"


LIMIT = Limit(3 * MIB // 2, MIB)


@pytest.mark.parametrize("aggregated", [True, False], ids=["aggregate", "file"])
class TestLimited:
    """With 10 MiB written, of which 2.5 are kept."""

    @pytest.fixture(autouse=True)
    def prepare(self, tmp_path: Path, aggregate: Aggregate, aggregated: bool) -> None:
        self.aggregate = aggregate
        self.aggregated = aggregated
        if aggregated:
            self.pair = aggregate.take_pair()
            aggregate.announce(A, FIRST, self.pair)
            self.path = Path(aggregate.paths(self.pair)[0])
            self.stream = of_aggregate(tmp_path, limit=LIMIT)
        else:
            self.path = tmp_path / "a.out"
            self.stream = of_file(self.path, LIMIT)
        self.content = numbers(10 * MIB)
        self.left_out = 10 * MIB - sum(LIMIT)

    def finish(self) -> None:
        if self.aggregated:
            self.aggregate.end(A, FIRST, self.pair, LIMIT, announced=True)
        else:
            shorten(str(self.path), LIMIT)

    def test_who_follows_closely_sees_all(self) -> None:
        seen, given_back = b"", 0
        for start in range(0, 10 * MIB, MIB):
            add(self.path, self.content[start : start + MIB])
            seen += rest(self.stream)
            given_back = give_back(str(self.path), LIMIT, given_back)
        assert seen == self.content
        self.finish()
        assert rest(self.stream) == b""

    def test_who_comes_late_sees_what_is_kept(self) -> None:
        add(self.path, self.content)
        self.finish()
        kept = self.content[: LIMIT.head] + marker(self.left_out) + self.content[-LIMIT.tail :]
        assert rest(self.stream) == kept
        assert rest(self.stream) == b""

    def test_who_comes_while_it_runs_sees_what_is_left(self) -> None:
        add(self.path, self.content)
        give_back(str(self.path), LIMIT, 0)
        seen = rest(self.stream)
        begin, _, end = seen.partition(b"\n[... ")
        _, _, end = end.partition(b" ...]\n")
        assert self.content.startswith(begin) and self.content.endswith(end)
        assert len(begin) >= LIMIT.head and len(end) >= LIMIT.tail and len(seen) < 5 * MIB
        assert marker(10 * MIB - len(begin) - len(end)) in seen
        self.finish()
        assert rest(self.stream) == b""

    def test_who_is_in_the_middle_at_the_end_sees_how_much_was_missed(self) -> None:
        add(self.path, self.content[: 4 * MIB])
        assert rest(self.stream) == self.content[: 4 * MIB]
        add(self.path, self.content[4 * MIB :])
        self.finish()
        assert rest(self.stream) == marker(5 * MIB) + self.content[-MIB:]

    def test_who_is_in_the_tail_at_the_end_sees_the_rest(self) -> None:
        add(self.path, self.content[: 19 * MIB // 2])
        assert rest(self.stream) == self.content[: 19 * MIB // 2]
        add(self.path, self.content[19 * MIB // 2 :])
        self.finish()
        assert rest(self.stream) == self.content[19 * MIB // 2 :]

    def test_who_is_in_the_head_at_the_end_sees_the_marker_in_its_place(self) -> None:
        add(self.path, self.content[:MIB])
        assert rest(self.stream) == self.content[:MIB]
        add(self.path, self.content[MIB:])
        self.finish()
        assert rest(self.stream) == self.content[MIB : LIMIT.head] + marker(self.left_out) + self.content[-LIMIT.tail :]
