"""The witness, and the books: what payloads did by their own account, compared with what Pilotage says they did.

The witness is a file that each payload appends to when it begins and when it ends. Nothing of Pilotage writes or reads it, so
our own log does not vouch for itself.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from .jobs import Job

LOSSES = ("LOST", "NODE_FAILED", "SIGNALLED")


class Reported(msgspec.Struct, frozen=True):
    """What the client says of a task. ``launched``: whether an attempt was handed to a runner."""

    uid: str
    state: str
    ending: str = ""
    attempt: int = 0
    pilot: str = ""
    launched: bool = False
    message: str = ""
    value: str | None = None


class Execution(NamedTuple):
    """One process of one attempt; a task is bound to a pilot once at most, so the pilot stands for the binding."""

    uid: str
    pilot: str
    attempt: int
    rank: int


class Witness:
    """What the payloads wrote."""

    def __init__(self, path: Path) -> None:
        self.begun: Counter[Execution] = Counter()
        self.ended: Counter[Execution] = Counter()
        for line in path.read_text().splitlines():
            uid, pilot, attempt, rank, word, _ = line.split()
            (self.begun if word == "begin" else self.ended)[Execution(uid, pilot, int(attempt), int(rank))] += 1


class Harm(msgspec.Struct, frozen=True):
    """What the kills of a round may cost. ``runner``: what a killed spawner or worker ran. ``pilot``: all that it had."""

    runner: bool = False
    pilot: bool = False


def findings(jobs: Iterable[Job], reports: Iterable[Reported], heard: Iterable[str], witness: Witness, harm: Harm) -> list[str]:
    """Return everything that contradicts what is promised; empty when the books are right."""
    found: list[str] = []
    by_uid: dict[str, list[Reported]] = defaultdict(list)
    for report in reports:
        by_uid[report.uid].append(report)
    heard_states: dict[str, set[str]] = defaultdict(set)
    for line in heard:
        uid, state = line.split()
        heard_states[uid].add(state)
    began: dict[str, list[Execution]] = defaultdict(list)
    for execution, times in witness.begun.items():
        began[execution.uid].append(execution)
        if times > 1:
            found.append(f"{execution} began {times} times")
    jobs = list(jobs)
    for job in jobs:
        own = by_uid[job.uid]
        if len(own) != 1:
            found.append(f"{job.uid} has {len(own)} outcomes")
            continue
        found += [f"{job.uid} ({job.kind}): {text}" for text in _of_one(job, own[0], began[job.uid], witness.ended, harm)]
        if heard_states[job.uid] != {own[0].state}:
            found.append(f"{job.uid} is {own[0].state}, callbacks heard {sorted(heard_states[job.uid])}")
    strangers = {*by_uid, *began} - {job.uid for job in jobs}
    return found + [f"{uid} was never submitted" for uid in sorted(strangers)]


def _of_one(job: Job, report: Reported, began: list[Execution], ended: Mapping[Execution, int], harm: Harm) -> Iterable[str]:
    attempts = {(execution.pilot, execution.attempt) for execution in began}
    if len(attempts) > 1 and not job.runs_again:
        yield f"began in {sorted(attempts)}, and may run once"
    if len(attempts) > 1 + job.retries and not job.restartable:
        yield f"began in {sorted(attempts)}, and may be tried again {job.retries} times"
    last = [execution for execution in began if (execution.pilot, execution.attempt) == (report.pilot, report.attempt)]
    if report.ending == "DONE":
        if sum(ended[execution] for execution in last) != job.ranks:
            yield f"is DONE in attempt {report.attempt}, of which the witness has {last}, ended: {[ended[e] for e in last]}"
        if job.is_call and report.value != job.value:
            yield f"returned {report.value!r:.40}"
    if report.ending in ("CANCELLED", "INFEASIBLE", "LAUNCH_FAILED") and not (report.launched or job.runs_again) and began:
        yield f"{report.ending}, never launched, but began: {began}"
    allowed = {job.expected}
    if job.kind in ("flaky", "flaky_call") and 1 not in {attempt for _, attempt in attempts}:
        # It fails in attempt 1 alone, and that one did not begin.
        allowed.add("DONE")
    if job.kind in ("flaky", "flaky_call") and job.restartable and len(attempts) > 1 and harm.runner:
        # Attempt 1 was lost before it was known to have failed, and followed by another.
        allowed.add("DONE")
    if job.cancel:
        allowed.add("CANCELLED")
    if harm.runner or harm.pilot:
        allowed.update(LOSSES)
    if harm.pilot:
        allowed.update(("CANCELLED", "LAUNCH_FAILED"))
    if report.ending not in allowed:
        yield f"{report.ending} ({report.message}), expected {' or '.join(sorted(allowed))}; began: {began}"
