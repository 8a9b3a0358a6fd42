"""Random misfortunes of hosts, connections and agents: each attempt runs once, or never if it is told not to have begun.

Every attempt writes a line, so that what ran can be compared with what the agent was told. The agent keeps to what its log
would say, and launches again what did not begin. The seed is printed.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import tempfile
import time
from collections import Counter, deque
from pathlib import Path

import pytest
from cluster_support import Cluster

from pilotage.executors import cluster as cluster_module
from pilotage.executors import host_starts
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare
from pilotage.model.workload import Row, Template
from pilotage.testing.contracts.executors import KnownRunner

HOSTS = 2
DEADLINE_S = 90.0
RUN = TemplateId(1)
SEEDS = [int(seed) for seed in os.environ.get("PILOTAGE_WALK_SEEDS", "1 2").split()]


class Walker:
    """An agent that has tasks run, and dies from time to time."""

    def __init__(self, folder: Path, tasks: int, chance: random.Random) -> None:
        self.chance = chance
        self.runs = folder / "runs"
        program = 'echo "$PILOTAGE_TASK_ID $PILOTAGE_ATTEMPT" >> ' + str(self.runs)
        self.templates = {RUN: Template(executable="/bin/sh")}
        self.arguments = ("-c", program)
        self.attempts = {TaskUid(f"t{number}"): Attempt(0) for number in range(tasks)}
        self.waiting = deque(self.attempts)
        self.handed: dict[RunnerId, dict[Execution, None]] = {}
        self.known: dict[RunnerId, KnownRunner] = {}
        self.ended: dict[Execution, AttemptEnd] = {}
        self.not_begun: set[Execution] = set()
        self.runners = 0
        self.lanes = 0
        self.to_release: dict[RunnerId, int] = {}
        self.cluster = Cluster(folder, HOSTS)
        self.cluster.breakable = True
        self.executor = self.cluster.executor(away_s=0.5)
        self.executor.start(self, {})

    # what the executor tells

    def runner_connected(self, runner: RunnerId, pid: int, started_ticks: int, boot_id: str) -> None:
        if runner in self.known:
            known = self.known[runner]
            assert known.pid in (0, pid)
            known.pid, known.started_ticks, known.boot_id = pid, started_ticks, boot_id

    def runner_reconciled(self, runner: RunnerId, holds: list[Execution]) -> None:
        handed = self.handed[runner]
        assert set(holds) <= handed.keys() | self.ended.keys(), "it holds what nobody handed to it"
        for execution in [execution for execution in handed if execution not in holds]:
            self._again(runner, execution)

    def runner_lost(
        self, runner: RunnerId, reason: str, exit_code: int | None, running: Execution | None, not_begun: list[Execution]
    ) -> None:
        # Nothing here kills a runner that had come up.
        printed = self.cluster.agent_folder / f"{runner}.err"
        said = printed.read_text() if printed.exists() else ""
        assert self.known[runner].pid == 0, f"{runner} is told as lost: {reason}; it said: {said}"
        # It never said hello, so whatever it was handed, it has not begun.
        assert set(not_begun) <= set(self.handed[runner])
        for execution in list(self.handed[runner]):
            self._again(runner, execution)
        del self.known[runner], self.handed[runner]

    def tasks_started(self, runner: RunnerId, started: list[tuple[TaskUid, Attempt, float]]) -> None:
        assert all((uid, attempt) not in self.not_begun for uid, attempt, _ in started)

    def tasks_ended(self, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        self.to_release[runner] = max(number, self.to_release.get(runner, 0))
        for end in ends:
            execution = (end.task, end.attempt)
            assert execution not in self.not_begun, f"{execution} was told not to have begun"
            assert end.ending is Ending.DONE, end.message
            self.ended[execution] = end
            self.handed[runner].pop(execution, None)

    def tasks_returned(self, runner: RunnerId, executions: list[Execution]) -> None:
        for execution in executions:
            self._again(runner, execution)

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        raise AssertionError(reason)

    def nodes_lost(self, nodes: list[int], reason: str) -> None:
        raise AssertionError(f"nodes {nodes} are lost: {reason}")

    def _again(self, runner: RunnerId, execution: Execution) -> None:
        assert execution not in self.ended
        if self.handed[runner].pop(execution, 0) is None:
            self.not_begun.add(execution)
            self.waiting.append(execution[0])

    # what it does

    def turn(self) -> None:
        due = self.executor.next_deadline()
        select.select([self.executor.fileno()], [], [], 0.05 if due is None else min(0.05, max(0.0, due - time.time())))
        self.executor.turn(time.time())
        # What was told is in the log now.
        for runner, through in self.to_release.items():
            if runner in self.known:
                self.known[runner].released = through
                self.executor.release(runner, through)
        self.to_release.clear()
        for host in range(HOSTS):
            there = [runner for runner, known in self.known.items() if known.node == host]
            if not there:
                self._start_runner(host)
            for runner in there:
                if len(self.handed[runner]) < 8 and self.waiting:
                    self._launch(runner, host)
        self.executor.flush()

    def _start_runner(self, host: int) -> None:
        runner = RunnerId(f"spawner.{self.runners}")
        self.runners += 1
        self.known[runner] = KnownRunner(None, 0, 0, "", 0, host)
        self.handed[runner] = {}
        self.executor.start_runner(runner, None, {}, host)

    def _launch(self, runner: RunnerId, host: int) -> None:
        tasks = []
        for _ in range(min(len(self.waiting), self.chance.randint(1, 4))):
            uid = self.waiting.popleft()
            self.attempts[uid] = attempt = Attempt(self.attempts[uid] + 1)
            tasks.append((attempt, Row(uid, RUN, self.arguments)))
            self.handed[runner][uid, attempt] = None
        self.lanes += 1
        placement = (NodeShare(host, 1, b"\x01"),)
        self.executor.launch(runner, [LaneTasks(LaneId(self.lanes), placement, tasks)], self.templates)

    def die(self) -> None:
        """Have the next agent take over."""
        self.executor.leave()
        self.to_release.clear()
        self.executor = self.cluster.executor(away_s=0.5)
        self.executor.start(self, dict(self.known))

    def suffer(self) -> None:
        """Have something happen."""
        match self.chance.choice(("cut", "cut", "kill", "die")):
            case "cut":
                self.cluster.ways[-1].cut()
            case "kill":
                names = [host.name for step in self.cluster.starter.steps for host in step if host.process.poll() is None]
                if names:
                    self.cluster.starter.kill(self.chance.choice(names))
            case "die":
                self.die()

    @property
    def is_over(self) -> bool:
        return len({uid for uid, _ in self.ended}) == len(self.attempts)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_attempt_runs_once_or_is_told_not_to_have_begun(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    print(f"seed {seed}; others by PILOTAGE_WALK_SEEDS")
    monkeypatch.setattr(cluster_module, "PING_S", 0.1)
    monkeypatch.setattr(host_starts, "START_PAUSES_S", (0.0,) * 1000)
    folder = Path(tempfile.mkdtemp(prefix="pilotage-"))
    walker = Walker(folder, 400, random.Random(seed))
    try:
        until = time.monotonic() + DEADLINE_S
        at = walker.chance.randint(5, 40)
        while not walker.is_over:
            assert time.monotonic() < until, f"{len(walker.ended)} have ended; handed: {walker.handed}, {walker.known}"
            walker.turn()
            if len(walker.ended) >= at:
                at = len(walker.ended) + walker.chance.randint(5, 60)
                walker.suffer()
    finally:
        walker.executor.close(0.5)
        for way in walker.cluster.ways:
            way.close()
    ran = Counter(tuple(line.split()) for line in walker.runs.read_text().splitlines())
    shutil.rmtree(folder, ignore_errors=True)
    told = {(uid, str(attempt)) for uid, attempt in walker.ended}
    assert set(ran) == told, "what ran is not what was told to have ended"
    assert set(ran.values()) == {1}
