"""A line on stderr that tells how far a simulation is: virtual time, tasks that are done of all, and how fast it goes.

It is written over itself a few times a second, and taken away at the end. Short simulations show none, and so do those at whose
stderr no person looks.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from pilotage.cli.renderers import is_terminal, plural, span

if TYPE_CHECKING:
    from pilotage.sim.world import Progress, Watch

FIRST_S = 0.5
"""So long a simulation may take until its line appears."""
PAUSE_S = 0.2
_ERASE = "\r\x1b[K"


class SimulationLine:
    """The line of one simulation after another; as a context manager, which takes away what is left of it."""

    def __init__(self) -> None:
        self._shown = is_terminal(sys.stderr)
        self._tasks = 0
        self._begun = self._due = 0.0
        self._is_there = False

    def __enter__(self) -> SimulationLine:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.erase()

    def begin(self, tasks: int) -> Watch | None:
        """A simulation of so many tasks begins: return what is to be told how far it is, or None if nobody looks."""
        if not self._shown:
            return None
        self.erase()
        self._tasks, self._begun = tasks, time.monotonic()
        self._due = self._begun + FIRST_S
        return self._tell

    def erase(self) -> None:
        """Take the line away; the next news brings it back."""
        if self._is_there:
            print(_ERASE, end="", file=sys.stderr, flush=True)
            self._is_there = False

    def _tell(self, progress: Progress) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + PAUSE_S
        self._is_there = True
        print(f"{_ERASE}  {in_words(progress, self._tasks, now - self._begun)}", end="", file=sys.stderr, flush=True)


def in_words(progress: Progress, tasks: int, spent_s: float) -> str:
    """Return how far a simulation of so many tasks is after so many seconds of real time."""
    rate = progress.final / spent_s if spent_s > 0.0 else 0.0
    pace = f"{rate:,.0f}" if rate >= 10.0 else f"{rate:.2g}"
    return f"{span(progress.time_s)} simulated, {progress.final:,} of {plural(tasks, 'task')} done, {pace} tasks/s"
