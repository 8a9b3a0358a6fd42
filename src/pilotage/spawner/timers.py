"""Calls to make later, in order of time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count


class Timers:
    """Calls and when to make them, by the clock of the caller."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Have ``call`` made at ``when``."""
        heapq.heappush(self._heap, (when, next(self._order), call))

    def next(self) -> float | None:
        """Return when the next call is due; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Make the calls that are due."""
        while self._heap and self._heap[0][0] <= now:
            heapq.heappop(self._heap)[2]()
