"""Following many tasks to their ends: counted in passes over those that are left, shown on a terminal, stopped by Ctrl-C.

A pass looks at each unfinished task once, and the pause between passes grows with what a pass costs, so that following a
hundred thousand tasks takes a few percent of a core. The first Ctrl-C (or TERM) cancels the tasks and goes on following until
they have ended; the second stops that, too.
"""

from __future__ import annotations

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
    """Counts Ctrl-C and TERM instead of raising, so that nothing is left half done; as a context manager."""

    def __init__(self) -> None:
        self.count = 0
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.count += 1
        self.number = number

    def wait(self, timeout_s: float) -> None:
        """Wait for so long, or until the next interrupt."""
        before, until = self.count, time.monotonic() + timeout_s
        # A signal that comes between the look and the sleep is noticed a little later.
        while self.count == before and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, LONGEST_PAUSE_S))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class Display(Protocol):
    """What shows how far the tasks are."""

    def update(self, tally: Tally) -> None:
        """Show this tally."""

    def close(self) -> None:
        """Take the display away."""


class Silence:
    """Shows nothing: for pipes."""

    def update(self, tally: Tally) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is to be taken away."""


class Bar:
    """A progress bar on stderr: ended, failed and running tasks, the rate of the last seconds and the time that is left."""

    def __init__(self, total: int) -> None:
        # Rich is imported only by those who look at it.
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.fields[counts]}"),
            # Not as wide as the terminal: the "^C" that it echoes would break the line.
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[speed]}"),
            console=Console(stderr=True, highlight=False),
            transient=True,
            redirect_stdout=False,
            auto_refresh=False,
        )
        self._task = self._progress.add_task("", total=total, counts=plural(total, "task"), speed="")
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
    """Return a bar if a person looks at stderr, else silence."""
    return Bar(total) if wanted and is_terminal(sys.stderr) else Silence()


def follow(
    tally: Tally,
    wait: Callable[[Sequence[Task], float], object],
    cancel: Callable[[], object],
    interrupts: Interrupts,
    show: Display,
    still_possible: Callable[[], bool] = lambda: True,
    each_pass: Callable[[], object] = lambda: None,
    interrupted: str = "cancelling",
) -> None:
    """Follow tasks until all have ended, it is no longer possible that they do, or the second interrupt.

    ``wait(tasks, timeout_s)`` returns when the tasks have ended, or the time is over. ``cancel`` is called at the first
    interrupt; ``interrupted`` says what it does.
    """
    heard = 0
    try:
        while True:
            began = time.monotonic()
            # Asked before the pass: what became final before the end of the last pilot is then seen in this pass.
            possible = still_possible()
            each_pass()
            tally.look()
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
