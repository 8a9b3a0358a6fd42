"""Who waits until it is too late: tasks of declared duration that would not end in time any more.

All tasks of a group can be started until the same time. Groups are looked at when that time has come, not before: it costs
nothing while they wait, and nothing at all to tasks without a declared duration.
"""

from __future__ import annotations

import heapq
import math

from pilotage.core.scheduling.queue import Group


class Lateness:
    """Groups by the time until which their tasks can be started."""

    def __init__(self) -> None:
        self._groups: list[tuple[float, int, Group]] = []
        self._noted = 0

    def note(self, group: Group) -> None:
        """Tasks of this group wait."""
        if group.latest < math.inf and not group.timed:
            group.timed = True
            self._noted += 1
            heapq.heappush(self._groups, (group.latest, self._noted, group))

    def next(self) -> float:
        """Return from when on the tasks of some group, if any wait, are too late; infinity if there is none."""
        return math.nextafter(self._groups[0][0], math.inf) if self._groups else math.inf

    def due(self, now: float) -> list[Group]:
        """Return, once, the groups whose tasks wait and are too late."""
        due = []
        while self._groups and self._groups[0][0] < now:
            group = heapq.heappop(self._groups)[2]
            group.timed = False
            if group.live:
                due.append(group)
        return due
