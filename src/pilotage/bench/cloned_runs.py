"""The executor and the stager of an agent, by themselves; see ``cloning``."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pilotage.agent.stagers import Stagers
from pilotage.bench.cloning import Course, clones_of, memory_folder, one_task
from pilotage.core.agent.events import StorageFilled
from pilotage.executors.local import LocalExecutor
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, core_mask
from pilotage.model.workload import Row
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.runner_settings import write_settings

LANES = 16
"""Tasks that each spawner has under way at a time."""

_LONGEST_S = 600.0


def execution(spawners: int, clones: int, **attributes: Any) -> Course:
    """Have the executor of a node run clones of a task in this many spawners, a share in each."""
    template, row = one_task(**attributes)
    rows = clones_of(row, clones)
    with memory_folder() as folder:
        settings = default_settings(folder)
        for needed in (settings.pilot_folder, settings.blob_folder):
            Path(needed).mkdir(parents=True)
        write_settings(folder, settings)
        executor = LocalExecutor(folder, settings.session, settings.pilot, Path(settings.pilot_folder), 1)
        listener = _Listener(executor)
        executor.start(listener, {})
        try:
            names = [RunnerId(f"spawner.{number}") for number in range(spawners)]
            for name in names:
                executor.start_runner(name, None, {})
            executor.flush()
            _turn_until(executor, lambda: len(listener.connected) == spawners)
            listener.begin = time.perf_counter()
            for number, name in enumerate(names):
                mine = rows[number::spawners]
                executor.launch(name, [_lane(lane, mine[lane::LANES]) for lane in range(LANES)], {row.template: template})
            executor.flush()
            _turn_until(executor, lambda: listener.done == clones)
        finally:
            executor.close(0.0)
    return Course(listener.marks)


def _lane(number: int, rows: list[Row]) -> LaneTasks:
    return LaneTasks(LaneId(number + 1), (NodeShare(0, 1, core_mask(1)),), [(Attempt(1), row) for row in rows])


def _turn_until(executor: LocalExecutor, is_true: Callable[[], bool]) -> None:
    latest = time.monotonic() + _LONGEST_S
    while not is_true():
        if time.monotonic() > latest:
            raise RuntimeError(f"the executor was not done within {_LONGEST_S:g} s")
        due = executor.next_deadline()
        select.select([executor], [], [], 1.0 if due is None else min(1.0, max(0.0, due - time.time())))
        executor.turn(time.time())
        executor.flush()


class _Listener:
    """The agent's place: counts ends, and drops them."""

    def __init__(self, executor: LocalExecutor) -> None:
        self.connected: set[RunnerId] = set()
        self.marks: list[tuple[float, int]] = []
        self.done = 0
        self.begin = 0.0
        self._executor = executor

    def runner_connected(self, runner: RunnerId, pid: int, started_ticks: int, boot_id: str) -> None:
        self.connected.add(runner)

    def runner_reconciled(self, runner: RunnerId, holds: list[Execution]) -> None:
        pass

    def runner_lost(
        self,
        runner: RunnerId,
        reason: str,
        exit_code: int | None,
        running: Execution | None,
        not_begun: list[Execution],
    ) -> None:
        raise RuntimeError(f"{runner} was lost: {reason}")

    def tasks_started(self, runner: RunnerId, started: list[tuple[TaskUid, Attempt, float]]) -> None:
        pass

    def tasks_ended(self, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        failed = [end for end in ends if end.ending is not Ending.DONE]
        if failed:
            raise RuntimeError(f"{failed[0].task}: {failed[0].ending.name}: {failed[0].message}")
        self.done += len(ends)
        self.marks.append((time.perf_counter() - self.begin, self.done))
        self._executor.release(runner, number)

    def tasks_returned(self, runner: RunnerId, executions: list[Execution]) -> None:
        raise RuntimeError(f"{runner} returned {len(executions)} tasks")

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        raise RuntimeError(reason)

    def service_spoke(self, service: TaskUid, attempt: Attempt, lines: dict[str, str]) -> None:
        raise RuntimeError(f"{service} is no service")

    def nodes_lost(self, nodes: list[int], reason: str) -> None:
        raise RuntimeError(reason)


def staging(clones: int) -> Course:
    """Have the agent's stagers bring one small file for each clone, into a sandbox of its own."""
    with memory_folder() as folder:
        source = folder / "input.dat"
        source.write_bytes(os.urandom(1000))
        template, row = one_task(input_staging=[f"{source} > input.dat"])
        (folder / "pilot" / "tasks").mkdir(parents=True)
        rows = clones_of(row, clones)
        stagers = Stagers(str(folder / "pilot"), str(folder), 1)
        marks: list[tuple[float, int]] = []
        try:
            done, begin = 0, time.perf_counter()
            stagers.submit("input", [(Attempt(0), each) for each in rows], {row.template: template})
            while done < clones:
                select.select([stagers], [], [])
                for event in stagers.take():
                    if isinstance(event, StorageFilled):
                        raise RuntimeError(event.reason)
                    if event.failed:
                        raise RuntimeError(event.failed[0][1])
                    done += len(event.done)
                marks.append((time.perf_counter() - begin, done))
        finally:
            stagers.close()
    return Course(marks)
