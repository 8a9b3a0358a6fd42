"""Failures in a job, which may be the work of who ends its step: what is told of them, and when."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.spawner.doubts import Doubts
from pilotage.spawner.function_workers import FunctionWorkers
from pilotage.spawner.lanes import WorkerTree
from pilotage.spawner.memory import MemoryKills
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.timers import Timers
from pilotage.testing.runner_driver import default_settings, descendants
from pilotage.wire.runner_messages import DOUBT_S, EndedByOthers, FromRunner, StartWorker, WorkerExited

WORKER = RunnerId("worker.1")
FAILURES = (Ending.EXITED, Ending.SIGNALLED, Ending.LAUNCH_FAILED, Ending.RAISED)


class Told:
    """What is told of ends, and a clock that is set by hand."""

    def __init__(self, *, in_job: bool = True) -> None:
        self.timers = Timers()
        self.told: list[tuple[str, Ending]] = []
        self.doubts = Doubts(self.timers, lambda end, now: self.told.append((end.task, end.ending)), in_job=in_job)

    def over(self, uid: str, ending: Ending, now: float = 1.0, *, is_wanted: bool = True) -> None:
        self.doubts.over(AttemptEnd(*execution(uid), ending), now, is_wanted=is_wanted)


def execution(uid: str) -> Execution:
    return TaskUid(uid), Attempt(1)


@pytest.mark.parametrize("ending", FAILURES)
def test_a_failure_in_a_job_is_told_as_it_is_a_moment_later(ending: Ending) -> None:
    told = Told()
    told.over("a", ending)
    told.timers.run(1.0 + 0.9 * DOUBT_S)
    assert told.told == []
    told.timers.run(1.0 + DOUBT_S)
    assert told.told == [("a", ending)]
    told.doubts.stop([], 2.0, by_others=True)
    assert told.told == [("a", ending)]


@pytest.mark.parametrize("ending", FAILURES)
def test_a_failure_just_before_others_end_the_spawner_or_later_was_cut_short(ending: Ending) -> None:
    told = Told()
    told.over("before", ending)
    told.doubts.stop([execution("later"), execution("done")], 1.0, by_others=True)
    told.over("later", ending)
    told.over("done", Ending.DONE)
    told.timers.run(9.0)
    assert told.told == [("before", Ending.CANCELLED), ("later", Ending.CANCELLED), ("done", Ending.DONE)]


def test_a_failure_just_before_the_agent_ends_the_spawner_is_told_as_it_is() -> None:
    told = Told()
    told.over("before", Ending.EXITED)
    told.doubts.stop([execution("later")], 1.0, by_others=False)
    told.over("later", Ending.EXITED)
    assert told.told == [("before", Ending.EXITED), ("later", Ending.EXITED)]


def test_what_is_no_failure_or_was_asked_for_is_told_at_once() -> None:
    told = Told()
    told.over("a", Ending.DONE)
    told.over("b", Ending.CANCELLED)
    told.over("c", Ending.EXITED, is_wanted=False)
    assert told.told == [("a", Ending.DONE), ("b", Ending.CANCELLED), ("c", Ending.EXITED)]


def test_without_a_batch_system_all_is_told_at_once_and_as_it_is() -> None:
    told = Told(in_job=False)
    told.over("a", Ending.EXITED)
    told.doubts.stop([execution("b")], 1.0, by_others=True)
    told.over("b", Ending.SIGNALLED)
    assert told.told == [("a", Ending.EXITED), ("b", Ending.SIGNALLED)]


def process_state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def in_job(start_driver: StartDriver) -> SpawnerDriver:
    """A driver with one spawner of a job."""
    return start_driver(allocation_environment={"SLURM_JOB_ID": "1"})


def test_a_program_whose_child_is_told_to_end_before_the_spawner_was_cut_short(in_job: SpawnerDriver) -> None:
    in_job.shell("task.1", "sleep 1000 || exit 9")
    shell = in_job.wait_for_start("task.1")
    (child,) = in_job.wait_for(lambda: [pid for pid in descendants(shell) if pid != shell], what="the shell's child")
    spawner = in_job.processes[RunnerId("spawner.0")]
    in_job.wait_for(lambda: Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep"), what="the shell's program")

    spawner.send_signal(signal.SIGSTOP)
    in_job.wait_for(lambda: process_state(spawner.pid) == "T", what="the spawner to be stopped")
    os.kill(child, signal.SIGTERM)
    in_job.wait_for(lambda: process_state(shell) == "Z", what="the end of the shell")
    spawner.terminate()
    spawner.send_signal(signal.SIGCONT)

    end = in_job.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.CANCELLED, 9, "ended with its pilot")
    assert spawner.wait() == 0


def test_a_program_that_fails_in_a_job_has_failed(in_job: SpawnerDriver) -> None:
    in_job.shell("task.1", "exit 9")
    end = in_job.wait_for_end("task.1")
    assert (end.ending, end.exit_code) == (Ending.EXITED, 9)


def test_what_a_function_raised_as_it_was_cut_short_is_no_result() -> None:
    ends: list[AttemptEnd] = []
    doubts = Doubts(Timers(), lambda end, now: ends.append(end), in_job=True)
    doubts.over(AttemptEnd(*execution("a"), Ending.RAISED, result=b"pickled"), 1.0, is_wanted=True)
    doubts.stop([], 1.0, by_others=True)
    assert [(end.ending, end.result) for end in ends] == [(Ending.CANCELLED, None)]


# function workers


def worker_messages(driver: SpawnerDriver) -> list[object]:
    """What the spawner has told of its workers, in order."""
    return [message for _, message in driver.messages if isinstance(message, (EndedByOthers, WorkerExited))]


def start_worker(driver: SpawnerDriver) -> int:
    """Have the spawner start a worker, and return its process id when it has said hello."""
    driver.send(StartWorker(WORKER, {}))
    return driver.wait_for(
        lambda: [hello.pid for hello in driver.hellos() if hello.runner == WORKER], what="a hello of the worker"
    )[0]


def stop_spawner(driver: SpawnerDriver) -> None:
    spawner = driver.processes[RunnerId("spawner.0")]
    spawner.send_signal(signal.SIGSTOP)
    driver.wait_for(lambda: process_state(spawner.pid) == "T", what="the spawner to be stopped")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_that_is_told_to_end_before_the_spawner_was_cut_short(in_job: SpawnerDriver, number: signal.Signals) -> None:
    worker = start_worker(in_job)
    spawner = in_job.processes[RunnerId("spawner.0")]
    before = time.time()
    stop_spawner(in_job)
    os.kill(worker, number)
    in_job.wait_for(lambda: process_state(worker) == "Z", what="the end of the worker")
    spawner.terminate()
    spawner.send_signal(signal.SIGCONT)

    ended, exited = in_job.wait_for(lambda: len(worker_messages(in_job)) == 2 and worker_messages(in_job), what="the exit")
    assert isinstance(ended, EndedByOthers)
    assert before <= ended.at <= time.time()
    assert isinstance(exited, WorkerExited)
    assert (exited.status, exited.cut_short) == (-number, True)
    assert spawner.wait() == 0


def test_a_worker_that_ends_with_the_spawner_was_cut_short(in_job: SpawnerDriver) -> None:
    start_worker(in_job)
    in_job.processes[RunnerId("spawner.0")].terminate()
    _, exited = in_job.wait_for(lambda: len(worker_messages(in_job)) == 2 and worker_messages(in_job), what="the exit")
    assert isinstance(exited, WorkerExited)
    assert exited.cut_short


@pytest.mark.parametrize("job", [{"SLURM_JOB_ID": "1"}, {}], ids=["in a job", "in none"])
def test_a_worker_that_ends_by_itself_was_not_cut_short(start_driver: StartDriver, job: dict[str, str]) -> None:
    driver = start_driver(allocation_environment=job)
    os.kill(start_worker(driver), signal.SIGTERM)
    exited = driver.wait_for(lambda: driver.workers_exited().get(WORKER), what="the exit")
    assert (exited.status, exited.cut_short) == (-signal.SIGTERM, False)
    driver.processes[RunnerId("spawner.0")].terminate()
    assert driver.processes[RunnerId("spawner.0")].wait() == 0


class Processes:
    """Stands in for launcher, forest and termination: starts nothing, ends nothing, and notes which trees there are."""

    def __init__(self) -> None:
        self.trees: list[WorkerTree] = []

    def spawn_program(self, *_: object) -> int:
        return 4242

    def add(self, tree: WorkerTree, _pid: int) -> None:
        self.trees.append(tree)

    def kill(self, tree: WorkerTree) -> None:
        tree.status = -signal.SIGKILL

    def end(self, tree: WorkerTree, *_: object) -> None:
        tree.status = tree.status or -signal.SIGTERM


class Workers:
    """Two function workers in a job that are no processes, and what is told of them."""

    def __init__(self, folder: Path) -> None:
        processes: Any = Processes()
        self.timers = Timers()
        self._outbox = Outbox()
        settings = default_settings(folder, allocation_environment={"SLURM_JOB_ID": "1"})
        parts = (processes, processes, processes, self._outbox, MemoryKills())
        self.all = FunctionWorkers(folder, settings, self.timers, *parts)
        for name in ("worker.1", "worker.2"):
            self.all.start(RunnerId(name), {}, 1.0)
        self.trees: list[WorkerTree] = processes.trees

    def told(self) -> list[object]:
        """Return what is told now: of others, or by worker whether it was cut short."""
        messages = [msgspec.msgpack.decode(frame, type=FromRunner) for frame in self._outbox.take(1.0)]
        return [
            (message.worker, message.cut_short) if isinstance(message, WorkerExited) else type(message) for message in messages
        ]


def test_a_worker_that_the_agent_wants_to_end_is_not_cut_short_by_others(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    workers.all.end(WORKER)
    workers.all.stop(5.0, 1.0, by_others=True)
    for tree in workers.trees:
        workers.all.gone(tree, 1.0)
    assert workers.told() == [EndedByOthers, ("worker.1", False), ("worker.2", True)]


@pytest.mark.parametrize("by_others", [True, False])
def test_a_worker_that_is_gone_just_before_its_spawner_is_told_to_end(tmp_path: Path, by_others: bool) -> None:
    workers = Workers(tmp_path)
    workers.trees[0].status = -signal.SIGTERM
    workers.all.gone(workers.trees[0], 1.0)
    workers.timers.run(1.0 + 0.9 * DOUBT_S)
    assert workers.told() == []
    workers.all.stop(5.0, 1.0, by_others=by_others)
    assert workers.told() == [*([EndedByOthers] if by_others else []), ("worker.1", by_others)]
    workers.timers.run(9.0)
    assert workers.told() == []


def test_a_worker_that_is_gone_for_another_reason_is_told_of_a_moment_later(tmp_path: Path) -> None:
    workers = Workers(tmp_path)
    workers.trees[0].status = 3
    workers.all.gone(workers.trees[0], 1.0)
    assert workers.told() == []
    workers.timers.run(1.0 + DOUBT_S)
    assert workers.told() == [("worker.1", False)]
    workers.all.stop(5.0, 2.0, by_others=True)
    assert workers.told() == [EndedByOthers]


def test_without_a_batch_system_nothing_is_said_of_others(start_driver: StartDriver) -> None:
    driver = start_driver()
    start_worker(driver)
    driver.processes[RunnerId("spawner.0")].terminate()
    assert not driver.wait_for(lambda: driver.workers_exited().get(WORKER), what="the exit").cut_short
    assert not any(isinstance(message, EndedByOthers) for message in worker_messages(driver))


def test_the_next_agent_hears_that_others_end_the_workers_too(in_job: SpawnerDriver) -> None:
    in_job.shell("task.1", "trap '' TERM; touch ready; sleep 1000 & wait; sleep 1000")
    in_job.wait_for((in_job.sandbox("task.1") / "ready").exists, what="a task that TERM does not end")
    in_job.processes[RunnerId("spawner.0")].terminate()
    in_job.wait_for(lambda: worker_messages(in_job), what="what the first agent hears")
    in_job.messages.clear()
    in_job.pause()
    in_job.resume()
    (ended,) = in_job.wait_for(lambda: worker_messages(in_job), what="what the next agent hears")
    assert isinstance(ended, EndedByOthers)
