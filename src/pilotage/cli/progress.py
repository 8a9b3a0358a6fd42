"""Following many tasks to their ends: counted in passes over those that are left, shown on a terminal, stopped by Ctrl-C.

A pass looks at each unfinished task once, and the pause between passes grows with what a pass costs, so that following a
hundred thousand tasks takes a few percent of a core. The first Ctrl-C (TERM, or HUP of a terminal that is closed) cancels the
tasks and goes on following until they have ended; the second stops that, too.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from pilotage.cli.renderers import is_terminal, note, plural, span
from pilotage.model.states import AGENT_EXECUTING, CANCELED, DONE, FAILED, FINAL

if TYPE_CHECKING:
    from pilotage.client.task import Task

SHORTEST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 2.0
PASS_SHARE = 0.03
"""The share of the time that passes over the tasks may take."""
RATE_WINDOW_S = 10.0
BAR_CHARACTERS = 30
LASTING_S = 3.0
"""A reason to wait that is over sooner is not worth a line."""


class Tally:
    """Which of ``tasks`` are left, and what became of the others; brought up to date by ``look``.

    ``total`` counts those that are submitted later, too; without it there are none.
    """

    def __init__(self, tasks: Sequence[Task], total: int | None = None) -> None:
        self.total = len(tasks) if total is None else total
        self.left: list[Task] = list(tasks)
        self.done = 0
        self.failed: list[Task] = []
        self.canceled = 0
        self.running = 0

    @property
    def final(self) -> int:
        """How many have ended."""
        return self.done + len(self.failed) + self.canceled

    def add(self, tasks: Sequence[Task]) -> None:
        """Follow these tasks, too."""
        self.left += tasks

    def look(self) -> None:
        """Look at those that were left."""
        left: list[Task] = []
        self.running = 0
        for task in self.left:
            state = task.state
            if state == DONE:
                self.done += 1
            elif state == FAILED:
                self.failed.append(task)
            elif state == CANCELED:
                self.canceled += 1
            else:
                left.append(task)
                self.running += state == AGENT_EXECUTING
        self.left = left

    def summary(self) -> str:
        """Return the counts in words."""
        parts = [
            f"{count:,} {word}"
            for count, word in (
                (self.done, "done"),
                (len(self.failed), "failed"),
                (self.canceled, "canceled"),
                (self.total - self.final, "not finished"),
            )
            if count
        ]
        return f"{plural(self.total, 'task')}: {', '.join(parts) or 'nothing to do'}"


class Interrupts:
    """Counts Ctrl-C, TERM and HUP instead of raising, so that nothing is left half done; as a context manager.

    Who started the program with ``nohup``, or has its shell ignore them, wants none of those to be heard.
    """

    def __init__(self) -> None:
        self.count = 0
        self.number = 0
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []
        self._is_hung_up = False

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._before[number] = signal.signal(number, self._note)
        # Looked up in time: of a terminal that is gone nothing says any more that it was one.
        self._terminals = [stream for stream in (1, 2) if _is_on_terminal(stream)]
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The kernel and the shell both send it for one terminal that is closed.
            if self._is_hung_up:
                return
            self._is_hung_up = True
            self._leave_terminal()
        self.count += 1
        self.number = number

    def _leave_terminal(self) -> None:
        """Let what is still to be said go nowhere: writing to a terminal that is gone is an error."""
        if self._terminals:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for stream in self._terminals:
                os.dup2(nowhere, stream)
            os.close(nowhere)

    def wait(self, timeout_s: float) -> None:
        """Wait for so long, or until the next interrupt."""
        before, until = self.count, time.monotonic() + timeout_s
        # A signal that comes between the look and the sleep is noticed a little later.
        while self.count == before and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LONGEST_PAUSE_S))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _is_on_terminal(stream: int) -> bool:
    try:
        return os.isatty(stream)
    except OSError:
        return False


class Display(Protocol):
    """What shows how far the tasks are."""

    def update(self, tally: Tally) -> None:
        """Show this tally."""

    def wait_for(self, reason: str) -> None:
        """Show what the tasks wait for; empty: for nothing any more. Shown with the next tally."""

    def close(self) -> None:
        """Take the display away."""


class Lines:
    """Shows no tally, and a line for each reason for which tasks wait longer: for pipes."""

    def __init__(self) -> None:
        self._reason = ""
        self._since_s = 0.0
        self._said = ""

    def update(self, tally: Tally) -> None:
        """Show nothing."""

    def wait_for(self, reason: str) -> None:
        """Say what the tasks wait for, once for each reason that lasts; that it may start at another time is none."""
        from pilotage.client.job_words import STARTS

        now_s = time.monotonic()
        lasting = reason.partition(STARTS)[0]
        if lasting != self._reason:
            self._reason, self._since_s = lasting, now_s
        if lasting and lasting != self._said and now_s - self._since_s >= LASTING_S:
            note(reason)
            self._said = lasting

    def close(self) -> None:
        """Nothing is to be taken away."""


class Bar:
    """A progress bar on stderr: ended, failed and running tasks, the rate of the last seconds and the time that is left."""

    def __init__(self, total: int) -> None:
        # Rich is imported only by those who look at it.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        # Not as wide as the terminal: the "^C" that it echoes would break the line.
        self._bar = BarColumn(bar_width=BAR_CHARACTERS)
        self._progress = Progress(
            TextColumn("{task.fields[counts]}"),
            self._bar,
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[speed]}"),
            # What a batch system says may look like markup.
            TextColumn("{task.fields[reason]}", markup=False),
            console=Console(stderr=True, highlight=False),
            transient=True,
            redirect_stdout=False,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=total, counts=plural(total, "task"), speed="", reason="")
        self._passes: deque[tuple[float, int]] = deque([(time.monotonic(), 0)])
        self._progress.start()

    def update(self, tally: Tally) -> None:
        """Show this tally."""
        counts = [f"{tally.done:,} of {plural(tally.total, 'task')} done"]
        if tally.failed:
            counts.append(f"[red]{len(tally.failed):,} failed[/red]")
        if tally.canceled:
            counts.append(f"[yellow]{tally.canceled:,} canceled[/yellow]")
        if tally.running:
            counts.append(f"{tally.running:,} running")
        self._progress.update(self._task, completed=tally.final, counts=", ".join(counts), speed=self._speed(tally))
        self._progress.refresh()

    def wait_for(self, reason: str) -> None:
        """Show what the tasks wait for; while nothing moves it needs the room more than the bar."""
        self._bar.bar_width = 1 if reason else BAR_CHARACTERS
        self._progress.update(self._task, reason=reason)

    def _speed(self, tally: Tally) -> str:
        now = time.monotonic()
        self._passes.append((now, tally.final))
        while len(self._passes) > 2 and now - self._passes[0][0] > RATE_WINDOW_S:
            self._passes.popleft()
        before, final = self._passes[0]
        rate = (tally.final - final) / max(now - before, 1e-3)
        if not rate:
            return ""
        pace = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s" if rate >= 0.1 else f"{rate * 60:.1f}/min"
        return f"{pace}, {span((tally.total - tally.final) / rate)} left" if tally.final < tally.total else pace

    def close(self) -> None:
        """Take the bar away; what was said above it stays."""
        self._progress.stop()


def display(total: int, *, wanted: bool = True) -> Display:
    """Return a bar if a person looks at stderr, else lines."""
    return Bar(total) if wanted and is_terminal(sys.stderr) else Lines()


def follow(
    tally: Tally,
    wait: Callable[[Sequence[Task], float], object],
    cancel: Callable[[], object],
    interrupts: Interrupts,
    show: Display,
    still_possible: Callable[[], bool] = lambda: True,
    each_pass: Callable[[], object] = lambda: None,
    interrupted: str = "cancelling",
    waits_for: Callable[[], str] = lambda: "",
) -> None:
    """Follow tasks until all have ended, it is no longer possible that they do, or the second interrupt.

    ``wait(tasks, timeout_s)`` returns when the tasks have ended, or the time is over. ``cancel`` is called at the first
    interrupt; ``interrupted`` says what it does. ``waits_for`` returns why nothing can begin yet, if so.
    """
    heard = 0
    try:
        while True:
            began = time.monotonic()
            # Asked before the pass: what became final before the end of the last pilot is then seen in this pass.
            possible = still_possible()
            each_pass()
            tally.look()
            show.wait_for(waits_for())
            show.update(tally)
            if tally.final >= tally.total or not possible or interrupts.count > 1:
                return
            if interrupts.count > heard:
                heard = interrupts.count
                note(f"{interrupted} {plural(len(tally.left), 'task')}; once more stops at once")
                cancel()
            pause = (time.monotonic() - began) / PASS_SHARE
            wait(tally.left, min(max(pause, SHORTEST_PAUSE_S), LONGEST_PAUSE_S))
    finally:
        show.close()


def is_final(task: Task) -> bool:
    """Tell whether a task has ended."""
    return task.state in FINAL
