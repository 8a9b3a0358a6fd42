"""Tasks that take time and nothing else: for benchmarks of all that is not the tasks, and to try a workload's shape.

Each runner is a stand-in within the agent's process. A task ends ``duration_s`` after its lane comes to it, with success; a
service runs until it is ended.
"""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Mapping, Sequence

from pilotage.executors.base import RunnerListener, RunnerProcess
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import LaneId, RunnerId, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template

_TURN_TASKS = 4096


class SimulatedExecutor:
    """An ``Executor`` whose tasks only let time pass. They do not outlive the agent: after a restart all are lost."""

    def __init__(self, duration_s: float = 0.0) -> None:
        self._duration_s = duration_s
        self._listener: RunnerListener | None = None
        self._connecting: list[RunnerId] = []
        self._lost: dict[RunnerId, list[Execution]] = {}
        """Runners of an earlier agent, and what was launched on them before they were told as lost."""
        self._numbers: dict[RunnerId, int] = {}
        self._free_at: dict[tuple[RunnerId, LaneId], float] = {}
        self._due: list[tuple[float, int, RunnerId, LaneId, Execution]] = []
        self._cancelled: dict[Execution, tuple[Ending, str]] = {}
        self._serving: dict[Execution, tuple[RunnerId, LaneId, float]] = {}
        """Services that run, and since when."""
        self._started: list[tuple[RunnerId, Execution, float]] = []
        """Services of which is to be told that they began."""
        self._serial = 0
        # Always readable: what is due is a matter of time, which ``next_deadline`` tells.
        self._reader, self._writer = os.pipe()

    def start(self, listener: RunnerListener, known: Mapping[RunnerId, RunnerProcess]) -> None:
        """Begin; runners of an earlier agent died with it."""
        self._listener = listener
        self._lost = {runner: [] for runner in known}

    def fileno(self) -> int:
        """Return a descriptor that never becomes readable."""
        return self._reader

    def turn(self, now: float) -> None:
        """Tell what has come due."""
        listener = self._listener
        assert listener is not None
        lost, self._lost = self._lost, {}
        for runner, not_begun in lost.items():
            listener.runner_lost(runner, "the agent that simulated it was restarted", None, None, not_begun)
        for runner in self._connecting:
            listener.runner_connected(runner, os.getpid(), 0, "simulated")
            listener.runner_reconciled(runner, [])
        self._connecting = []
        started, self._started = self._started, []
        for runner, (uid, attempt), at in started:
            listener.tasks_started(runner, [(uid, attempt, at)])
        ended: dict[RunnerId, list[AttemptEnd]] = {}
        for _ in range(_TURN_TASKS):
            if not self._due or self._due[0][0] > now:
                break
            at, _, runner, lane, execution = heapq.heappop(self._due)
            if self._free_at.get((runner, lane), now) <= at:
                self._free_at.pop((runner, lane), None)
            ending, message = Ending.DONE, ""
            if execution in self._cancelled:
                ending, message = self._cancelled.pop(execution)
            served = self._serving.pop(execution, None)
            began = at - self._duration_s if served is None else served[2]
            end = AttemptEnd(*execution, ending, 0, None, message, "", began, at)
            ended.setdefault(runner, []).append(end)
        for runner, ends in ended.items():
            self._numbers[runner] += 1
            listener.tasks_ended(runner, self._numbers[runner], ends)

    def flush(self) -> None:
        """Nothing is queued."""

    def next_deadline(self) -> float | None:
        """Return when the next task ends."""
        if self._connecting or self._lost or self._started:
            return 0.0
        return self._due[0][0] if self._due else None

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        """Add a stand-in."""
        self._numbers[runner] = 0
        self._connecting.append(runner)

    def stop_runner(self, runner: RunnerId) -> None:
        """Remove a stand-in."""
        self._numbers.pop(runner, None)

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        """Line up the ends of these tasks."""
        if runner not in self._numbers:
            if runner in self._lost:
                self._lost[runner] += [(row.uid, attempt) for lane in lanes for attempt, row in lane.tasks]
            return
        now = time.time()
        for lane in lanes:
            if templates[lane.tasks[0][1].template].service is not None:
                self._serve(runner, lane, now)
                continue
            key = (runner, lane.lane)
            at = max(now, self._free_at.get(key, now))
            for attempt, row in lane.tasks:
                at += self._duration_s
                self._serial += 1
                heapq.heappush(self._due, (at, self._serial, runner, lane.lane, (row.uid, attempt)))
            if self._duration_s:
                self._free_at[key] = at

    def _serve(self, runner: RunnerId, lane: LaneTasks, now: float) -> None:
        for attempt, row in lane.tasks:
            self._serving[row.uid, attempt] = (runner, lane.lane, now)
            self._started.append((runner, (row.uid, attempt), now))

    def signal(self, runner: RunnerId, executions: Sequence[Execution], number: int) -> None:
        """Nothing runs that could be told."""

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        """Keep what was lined up: it will end soon enough."""

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        """End these now."""
        asked = set(executions)
        now = time.time()
        for execution in executions:
            if execution in self._serving:
                self._serial += 1
                of_runner, lane, _ = self._serving[execution]
                heapq.heappush(self._due, (now, self._serial, of_runner, lane, execution))
        wanted = {item[4] for item in self._due if item[4] in asked}
        self._cancelled.update(dict.fromkeys(wanted, (ending, message)))
        self._due = [(now if item[4] in wanted else item[0], *item[1:]) for item in self._due]
        heapq.heapify(self._due)

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        """Time passes the same in every environment."""

    def release(self, runner: RunnerId, through: int) -> None:
        """Nothing is kept."""

    def close(self, grace_s: float) -> None:
        """Let go of the descriptors."""
        os.close(self._reader)
        os.close(self._writer)

    def leave(self) -> None:
        """Let go of the descriptors: tasks do not outlive the agent."""
        self.close(0.0)
