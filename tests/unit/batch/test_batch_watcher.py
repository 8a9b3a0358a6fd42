"""Watching jobs: when to ask, what is told, and the thread around it."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from pilotage.batch.commands import BatchCommands, CommandResult
from pilotage.batch.job import NOT_LISTED, JobState, JobStatus
from pilotage.batch.pbs import PBSPRO
from pilotage.batch.watcher import JobChange, JobWatcher, Polling
from pilotage.errors import BackendError

QUEUED = JobStatus(JobState.QUEUED, "Priority")
RUNNING = JobStatus(JobState.RUNNING)
DONE = JobStatus(JobState.DONE, exit_code=0)
PATIENCE_S = 60.0


def asked(polling: Polling, now_s: float) -> float:
    wait_s = polling.wait_s(now_s)
    assert wait_s is not None
    return wait_s


def test_nothing_is_asked_for_nobody() -> None:
    polling = Polling()
    assert polling.wait_s(0.0) is None
    polling.watch("1", 0.0)
    assert asked(polling, 0.0) == 0.0
    polling.forget("1")
    assert polling.wait_s(0.0) is None


def test_changes_are_told_once() -> None:
    polling = Polling()
    polling.watch("1", 0.0)
    polling.watch("2", 0.0)
    assert polling.handle_answer({"1": QUEUED, "2": QUEUED, "stranger": DONE}, 0.0, 0.0) == [
        JobChange("1", None, QUEUED),
        JobChange("2", None, QUEUED),
    ]
    assert polling.handle_answer({"1": QUEUED, "2": RUNNING}, 0.0, 1.0) == [JobChange("2", QUEUED, RUNNING)]


def test_a_job_that_ended_is_watched_no_longer_one_that_is_gone_is() -> None:
    polling = Polling()
    polling.watch("1", 0.0)
    polling.watch("2", 0.0)
    polling.handle_answer({"1": DONE, "2": NOT_LISTED}, 0.0, 0.0)
    assert polling.jobs == ["2"]
    assert polling.handle_answer({"2": NOT_LISTED}, 0.0, 1.0) == []
    assert polling.handle_answer({"2": RUNNING}, 0.0, 2.0) == [JobChange("2", NOT_LISTED, RUNNING)]


def test_what_does_not_change_is_asked_for_less_and_less_often() -> None:
    polling = Polling()
    polling.watch("1", 0.0)
    polling.handle_answer({"1": QUEUED}, 0.0, 0.0)
    waits, now_s = [], 0.0
    for _ in range(12):
        waits.append(asked(polling, now_s))
        now_s += waits[-1]
        polling.handle_answer({"1": QUEUED}, 0.0, now_s)
    assert waits[0] == 1.0 and waits[-1] == 30.0 and waits == sorted(waits)

    polling.handle_answer({"1": RUNNING}, 0.0, now_s)
    assert asked(polling, now_s) == 1.0


def test_a_slow_system_is_asked_a_tenth_of_the_time() -> None:
    polling = Polling()
    polling.watch("1", 0.0)
    polling.handle_answer({"1": QUEUED}, 1.2, 0.0)
    assert asked(polling, 0.0) == 12.0
    polling.handle_answer({"1": RUNNING}, 20.0, 12.0)
    assert asked(polling, 12.0) == 30.0


def test_a_system_that_fails_is_asked_less_and_less_often() -> None:
    polling = Polling()
    polling.watch("1", 0.0)
    waits = []
    for _ in range(7):
        polling.handle_failure(0.0)
        waits.append(asked(polling, 0.0))
    assert waits == [2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    polling.hurry(0.0)
    assert asked(polling, 0.0) == 1.0


class Queue:
    """A ``qstat`` that says what a test tells it to, and counts how often it was asked."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.said = CommandResult(0, "", "")
        self.asked = 0

    def run(self, arguments: Sequence[str], timeout_s: float) -> CommandResult:
        with self.changed:
            self.asked += 1
            self.changed.notify_all()
            return self.said

    def say(self, stdout: str = "", stderr: str = "") -> None:
        """Say this from now on, and return when it was said at least once and acted upon."""
        with self.changed:
            self.said = CommandResult(1 if stderr else 0, stdout, stderr)
            before = self.asked
            assert self.changed.wait_for(lambda: self.asked >= before + 2, PATIENCE_S)


def test_the_thread_tells_changes_and_trouble_once() -> None:
    queue, changes, trouble = Queue(), [], []  # type: ignore[var-annotated]

    def note_trouble(error: BackendError | None) -> None:
        trouble.append(error)

    polling = Polling(fastest_s=0.01, slowest_s=0.05)
    watcher = JobWatcher(BatchCommands(PBSPRO, queue), changes.extend, note_trouble, polling=polling)
    watcher.start()
    try:
        watcher.watch("1.pbs")
        queue.say("Job Id: 1.pbs\n    job_state = R\n")
        queue.say(stderr="qstat: cannot connect to server pbs")
        queue.say("Job Id: 1.pbs\n    job_state = E\n")
    finally:
        watcher.stop()

    told = [change.now.state for change in changes]
    assert told in ([JobState.RUNNING, JobState.ENDING], [JobState.UNKNOWN, JobState.RUNNING, JobState.ENDING])
    assert len(trouble) == 2 and isinstance(trouble[0], BackendError) and trouble[0].transient and trouble[1] is None


def test_a_watcher_that_was_never_started_can_be_stopped() -> None:
    JobWatcher(BatchCommands(PBSPRO, Queue()), print, print).stop()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_by_a_fault_says_so() -> None:
    ended = threading.Event()
    trouble: list[BackendError | None] = []

    def fail(changes: Sequence[JobChange]) -> None:
        raise KeyError("a fault")

    def note_trouble(error: BackendError | None) -> None:
        trouble.append(error)
        ended.set()

    watcher = JobWatcher(BatchCommands(PBSPRO, Queue()), fail, note_trouble)
    watcher.start()
    watcher.watch("1.pbs")
    assert ended.wait(PATIENCE_S)
    watcher.stop()
    assert [str(error) for error in trouble] == ["no longer watching the jobs of pbspro: KeyError('a fault')"]


def test_the_thread_can_be_stopped_by_what_it_calls() -> None:
    stopped = threading.Event()

    def stop(changes: Sequence[JobChange]) -> None:
        watcher.stop()
        stopped.set()

    watcher = JobWatcher(BatchCommands(PBSPRO, Queue()), stop, lambda error: None)
    watcher.start()
    watcher.watch("1.pbs")
    assert stopped.wait(PATIENCE_S)
    watcher.stop()
