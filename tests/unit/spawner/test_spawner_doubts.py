"""Failures in a job, which may be the work of who ends its step: what is told of them, and when."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from spawner_driver import SpawnerDriver, StartDriver

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.spawner.doubts import DOUBT_S, Doubts
from pilotage.spawner.timers import Timers
from pilotage.testing.runner_driver import descendants

FAILURES = (Ending.EXITED, Ending.SIGNALLED, Ending.LAUNCH_FAILED)


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
