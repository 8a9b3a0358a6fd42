"""Watching jobs: all of them are asked for at once, again and again, and changes alone are told.

When to ask next is decided by ``Polling``, which has no clock and does nothing: right after a change again soon, less and less
often while nothing changes; a slow system is asked a small part of the time only, and one that fails less and less often, too.
``JobWatcher`` is the thread around it.

A job that ended, in a way that is known, is watched no longer. One that is no longer listed is told as unknown, and asked for
on: it may be listed again when a server has restarted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pilotage.batch.commands import BatchCommands
from pilotage.batch.job import JobStatus
from pilotage.errors import BackendError

FASTEST_S = 1.0
SLOWEST_S = 30.0
_GROWTH = 1.5
_FAILURE_GROWTH = 2.0
_PAUSE = 10.0
"""How many times as long as an answer took there is none asked for."""


class JobChange(NamedTuple):
    """What is told of a job now, and what was told before; None: nothing."""

    job: str
    before: JobStatus | None
    now: JobStatus


class Polling:
    """Which jobs to ask for, and when. Times are seconds of any clock that does not go back."""

    def __init__(self, *, fastest_s: float = FASTEST_S, slowest_s: float = SLOWEST_S) -> None:
        self._fastest_s = fastest_s
        self._slowest_s = slowest_s
        self._interval_s = fastest_s
        self._due_s = 0.0
        self._told: dict[str, JobStatus | None] = {}

    @property
    def jobs(self) -> list[str]:
        """The jobs that are watched."""
        return list(self._told)

    def watch(self, job: str, now_s: float) -> None:
        """Watch a job; all are asked for soon."""
        self._told.setdefault(job, None)
        self.hurry(now_s)

    def forget(self, job: str) -> None:
        """Watch a job no longer."""
        self._told.pop(job, None)

    def hurry(self, now_s: float) -> None:
        """Ask soon: something is known to have changed, such as a job that was cancelled."""
        self._interval_s = self._fastest_s
        self._due_s = min(self._due_s, now_s + self._fastest_s) if self._due_s > now_s else now_s

    def wait_s(self, now_s: float) -> float | None:
        """Return how long to wait before asking; None: there is nothing to ask for."""
        return max(self._due_s - now_s, 0.0) if self._told else None

    def handle_answer(self, statuses: Mapping[str, JobStatus], took_s: float, now_s: float) -> list[JobChange]:
        """Take an answer that came after ``took_s``, and return what has changed."""
        changes = []
        for job, status in statuses.items():
            if job not in self._told or self._told[job] == status:
                continue
            changes.append(JobChange(job, self._told[job], status))
            if status.state.is_final:
                del self._told[job]
            else:
                self._told[job] = status
        self._interval_s = self._fastest_s if changes else min(self._interval_s * _GROWTH, self._slowest_s)
        self._due_s = now_s + max(self._interval_s, min(took_s * _PAUSE, self._slowest_s))
        return changes

    def handle_failure(self, now_s: float) -> None:
        """Take that no answer came."""
        self._interval_s = min(self._interval_s * _FAILURE_GROWTH, self._slowest_s)
        self._due_s = now_s + self._interval_s


class JobWatcher:
    """A thread that watches the jobs of one batch system.

    ``on_changes`` gets every change, ``on_trouble`` the error when the system cannot be asked, and None when it can again:
    each error once, however often it comes. Both are called on the watcher's thread. A last error that begins with "no longer
    watching" tells that the thread ends by a fault of ours, so that nobody waits for changes that cannot come.
    """

    def __init__(
        self,
        commands: BatchCommands,
        on_changes: Callable[[Sequence[JobChange]], None],
        on_trouble: Callable[[BackendError | None], None],
        *,
        polling: Polling | None = None,
    ) -> None:
        self._commands = commands
        self._on_changes = on_changes
        self._on_trouble = on_trouble
        self._polling = polling or Polling()
        self._condition = threading.Condition()
        self._stopping = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._guarded_run, name=f"watcher of {commands.system.facts.name}", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer, and wait for a command that is under way, which has a limit of time."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join()

    def watch(self, job: str) -> None:
        """Watch a job, from now on."""
        with self._condition:
            self._polling.watch(job, time.monotonic())
            self._condition.notify()

    def forget(self, job: str) -> None:
        """Watch a job no longer."""
        with self._condition:
            self._polling.forget(job)

    def hurry(self) -> None:
        """Ask soon, as something has surely changed."""
        with self._condition:
            self._polling.hurry(time.monotonic())
            self._condition.notify()

    def _guarded_run(self) -> None:
        try:
            self._run()
        except Exception as error:
            self._on_trouble(BackendError(f"no longer watching the jobs of {self._commands.system.facts.name}: {error!r}"))
            raise

    def _run(self) -> None:
        while (jobs := self._next_jobs()) is not None:
            began = time.monotonic()
            try:
                statuses = self._commands.statuses(jobs)
            except BackendError as error:
                with self._condition:
                    self._polling.handle_failure(time.monotonic())
                if str(error) != self._trouble:
                    self._trouble = str(error)
                    self._on_trouble(error)
                continue
            now = time.monotonic()
            with self._condition:
                changes = self._polling.handle_answer(statuses, now - began, now)
            if self._trouble:
                self._trouble = ""
                self._on_trouble(None)
            if changes:
                self._on_changes(changes)

    def _next_jobs(self) -> list[str] | None:
        """Wait until it is time to ask, and return for what; None: the end."""
        with self._condition:
            while not self._stopping:
                wait_s = self._polling.wait_s(time.monotonic())
                if wait_s == 0.0:
                    return self._polling.jobs
                self._condition.wait(wait_s)
        return None
