"""Functions that cannot travel, cannot come back, or take their worker with them."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import integration_payloads as payloads
import pytest
from integration_support import Campaign, outcome_of

import pilotage as rp
from pilotage import Ending


@pytest.fixture(autouse=True)
def _goes_on(campaign: Campaign) -> Iterator[None]:
    yield
    assert campaign.call(payloads.add, 1) == 2


def function(what: Any, *args: Any, **more: Any) -> rp.TaskDescription:
    return rp.TaskDescription(function=what, args=list(args), **more)


def test_a_function_that_holds_what_cannot_be_pickled(campaign: Campaign) -> None:
    lock = threading.Lock()
    before = campaign.tasks.list_tasks()
    with pytest.raises(rp.SerializationError, match=r"variable 'lock' from the enclosing function, a _thread\.lock.*inside"):
        campaign.tasks.submit_tasks(function(lambda: lock))
    assert campaign.tasks.list_tasks() == before


def test_a_method_of_an_object_that_cannot_be_pickled(campaign: Campaign) -> None:
    scale = payloads.Scale(2)
    with socket.socket() as connection:
        scale.link = connection  # type: ignore[attr-defined]
        with pytest.raises(rp.SerializationError, match=r"attribute 'link' of its object, a socket\.socket"):
            campaign.tasks.submit_tasks(function(scale.apply, 1))


def test_an_argument_that_cannot_be_pickled(campaign: Campaign) -> None:
    with pytest.raises(rp.SerializationError, match=r"argument 1, a _io\.BufferedReader"), open(os.devnull, "rb") as file:
        campaign.tasks.submit_tasks(function(print, 1, file))
    with pytest.raises(rp.SerializationError, match=r"argument 'key', a builtins\.generator"):
        campaign.tasks.submit_tasks(rp.TaskDescription(function=sorted, args=[[]], kwargs={"key": (_ for _ in ())}))


def test_a_list_with_one_bad_function_is_refused_as_a_whole(campaign: Campaign) -> None:
    before = campaign.tasks.list_tasks()
    good = function(payloads.add, 1)
    with pytest.raises(rp.SerializationError, match="task 3 of 4"):
        campaign.tasks.submit_tasks([good, good, function(payloads.add, threading.Lock()), good])
    assert campaign.tasks.list_tasks() == before


def test_a_function_whose_module_workers_cannot_import(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    ghost = types.ModuleType("ghost_module")
    exec("def haunt():\n    return 1\n", vars(ghost))
    monkeypatch.setitem(sys.modules, "ghost_module", ghost)
    task = campaign.run(function(ghost.haunt))
    if task.state == rp.DONE:
        assert task.result(0) == 1  # it travelled with its code
        return
    assert "ghost_module" in task.exception
    with pytest.raises((rp.SerializationError, ImportError), match="ghost_module"):
        task.result(0)


def test_a_function_that_imports_what_is_not_there(campaign: Campaign) -> None:
    def simulate() -> None:
        import no_such_package  # noqa: F401

    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        campaign.call(simulate)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (threading.Lock, r"_thread\.lock"),
        (lambda: (n for n in range(3)), "generator.*list"),
        (lambda: {"deep": [socket.socket()]}, "socket"),
    ],
    ids=["lock", "generator", "socket deep inside"],
)
def test_a_result_that_cannot_be_pickled(campaign: Campaign, returned: Any, told: str) -> None:
    task = campaign.run(function(returned))
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, Ending.RAISED)
    with pytest.raises(rp.SerializationError, match=f"(?s){task.uid}.*{told}"):
        task.result(0)


def test_an_exception_that_cannot_be_pickled(campaign: Campaign) -> None:
    def fail() -> None:
        error = ValueError("the pressure is negative")
        error.lock = threading.Lock()  # type: ignore[attr-defined]
        raise error

    task = campaign.run(function(fail))
    with pytest.raises(Exception, match="the pressure is negative"):
        task.result(0)
    assert "the pressure is negative" in task.exception
    assert "in fail" in task.exception_detail


def test_a_result_that_cannot_be_opened_here(campaign: Campaign, tmp_path: Path) -> None:
    (tmp_path / "only_there.py").write_text("class Thing:\n    pass\n")

    def make(folder: str) -> object:
        import sys

        sys.path.insert(0, folder)
        import only_there

        return only_there.Thing()

    task = campaign.run(function(make, str(tmp_path)))
    assert task.state == rp.DONE
    for opened in (lambda: task.result(0), lambda: task.return_value):
        with pytest.raises(rp.SerializationError, match=r"only_there.*must be importable in this program"):
            opened()
    assert "only_there" in task.as_dict()["return_value"]


def test_wrong_arguments_raise_in_the_task_as_they_would_here(campaign: Campaign) -> None:
    with pytest.raises(TypeError, match=r"add\(\) takes from 1 to 2 positional arguments but 3 were given"):
        campaign.call(payloads.add, 1, 2, 3)


def test_a_worker_that_leaves(campaign: Campaign) -> None:
    task = campaign.run(function(os._exit, 7))
    assert (task.state, task.exit_code, outcome_of(task).ending) == (rp.FAILED, 7, Ending.EXITED)
    assert "code 7" in task.exception


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_worker_that_is_ended_by_a_signal(campaign: Campaign, number: signal.Signals) -> None:
    def end() -> None:
        os.kill(os.getpid(), number)
        threading.Event().wait(30)

    task = campaign.run(function(end))
    assert (task.state, task.exit_code, outcome_of(task).ending) == (rp.FAILED, -number, Ending.SIGNALLED)
    assert number.name in task.exception


def test_calls_that_had_not_begun_survive_their_worker(campaign: Campaign, tmp_path: Path) -> None:
    witness = tmp_path / "calls"
    before = [function(payloads.append_line, str(witness), f"call {number}", retries=0) for number in range(100)]
    fatal = function(os._exit, 3)
    tasks = campaign.run([fatal, *before])
    assert tasks[0].exit_code == 3
    lines = witness.read_text().splitlines()
    assert len(lines) == len(set(lines))
    for number, task in enumerate(tasks[1:]):
        if task.state != rp.DONE:
            # It ran, or may have, just before the worker ended: that is said, and it is not run again by itself.
            assert outcome_of(task).ending is Ending.LOST
            assert "may have run" in task.exception
        else:
            assert f"call {number}" in lines


def test_what_was_lost_with_its_worker_is_run_again_if_it_may(campaign: Campaign) -> None:
    calls = [function(payloads.square, number, restartable=True, retries=3) for number in range(200)]
    tasks = campaign.run([*calls[:100], function(os._exit, 3), *calls[100:]])
    assert [task.result(0) for number, task in enumerate(tasks) if number != 100] == [number**2 for number in range(200)]


@pytest.fixture
def ended_worker(fresh: Campaign) -> list[rp.Task]:
    """Fifty short calls, one that ends their only worker, and fifty more, handed over together."""
    fresh.start(cores=1)
    quick = [function(payloads.square, number) for number in range(50)]
    tasks = fresh.run([*quick, function(os._exit, 3), *quick])
    return [*tasks[:50], *tasks[51:]]


def test_calls_that_had_returned_keep_their_results(ended_worker: list[rp.Task]) -> None:
    assert [task.state for task in ended_worker] == [rp.DONE] * 100


def test_a_lost_call_says_what_ended_its_worker_and_what_to_do(ended_worker: list[rp.Task]) -> None:
    lost = [task for task in ended_worker if outcome_of(task).ending is Ending.LOST]
    assert all("worker" in task.exception and "restartable" in task.exception for task in lost)


def test_large_results_of_calls_that_had_returned_are_kept(fresh: Campaign) -> None:
    fresh.start(cores=1)
    tasks = fresh.run([*(function(bytes, 100_000 + number) for number in range(8)), function(os._exit, 3)])
    assert [len(task.result(0)) for task in tasks[:8]] == [100_000 + number for number in range(8)]


def test_calls_that_had_returned_survive_their_worker_and_its_agent(fresh: Campaign, tmp_path: Path) -> None:
    def end_both() -> None:
        spawner = os.getppid()
        agent = int(Path(f"/proc/{spawner}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(agent, signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

    fresh.start(cores=1)
    witness = tmp_path / "calls"
    before = [function(payloads.append_line, str(witness), f"call {number}") for number in range(50)]
    tasks = fresh.run([*before, function(end_both)])
    assert [task.state for task in tasks[:50]] == [rp.DONE] * 50
    assert witness.read_text().splitlines() == [f"call {number}" for number in range(50)]
    assert outcome_of(tasks[50]).ending is Ending.LOST


@pytest.mark.parametrize("last", [20, 256])
def test_a_function_that_closes_its_workers_descriptors(fresh: Campaign, tmp_path: Path, last: int) -> None:
    def fall(depth: int) -> int:
        return fall(depth + 1)

    fresh.start(cores=1)
    witness = tmp_path / "calls"
    quick = [function(payloads.append_line, str(witness), f"call {number}") for number in range(60)]
    tasks = fresh.run([*quick[:30], function(os.closerange, 3, last), *quick[30:], function(fall, 0)])
    culprit, falls = tasks[30], tasks[-1]
    assert (culprit.state, culprit.exit_code, outcome_of(culprit).ending) == (rp.FAILED, 70, Ending.EXITED)
    assert "it closed descriptors of its function worker" in culprit.exception
    assert [task.state for task in (*tasks[:30], *tasks[31:-1])] == [rp.DONE] * 60
    assert sorted(witness.read_text().splitlines()) == sorted(f"call {number}" for number in range(60))
    with pytest.raises(RecursionError):
        falls.result(0)


def test_a_function_that_recurses_without_end(campaign: Campaign) -> None:
    def fall(depth: int) -> int:
        return fall(depth + 1)

    with pytest.raises(RecursionError):
        campaign.call(fall, 0)


def test_a_function_that_leaves_a_child(campaign: Campaign, tmp_path: Path) -> None:
    def leave() -> int:
        import subprocess

        return subprocess.Popen(["sleep", "600"]).pid

    # It is ended with the pilot at the latest; the module's check for what is left finds it if not.
    assert campaign.call(leave) > 0


def test_a_function_that_changes_folder_and_environment(campaign: Campaign) -> None:
    def stray() -> None:
        os.chdir("/")
        os.environ["STRAY"] = "1"

    campaign.call(stray)
    assert {campaign.call(payloads.whoami)[1] for _ in range(4)} != {"/"}
