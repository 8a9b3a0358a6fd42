"""Whether the batch system ends the pilot's job, asked of the batch system: where nobody tells the agent.

Slurm that lets a job have a grace (``GraceTime``) before another takes its place tells the job's steps at once, by TERM, but
not its script, and so not the agent. What it also does at once is to move the job's end nearer, and that can be seen. So the
batch system is asked when a host was told to end, and on a single node, which has no hosts, now and then, if its jobs may have
such a grace. Each question is a command, run on a thread; ``take`` returns what came of it.

That the batch system does not answer is no sign of an end: what was told to end then ends, as if it had been meant alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from pilotage.agent.allocation import ask_system
from pilotage.agent.found_nodes import FoundNodes
from pilotage.agent.settings import PilotSettings
from pilotage.batch.commands import BatchCommands
from pilotage.batch.job import JobState, JobStatus
from pilotage.batch.slurm_grace import configuration_command, grace_s, partition_command
from pilotage.errors import PilotageError

ASK_S = 20.0
"""How long a question may take, tries after failures included; hosts wait longer for its answer."""

LOOK_EVERY_S = 30.0
"""How often it is looked where nobody is told: one small question to the batch system, by jobs alone that may have a grace."""

_LOOKS_IN_GRACE = 4
"""So many looks are within a grace that is known, if they need not come more often than each ``_LOOK_LEAST_S``."""
_LOOK_LEAST_S = 5.0
_AGAIN_S = 1.0
_NEARER_S = 1.0
"""By more than this an end has moved nearer."""

Look = Callable[[float], JobStatus]
"""Asks the batch system about the job, for so many seconds at the longest; raises ``PilotageError``."""


class Verdict(NamedTuple):
    """What was learned. ``reason``: why the job ends; empty: it does not. ``end_s``: when, if known (since the epoch)."""

    reason: str
    end_s: float | None = None


GOES_ON = Verdict("")


def judged(status: JobStatus, known_end_s: float | None) -> Verdict:
    """Say what the status of the job means whose end was to be ``known_end_s`` (seconds since the epoch)."""
    if status.state.is_final or status.state in (JobState.ENDING, JobState.REQUEUED):
        return Verdict(f"the batch system is ending the job: it is {status.state.value}")
    if known_end_s is None or status.end_s is None or status.end_s >= known_end_s - _NEARER_S:
        return GOES_ON
    return Verdict(f"the batch system has moved the job's end {known_end_s - status.end_s:.0f} s nearer", status.end_s)


class JobWatch:
    """Asks about one job; an ``executors.hosts.EndInquiry``.

    ``known_end_s``: when the job was to end as it began; None: nobody knew. ``every``: returns each how many seconds it is
    looked without a cause (None: never); asked once, on the thread. All methods are for one thread.
    """

    def __init__(
        self, look: Look, known_end_s: float | None, every: Callable[[], float | None] | None = None, patience_s: float = ASK_S
    ) -> None:
        self._ask_system = look
        self._known_end_s = known_end_s
        self._every = every
        self._patience_s = patience_s
        self._every_s: float | None = None
        self._asking = False
        self._again = False
        self._said: Verdict | None = None
        """By the thread, for the loop."""
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        """Held while the descriptor is closed, or written to."""
        self.due: float | None = time.time() if every is not None else None
        """When ``take`` is to be called though nothing is readable (seconds since the epoch)."""
        self.answer: bool | None = None
        """See ``EndInquiry``."""
        self.was_asked = False
        """Whether somebody waits for an answer."""

    def fileno(self) -> int:
        """Return the descriptor that is readable when there is an answer."""
        return self._wakeup

    def ask(self) -> None:
        """Find out whether the job ends, now; see ``EndInquiry``."""
        if self.answer:
            return
        self.answer, self.was_asked = None, True
        if self._asking:
            # What is under way may have been asked before the end was moved.
            self._again = True
        else:
            self._begin()

    def look(self) -> None:
        """Ask, though it may be known that the job ends: ``take`` may tell when."""
        if not self._asking:
            self._begin()

    def job_ends(self) -> None:
        """It is known that the job ends, by others' word."""
        self.answer, self.was_asked, self.due = True, False, None

    def take(self, now: float) -> Verdict | None:
        """Return what was learned, once; ask if it is time to."""
        try:
            os.eventfd_read(self._wakeup)
        except BlockingIOError:
            if self.due is not None and now >= self.due and not self._asking:
                self.due = None
                self._begin()
            return None
        self._asking = False
        said, self._said = self._said, None
        if self._again and not (said is not None and said.reason):
            self._again = False
            self._begin()
            return None
        if said is not None and said.reason:
            self.job_ends()
            return said
        if self._every_s is not None and not self.answer:
            self.due = now + self._every_s
        if not self.was_asked:
            return None
        self.answer, self.was_asked = False, False
        return GOES_ON

    def close(self) -> None:
        """Take no more answers."""
        with self._lock:
            os.close(self._wakeup)
            self._wakeup = -1

    # on the thread

    def _begin(self) -> None:
        self._asking = True
        threading.Thread(target=self._find_out, name="job", daemon=True).start()

    def _find_out(self) -> None:
        until = time.monotonic() + self._patience_s
        if self._every is not None:
            every, self._every = self._every, None
            self._every_s = every()
        said = None
        while said is None and (left_s := until - time.monotonic()) > 0:
            try:
                said = judged(self._ask_system(left_s), self._known_end_s)
            except PilotageError as error:
                sys.stderr.write(f"the batch system does not tell whether the job ends: {error}\n")
                sys.stderr.flush()
                time.sleep(min(_AGAIN_S, max(0.0, until - time.monotonic())))
        self._said = said
        with self._lock:
            if self._wakeup >= 0:
                os.eventfd_write(self._wakeup, 1)


def watch_of(settings: PilotSettings, found: FoundNodes) -> JobWatch | None:
    """Return the watch of the agent of a pilot over the job that has these nodes; None: it is no job of a batch system."""
    if settings.batch == "local" or not found.job:
        return None
    every = partial(look_every, settings.batch) if found.alone and not settings.partition else None
    return JobWatch(_look_at(settings.batch, found.job), found.end_s, every)


def _look_at(batch: str, job: str) -> Look:
    """Return what asks a batch system, by its name, about a job."""

    def look(timeout_s: float) -> JobStatus:
        return BatchCommands.here(batch, timeout_s=timeout_s).statuses([job])[job]

    return look


def look_every(batch: str) -> float | None:
    """Return each how many seconds it is to be looked whether this process's job ends; None: there is no cause to.

    It runs commands of the batch system.
    """
    partition = os.environ.get("SLURM_JOB_PARTITION", "")
    if batch != "slurm" or not partition:
        return None
    try:
        grace = grace_s(ask_system(configuration_command()), ask_system(partition_command(partition)))
    except PilotageError as error:
        sys.stderr.write(f"it is not looked whether another job takes this one's place: {error}\n")
        sys.stderr.flush()
        return None
    return None if grace is None else max(_LOOK_LEAST_S, min(LOOK_EVERY_S, grace / _LOOKS_IN_GRACE))
