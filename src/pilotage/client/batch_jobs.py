"""The jobs of a session's pilots: submitted, watched and cancelled, on threads of their own.

A session whose pilots are jobs has two threads more: one runs the commands that submit, look for and cancel jobs, one after
another; the other (``JobWatcher``) asks for all jobs at a time. What comes of it is told to the engine as events. Nothing is
decided here but when to try again:

- A submission that failed for good is told at once, with what the command printed.
- One that may succeed later, or that may have been heard though no answer came, is taken up again: first the job is looked for
  by its name, which is its own; only when it is not there for ``settle_s`` it is submitted once more. A job that turns up
  twice has one of the two cancelled.
- A job that is not listed any more is over when it has not been listed for ``vanish_s``: a server that was just restarted may
  know it again.
- A job that waits for what can never be is cancelled, and its pilot fails.
- A job that has lost its agent's node is cancelled, and told as one that lost a node (see ``job_nodes``).
- Cancelling is tried until it succeeds, or the job is over.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from pilotage.agent.claim import forbid
from pilotage.batch.commands import BatchCommands
from pilotage.batch.job import JobState, JobStatus
from pilotage.batch.system import BatchError, FailureKind
from pilotage.batch.watcher import JobChange, JobWatcher
from pilotage.client.job_nodes import has_ended_before, has_first_node, has_lost_first_node, with_lost_node
from pilotage.client.job_words import details_of, never, refusal
from pilotage.core.client import events
from pilotage.core.client.state import JobRecord, PilotRecord
from pilotage.errors import BackendError, InvariantViolated
from pilotage.model.ids import PilotUid

log = logging.getLogger("pilotage")


_WAITING = (JobState.QUEUED, JobState.HELD)
CANCELLED = "it was cancelled before its job was submitted"


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long what is tried again, in seconds.

    ``submit_s``: until a submission is given up. ``settle_s``: for how long a job is looked for that may have been submitted.
    ``again_s`` and ``longest_s``: the first pause before something is tried again, and the longest. ``vanish_s``: for how long
    a job may not be listed; ``unlisted_s``: the same where ended jobs are not listed anyway. ``cancel_s``: what an agent that
    was told to end has for it.
    """

    submit_s: float = 300.0
    settle_s: float = 10.0
    again_s: float = 1.0
    longest_s: float = 30.0
    vanish_s: float = 60.0
    unlisted_s: float = 10.0
    cancel_s: float = 20.0


class Told(Protocol):
    """The engine, as far as jobs need it; called on their threads."""

    def tell(self, event: events.Event) -> bool:
        """Take an event in. False: the session does not go on in this process."""

    def stop_for(self, reason: str) -> None:
        """The session cannot go on in this process."""


class _Job:
    """A pilot's job, and what is under way with it. ``attempt`` counts what was tried in vain since something succeeded."""

    def __init__(self, pilot: PilotRecord, record: JobRecord, script: Path) -> None:
        self.pilot = pilot
        self.record = record
        self.script = script
        self.submitting = False
        self.since_s = 0.0
        self.attempt = 0
        self.changes = 0
        """What was to happen if it stays unlisted concerns the last of its changes only."""
        self.last_state = record.state
        self.cancelling = False
        self.over = False
        self.had_first_node = False


class BatchJobs:
    """The jobs of one session. ``commands_of`` returns the commands of a batch system by its name.

    Both it and ``patience`` may be set anew before the first job.
    """

    def __init__(
        self,
        engine: Told,
        *,
        patience: Patience | None = None,
        commands_of: Callable[[str], BatchCommands] | None = None,
    ) -> None:
        self._engine = engine
        self.patience = patience or Patience()
        self.commands_of = commands_of or BatchCommands.here
        self._commands: dict[str, BatchCommands] = {}
        self._watchers: dict[str, JobWatcher] = {}
        self._jobs: dict[PilotUid, _Job] = {}
        self._by_id: dict[tuple[str, str], _Job] = {}
        self._condition = threading.Condition()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._thread: threading.Thread | None = None
        self._stopping = False

    # what the engine wants; none of these waits

    def submit(self, pilot: PilotRecord, script: Path, *, anew: bool = False) -> None:
        """Have a pilot's job submitted. ``anew``: that may have been done before, by a program that died meanwhile."""
        job = self._job(pilot, script)
        job.submitting, job.since_s = True, time.monotonic()
        self._later(0.0, (lambda: self._look_for(job)) if anew else (lambda: self._submit(job)))

    def watch(self, pilot: PilotRecord, script: Path) -> None:
        """Ask for a pilot's job, which has an id, from now on."""
        job = self._job(pilot, script)
        system = job.record.system
        with self._condition:
            self._by_id[system, job.record.id] = job
            watcher = self._watchers.get(system)
            if watcher is None:
                watcher = self._watchers[system] = JobWatcher(
                    self._commands_for(system), lambda changes: self._changed(system, changes), self._troubled
                )
                watcher.start()
        watcher.watch(job.record.id)

    def cancel(self, pilot: PilotUid, *, at_once: bool) -> None:
        """Have a pilot's job cancelled, now or if it is not over after ``cancel_s``; or not submitted, if it is not yet."""
        job = self._jobs.get(pilot)
        if job is None or job.over or (job.cancelling and at_once):
            return
        if not job.record.id:
            if job.attempt:
                # It may be long until it would be tried again.
                self._later(0.0, lambda: self._look_for(job))
            return
        job.cancelling = job.cancelling or at_once
        self._later(0.0 if at_once else self.patience.cancel_s, lambda: self._cancel(job))

    def hurry(self, pilot: PilotUid) -> None:
        """Ask soon: something has surely changed."""
        job = self._jobs.get(pilot)
        if job is not None and (watcher := self._watchers.get(job.record.system)) is not None:
            watcher.hurry()

    def forget(self, pilot: PilotUid) -> None:
        """Nothing more is to be known of a pilot's job."""
        job = self._jobs.pop(pilot, None)
        if job is None:
            return
        job.over = True
        self._by_id.pop((job.record.system, job.record.id), None)
        if (watcher := self._watchers.get(job.record.system)) is not None:
            watcher.forget(job.record.id)

    def stop(self) -> None:
        """End the threads; a command that is under way, and submissions that nobody has begun with, are waited for."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
        for watcher in self._watchers.values():
            watcher.stop()

    # the thread of commands

    def _job(self, pilot: PilotRecord, script: Path) -> _Job:
        job = self._jobs.get(pilot.uid)
        if job is None:
            if pilot.job is None:
                raise InvariantViolated(f"pilot {pilot.uid} has no job")
            job = self._jobs[pilot.uid] = _Job(pilot, pilot.job, script)
        return job

    def _commands_for(self, system: str) -> BatchCommands:
        found = self._commands.get(system)
        if found is None:
            found = self._commands[system] = self.commands_of(system)
        return found

    def _later(self, delay_s: float, call: Callable[[], None]) -> None:
        with self._condition:
            heapq.heappush(self._due, (time.monotonic() + delay_s, next(self._numbers), call))
            if self._thread is None and not self._stopping:
                self._thread = threading.Thread(target=self._run, name="pilotage-jobs", daemon=True)
                self._thread.start()
            self._condition.notify()

    def _run(self) -> None:
        try:
            while (call := self._next()) is not None:
                call()
        except Exception as error:  # the root of this thread: whoever waits must not wait for ever
            self._engine.stop_for(f"its jobs are looked after no longer: {type(error).__name__}: {error}")
            log.exception("the thread that runs commands of batch systems ended")

    def _next(self) -> Callable[[], None] | None:
        with self._condition:
            while not self._stopping:
                wait_s = self._due[0][0] - time.monotonic() if self._due else None
                if wait_s is not None and wait_s <= 0.0:
                    return heapq.heappop(self._due)[2]
                self._condition.wait(wait_s)
            # Who leaves right after submitting pilots means them to be in the queue.
            while self._due:
                due_s, _, call = heapq.heappop(self._due)
                if due_s <= time.monotonic():
                    return call
        return None

    def _pause_s(self, job: _Job) -> float:
        job.attempt += 1
        return float(min(self.patience.again_s * 2.0 ** (job.attempt - 1), self.patience.longest_s))

    # submitting

    def _submit(self, job: _Job) -> None:
        if not job.submitting:
            return
        if _is_unwanted(job.pilot):
            self._refused(job, CANCELLED)
            return
        try:
            found = self._commands_for(job.record.system).submit(str(job.script))
        except BatchError as error:
            if error.kind is FailureKind.UNANSWERED or error.transient:
                self._try_again(job, error)
            else:
                self._refused(job, refusal(error))
            return
        self._submitted(job, [found])

    def _try_again(self, job: _Job, error: BatchError) -> None:
        if _is_unwanted(job.pilot):
            self._refused(job, f"{CANCELLED}; {error}")
            return
        if time.monotonic() - job.since_s > self.patience.submit_s:
            self._refused(job, f"{refusal(error)}. A job {job.record.name!r} that comes into the queue ends by itself")
            return
        self._engine.tell(events.JobTold(time.time(), job.pilot.uid, "", str(error)))
        began_s = time.monotonic()
        self._later(self._pause_s(job), lambda: self._look_for(job, began_s, error))

    def _look_for(self, job: _Job, began_s: float | None = None, last: BatchError | None = None) -> None:
        """Look for a job that may be in the queue; submit it if it is certainly not there."""
        if not job.submitting:
            return
        began_s = time.monotonic() if began_s is None else began_s
        try:
            found = self._commands_for(job.record.system).find(job.record.name)
        except BatchError as error:
            self._try_again(job, error)
            return
        if found:
            self._submitted(job, found)
        elif found is None and (last is None or last.kind is FailureKind.UNANSWERED):
            why = str(last) if last is not None else "this program's predecessor died while it submitted it"
            told = f"it is not known whether its job {job.record.name!r} was submitted: {why}"
            self._refused(job, f"{told}. If it is in the queue, it ends by itself; or cancel it")
        elif time.monotonic() - began_s < self.patience.settle_s:
            self._later(self._pause_s(job), lambda: self._look_for(job, began_s, last))
        else:
            self._submit(job)

    def _submitted(self, job: _Job, found: Sequence[str]) -> None:
        job.submitting, job.attempt = False, 0
        if not self._engine.tell(events.JobSubmitted(time.time(), job.pilot.uid, found[0])):
            log.warning("pilot %s has job %s, which could not be noted", job.pilot.uid, found[0])
        for other in found[1:]:
            try:
                self._commands_for(job.record.system).cancel(other)
            except BatchError as error:
                log.warning("pilot %s has a second job %s, which ends by itself: %s", job.pilot.uid, other, error)

    def _refused(self, job: _Job, reason: str) -> None:
        job.submitting = False
        # Should a job of it come up nevertheless, it goes away.
        forbid(job.script.parent)
        self._engine.tell(events.PilotLost(time.time(), job.pilot.uid, reason, received=0))

    # cancelling

    def _cancel(self, job: _Job) -> None:
        if job.over or self._jobs.get(job.pilot.uid) is not job:
            return
        job.cancelling = True
        try:
            self._commands_for(job.record.system).cancel(job.record.id)
        except BatchError as error:
            if job.attempt == 0:
                log.warning("pilot %s: its job cannot be cancelled yet: %s", job.pilot.uid, error)
            self._later(self._pause_s(job), lambda: self._cancel(job))
            return
        job.attempt = 0
        self.hurry(job.pilot.uid)

    # watching: on the watcher's thread

    def _changed(self, system: str, changes: Sequence[JobChange]) -> None:
        for change in changes:
            job = self._by_id.get((system, change.job))
            if job is not None:
                self._told(job, change.now)

    def _told(self, job: _Job, status: JobStatus) -> None:
        complete = False
        job.changes += 1
        job.had_first_node = job.had_first_node or bool(has_first_node(status))
        if has_lost_first_node(status, had=job.had_first_node, nodes=len(job.pilot.nodes) if job.pilot.incarnation else 0):
            complete = has_ended_before(status)
            status = with_lost_node(status)
            if status.state is JobState.RUNNING:
                # Nothing of it does any more; Slurm has it hold the other nodes until its time is over.
                self.cancel(job.pilot.uid, at_once=True)
        if status.state is JobState.UNKNOWN:
            keeps = self._commands_for(job.record.system).system.facts.keeps_ended
            number = job.changes
            delay_s = self.patience.vanish_s if keeps else self.patience.unlisted_s
            self._later(delay_s, lambda: self._vanished(job, number, status))
        else:
            job.last_state = status.state.value
        over = status.state.is_final
        job.over = job.over or over
        reason = details_of(status) if over else status.reason
        starts = status.start_estimate_s or 0.0
        self._engine.tell(events.JobTold(time.time(), job.pilot.uid, status.state.value, reason, starts, over, complete))
        facts = self._commands_for(job.record.system).system.facts
        if status.state in _WAITING and status.reason in facts.never and not job.cancelling:
            failure = never(job.record.id, status.reason, job.pilot)
            self._engine.tell(events.PilotCancelRequested(time.time(), [job.pilot.uid], drain=False, failure=failure))

    def _vanished(self, job: _Job, number: int, status: JobStatus) -> None:
        if job.changes == number and not job.over:
            job.over = True
            last = f"; it was {job.last_state} when it was listed last" if job.last_state else ""
            told = events.JobTold(time.time(), job.pilot.uid, status.state.value, f"{status.reason}{last}", over=True)
            self._engine.tell(told)

    def _troubled(self, error: BackendError | None) -> None:
        if error is None:
            log.warning("the batch system tells of jobs again")
        elif str(error).startswith("no longer watching"):
            self._engine.stop_for(str(error))
        else:
            log.warning("the batch system does not tell of jobs: %s; asking again", error)


def _is_unwanted(pilot: PilotRecord) -> bool:
    """Tell whether a pilot that is not submitted yet need not be: it is to end, and has no tasks to end after."""
    return pilot.ending and not (pilot.drains and pilot.load)
