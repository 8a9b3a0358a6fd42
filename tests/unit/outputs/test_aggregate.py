"""Aggregates: many tasks, few files; several writers at a time; nothing lost when the disk is full or a writer is killed."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.outputs.aggregate import LARGE_BYTES, Aggregate
from pilotage.outputs.limits import Limit, marker
from pilotage.outputs.reader import Outputs
from pilotage.outputs.records import Record, parse, render

FIRST, SECOND = Attempt(1), Attempt(2)
A, B = TaskUid("a"), TaskUid("b")

OpenAggregate = Callable[[str], Aggregate]


@pytest.fixture
def aggregate(tmp_path: Path) -> Iterator[Aggregate]:
    made = Aggregate(str(tmp_path), RunnerId("spawner.0"))
    yield made
    made.close()


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path)


def written(aggregate: Aggregate, stdout: bytes = b"", stderr: bytes = b"") -> str:
    """Write to a pair of files as a task does."""
    pair = aggregate.take_pair()
    for path, content in zip(aggregate.paths(pair), (stdout, stderr), strict=True):
        with open(path, "ab") as file:
            file.write(content)
    return pair


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "output").rglob("*") if path.is_file())


def index_of(folder: Path) -> Path:
    (path,) = (folder / "output").glob("*.index")
    return path


# records


@pytest.mark.parametrize("uid", ["task.000001", "with a blank", "ümläut-数", "trailing.7"])
def test_records_are_read_as_they_were_written(uid: str) -> None:
    for record in (
        Record(TaskUid(uid), FIRST, 0, (0, 0)),
        Record(TaskUid(uid), SECOND, 10**13, (1, 2), (3, 4)),
        Record(TaskUid(uid), FIRST, "0001/spawner.0.1042"),
    ):
        empty, line, end = render(record).split(b"\n")
        assert (empty, end) == (b"", b"")
        assert parse(line) == record


def test_a_record_that_was_cut_at_any_place_is_none() -> None:
    line = render(Record(A, FIRST, 1234, (5, 6))).strip(b"\n")
    assert parse(line) is not None
    assert [cut for cut in range(len(line)) if parse(line[:cut]) is not None] == []


# writing and reading


def test_both_streams_of_a_task_are_read_as_they_were_written(aggregate: Aggregate, outputs: Outputs) -> None:
    binary = bytes(range(256)) * 3
    aggregate.end(A, FIRST, written(aggregate, "grüße\n".encode(), binary), None, announced=False)
    aggregate.append(B, FIRST, binary, b"", None)
    assert outputs.read(A) == ("grüße\n".encode(), binary)
    assert outputs.read(B, FIRST) == (binary, b"")
    assert outputs.read(B, SECOND) == outputs.read(TaskUid("unknown")) == (b"", b"")
    assert outputs.tail(A, "stderr", 3) == binary[-3:]
    assert outputs.tail(A, "stdout", 1000) == "grüße\n".encode()


def test_nothing_is_made_before_something_is_printed(tmp_path: Path, aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.end(A, FIRST, written(aggregate), None, announced=False)
    assert not list((tmp_path / "output").glob("*.index"))
    assert outputs.read(A) == (b"", b"")


def test_there_are_no_more_files_than_tasks_at_a_time_and_none_at_the_end(tmp_path: Path, aggregate: Aggregate) -> None:
    for number in range(50):
        pairs = [written(aggregate, b"x" * number), written(aggregate, b"", b"y")]
        for pair in pairs:
            aggregate.end(TaskUid(f"{pair} {number}"), FIRST, pair, None, announced=False)
    assert len(files(tmp_path)) <= 2 + 2 * 2
    aggregate.close()
    assert len(files(tmp_path)) == 2


def test_the_next_user_of_a_pair_begins_with_empty_files(aggregate: Aggregate, outputs: Outputs) -> None:
    pair = written(aggregate, b"long output", b"and errors")
    aggregate.end(A, FIRST, pair, None, announced=False)
    again = written(aggregate, b"short")
    assert again == pair
    aggregate.end(B, FIRST, again, None, announced=False)
    assert outputs.read(A) == (b"long output", b"and errors")
    assert outputs.read(B) == (b"short", b"")


def test_a_later_attempt_takes_the_place_of_an_earlier_one(aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.end(A, FIRST, written(aggregate, b"first"), None, announced=False)
    assert outputs.read(A) == (b"first", b"")
    aggregate.end(A, SECOND, written(aggregate, b"second"), None, announced=False)
    assert outputs.read(A) == outputs.read(A, SECOND) == (b"second", b"")
    assert outputs.read(A, FIRST) == (b"first", b"")


def test_a_silent_attempt_takes_the_place_of_one_that_printed(aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.end(A, FIRST, written(aggregate, b"first"), None, announced=False)
    aggregate.end(A, SECOND, written(aggregate), None, announced=False)
    assert outputs.read(A) == (b"", b"")


def test_the_output_of_a_running_task_is_found_when_it_was_announced(aggregate: Aggregate, outputs: Outputs) -> None:
    pair = written(aggregate, b"so far")
    assert outputs.read(A) == (b"", b"")
    aggregate.announce(A, FIRST, pair)
    assert outputs.read(A) == (b"so far", b"")
    with open(aggregate.paths(pair)[0], "ab") as file:
        file.write(b", and more")
    assert outputs.read(A) == (b"so far, and more", b"")
    aggregate.end(A, FIRST, pair, None, announced=True)
    assert written(aggregate, b"another's") == pair
    assert outputs.read(A) == (b"so far, and more", b"")


def test_an_announced_task_that_printed_nothing_gives_its_files_up(aggregate: Aggregate, outputs: Outputs) -> None:
    pair = aggregate.take_pair()
    aggregate.announce(A, FIRST, pair)
    aggregate.end(A, FIRST, pair, None, announced=True)
    assert written(aggregate, b"another's") == pair
    assert outputs.read(A) == (b"", b"")


def test_large_output_stays_where_it_is(tmp_path: Path, aggregate: Aggregate, outputs: Outputs) -> None:
    large = random.Random(1).randbytes(LARGE_BYTES + 1)
    pair = written(aggregate, large, b"small")
    aggregate.end(A, FIRST, pair, None, announced=False)
    other = written(aggregate, b"other")
    assert other != pair
    aggregate.end(B, FIRST, other, None, announced=False)
    assert outputs.read(A) == (large, b"small")
    assert outputs.read(B) == (b"other", b"")
    aggregate.close()
    assert outputs.read(A) == (large, b"small")
    assert len(files(tmp_path)) == 2 + 2


def test_limited_output_is_kept_at_both_ends(aggregate: Aggregate, outputs: Outputs) -> None:
    limit = Limit(3, 2)
    aggregate.end(A, FIRST, written(aggregate, b"abc" + b"-" * 1000 + b"yz", b"short"), limit, announced=False)
    assert outputs.read(A) == (b"abc" + marker(1000) + b"yz", b"short")
    aggregate.append(B, FIRST, b"abc" + b"-" * 1000 + b"yz", b"", limit)
    assert outputs.read(B) == (b"abc" + marker(1000) + b"yz", b"")
    extent = outputs.extent(A, "stdout")
    assert extent is not None and extent.left_out == 1000


def test_large_output_is_limited_where_it_stays(aggregate: Aggregate, outputs: Outputs) -> None:
    limit = Limit(LARGE_BYTES, 10)
    large = random.Random(2).randbytes(LARGE_BYTES + 1000)
    aggregate.end(A, FIRST, written(aggregate, large), limit, announced=False)
    assert outputs.read(A) == (large[:LARGE_BYTES] + marker(990) + large[-10:], b"")


def test_folders_of_large_outputs_do_not_grow_without_end(
    tmp_path: Path, aggregate: Aggregate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pilotage.outputs.pairs.PAIRS_IN_FOLDER", 10)
    pairs = [aggregate.take_pair() for _ in range(35)]
    assert len(set(pairs)) == 35
    assert {pair.rpartition("/")[0] for pair in pairs} == {"", "0001", "0002", "0003"}
    for folder in ("", "0001", "0002", "0003"):
        assert len(list((tmp_path / "output" / folder).glob("spawner.*"))) <= 2 * 10
    for pair in pairs:
        aggregate.return_pair(pair)


def test_a_task_may_remove_its_files(aggregate: Aggregate, outputs: Outputs) -> None:
    pair = written(aggregate, b"gone", b"there")
    os.unlink(aggregate.paths(pair)[0])
    aggregate.end(A, FIRST, pair, None, announced=False)
    assert outputs.read(A) == (b"", b"there")


# accidents


def test_what_was_cut_short_hides_nothing(tmp_path: Path, aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.append(A, FIRST, b"one", b"", None)
    assert outputs.read(A) == (b"one", b"")
    with open(index_of(tmp_path), "ab") as index:
        index.write(render(Record(A, SECOND, 77, (8, 9)))[:-4])
    aggregate.append(B, FIRST, b"two", b"", None)
    for reader in (outputs, Outputs(tmp_path)):
        assert reader.read(A) == (b"one", b"")
        assert reader.read(B) == (b"two", b"")


def test_an_index_can_be_read_at_every_moment_of_a_write(tmp_path: Path, aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.append(A, FIRST, b"one", b"", None)
    line = render(Record(B, FIRST, 0, (3, 0)))
    with open(index_of(tmp_path), "ab", buffering=0) as index:
        for byte in line[:-1]:
            index.write(bytes((byte,)))
            assert outputs.read(B) == (b"", b"")
        index.write(line[-1:])
    assert outputs.read(A) == outputs.read(B) == (b"one", b"")


def test_a_runner_that_is_started_again_touches_no_output_of_its_former_life(tmp_path: Path, outputs: Outputs) -> None:
    killed = Aggregate(str(tmp_path), RunnerId("spawner.0"))
    pair = written(killed, b"lost, but for this")
    killed.announce(A, FIRST, pair)
    again = Aggregate(str(tmp_path), RunnerId("spawner.0"))
    other = written(again, b"new")
    assert other != pair
    again.end(B, FIRST, other, None, announced=False)
    again.close()
    assert outputs.read(A) == (b"lost, but for this", b"")
    assert outputs.read(B) == (b"new", b"")
    killed.close()


WRITER = """
import sys, zlib
from pilotage.outputs.aggregate import Aggregate
from pilotage.outputs.limits import Limit
aggregate = Aggregate(sys.argv[1], sys.argv[2])
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    uid = f"{sys.argv[2]}.{number}"
    content = uid.encode() * (zlib.crc32(uid.encode()) % 300)
    if number % 3:
        aggregate.append(uid, 1, content, uid.encode(), None)
    else:
        pair = aggregate.take_pair()
        for path, part in zip(aggregate.paths(pair), (content, uid.encode())):
            with open(path, "ab") as file:
                file.write(part)
        aggregate.end(uid, 1, pair, None, announced=False)
    if number % 100 == 0:
        print(number, flush=True)
aggregate.close()
"""


def start_writer(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def assert_right(outputs: Outputs, uid: str) -> None:
    import zlib

    stdout, stderr = outputs.read(TaskUid(uid))
    assert stdout == uid.encode() * (zlib.crc32(uid.encode()) % 300)
    assert stderr == uid.encode()


def test_several_writers_share_the_files_of_a_node(tmp_path: Path, outputs: Outputs) -> None:
    names = [f"spawner.{number}" for number in range(4)]
    writers = [start_writer(tmp_path, name, 500) for name in names]
    for writer in writers:
        with writer:
            assert writer.wait(60) == 0
    assert len(files(tmp_path)) == 2
    for name in names:
        for number in range(500):
            assert_right(outputs, f"{name}.{number}")


def test_a_killed_writer_leaves_what_others_and_itself_have_written(tmp_path: Path, outputs: Outputs) -> None:
    doomed, other = start_writer(tmp_path, "doomed", 10**9), start_writer(tmp_path, "other", 1000)
    with doomed, other:
        assert doomed.stdout is not None
        while (line := doomed.stdout.readline().strip()) != "300":
            assert line
        doomed.send_signal(signal.SIGKILL)
        assert other.wait(60) == 0
    for number in range(301):
        assert_right(outputs, f"doomed.{number}")
    for number in range(1000):
        assert_right(outputs, f"other.{number}")


def test_output_that_finds_no_room_stays_where_it_is(tmp_path: Path, aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.append(A, FIRST, b"x" * 5000, b"", None)
    pair = written(aggregate, b"y" * 3000, b"errors")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        with pytest.raises(OSError):
            aggregate.end(B, FIRST, pair, None, announced=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outputs.read(A) == (b"x" * 5000, b"")
    assert outputs.read(B) == (b"y" * 3000, b"errors")
    third = written(aggregate, b"third")
    assert third != pair
    aggregate.end(TaskUid("c"), FIRST, third, None, announced=False)
    assert outputs.read(B) == (b"y" * 3000, b"errors")
    assert outputs.read(TaskUid("c")) == (b"third", b"")


def test_records_that_find_no_room_are_written_later(tmp_path: Path, aggregate: Aggregate, outputs: Outputs) -> None:
    aggregate.append(A, FIRST, b"x" * 10, b"", None)
    pair = written(aggregate, b"y" * 10)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The data fit, and a part of the record.
    resource.setrlimit(resource.RLIMIT_FSIZE, (index_of(tmp_path).stat().st_size + 5, before[1]))
    try:
        with pytest.raises(OSError):
            aggregate.end(B, FIRST, pair, None, announced=False)
        assert aggregate.unsettled
        with pytest.raises(OSError):
            aggregate.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert outputs.read(B) == (b"", b"")
    aggregate.settle()
    assert not aggregate.unsettled
    assert outputs.read(B) == (b"y" * 10, b"")
    assert outputs.read(A) == (b"x" * 10, b"")


FULL_DISK = """
import os, sys
from pilotage.outputs.aggregate import Aggregate
from pilotage.outputs.reader import Outputs
folder = sys.argv[1]
aggregate, outputs = Aggregate(folder, "spawner.0"), Outputs(folder)
pair = aggregate.take_pair()
with open(aggregate.paths(pair)[0], "ab") as file:
    file.write(b"y" * 20_000)
aggregate.append("a", 1, b"x" * 10_000, b"", None)
ballast = os.open(f"{folder}/ballast", os.O_WRONLY | os.O_CREAT)
try:
    while os.write(ballast, b"z" * 4096):
        pass
except OSError as error:
    print(error.strerror)
try:
    aggregate.end("b", 1, pair, None, announced=False)
except OSError as error:
    print(error.strerror)
unsettled = aggregate.unsettled
os.unlink(f"{folder}/ballast")
os.close(ballast)
aggregate.settle()
aggregate.append("c", 1, b"c", b"", None)
print(unsettled, [len(outputs.read(uid)[0]) for uid in "abc"])
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_loses_no_output(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=128k small "$1" && shift && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, "-c", FULL_DISK, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    full = os.strerror(errno.ENOSPC)
    assert done.stdout.splitlines() == [full, full, "False [10000, 20000, 1]"], done.stderr
