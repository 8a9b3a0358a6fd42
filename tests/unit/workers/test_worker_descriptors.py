"""Functions that close what the worker needs, or put something else in its place: who is told so; what becomes of the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from worker_bench import WORKER, Bench, Gate, wait_at_gate

from pilotage.model.execution import AttemptEnd
from pilotage.model.outcome import Ending
from pilotage.wire.runner_messages import TasksEnded
from pilotage.workers.descriptors import EXIT_BROKEN
from pilotage.workers.outbox import read_outbox


def _close_all() -> None:
    import os

    os.closerange(3, 1024)


def _close_low_numbers() -> None:
    import os

    os.closerange(3, 20)


def _descriptors_of(kind: str) -> list[int]:
    import os

    return [number for number in map(int, os.listdir("/proc/self/fd")) if kind in _target(number)]


def _target(number: int) -> str:
    import os

    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""


def _close_the_connection() -> None:
    import os

    for number in _descriptors_of("socket:"):
        os.close(number)


def _put_a_file_on_the_connection() -> None:
    import os

    file = os.open("/dev/null", os.O_WRONLY)
    for number in _descriptors_of("socket:"):
        os.dup2(file, number)


def _put_a_file_on_all() -> None:
    import os

    os.closerange(3, 1024)
    for _ in range(100):
        os.open("/dev/null", os.O_WRONLY)


def ends_of(bench: Bench) -> dict[str, AttemptEnd]:
    """Wait for the end of the worker, and return the ends that it has told or left."""
    assert bench.driver.processes[WORKER].wait(timeout=60) == EXIT_BROKEN
    bench.driver.wait_for(lambda: not bench.driver._by_runner, what="the end of the connection")
    told = [message for _, message in bench.driver.messages if isinstance(message, TasksEnded)]
    received = max((message.number for message in told), default=0)
    batches = [*told, *read_outbox(bench.driver.folder, WORKER, received)]
    return {end.task: end for batch in batches for end in batch.ends}


@pytest.mark.parametrize(
    "rude", [_close_all, _close_low_numbers, _close_the_connection, _put_a_file_on_the_connection, _put_a_file_on_all]
)
def test_the_call_that_broke_its_worker_is_told_and_those_behind_have_not_begun(
    bench: Bench, gate: Gate, tmp_path: Path, rude: Callable[[], None]
) -> None:
    def witness(path: str) -> None:
        open(path, "w").close()

    hold, first, culprit, behind = (bench.define(function) for function in (wait_at_gate, len, rude, witness))
    calls = [(f"behind.{number}", behind, (str(tmp_path / f"begun.{number}"),)) for number in range(20)]
    bench.launch(("held", hold, gate.args), ("before", first, ("abc",)), ("culprit", culprit, ()), *calls)
    gate.open()

    ends = ends_of(bench)
    assert {uid: end.ending for uid, end in ends.items()} == {
        "held": Ending.DONE,
        "before": Ending.DONE,
        "culprit": Ending.EXITED,
    }
    assert ends["culprit"].exit_code == EXIT_BROKEN
    assert ends["culprit"].message.startswith("it closed descriptors of its function worker")
    assert bench.progress().current == 3
    assert not list(tmp_path.glob("begun.*"))


def test_what_such_a_call_raised_is_still_told(bench: Bench) -> None:
    def fails() -> None:
        _close_all()
        raise LookupError("no such thing")

    bench.launch(("culprit", bench.define(fails), ()))
    end = ends_of(bench)["culprit"]
    assert end.ending is Ending.RAISED
    assert end.message.startswith("LookupError: no such thing; it closed descriptors of its function worker")
    assert end.result is not None


def test_nothing_is_written_to_what_gets_the_numbers_of_the_worker(bench: Bench, tmp_path: Path) -> None:
    def rude(path: str) -> None:
        import os

        print("of the call before")
        os.closerange(3, 1024)
        for _ in range(100):
            os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def prints() -> bytes:
        print("something for the file of all")
        return bytes(200_000)

    template = bench.define(prints, output="aggregate")
    bench.launch(("before", template, ()), ("culprit", bench.define(rude, output="aggregate"), (str(tmp_path / "file"),)))
    ends = ends_of(bench)
    assert (ends["before"].ending, ends["culprit"].ending) == (Ending.DONE, Ending.EXITED)
    assert (tmp_path / "file").read_bytes() == b""


def _close_what_wakes_the_attendant() -> None:
    import os
    import time

    end = time.monotonic() + 60
    while not (mine := [number for number in _descriptors_of("[eventfd]") if number >= 64]) and time.monotonic() < end:
        time.sleep(0.002)
    for number in mine:
        os.close(number)


def test_a_long_call_that_closes_what_wakes_the_attendant(bench: Bench) -> None:
    bench.launch(("culprit", bench.define(_close_what_wakes_the_attendant), ()), ("behind", bench.define(len), ("",)))
    ends = ends_of(bench)
    assert [(uid, end.ending) for uid, end in ends.items()] == [("culprit", Ending.EXITED)]


@pytest.mark.parametrize("rude", [_close_what_wakes_the_attendant, _close_the_connection, _close_all])
def test_a_call_that_breaks_its_worker_and_goes_on_is_ended(bench: Bench, rude: Callable[[], None]) -> None:
    def goes_on() -> None:
        import threading

        rude()
        threading.Event().wait(600)

    bench.launch(("culprit", bench.define(goes_on), ()), ("behind", bench.define(len), ("",)))
    ends = ends_of(bench)
    assert [(uid, end.ending) for uid, end in ends.items()] == [("culprit", Ending.EXITED)]
    assert ends["culprit"].ended >= ends["culprit"].started > 0


def test_a_worker_whose_connection_became_another_without_anybody_knowing_ends_and_blames_nobody(bench: Bench) -> None:
    def replace() -> None:
        import os
        import socket

        other, _ = socket.socketpair()
        other.setblocking(False)
        for number in _descriptors_of("socket:"):
            if number >= 64:
                os.dup2(other.fileno(), number)

    bench.launch(("quiet", bench.define(replace), ()))
    assert ends_of(bench)["quiet"].ending is Ending.DONE


@pytest.mark.parametrize("closed", [(1, 2), (0, 1, 2)])
def test_standard_streams_that_a_call_closed_are_there_for_the_next(bench: Bench, closed: tuple[int, ...]) -> None:
    def close(numbers: tuple[int, ...]) -> None:
        import os

        for number in numbers:
            os.close(number)

    def run() -> Any:
        import subprocess

        return subprocess.run(["sh", "-c", "echo out && echo err >&2"]).returncode, [_target(number) for number in (0, 1, 2)]

    before = bench.value(run)
    assert before[0] == 0
    assert bench.call(close, closed).ending is Ending.DONE
    assert bench.value(run) == before
    assert bench.driver.processes[WORKER].poll() is None
    assert os.path.exists(before[1][0])
