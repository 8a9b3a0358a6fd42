"""``concurrent.futures``: futures of tasks, and ``pilotage.Executor``."""

from __future__ import annotations

import concurrent.futures
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, eventually, shell

import pilotage as rp


@pytest.fixture(scope="module")
def executor(_nothing_left: None) -> Iterator[rp.Executor]:
    """An executor of 2 cores."""
    with rp.Executor(cores=2) as executor:
        yield executor


def test_as_completed_over_tasks(campaign: Campaign, tmp_path: Path) -> None:
    paths = [str(tmp_path / name) for name in ("first", "second")]
    tasks = campaign.tasks.submit_tasks([rp.TaskDescription(function=payloads.wait_for_file, args=[path]) for path in paths])
    futures = [task.as_future() for task in tasks]
    done = concurrent.futures.as_completed(futures, timeout=PATIENCE_S)
    Path(paths[1]).touch()
    assert next(done).result() == paths[1]
    Path(paths[0]).touch()
    assert next(done).result() == paths[0]


def test_futures_of_tasks_that_are_final_or_fail(campaign: Campaign) -> None:
    done, failed = campaign.run(shell("true"), rp.TaskDescription(function=payloads.fail_with_cause))
    assert done.as_future().result(PATIENCE_S) is None
    assert isinstance(failed.as_future().exception(PATIENCE_S), RuntimeError)
    missing = campaign.run(rp.TaskDescription(executable="/no/such/program"))
    with pytest.raises(rp.TaskFailed, match="/no/such/program"):
        missing.as_future().result(PATIENCE_S)


def test_submit(executor: rp.Executor) -> None:
    future = executor.submit(payloads.add, 2, right=3)
    assert (future.result(PATIENCE_S), future.done(), future.exception()) == (5, True, None)
    with pytest.raises(RuntimeError, match="the input is missing"):
        executor.submit(payloads.fail_with_cause).result(PATIENCE_S)


def test_arguments_named_like_the_executors_own(executor: rp.Executor) -> None:
    def swap(self: int, fn: int) -> tuple[int, int]:
        return fn, self

    assert executor.submit(swap, self=1, fn=2).result(PATIENCE_S) == (2, 1)


def test_done_callbacks(executor: rp.Executor) -> None:
    heard: list[object] = []
    called = threading.Event()
    future = executor.submit(payloads.square, 4)
    future.add_done_callback(lambda done: (heard.append(done.result()), called.set()))
    assert called.wait(PATIENCE_S)
    assert heard == [16]


@pytest.mark.parametrize("chunksize", [None, 1, 7])
def test_map_keeps_the_order(executor: rp.Executor, chunksize: int | None) -> None:
    found = executor.map(payloads.add, range(300), range(300), chunksize=chunksize, timeout=PATIENCE_S)
    assert list(found) == [2 * number for number in range(300)]


def test_map_stops_with_the_shortest(executor: rp.Executor) -> None:
    assert list(executor.map(payloads.add, [1, 2, 3], [10, 20])) == [11, 22]
    assert list(executor.map(payloads.square, [])) == []


def test_map_takes_a_generator(executor: rp.Executor) -> None:
    assert sum(executor.map(payloads.square, (number for number in range(500)))) == sum(n**2 for n in range(500))


@pytest.mark.parametrize("chunksize", [None, 1, 5])
def test_an_exception_from_map_comes_at_its_place(executor: rp.Executor, chunksize: int | None) -> None:
    found = executor.map(payloads.fail_on, [13] * 40, range(40), chunksize=chunksize)
    values = []
    with pytest.raises(ValueError, match="value 13 is bad"):
        for value in found:
            values.append(value)
    assert values == list(range(13))


def test_map_with_a_timeout(executor: rp.Executor, tmp_path: Path) -> None:
    go = tmp_path / "go"
    found = executor.map(payloads.wait_for_file, [str(go)], timeout=0.05)
    with pytest.raises(TimeoutError):
        next(found)
    go.touch()


def test_a_future_can_be_cancelled(executor: rp.Executor) -> None:
    future = executor.submit(time.sleep, 600)
    assert future.cancel()
    assert future.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(PATIENCE_S)
    assert executor.submit(payloads.add, 1).result(PATIENCE_S) == 2


def test_what_cannot_be_pickled_is_refused_at_submit(executor: rp.Executor) -> None:
    with pytest.raises(rp.SerializationError, match="argument 0"):
        executor.submit(payloads.add, threading.Lock())


def test_after_shutdown_nothing_is_taken(_nothing_left: None) -> None:
    executor = rp.Executor(cores=1)
    future = executor.submit(payloads.add, 1)
    executor.shutdown()
    assert future.result(0) == 2
    for use in (lambda: executor.submit(payloads.add, 1), lambda: executor.map(payloads.add, [1])):
        with pytest.raises(RuntimeError, match="after shutdown"):
            use()
    executor.shutdown()


def test_shutdown_with_cancel(_nothing_left: None, tmp_path: Path) -> None:
    executor = rp.Executor(cores=1)
    started = tmp_path / "started"
    running = executor.submit(_touch_and_sleep, str(started))
    pending = [executor.submit(payloads.add, 1) for _ in range(5)]
    eventually(started.exists, "the first call runs")
    executor.shutdown(cancel_futures=True)
    assert all(future.done() for future in [running, *pending])
    assert all(future.cancelled() for future in pending)


def _touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(600)


def test_shutdown_without_waiting(_nothing_left: None) -> None:
    executor = rp.Executor(cores=1)
    future = executor.submit(payloads.add, 1)
    executor.shutdown(wait=False)
    assert future.result(PATIENCE_S) == 2
    for thread in [one for one in threading.enumerate() if one.name == "pilotage-executor-shutdown"]:
        thread.join(PATIENCE_S)
    assert executor.session.closed


def _greeting() -> str | None:
    return os.environ.get("GREETING")


def test_in_a_session_of_the_users(campaign: Campaign) -> None:
    with rp.Executor(cores=1, session=campaign.session, task={"retries": 2, "environment": {"GREETING": "hi"}}) as executor:
        assert executor.submit(_greeting).result(PATIENCE_S) == "hi"
    assert not campaign.session.closed
    assert campaign.shell("true").state == rp.DONE


def test_wrong_executors() -> None:
    with pytest.raises(rp.InvalidRequest, match="cores=0"):
        rp.Executor(cores=0)
    with pytest.raises(rp.UnknownPlatform, match="did you mean"):
        rp.Executor(cores=1, resource="local.localhos")
    with pytest.raises(rp.UnknownAttribute, match="did you mean 'retry_on'"):
        rp.Executor(cores=1, task={"retry": 1})


def test_a_future_of_a_task_that_was_final_when_the_session_closed(open_campaign: Callable[..., Campaign]) -> None:
    campaign = open_campaign()
    campaign.start(cores=1)
    task = campaign.run(rp.TaskDescription(function=payloads.add, args=[1]))
    campaign.session.close()
    assert task.as_future().result(0) == 2
