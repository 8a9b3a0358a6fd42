"""What calls print where it is not to be in files of their own, or not all of it is kept."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from worker_bench import Bench, Gate

from pilotage.client.serialization import pack_arguments
from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, TaskUid
from pilotage.model.workload import Row
from pilotage.outputs.limits import TAIL_BYTES, marker
from pilotage.outputs.reader import Outputs
from pilotage.wire.runner_messages import Launch, StopRunner
from pilotage.workers.outputs import HELD_BYTES


def pilot(bench: Bench) -> Path:
    return Path(bench.driver.settings.pilot_folder)


def read(bench: Bench, uid: str) -> tuple[bytes, bytes]:
    return Outputs(pilot(bench)).read(TaskUid(uid))


def files(bench: Bench) -> list[str]:
    """Every file in the pilot's folder that belongs to tasks."""
    folders = [folder for name in ("tasks", "output") if (folder := pilot(bench) / name).is_dir()]
    return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())


def speak(out: bytes, err: bytes = b"", flush: bool = False) -> None:
    import sys

    for stream, content in ((sys.stdout, out), (sys.stderr, err)):
        stream.buffer.write(content)
        if flush:
            stream.flush()


def run_attempt(bench: Bench, template: Any, attempt: int, *args: object) -> None:
    row = Row(TaskUid("a"), template, (), pack_arguments(args, {}))
    bench.driver.send(Launch([LaneTasks(LaneId(1), None, [(Attempt(attempt), row)])]))
    bench.driver.wait_for(lambda: getattr(bench.driver.ends().get("a"), "attempt", 0) == attempt)


def test_many_calls_share_two_files(bench: Bench) -> None:
    template = bench.define(speak, output="aggregate")
    uids = [f"call-{number}" for number in range(100)]
    bench.launch(*[(uid, template, (f"grüße von {uid}\n".encode(), b"\xff\x00" * number)) for number, uid in enumerate(uids)])
    bench.driver.wait_for_ends(uids)
    outputs = Outputs(pilot(bench))
    for number, uid in enumerate(uids):
        assert outputs.read(TaskUid(uid)) == (f"grüße von {uid}\n".encode(), b"\xff\x00" * number)
    node = os.uname().nodename
    assert files(bench) == sorted([f"{node}.data", f"{node}.index"])


def test_a_silent_call_makes_nothing(bench: Bench) -> None:
    bench.call(speak, b"", output="aggregate")
    assert files(bench) == []


@pytest.mark.parametrize("flush", [False, True])
def test_output_may_be_large_or_flushed_or_both(bench: Bench, flush: bool) -> None:
    small = bench.call(speak, b"small", b"errors", flush, output="aggregate")
    large = bench.call(speak, b"x" * (HELD_BYTES + 1), b"errors", flush, output="aggregate")
    assert read(bench, small.task) == (b"small", b"errors")
    assert read(bench, large.task) == (b"x" * (HELD_BYTES + 1), b"errors")


def test_a_worker_that_is_stopped_leaves_no_spare_files(bench: Bench) -> None:
    bench.call(speak, b"x", b"", True, output="aggregate")
    bench.driver.send(StopRunner(1.0))
    (process,) = bench.driver.processes.values()
    bench.driver.wait_for(lambda: process.poll() is not None, what="the end of the worker")
    assert len(files(bench)) == 2


def test_a_later_attempt_takes_the_place_of_an_earlier_one(bench: Bench) -> None:
    template = bench.define(speak, output="aggregate")
    run_attempt(bench, template, 1, b"first", b"errors")
    run_attempt(bench, template, 2, b"second")
    assert read(bench, "a") == (b"second", b"")
    run_attempt(bench, template, 3, b"")
    assert read(bench, "a") == (b"", b"")


def test_a_long_call_can_be_watched(bench: Bench, gate: Gate) -> None:
    def report(path: str) -> None:
        import os
        import time

        print("step 1")
        end = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.002)
        print("step 2")

    bench.launch(("a", bench.define(report, output="aggregate"), gate.args))
    bench.driver.wait_for(lambda: read(bench, "a")[0], what="the output of the running call")
    assert read(bench, "a") == (b"step 1\n", b"")
    gate.open()
    bench.driver.wait_for_end("a")
    assert read(bench, "a") == (b"step 1\nstep 2\n", b"")


def test_children_of_a_call_write_to_the_same_place(bench: Bench, gate: Gate) -> None:
    def spread(path: str) -> None:
        import os
        import time

        print("before")
        child = os.fork()
        if child == 0:
            print("child")
            return
        os.waitpid(child, 0)
        if os.fork() == 0:
            end = time.monotonic() + 60
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.002)
            print("when all was over", flush=True)
            open(f"{path}.done", "w").close()
            os._exit(0)
        print("after")

    end = bench.call(spread, *gate.args, output="aggregate")
    assert read(bench, end.task) == (b"before\nchild\nafter\n", b"")
    other = bench.call(speak, b"x" * (HELD_BYTES + 1), output="aggregate")
    gate.open()
    done = Path(f"{gate.args[0]}.done")
    bench.driver.wait_for(done.exists, what="the end of the child")
    assert read(bench, end.task) == (b"before\nchild\nafter\n", b"")
    assert read(bench, other.task) == (b"x" * (HELD_BYTES + 1), b"")


def test_only_the_tail_is_kept(bench: Bench) -> None:
    content = bytes(range(256)) * 1000
    end = bench.call(speak, content, b"short", output="tail")
    left_out = len(content) - TAIL_BYTES
    assert read(bench, end.task) == (marker(left_out) + content[-TAIL_BYTES:], b"short")


def test_nothing_is_kept(bench: Bench) -> None:
    bench.call(speak, b"x" * (HELD_BYTES + 1), b"errors", True, output="discard")
    assert files(bench) == []


@pytest.mark.parametrize("size", [10_000, 3 * HELD_BYTES])
def test_files_are_shortened(bench: Bench, size: int) -> None:
    content = os.urandom(size)
    end = bench.call(speak, content, output_limit_bytes=1000)
    path = pilot(bench) / "tasks" / end.task / f"{end.task}.out"
    assert path.read_bytes() == content[:500] + marker(size - 1000) + content[-500:]


def test_who_prints_without_end_does_not_fill_the_disk(bench: Bench, gate: Gate) -> None:
    def flood(path: str) -> int:
        import os
        import sys

        written = 0
        while not os.path.exists(path):
            written += sys.stdout.buffer.write(b"x" * (1 << 16))
        return written

    folder = pilot(bench) / "tasks" / "a"
    bench.launch(("a", bench.define(flood, output_limit_bytes=1 << 20), gate.args))

    def given_back() -> bool:
        path = folder / "a.out"
        status = path.stat() if path.exists() else None
        return status is not None and status.st_blocks * 512 < status.st_size // 2

    bench.driver.wait_for(given_back, what="room to be given back")
    gate.open()
    bench.driver.wait_for_end("a")
    assert (folder / "a.out").stat().st_size < (1 << 20) + 100


def test_without_a_sandbox_files_are_in_the_folder_of_the_program(bench: Bench) -> None:
    end = bench.call(speak, b"here", sandbox="none")
    assert (Path(bench.driver.settings.working_folder) / f"{end.task}.out").read_bytes() == b"here"


def test_sandboxes_are_in_folders_of_a_thousand(bench: Bench) -> None:
    template = bench.define(speak)
    row = Row(TaskUid("a"), template, (), pack_arguments((b"x",), {}), shard=3)
    bench.driver.send(Launch([LaneTasks(LaneId(1), None, [(Attempt(1), row)])]))
    bench.driver.wait_for_end("a")
    assert (pilot(bench) / "tasks" / "shard.0003" / "a" / "a.out").read_bytes() == b"x"
