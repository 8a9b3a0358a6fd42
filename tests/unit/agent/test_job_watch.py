"""What is learned from the batch system of the end of the pilot's job, and how often it is asked."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from pilotage.agent import job_watch
from pilotage.agent.job_watch import GOES_ON, JobWatch, Look, Verdict, judged, look_every
from pilotage.agent.startup import EndCall
from pilotage.batch.job import NOT_LISTED, JobState, JobStatus
from pilotage.batch.slurm_grace import grace_s
from pilotage.batch.system import BatchError

PATIENCE_S = 60.0
END_S = 5000.0
CONFIGURATION = "PreemptParameters       = (null)\nPreemptType             = {}\nPreemptExemptTime       = 00:00:00\n"
PARTITION = "PartitionName=spare AllowGroups=ALL DisableRootJobs=NO GraceTime={} Hidden=NO PreemptMode=REQUEUE State=UP\n"


@pytest.fixture
def watch_with() -> Iterator[Callable[..., JobWatch]]:
    watches: list[JobWatch] = []

    def make(look: Look, **more: object) -> JobWatch:
        watches.append(JobWatch(look, END_S, **more))  # type: ignore[arg-type]
        return watches[-1]

    yield make
    for watch in watches:
        watch.close()


def next_verdict(watch: JobWatch) -> Verdict | None:
    """Return what the next look comes to."""
    assert select.select([watch], [], [], PATIENCE_S)[0]
    return watch.take(time.time())


def running(end_s: float | None) -> JobStatus:
    return JobStatus(JobState.RUNNING, end_s=end_s)


@pytest.mark.parametrize(
    ("status", "known_end_s", "ends", "end_s"),
    [
        (running(END_S), END_S, False, None),
        (running(END_S + 60), END_S, False, None),
        (running(END_S - 60), END_S, True, END_S - 60),
        (running(END_S - 60), None, False, None),
        (running(None), END_S, False, None),
        (JobStatus(JobState.ENDING, end_s=END_S), END_S, True, None),
        (JobStatus(JobState.PREEMPTED, end_s=END_S), END_S, True, None),
        (JobStatus(JobState.REQUEUED), END_S, True, None),
        (NOT_LISTED, END_S, False, None),
    ],
)
def test_a_job_ends_if_it_is_ending_or_its_end_is_nearer(
    status: JobStatus, known_end_s: float | None, ends: bool, end_s: float | None
) -> None:
    verdict = judged(status, known_end_s)
    assert (bool(verdict.reason), verdict.end_s) == (ends, end_s)


def test_who_asks_is_answered_and_an_end_is_told_once(watch_with: Callable[..., JobWatch]) -> None:
    ends = iter([END_S, END_S - 60])
    watch = watch_with(lambda _timeout_s: running(next(ends)))
    assert (watch.due, watch.answer) == (None, None)
    watch.ask()
    assert (next_verdict(watch), watch.answer) == (GOES_ON, False)
    watch.ask()
    assert watch.answer is None
    verdict = next_verdict(watch)
    assert verdict is not None and verdict.end_s == END_S - 60
    watch.ask()
    assert watch.answer is True and watch.take(time.time()) is None


def test_what_was_asked_before_somebody_wants_to_know_is_asked_again(watch_with: Callable[..., JobWatch]) -> None:
    asked, go_on = threading.Event(), threading.Event()
    ends = iter([END_S, END_S - 60])

    def look(_timeout_s: float) -> JobStatus:
        end_s = next(ends)
        asked.set()
        assert go_on.wait(PATIENCE_S)
        return running(end_s)

    watch = watch_with(look)
    watch.ask()
    assert asked.wait(PATIENCE_S)
    watch.ask()
    go_on.set()
    assert next_verdict(watch) is None and watch.answer is None
    assert next_verdict(watch) == judged(running(END_S - 60), END_S)


def test_a_failure_is_asked_again_and_in_the_end_the_job_goes_on(
    watch_with: Callable[..., JobWatch], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_watch, "_AGAIN_S", 0.0)
    answers = iter([BatchError("no"), BatchError("no"), running(END_S - 60)])

    def look(_timeout_s: float) -> JobStatus:
        answer = next(answers)
        if isinstance(answer, BatchError):
            raise answer
        return answer

    watch = watch_with(look)
    watch.ask()
    assert next_verdict(watch) == judged(running(END_S - 60), END_S)

    def fails(_timeout_s: float) -> JobStatus:
        raise BatchError("no")

    watch = watch_with(fails, patience_s=0.2)
    watch.ask()
    assert (next_verdict(watch), watch.answer) == (GOES_ON, False)


def test_it_is_looked_now_and_then_where_it_is_to_be(watch_with: Callable[..., JobWatch]) -> None:
    ends = iter([END_S, END_S, END_S - 60])
    watch = watch_with(lambda _timeout_s: running(next(ends)), every=lambda: 30.0)
    for _ in range(2):
        assert watch.due is not None
        due = watch.due
        assert watch.take(due) is None and watch.due is None
        assert select.select([watch], [], [], PATIENCE_S)[0]
        assert watch.take(due) is None, "nobody has asked"
        assert watch.due == due + 30.0
    assert watch.take(watch.due) is None
    assert next_verdict(watch) == judged(running(END_S - 60), END_S)
    assert watch.due is None, "it is known"


def test_where_nobody_is_to_look_it_is_looked_once(watch_with: Callable[..., JobWatch]) -> None:
    watch = watch_with(lambda _timeout_s: running(END_S), every=lambda: None)
    assert watch.due is not None and watch.take(watch.due) is None
    assert next_verdict(watch) is None and watch.due is None


@pytest.mark.parametrize(
    ("by", "grace", "expected"),
    [
        ("preempt/none", 60, None),
        ("preempt/partition_prio", 0, None),
        ("preempt/partition_prio", 60, 60.0),
        ("preempt/qos", 0, math.inf),
        ("preempt/qos", 60, 60.0),
    ],
)
def test_the_grace_of_a_partition(by: str, grace: int, expected: float | None) -> None:
    assert grace_s(CONFIGURATION.format(by), PARTITION.format(grace)) == expected


def test_what_cannot_be_read_is_no_grace() -> None:
    for told in (("", PARTITION.format(60)), (CONFIGURATION.format("preempt/qos"), "")):
        with pytest.raises(BatchError, match="is it another version"):
            grace_s(*told)


@pytest.mark.parametrize(
    ("by", "grace", "every_s"),
    [("partition_prio", 0, None), ("partition_prio", 4, 5), ("partition_prio", 60, 15), ("qos", 0, 30)],
)
def test_the_longer_the_grace_the_less_often_it_is_looked(
    monkeypatch: pytest.MonkeyPatch, by: str, grace: int, every_s: float | None
) -> None:
    asked = []

    def ask(command: list[str]) -> str:
        asked.append(command)
        return CONFIGURATION.format(f"preempt/{by}") if "config" in command else PARTITION.format(grace)

    monkeypatch.setattr(job_watch, "ask_system", ask)
    monkeypatch.delenv("SLURM_JOB_PARTITION", raising=False)
    assert look_every("slurm") is None and not asked
    monkeypatch.setenv("SLURM_JOB_PARTITION", "spare")
    assert look_every("pbspro") is None and not asked
    assert look_every("slurm") == every_s and asked[-1][-1] == "spare"


def test_who_has_learned_of_an_end_stays_until_it_comes() -> None:
    call = EndCall()
    call.stay()
    call.stay_until = time.time() + PATIENCE_S
    ender = threading.Timer(0.05, call.end, ["TERM"])
    ender.start()
    call.stay()
    assert call.came
    call.close()
    ender.join()
