"""What a call gives: its result, its exception, or an explanation; and that the worker goes on whatever a function does."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from worker_bench import Bench

from pilotage.client.serialization import open_exception
from pilotage.errors import SerializationError
from pilotage.log.blobs import BlobStore
from pilotage.model.outcome import Ending
from pilotage.model.payload import Blob
from pilotage.wire.pickles import open_value, pickle_by_value, python_tag


def add(left: int, right: int = 0) -> int:
    return left + right


def test_a_function_returns_its_result_with_times(bench: Bench) -> None:
    end = bench.call(add, 40, 2)
    assert (end.ending, end.message, end.exit_code) == (Ending.DONE, "", None)
    assert isinstance(end.result, bytes)
    assert pickle.loads(end.result) == 42
    assert 0 < end.started <= end.ended


def test_a_coroutine_function_is_run(bench: Bench) -> None:
    async def later(value: int) -> int:
        import asyncio

        await asyncio.sleep(0)
        return value

    assert bench.value(later, 7) == 7


def test_a_result_of_a_class_of_the_main_script_travels_with_its_code(bench: Bench) -> None:
    def make() -> Any:
        import __main__

        kind = type("K", (), {"__module__": "__main__", "value": 5})
        __main__.K = kind  # type: ignore[attr-defined]
        return kind

    end = bench.call(make)
    assert isinstance(end.result, bytes)
    assert end.result[:1] == b"\xff"
    assert open_value(end.result).value == 5


def test_the_current_task_is_known_to_the_function_alone(bench: Bench) -> None:
    def who() -> Any:
        from pilotage.workers.current import current_task

        return current_task()

    task = bench.value(who)
    assert (task.uid, task.name, task.attempt) == ("call.0", "name of call.0", 1)
    from pilotage.workers.current import current_task

    assert current_task() is None


def test_the_environment_of_a_template_is_there_for_its_calls_only(bench: Bench) -> None:
    def read() -> Any:
        import os

        return os.environ.get("MODEL"), os.environ.get("HOME")

    before = bench.value(read)
    assert bench.value(read, environment={"MODEL": "amber", "HOME": "/nowhere"}) == ("amber", "/nowhere")
    assert bench.value(read) == before == (None, os.environ.get("HOME"))


def test_a_large_result_becomes_a_blob(bench: Bench) -> None:
    end = bench.call(lambda: b"x" * 100_000)
    assert isinstance(end.result, Blob)
    assert pickle.loads(BlobStore(Path(bench.driver.settings.blob_folder)).get(end.result)) == b"x" * 100_000


def test_function_and_arguments_may_come_as_blobs(bench: Bench) -> None:
    from pilotage.model.execution import LaneTasks
    from pilotage.model.ids import Attempt, LaneId, TaskUid, TemplateId
    from pilotage.model.workload import Row, Template
    from pilotage.wire.runner_messages import DefineTemplates, Launch

    store = BlobStore(Path(bench.driver.settings.blob_folder))
    function = store.put(pickle_by_value(add))
    arguments = store.put(pickle.dumps(((40, 2), {}), 5))
    bench.driver.send(DefineTemplates({TemplateId(1): Template(mode="function", function=function)}))
    bench.driver.send(Launch([LaneTasks(LaneId(1), None, [(Attempt(1), Row(TaskUid("t"), TemplateId(1), (), arguments))])]))
    assert bench.driver.wait_for_end("t").result == pickle.dumps(42, 5)


def test_an_exception_comes_with_message_and_the_frames_of_the_user_alone(bench: Bench) -> None:
    def fails() -> None:
        try:
            {}["key"]
        except KeyError as error:
            raise ValueError("no such thing") from error

    end = bench.call(fails)
    assert (end.ending, end.message) == (Ending.RAISED, "ValueError: no such thing")
    assert "in fails" in end.detail
    assert "KeyError: 'key'" in end.detail
    assert "pilotage/workers" not in end.detail
    assert isinstance(end.result, bytes)
    error = open_exception(end.result, end.message, end.detail)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)


def test_an_exception_that_cannot_be_pickled_still_tells_its_message(bench: Bench) -> None:
    def fails() -> None:
        import threading

        raise RuntimeError("holds a lock", threading.Lock())

    end = bench.call(fails)
    assert end.ending is Ending.RAISED
    assert end.message.startswith("RuntimeError: ('holds a lock'")
    assert end.result is None


@pytest.mark.parametrize("leave", ["raise SystemExit(3)", "raise KeyboardInterrupt", "raise GeneratorExit", "quit()"])
def test_leaving_the_interpreter_is_the_failure_of_the_call_alone(bench: Bench, leave: str) -> None:
    def leaves(code: str) -> None:
        exec(code)

    assert bench.call(leaves, leave).ending is Ending.RAISED
    assert bench.value(add, 1, 2) == 3


def _lock() -> Any:
    import threading

    return threading.Lock()


def _generator() -> Any:
    return (number for number in range(3))


def _coroutine() -> Any:
    async def later() -> None: ...

    return later()


@pytest.mark.parametrize(
    ("function", "words"),
    [(_lock, "_thread.lock"), (_generator, "return a list of what it yields"), (_coroutine, "async def")],
)
def test_a_result_that_cannot_be_pickled_is_explained(bench: Bench, function: Any, words: str) -> None:
    end = bench.call(function)
    assert end.ending is Ending.RAISED
    assert end.message.startswith("SerializationError: task 'call.0' returned a ")
    assert words in end.message
    assert isinstance(end.result, bytes)
    assert isinstance(open_exception(end.result, end.message, ""), SerializationError)


def test_a_function_whose_module_is_missing_is_explained_for_each_call(bench: Bench) -> None:
    template = bench.define(b"\x80\x05\x8c\x0cnowhere.here\x94\x8c\x01f\x94\x93\x94.")
    bench.launch(("a", template, ()), ("b", template, ()))
    for end in bench.driver.wait_for_ends(["a", "b"]).values():
        assert end.ending is Ending.RAISED
        assert "cannot import module 'nowhere' in the worker" in end.message
        assert "PYTHONPATH" in end.message


def test_code_of_another_python_is_refused_with_both_versions(bench: Bench) -> None:
    other = pickle_by_value(add).replace(python_tag().encode(), b"cpython-3.1")
    end = bench.call(other, 1)
    assert end.ending is Ending.RAISED
    assert "cpython-3.1," in end.message
    assert python_tag() in end.message


def test_endless_recursion_is_a_failure_of_the_call(bench: Bench) -> None:
    def dive(depth: int) -> int:
        return dive(depth + 1)

    end = bench.call(dive, 0)
    assert end.message.startswith("RecursionError")
    assert len(end.detail) < 40_000
    assert bench.value(add, 1) == 1


def _change_folder() -> None:
    import os

    os.chdir("/")


def _close_standard_streams() -> None:
    import os

    for descriptor in (0, 1, 2):
        os.close(descriptor)


def _change_signals() -> None:
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)


def _raise_from_a_handler_later() -> None:
    import signal

    def handler(*_: object) -> None:
        raise TimeoutError("of a call that is long over")

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.05)


def _start_threads_and_processes() -> None:
    import subprocess
    import threading

    threading.Thread(target=threading.Event().wait, args=(5,), daemon=True).start()
    subprocess.run(["true"], check=True)


@pytest.mark.parametrize(
    "rude",
    [
        _change_folder,
        _close_standard_streams,
        _change_signals,
        _raise_from_a_handler_later,
        _start_threads_and_processes,
    ],
)
def test_the_worker_goes_on_after(bench: Bench, rude: Any) -> None:
    import os

    home = bench.value(os.getcwd)
    assert bench.call(rude).ending is Ending.DONE
    if rude is _raise_from_a_handler_later:
        bench.driver.wait_for(lambda: len(bench.driver.hellos()) == 2, what="a second hello")
    bench.driver.wait_for(lambda: bench.driver._by_runner, what="a connection")
    assert bench.value(os.getcwd) == home


def test_a_forked_child_that_returns_is_no_second_worker(bench: Bench) -> None:
    def fork() -> int:
        import os

        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return child

    assert bench.value(fork) > 0
    assert bench.value(add, 5) == 5
    assert bench.told_ends() == ["call.0", "call.1"]


def test_children_do_not_keep_the_connection(bench: Bench, tmp_path: Path) -> None:
    def leave_child(path: str) -> None:
        import os
        import time

        if os.fork() == 0:
            end = time.monotonic() + 60
            while not os.path.exists(path) and time.monotonic() < end:
                time.sleep(0.01)
            os._exit(0)

    bench.value(leave_child, str(tmp_path / "end"))
    bench.driver.processes[next(iter(bench.driver.processes))].kill()
    try:
        bench.driver.wait_for(lambda: not bench.driver._by_runner, what="end of the stream")
    finally:
        (tmp_path / "end").touch()


def test_a_lane_moves_the_worker_to_its_cores(bench_with: Any) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    bench = bench_with(bind=True)
    bench.start()

    def cores() -> Any:
        import os

        return sorted(os.sched_getaffinity(0))

    template = bench.define(cores)
    bench.launch(("first", template, ()), cores=1 << allowed[0])
    bench.launch(("same lane", template, ()))
    bench.launch(("last", template, ()), cores=1 << allowed[-1])
    ends = bench.driver.wait_for_ends(["first", "same lane", "last"])
    assert [pickle.loads(ends[name].result) for name in ("first", "same lane", "last")] == [
        [allowed[0]],
        [allowed[0]],
        [allowed[-1]],
    ]
