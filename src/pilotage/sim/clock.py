"""Virtual time: what is to happen, in the order of time; and the clocks by which processes see it.

Nobody waits: the next thing that happens is the next entry of a heap. What is due at the same time happens in the order in
which it was lined up, so the same run has the same order, always.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

Happening = Callable[[], None]


class Timeline:
    """The true time, in seconds from the begin, and what is to happen."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Happening]] = []
        self._serial = 0

    def at(self, time_s: float, happening: Happening) -> None:
        """Let this happen then; what is late already happens now, behind all that is due now."""
        self._serial += 1
        heapq.heappush(self._heap, (max(time_s, self.now), self._serial, happening))

    def next_s(self) -> float:
        """Return when the next thing happens; infinity if nothing does."""
        return self._heap[0][0] if self._heap else float("inf")

    def step(self) -> None:
        """Let the next thing happen."""
        self.now, _, happening = heapq.heappop(self._heap)
        happening()


class ProcessClock:
    """The clock of one process, which is ``skew_s`` ahead of the true time."""

    __slots__ = ("_timeline", "skew_s")

    def __init__(self, timeline: Timeline, skew_s: float = 0.0) -> None:
        self._timeline = timeline
        self.skew_s = skew_s

    def now(self) -> float:
        """Return what the process takes for the time."""
        return self._timeline.now + self.skew_s

    def seen(self, true_s: float) -> float:
        """Return what the process's clock shows at a true time."""
        return true_s + self.skew_s

    def true(self, seen_s: float) -> float:
        """Return the true time at which the process's clock shows ``seen_s``."""
        return seen_s - self.skew_s
