"""One session with one pilot, run to its end: tasks are submitted, all at once or a few at a time, followed and reported."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pilotage.cli.progress import Interrupts, Tally, display, follow, is_final
from pilotage.cli.renderers import note, span
from pilotage.errors import InvalidRequest
from pilotage.model.sandboxes import TASKS_FOLDER
from pilotage.model.states import FINAL
from pilotage.outputs.files import OUTPUT_FOLDER

if TYPE_CHECKING:
    from pilotage.client.pilot import Pilot
    from pilotage.client.session import Session
    from pilotage.client.task import Task
    from pilotage.client.task_description import TaskDescription
    from pilotage.client.task_manager import TaskManager

FAILURES_SHOWN = 5
DETAIL_LINES_SHOWN = 3


class Source(Protocol):
    """Submits the tasks of a campaign. ``refused``: how many could not be submitted."""

    refused: int

    def open(self) -> None:
        """Submit the first."""

    def close(self) -> None:
        """Submit no more."""

    def take(self) -> list[Task]:
        """Return what was submitted since the last call."""
        ...


class Window:
    """Submits tasks as others end, so that never more than ``limit`` are unfinished; 0: all at once."""

    def __init__(self, manager: TaskManager, described: Iterable[TaskDescription], limit: int = 0) -> None:
        self.refused = 0
        self._manager = manager
        self._described: Iterator[TaskDescription] = iter(described)
        self._limit = limit
        self._submitted: deque[Task] = deque()
        self._lock = threading.Lock()

    def open(self) -> None:
        """Submit the first."""
        if self._limit:
            self._manager.register_callback(self._note)
            self._submit(self._limit)
        else:
            self._add(self._manager.submit_tasks(self._described))

    def close(self) -> None:
        """Submit no more."""
        with self._lock:
            self._described = iter(())

    def take(self) -> list[Task]:
        """Return what was submitted since the last call."""
        return [self._submitted.popleft() for _ in range(len(self._submitted))]

    def _note(self, task: Task, state: str) -> None:
        if state in FINAL:
            self._submit(1)

    def _submit(self, count: int) -> None:
        # The first of the first tasks may end before the call that submits them all has returned.
        with self._lock:
            descriptions = list(islice(self._described, count))
            if descriptions:
                self._add(self._manager.submit_tasks(descriptions))

    def _add(self, submitted: Task | list[Task]) -> None:
        self._submitted.extend(submitted if isinstance(submitted, list) else [submitted])


class Campaign:
    """Tasks of one session on one pilot. ``on_completion`` is a shell command that is told how it went in its environment."""

    def __init__(self, uid: str, pilot: dict[str, Any], show_output: bool = False, on_completion: str = "") -> None:
        self._uid = uid
        self._pilot = pilot
        self._show_output = show_output
        self._on_completion = on_completion
        self._shown = 0
        self._tasks: list[Task] = []

    def run(self, described: Iterable[TaskDescription], total: int, limit: int = 0) -> int:
        """Run the tasks in a new session, say what became of them, and return the exit code."""
        from pilotage.cli.session import remove_session
        from pilotage.client.session import Session

        with Interrupts() as interrupts:
            session = Session(self._uid or None)
            try:
                with session:
                    return self.run_in(session, interrupts, lambda manager: Window(manager, described, limit), total)
            except InvalidRequest:
                # Who mends the slip and runs it again under the same name must not be told that there is such a session.
                if not session.state.tasks:
                    remove_session(Path(session.path), force=True)
                raise

    def run_in(self, session: Session, interrupts: Interrupts, source_of: Callable[[TaskManager], Source], total: int) -> int:
        """Run the tasks in this session on a new pilot, say what became of them, and return the exit code.

        ``source_of`` returns what submits them, for their manager; ``total``: how many it will be.
        """
        from pilotage.client.pilot_manager import PilotManager
        from pilotage.client.task_manager import TaskManager

        began = time.monotonic()
        pilot = PilotManager(session).submit_pilots(self._pilot)
        manager = TaskManager(session)
        manager.add_pilots(pilot)
        source = source_of(manager)
        source.open()
        tally = Tally((), total)

        def each_pass() -> None:
            submitted = source.take()
            self._tasks += submitted
            tally.add(submitted)
            tally.total = total - source.refused
            self._print_outputs()

        def cancel() -> None:
            nonlocal total
            source.close()
            manager.cancel_tasks()
            self._tasks += (late := source.take())
            tally.add(late)
            total = len(self._tasks) + source.refused

        each_pass()
        follow(
            tally,
            wait=lambda tasks, timeout_s: manager.wait_for(tasks, None, timeout_s) if tasks else time.sleep(timeout_s),
            cancel=cancel,
            interrupts=interrupts,
            show=display(total, wanted=not (self._show_output and sys.stdout.isatty())),
            still_possible=lambda: pilot.state not in FINAL,
            each_pass=each_pass,
            waits_for=lambda: pilot.reason if pilot.state not in FINAL else "",
        )
        took_s = time.monotonic() - began
        if self._show_output:
            self._print_outputs(to_end=True)
        self._report(tally, pilot, session.uid, took_s)
        status = 0 if tally.done == tally.total and not source.refused else 1
        if interrupts.count:
            status = 128 + (interrupts.number or signal.SIGINT)
        self._complete(tally, session, status)
        return status

    def _complete(self, tally: Tally, session: Session, status: int) -> None:
        if not self._on_completion:
            return
        told = {
            "SESSION_ID": session.uid,
            "SESSION_FOLDER": session.path,
            "STATUS": status,
            "TASKS": tally.total,
            "DONE": tally.done,
            "FAILED": len(tally.failed),
            "CANCELED": tally.canceled,
        }
        environment = os.environ | {f"PILOTAGE_{name}": str(value) for name, value in told.items()}
        ended = subprocess.run(self._on_completion, shell=True, env=environment, check=False)
        if ended.returncode:
            note(f"the command of --on-completion exited with code {ended.returncode}: {self._on_completion}")

    def _print_outputs(self, *, to_end: bool = False) -> None:
        """Print the outputs of the tasks from the first on that have ended, as far as there is no gap."""
        if not self._show_output:
            return
        while self._shown < len(self._tasks) and (to_end or is_final(self._tasks[self._shown])):
            with self._tasks[self._shown].open_stdout() as output:
                shutil.copyfileobj(output, sys.stdout.buffer)
            self._shown += 1
        sys.stdout.flush()

    def _report(self, tally: Tally, pilot: Pilot, session: str, took_s: float) -> None:
        failed = sorted(tally.failed, key=lambda task: task.uid)
        for task in failed[:FAILURES_SHOWN]:
            note(f"{task.uid} ({task.name}) failed: {task.exception}")
            detail = [line for line in (task.exception_detail or "").splitlines() if line.strip()]
            for line in detail[-DETAIL_LINES_SHOWN:]:
                print(f"    {line}", file=sys.stderr)
            if task.stderr:
                place = task.stderr_path or f"pilotage task logs {task.uid} --stderr -s {session}"
                print(f"    all of it: {place}", file=sys.stderr)
        if len(failed) > FAILURES_SHOWN:
            more = len(failed) - FAILURES_SHOWN
            note(f"{more:,} more failed; see: pilotage task list -s {session} --state FAILED")
        if tally.left and pilot.state in FINAL:
            note(f"the pilot ended before its tasks: {pilot.reason or pilot.state}")
        rate = tally.final / took_s if took_s else 0.0
        pace = f" ({rate:,.0f}/s)" if rate >= 10 else ""
        note(f"{tally.summary()} in {span(took_s)}{pace}; output in {self._output_place(pilot)}; session {session}")

    def _output_place(self, pilot: Pilot) -> str:
        if not self._tasks:
            return f"{pilot.sandbox}/"
        described = self._tasks[0].description
        if described.output not in ("", "files"):
            return f"{pilot.sandbox}/{OUTPUT_FOLDER}/"
        stdout = self._tasks[0].stdout_path
        own = Path(pilot.sandbox) / TASKS_FOLDER
        if stdout is None or stdout.is_relative_to(own):
            return f"{own}/"
        return f"{stdout.parent}/"
