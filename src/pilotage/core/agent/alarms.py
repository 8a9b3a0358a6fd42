"""What time alone brings about for tasks that run: those that are out of time, and those that hold others up."""

from __future__ import annotations

import heapq

from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Attempt, TaskUid

STALL_S = 0.1
"""A task seen running for this long loses those that wait behind it in its lane."""

_SPARE = 1024

_Alarm = tuple[float, TaskUid, Attempt]


class Alarms:
    """Rings when tasks have run for longer than their timeout, or for ``STALL_S``. Derived from what runners tell."""

    def __init__(self, state: AgentState) -> None:
        self._state = state
        self._timeouts: list[_Alarm] = []
        self._stalls: list[_Alarm] = []

    def __len__(self) -> int:
        return len(self._timeouts) + len(self._stalls)

    def set_timeout(self, uid: TaskUid, started: float) -> None:
        """Ring when the task, which started then, is out of time, if it has a timeout."""
        task = self._state.tasks[uid]
        timeout_s = self._state.templates[task.row.template].timeout_s
        if timeout_s:
            # Alarms of tasks that ended in time are not looked for one by one: they go when they are most of all.
            if len(self._timeouts) > 2 * len(self._state.tasks) + _SPARE:
                self._timeouts = [alarm for alarm in self._timeouts if self._state.runs(alarm[1], alarm[2])]
                heapq.heapify(self._timeouts)
            heapq.heappush(self._timeouts, (started + timeout_s, uid, task.attempt))

    def set_stall(self, uid: TaskUid, now: float) -> None:
        """Ring if the task, behind which others wait, runs for long."""
        heapq.heappush(self._stalls, (now + STALL_S, uid, self._state.tasks[uid].attempt))

    def timed_out(self, now: float) -> list[TaskUid]:
        """Return, once, the tasks that run and are out of time."""
        return self._due(self._timeouts, now)

    def stalled(self, now: float) -> list[TaskUid]:
        """Return, once, the tasks that still run after ``STALL_S``."""
        return self._due(self._stalls, now)

    def _due(self, alarms: list[_Alarm], now: float) -> list[TaskUid]:
        due = []
        while alarms and alarms[0][0] <= now:
            _, uid, attempt = heapq.heappop(alarms)
            if self._state.runs(uid, attempt):
                due.append(uid)
        return due

    def next(self) -> float | None:
        """Return when the next alarm rings."""
        return min((alarms[0][0] for alarms in (self._timeouts, self._stalls) if alarms), default=None)
