"""What users are told of a pilot's job, in words."""

from __future__ import annotations

import time
from collections.abc import Mapping

import msgspec

from pilotage.batch.job import JobState, JobStatus
from pilotage.batch.system import BatchError, FailureKind
from pilotage.core.client.state import JobRecord, PilotRecord
from pilotage.model.states import FINAL

REMEDIES: Mapping[FailureKind, str] = {
    FailureKind.ACCOUNT: "give a project of yours: project=",
    FailureKind.QUEUE: "give a queue, qos or reservation that is open to you: queue=, qos=, reservation=",
    FailureKind.LIMIT: "ask for less, or for what there is: nodes=, runtime=, queue=, constraints=, licenses=",
    FailureKind.UNREACHABLE: "submit the pilot again when the batch system is up",
}
"""What to do when a job is refused, by the kind of failure; the other errors say it themselves."""

_ASKED = (
    *("nodes", "cores", "gpus", "memory", "runtime", "queue", "qos", "project"),
    *("constraints", "reservation", "licenses", "dependency", "extra_options"),
)
"""Attributes of a pilot for which its job may have to wait for ever."""
STARTS = "; it is expected to start at "
"""In a reason to wait: what follows is an estimate, which batch systems change all the time."""

_ENDS: Mapping[JobState, str] = {
    JobState.DONE: "ended",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "was cancelled",
    JobState.TIMED_OUT: "ran out of time",
    JobState.PREEMPTED: "was preempted",
    JobState.NODE_FAILED: "lost a node",
    JobState.OUT_OF_MEMORY: "ran out of memory",
}
_UNTIMELY = (JobState.TIMED_OUT, JobState.PREEMPTED, JobState.NODE_FAILED, JobState.OUT_OF_MEMORY)
"""Ends that the batch system decides on, and that an agent which was told to end in time cannot tell from one another."""


def details_of(status: JobStatus) -> str:
    """Return what a batch system tells of how a job ended, beside the state.

    >>> details_of(JobStatus(JobState.FAILED, "NonZeroExitCode", exit_code=2))
    'NonZeroExitCode, exit code 2'
    """
    details = [status.reason]
    if status.exit_code:
        details.append(f"exit code {status.exit_code}")
    if status.signal is not None:
        details.append(f"signal {status.signal}")
    return ", ".join(filter(None, details))


def refusal(error: BatchError) -> str:
    """Return why a job could not be submitted, and what to do."""
    remedy = REMEDIES.get(error.kind, "")
    return f"its job could not be submitted: {error}{f'; {remedy}' if remedy else ''}"


def never(job: str, reason: str, pilot: PilotRecord) -> str:
    """Return why a job can never begin, and what its pilot asks for."""
    said = msgspec.msgpack.decode(pilot.description)
    asked = ", ".join(f"{name}={said[name]!r}" for name in _ASKED if said.get(name))
    return f"its job {job} can never begin: {reason}; change what the pilot asks for{f': {asked}' if asked else ''}"


def end_of(job: JobRecord) -> str:
    """Return how a job ended.

    >>> end_of(JobRecord("slurm", "a", "12", "timed_out", "TimeLimit"))
    'its job 12 ran out of time (TimeLimit)'
    """
    said = _ENDS.get(JobState(job.state), "is gone")
    return f"its job {job.id} {said}{f' ({job.reason})' if job.reason else ''}"


def reason_of(pilot: PilotRecord) -> str:
    """Return why a pilot ended; of one that waits for its job why that does, and for how long."""
    job = pilot.job
    if job is None:
        return pilot.reason
    state = JobState(job.state) if job.state else None
    if pilot.state in FINAL:
        untold = state in _UNTIMELY and end_of(job) not in pilot.reason
        return f"{pilot.reason}; {end_of(job)}" if untold else pilot.reason
    if not job.id:
        return f"its job is not submitted yet: {job.reason}" if job.reason else "its job is being submitted"
    if state in (None, JobState.RUNNING, JobState.ENDING):
        return ""
    starts = f"{STARTS}{time.strftime('%Y-%m-%d %H:%M', time.localtime(job.starts))}" if job.starts else ""
    return f"its job {job.id} is {job.state}{f': {job.reason}' if job.reason else ''}{starts}"


def outcome_of(pilot: PilotRecord) -> str:
    """Return in one word how a pilot's job ended (``TIMED_OUT``, ``PREEMPTED``, ...); empty: it has not, or there is none."""
    state = JobState(pilot.job.state) if pilot.job is not None and pilot.job.state else None
    return state.name if state is not None and state.is_final else ""
