"""One executor of a host, for as long as one connection to the agent lasts: it is given the orders that come, and what it tells
becomes reports.

Of the rules of ``executors.base`` one needs care: a runner is handed nothing before the agent has logged who it is, and what a
dead one had left behind is kept until that is logged, too. An executor takes the next ``flush`` or ``turn`` for that. So after
a turn that told of such a runner it stands still until the agent says that the report is in its log; that takes one turn of the
agent's, once in the life of a runner.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from pilotage.errors import InvariantViolated, unreachable
from pilotage.executors.base import Executor
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid, TemplateId
from pilotage.model.workload import Template
from pilotage.wire import host_messages as wire


class Relay:
    """The ``RunnerListener`` of ``executor``, which is not started yet."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._templates: dict[TemplateId, Template] = {}
        self._heard = 0
        self._reports = 0
        self._told: list[bytes] = []
        self._batches: list[tuple[int, list[bytes]]] = []
        """What was told, by the number of the last order that was followed before."""
        self._must_wait = False
        self._waits_for = 0
        """Number of the report that has to be in the agent's log before the executor goes on; 0: none has to."""

    @property
    def stands_still(self) -> bool:
        """Whether the executor waits for the agent, so that nothing of it is to be polled."""
        return bool(self._waits_for)

    def start(self, known: Mapping[RunnerId, wire.KnownRunner]) -> None:
        """Have the executor begin."""
        self._executor.start(self, known)

    def fileno(self) -> int:
        """Return the descriptor that is readable while the executor has something to do."""
        return self._executor.fileno()

    def next_deadline(self) -> float | None:
        """Return when ``turn`` is due without anything arriving (seconds since the epoch)."""
        return None if self._waits_for else self._executor.next_deadline()

    def follow(self, orders: wire.HostOrders) -> None:
        """Do what the agent wants."""
        for number, order in enumerate(orders.orders, orders.through - len(orders.orders) + 1):
            self._follow(order)
            self._heard = number
            if self._told:
                self._end_batch()
        if self._waits_for:
            if orders.logged < self._waits_for:
                return
            self._waits_for = 0
        self._executor.flush()

    def turn(self, now: float) -> list[bytes]:
        """Let the executor do what there is to do, and return the frames of what it told; nothing while it stands still."""
        if self._waits_for:
            return []
        self._executor.turn(now)
        frames = self._frames()
        if self._must_wait:
            self._must_wait = False
            self._waits_for = self._reports
        return frames

    def close(self, grace_s: float) -> list[bytes]:
        """End all runners, and what they run, within the grace and a little more; return the frames of what was told."""
        self._executor.close(grace_s)
        return self._frames()

    def leave(self) -> None:
        """Let go of the runners; they go on."""
        self._executor.leave()

    def _frames(self) -> list[bytes]:
        if self._told:
            self._end_batch()
        batches, self._batches = self._batches, []
        frames = []
        for heard, told in batches:
            for bundle in wire.bundles(told):
                self._reports += 1
                frames.append(wire.report_frame(self._reports, heard, time.time(), bundle))
        return frames

    def _follow(self, order: wire.Order) -> None:
        executor = self._executor
        match order:
            case wire.LaunchLanes():
                executor.launch(order.runner, order.lanes, self._templates)
            case wire.ReleaseRunner():
                executor.release(order.runner, order.through)
            case wire.DefineTemplates():
                self._templates.update(order.templates)
            case wire.EndExecutions():
                executor.end(order.runner, order.executions, order.ending, order.message)
            case wire.RecallExecutions():
                executor.recall(order.runner, order.executions)
            case wire.SignalExecutions():
                executor.signal(order.runner, order.executions, order.signal)
            case wire.StartRunner():
                executor.start_runner(order.runner, order.beside, order.environment)
            case wire.StopRunner():
                executor.stop_runner(order.runner)
            case wire.DefineEnvironment():
                executor.define_environment(order.name, EnvironmentDifference(order.variables, tuple(order.unset)))
            case _:
                unreachable(order)

    def _end_batch(self) -> None:
        self._batches.append((self._heard, self._told))
        self._told = []

    def _tell(self, told: wire.Told) -> None:
        self._told.append(wire.encode(told))

    # ------------------------------------------------------------------------------------------------- what the executor tells

    def runner_connected(self, runner: RunnerId, pid: int, started_ticks: int, boot_id: str) -> None:
        """Tell the agent; see ``executors.base.RunnerListener``."""
        self._must_wait = True
        self._tell(wire.RunnerConnected(runner, pid, started_ticks, boot_id))

    def runner_reconciled(self, runner: RunnerId, holds: list[Execution]) -> None:
        """Tell the agent."""
        self._tell(wire.RunnerReconciled(runner, holds))

    def runner_lost(
        self,
        runner: RunnerId,
        reason: str,
        exit_code: int | None,
        running: Execution | None,
        not_begun: list[Execution],
    ) -> None:
        """Tell the agent."""
        self._must_wait = True
        self._tell(wire.RunnerLost(runner, reason, exit_code, running, not_begun))

    def tasks_started(self, runner: RunnerId, started: list[tuple[TaskUid, Attempt, float]]) -> None:
        """Tell the agent."""
        self._tell(wire.TasksStarted(runner, started))

    def tasks_ended(self, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        """Tell the agent."""
        self._tell(wire.TasksEnded(runner, number, ends))

    def tasks_returned(self, runner: RunnerId, executions: list[Execution]) -> None:
        """Tell the agent."""
        self._tell(wire.TasksReturned(runner, executions))

    def service_spoke(self, service: TaskUid, attempt: Attempt, lines: dict[str, str]) -> None:
        """Never told: services of this node speak to the host itself."""
        raise InvariantViolated(f"an executor of one node tells what service {service} said")

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        """Tell the agent."""
        self._tell(wire.StorageFull(runner, reason))

    def nodes_lost(self, nodes: list[int], reason: str) -> None:
        """Never told: a host is a node, and knows of no other."""
        raise InvariantViolated(f"an executor of one node tells that nodes {nodes} are lost: {reason}")
