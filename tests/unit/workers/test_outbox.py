"""The outbox: however a worker ends, at most the call that ran is lost, and no end is found twice."""

from __future__ import annotations

import errno
import os
import random
import signal
from pathlib import Path

import pytest
from worker_bench import WORKER, Bench, Gate, wait_at_gate

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.testing.runner_driver import RunnerDriver
from pilotage.wire.pickles import open_value
from pilotage.wire.runner_messages import TasksEnded
from pilotage.workers import outbox
from pilotage.workers.outbox import RING_BYTES, SLOTS, TABLE_BYTES, Outbox, outbox_path, read_outbox


def end_of(uid: str, result: bytes = b"") -> AttemptEnd:
    return AttemptEnd(TaskUid(uid), Attempt(1), Ending.DONE, None, result)


def told(folder: Path, after: int = 0) -> list[tuple[int, list[str]]]:
    return [(batch.number, [end.task for end in batch.ends]) for batch in read_outbox(folder, WORKER, after)]


def test_the_file_is_its_owners_alone(tmp_path: Path) -> None:
    Outbox(tmp_path, WORKER)
    assert outbox_path(tmp_path, WORKER).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["worker.0.outbox"]


def test_a_worker_that_never_came_up_left_nothing(tmp_path: Path) -> None:
    assert read_outbox(tmp_path, WORKER, 0) == []


def test_an_end_can_be_read_as_soon_as_it_is_added(tmp_path: Path) -> None:
    box = Outbox(tmp_path, WORKER)
    assert told(tmp_path) == []
    first, second = end_of("a", b"result"), end_of("b")
    assert box.add(first)
    assert read_outbox(tmp_path, WORKER, 0) == [TasksEnded(1, [first])]
    assert box.add(second)
    assert read_outbox(tmp_path, WORKER, 0) == [TasksEnded(1, [first, second])]


def test_a_batch_has_the_number_under_which_it_is_told(tmp_path: Path) -> None:
    box = Outbox(tmp_path, WORKER)
    box.add(end_of("a"))
    assert box.close(7, 1) is not None
    box.add(end_of("b"))
    assert told(tmp_path) == [(1, ["a"]), (8, ["b"])]
    assert told(tmp_path, after=1) == [(8, ["b"])]


def test_a_frame_is_made_of_what_was_added(tmp_path: Path) -> None:
    from msgspec import msgpack

    box = Outbox(tmp_path, WORKER)
    ends = [end_of(f"t{index}", os.urandom(index)) for index in range(100)]
    assert all(box.add(end) for end in ends)
    frame = box.close(1, 100)
    assert frame is not None
    assert msgpack.decode(frame, type=TasksEnded) == TasksEnded(1, ends)


def test_a_batch_that_lacks_an_end_is_no_frame(tmp_path: Path) -> None:
    box = Outbox(tmp_path, WORKER)
    box.add(end_of("a"))
    assert box.close(1, 2) is None
    assert box.close(2, 1) is None, "none is open"


def test_an_end_of_which_not_all_was_written_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path, WORKER)
    box.add(end_of("a"))
    content = bytearray(outbox_path(tmp_path, WORKER).read_bytes())
    box.add(end_of("b"))
    after = outbox_path(tmp_path, WORKER).read_bytes()
    # The bytes of the second are there, in part or whole, and the word that counts it is not.
    for written in (5, len(after) - TABLE_BYTES):
        content[TABLE_BYTES : TABLE_BYTES + written] = after[TABLE_BYTES : TABLE_BYTES + written]
        outbox_path(tmp_path, WORKER).write_bytes(content)
        assert told(tmp_path) == [(1, ["a"])]


def test_what_is_larger_than_the_ring_finds_no_room(tmp_path: Path) -> None:
    box = Outbox(tmp_path, WORKER)
    assert not box.add(end_of("a", bytes(RING_BYTES)))
    assert box.add(end_of("b", bytes(RING_BYTES - 100)))
    assert not box.add(end_of("c", bytes(200)))
    assert told(tmp_path) == [(1, ["b"])]


def test_room_comes_back_with_the_release(tmp_path: Path) -> None:
    box = Outbox(tmp_path, WORKER)
    for number in range(1, SLOTS + 1):
        assert box.add(end_of(f"t{number}"))
        box.close(number, 1)
    assert not box.add(end_of("more"))
    box.close(SLOTS + 1, 1)
    box.release(1)
    assert box.add(end_of("more"))
    assert told(tmp_path, after=SLOTS - 1) == [(SLOTS, [f"t{SLOTS}"]), (SLOTS + 2, ["more"])]


@pytest.mark.parametrize("seed", range(6))
def test_at_any_moment_all_is_there_that_is_not_released(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    box = Outbox(tmp_path, WORKER)
    number, released = 1, 0
    present: dict[int, list[AttemptEnd]] = {1: []}
    refused = 0
    for step in range(800):
        act = chance.random()
        if act < 0.75:
            end = end_of(f"t{step}", chance.randbytes(chance.choice([0, 3, 300, 4000, 40_000, 300_000])))
            if box.add(end):
                present[number].append(end)
            else:
                refused += 1
        elif act < 0.9:
            box.close(number, len(present[number]))
            number += 1
            present[number] = []
        else:
            released = chance.randint(released, number - 1)
            box.release(released)
        if step % 20 == 0:
            expected = [TasksEnded(n, ends) for n, ends in present.items() if ends and n > released]
            assert read_outbox(tmp_path, WORKER, released) == expected
    assert refused


# ------------------------------------------------------------------------------------------------------- with real workers


def survivors(bench: Bench) -> list[str]:
    """What the agent has when the worker is dead: what it received, then what it reads, each number once."""
    process = bench.driver.processes[WORKER]
    process.wait(timeout=30)
    bench.driver.wait_for(lambda: WORKER not in bench.driver._by_runner, what="the end of the connection")
    batches = {message.number: message for _, message in bench.driver.messages if isinstance(message, TasksEnded)}
    for batch in read_outbox(bench.driver.folder, WORKER, bench.driver.released.get(WORKER, 0)):
        assert batches.setdefault(batch.number, batch) == batch, "a batch is the same wherever it is found"
    return [end.task for number in sorted(batches) for end in batches[number].ends]


def leave() -> None:
    os._exit(3)


def test_calls_that_had_returned_outlive_a_call_that_ends_the_worker(bench: Bench) -> None:
    short, fatal = bench.define(len), bench.define(leave)
    bench.call(len, "")
    before = len(bench.told_ends())
    bench.launch(*((f"t{index}", short, ("",)) for index in range(50)), ("x", fatal, ()), ("never", short, ("",)))
    found = survivors(bench)
    assert found[before:] == [f"t{index}" for index in range(50)]
    assert len(bench.told_ends()) < before + 50, "else the outbox was of no use here"
    assert bench.progress().current == before + 51


def test_ends_that_were_sent_to_an_agent_that_died_as_well_are_there(driver: RunnerDriver, gate: Gate) -> None:
    driver.auto_release = False
    bench = Bench(driver)
    bench.start()
    short, hold = bench.define(len), bench.define(wait_at_gate)
    bench.launch(("a", short, ("",)), ("b", short, ("",)), ("held", hold, gate.args))
    driver.wait_for_ends(["a", "b"])
    driver.pause()
    driver.messages.clear()
    driver.processes[WORKER].kill()
    assert sorted(survivors(bench)) == ["a", "b"]


def test_ends_without_an_agent_are_there(bench: Bench, gate: Gate, tmp_path: Path) -> None:
    second = Gate(tmp_path / "second")
    short, hold = bench.define(len), bench.define(wait_at_gate)
    calls = [(f"t{index}", short, ("",)) for index in range(300)]
    bench.launch(("held", hold, gate.args), *calls, ("second", hold, second.args))
    bench.driver.wait_for(gate.reached)
    bench.driver.pause()
    gate.open()
    bench.driver.wait_for(second.reached)
    bench.driver.processes[WORKER].kill()
    assert survivors(bench) == ["held", *(uid for uid, _, _ in calls)]


@pytest.mark.parametrize("size", [10_000, 400_000, 3_000_000])
def test_large_results_are_there_or_were_told(bench: Bench, size: int) -> None:
    make, fatal = bench.define(os.urandom), bench.define(leave)
    bench.launch(*((f"t{index}", make, (size,)) for index in range(8)), ("x", fatal, ()))
    assert survivors(bench) == [f"t{index}" for index in range(8)]
    left = [end for batch in read_outbox(bench.driver.folder, WORKER, 0) for end in batch.ends]
    assert all(isinstance(end.result, bytes) and len(open_value(end.result)) == size for end in left)


def die_at_line(countdown: int) -> None:
    """Have the worker end itself when its own code has come to so many further lines after this call."""
    import sys

    left = countdown

    def trace(frame: object, event: str, argument: object) -> object:
        nonlocal left
        if event == "line" and "/pilotage/workers/" in frame.f_code.co_filename:  # type: ignore[attr-defined]
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    frame = sys._getframe()
    while frame is not None:
        frame.f_trace = trace  # type: ignore[assignment]
        frame = frame.f_back  # type: ignore[assignment]
    sys.settrace(trace)  # type: ignore[arg-type]


@pytest.mark.parametrize("first", range(1, 6))
def test_a_kill_at_any_line_loses_no_more_than_the_running_call(tmp_path: Path, first: int) -> None:
    order = ["a", "b", "trap", "c", "d"]
    for line in range(first, 100, 5):
        with RunnerDriver(tmp_path / f"line{line}") as driver:
            bench = Bench(driver)
            bench.start()
            short, trap = bench.define(len), bench.define(die_at_line)
            bench.launch(*((uid, trap if uid == "trap" else short, (line,) if uid == "trap" else ("",)) for uid in order))
            found = survivors(bench)
            reached = bench.progress().current
            assert reached is not None
            assert found == order[: len(found)]
            assert reached - 1 <= len(found) <= reached, f"killed at line {line}: call {reached} was reached, {found} is left"


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_moment_loses_no_more_than_the_running_call(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)

    def testify(path: str, uid: str, duration_s: float) -> None:
        import time

        with open(path, "a") as file:
            file.write(f"{uid}\n")
        time.sleep(duration_s)

    for turn in range(4):
        witness = tmp_path / f"witness{turn}"
        with RunnerDriver(tmp_path / f"agent{turn}", auto_release=chance.random() < 0.5) as driver:
            bench = Bench(driver)
            bench.start()
            template = bench.define(testify)
            uids = [f"t{index}" for index in range(400)]
            bench.launch(*((uid, template, (str(witness), uid, chance.choice([0, 0, 0, 0, 0.001]))) for uid in uids))
            if chance.random() < 0.3:
                driver.pause()
            driver.wait_for(witness.exists)
            for _ in range(chance.randrange(4)):
                driver.pump(0.01)
            driver.processes[WORKER].kill()
            found, ran = survivors(bench), witness.read_text().split()
            assert found == uids[: len(found)]
            assert len(ran) - 1 <= len(found) <= len(ran)


def test_a_worker_works_without_room_for_an_outbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    from pilotage.workers.worker import _make_outbox

    monkeypatch.setattr(outbox.os, "posix_fallocate", full)
    assert _make_outbox(tmp_path, WORKER) is None
    assert list(tmp_path.iterdir()) == []
