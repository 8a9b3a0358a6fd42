"""What users are told of a pilot's job."""

from __future__ import annotations

import time

import msgspec
import pytest

from pilotage.batch.job import JobState, JobStatus
from pilotage.client.job_words import details_of, never, outcome_of, reason_of
from pilotage.core.client.state import JobRecord, PilotRecord
from pilotage.model.ids import PilotUid
from pilotage.model.states import CANCELED, FAILED, PMGR_ACTIVE, PMGR_ACTIVE_PENDING, PMGR_LAUNCHING

STARTS = time.mktime((2027, 1, 15, 8, 0, 0, 0, 0, -1))


def pilot(state: str, job: JobRecord | None, reason: str = "") -> PilotRecord:
    return PilotRecord(PilotUid("p"), "pmgr", msgspec.Raw(b"\x80"), [], state, reason, job=job)


def job(state: str = "", reason: str = "", id: str = "12", starts: float = 0.0) -> JobRecord:
    return JobRecord("slurm", "pilotage.s.p.1", id, state, reason, starts)


@pytest.mark.parametrize(
    ("record", "told"),
    [
        (pilot(PMGR_ACTIVE_PENDING, None), ""),
        (pilot(PMGR_LAUNCHING, job(id="")), "its job is being submitted"),
        (pilot(PMGR_LAUNCHING, job(id="", reason="slurm: down")), "its job is not submitted yet: slurm: down"),
        (pilot(PMGR_ACTIVE_PENDING, job()), ""),
        (pilot(PMGR_ACTIVE_PENDING, job("queued", "Priority")), "its job 12 is queued: Priority"),
        (
            pilot(PMGR_ACTIVE_PENDING, job("queued", "Resources", starts=STARTS)),
            "its job 12 is queued: Resources; it is expected to start at 2027-01-15 08:00",
        ),
        (pilot(PMGR_ACTIVE_PENDING, job("held", "JobHeldUser")), "its job 12 is held: JobHeldUser"),
        (pilot(PMGR_ACTIVE_PENDING, job("running")), ""),
        (pilot(PMGR_ACTIVE, job("requeued", "BeginTime")), "its job 12 is requeued: BeginTime"),
        (pilot(PMGR_ACTIVE, job("unknown", "not listed")), "its job 12 is unknown: not listed"),
        (pilot(CANCELED, job("cancelled"), "enough"), "enough"),
        # The agent had time to end, and did not know why it had to.
        (
            pilot(CANCELED, job("preempted", "None"), "told to end by SIGTERM"),
            "told to end by SIGTERM; its job 12 was preempted (None)",
        ),
        (pilot(FAILED, job("timed_out", "TimeLimit"), "its job 12 ran out of time (TimeLimit)"), None),
    ],
)
def test_a_pilot_says_why_it_is_as_it_is(record: PilotRecord, told: str | None) -> None:
    assert reason_of(record) == (record.reason if told is None else told)


@pytest.mark.parametrize(
    ("state", "outcome"), [("", ""), ("running", ""), ("unknown", ""), ("timed_out", "TIMED_OUT"), ("done", "DONE")]
)
def test_the_outcome_of_a_job_is_one_word(state: str, outcome: str) -> None:
    assert outcome_of(pilot(FAILED, job(state))) == outcome


def test_there_is_none_without_a_job() -> None:
    assert outcome_of(pilot(FAILED, None)) == ""


def test_what_is_told_of_an_end_is_told_in_full() -> None:
    assert details_of(JobStatus(JobState.FAILED, "RaisedSignal", signal=9)) == "RaisedSignal, signal 9"
    assert details_of(JobStatus(JobState.DONE, exit_code=0)) == ""


def test_what_can_never_begin_is_told_with_what_is_asked_for() -> None:
    asked = msgspec.Raw(msgspec.msgpack.encode({"resource": "lab.blue", "nodes": 9, "queue": "debug", "sandbox": "/a"}))
    told = never("12", "PartitionNodeLimit", msgspec.structs.replace(pilot(PMGR_ACTIVE_PENDING, job()), description=asked))
    assert told == ("its job 12 can never begin: PartitionNodeLimit; change what the pilot asks for: nodes=9, queue='debug'")
