"""What a call prints: in the files that an executable of its template would have, and nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from worker_bench import Bench, Gate

from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import Row
from pilotage.wire.runner_messages import Launch
from pilotage.workers.outputs import HELD_BYTES


def file_of(bench: Bench, uid: str, kind: str = "out") -> Path:
    return Path(bench.driver.settings.pilot_folder, "tasks", uid, f"{uid}.{kind}")


def speak(*words: str) -> None:
    for word in words:
        print(word)


def whisper(word: str) -> None:
    print(word, file=sys.stderr)


def test_each_call_has_files_of_its_own(bench: Bench) -> None:
    out, err = bench.define(speak), bench.define(whisper)
    bench.launch(("a", out, ("one", "two")), ("b", err, ("three",)), ("c", out, ("fünf",)))
    bench.driver.wait_for_ends(["a", "b", "c"])
    assert file_of(bench, "a").read_text() == "one\ntwo\n"
    assert file_of(bench, "b", "err").read_text() == "three\n"
    assert file_of(bench, "c").read_text() == "fünf\n"
    tasks = Path(bench.driver.settings.pilot_folder, "tasks")
    assert sorted(path.name for path in tasks.rglob("*.*")) == ["a.out", "b.err", "c.out"]


def test_a_silent_call_makes_no_file(bench: Bench) -> None:
    bench.call(speak)
    assert not Path(bench.driver.settings.pilot_folder, "tasks").exists()


def test_the_file_is_there_when_the_end_is_told(bench: Bench) -> None:
    for index in range(20):
        end = bench.call(speak, f"{index}")
        assert file_of(bench, end.task).read_text() == f"{index}\n"


def test_sandbox_and_names_are_those_of_the_template(bench: Bench) -> None:
    pilot = Path(bench.driver.settings.pilot_folder)
    bench.call(speak, "one", sandbox="here", stdout="log.txt")
    assert (pilot / "here" / "log.txt").read_text() == "one\n"
    end = bench.call(speak, "two", sandbox=str(pilot.parent / "there"))
    assert (pilot.parent / "there" / f"{end.task}.out").read_text() == "two\n"


def test_both_streams_may_share_a_file(bench: Bench) -> None:
    def both() -> None:
        print("out", flush=True)
        print("err", file=sys.stderr)

    end = bench.call(both, stdout="all", stderr="all")
    assert file_of(bench, end.task).with_name("all").read_text() == "out\nerr\n"


def test_what_a_call_printed_before_it_raised_is_there(bench: Bench) -> None:
    def fail() -> None:
        print("so far")
        raise SystemExit(3)

    end = bench.call(fail)
    assert end.ending is Ending.RAISED
    assert file_of(bench, end.task).read_text() == "so far\n"


def test_a_further_attempt_begins_with_empty_files(bench: Bench) -> None:
    from pilotage.client.serialization import pack_arguments

    template = bench.define(speak)
    for attempt, words in ((1, ("first",)), (2, ("second",)), (3, ())):
        row = Row(TaskUid("a"), template, (), pack_arguments(words, {}))
        bench.driver.send(Launch([LaneTasks(LaneId(1), None, [(Attempt(attempt), row)])]))
        bench.driver.wait_for(lambda attempt=attempt: getattr(bench.driver.ends().get("a"), "attempt", 0) == attempt)
        assert file_of(bench, "a").read_text() == "".join(f"{word}\n" for word in words)


def test_much_output_is_not_held(bench: Bench, gate: Gate) -> None:
    def flood(path: str, size: int) -> None:
        import os
        import time

        print("x" * size)
        open(f"{path}.reached", "w").close()
        end = time.monotonic() + 60
        while not os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.002)
        print("done")

    bench.launch(("a", bench.define(flood), (*gate.args, HELD_BYTES + 1)))
    bench.driver.wait_for(gate.reached)
    assert file_of(bench, "a").stat().st_size > HELD_BYTES
    gate.open()
    bench.driver.wait_for_end("a")
    assert file_of(bench, "a").read_text() == "x" * (HELD_BYTES + 1) + "\ndone\n"


def test_a_long_call_can_be_watched(bench: Bench, gate: Gate, tmp_path: Path) -> None:
    def report(go: str, stop: str) -> None:
        import os
        import time

        end = time.monotonic() + 60
        for path, word in ((go, "step 1"), (stop, "step 2")):
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.002)
            print(word)

    go = tmp_path / "go"
    bench.launch(("a", bench.define(report), (str(go), *gate.args)))
    bench.driver.wait_for_start("a")
    go.touch()
    bench.driver.wait_for(lambda: file_of(bench, "a").exists(), what="the output of the running call")
    assert file_of(bench, "a").read_text() == "step 1\n"
    assert "a" not in bench.told_ends()
    gate.open()
    bench.driver.wait_for_end("a")
    assert file_of(bench, "a").read_text() == "step 1\nstep 2\n"


def test_bytes_partial_lines_and_odd_characters_come_through(bench: Bench) -> None:
    def odd() -> None:
        sys.stdout.buffer.write(b"\xff\x00")
        sys.stdout.write("no end of line \udc80")

    assert file_of(bench, bench.call(odd).task).read_bytes() == b"\xff\x00no end of line \\udc80"


def test_a_stream_that_a_call_closes_or_replaces_is_there_for_the_next(bench: Bench) -> None:
    def close() -> None:
        sys.stdout.close()

    def replace() -> str:
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()) as caught:
            print("mine")
        return caught.getvalue()

    bench.call(close)
    assert bench.value(replace) == "mine\n"
    assert file_of(bench, bench.call(speak, "still here").task).read_text() == "still here\n"


def test_output_of_threads_and_forked_children_comes_once(bench: Bench) -> None:
    def spread() -> None:
        import multiprocessing
        import threading

        print("before")
        thread = threading.Thread(target=print, args=("thread",))
        thread.start()
        thread.join()
        child = multiprocessing.get_context("fork").Process(target=print, args=("child",))
        child.start()
        child.join()
        if os.fork() == 0:
            print("fork", flush=True)
            os._exit(0)
        os.wait()
        print("after")

    end = bench.call(spread)
    assert sorted(file_of(bench, end.task).read_text().split()) == ["after", "before", "child", "fork", "thread"]


def test_a_child_may_be_the_first_to_print(bench: Bench) -> None:
    def spread() -> None:
        if os.fork() == 0:
            print("fork", flush=True)
            os._exit(0)
        os.wait()
        print("after")

    assert file_of(bench, bench.call(spread).task).read_text() == "fork\nafter\n"


def test_a_child_that_returns_from_the_function_has_its_output_written(bench: Bench) -> None:
    def spread() -> None:
        print("both")
        child = os.fork()
        print("child" if child == 0 else "parent")
        if child:
            os.waitpid(child, 0)

    assert file_of(bench, bench.call(spread).task).read_text() == "both\nchild\nparent\n"


def test_native_code_and_child_processes_write_to_the_workers_own(bench: Bench) -> None:
    def shell() -> int:
        import subprocess

        return subprocess.run(["sh", "-c", "exit 4"], stdout=sys.stdout, check=False).returncode

    assert bench.value(shell) == 4
    assert bench.value(lambda: (sys.stdout.fileno(), sys.stderr.fileno())) == (1, 2)


def test_output_that_cannot_be_written_does_not_fail_the_call(bench: Bench) -> None:
    blocked = Path(bench.driver.settings.pilot_folder) / "blocked"
    blocked.write_text("a file, not a folder")
    assert bench.call(speak, "lost", sandbox="blocked").ending is Ending.DONE
    assert file_of(bench, bench.call(speak, "next").task).read_text() == "next\n"
