"""What every executor does, whatever runs its tasks: the contract of ``executors.base`` as a suite.

Give your executor's tests a subclass::

    class TestMyRuntime(ExecutorContract):
        short = Template(executable="/bin/true")
        long = Template(executable="/bin/sleep")
        long_arguments = ("1000",)

        def make_executor(self, folder: Path) -> Executor:
            return MyRuntimeExecutor(folder)

The suite stands in for the agent: it waits by ``fileno`` and ``next_deadline`` alone, so an executor whose word on these is
not true fails here, and keeps what it was told (``Told``).
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from pilotage.executors.base import Executor, RunnerProcess
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, Placement
from pilotage.model.services import Service
from pilotage.model.workload import Row, Template
from pilotage.system.processes import boot_id
from pilotage.testing.runner_driver import descendants

DEADLINE_S = 60.0
SHORT, LONG, SERVICE = TemplateId(1), TemplateId(2), TemplateId(3)
RUNNER = RunnerId("spawner.0")


class KnownRunner(msgspec.Struct):
    """A ``RunnerProcess``: what a log says of a runner."""

    beside: RunnerId | None
    pid: int
    started_ticks: int
    boot_id: str
    released: int
    node: int = 0


class Told:
    """The listener: all that an executor told, by kind."""

    def __init__(self) -> None:
        self.story: list[str] = []
        self.connected: dict[RunnerId, KnownRunner] = {}
        self.reconciled: dict[RunnerId, list[Execution]] = {}
        self.lost: dict[RunnerId, list[Execution]] = {}
        self.started: dict[Execution, float] = {}
        self.ended: dict[Execution, AttemptEnd] = {}
        self.returned: list[Execution] = []
        self.numbers: dict[RunnerId, list[int]] = {}

    def runner_connected(self, runner: RunnerId, pid: int, started_ticks: int, boot_id: str) -> None:
        """Note it."""
        self.story.append(f"connected {runner}")
        self.connected[runner] = KnownRunner(None, pid, started_ticks, boot_id, 0)

    def runner_reconciled(self, runner: RunnerId, holds: list[Execution]) -> None:
        """Note it."""
        assert runner in self.connected, f"{runner} is reconciled before it is connected"
        self.story.append(f"reconciled {runner}")
        self.reconciled[runner] = holds

    def runner_lost(
        self, runner: RunnerId, reason: str, exit_code: int | None, running: Execution | None, not_begun: list[Execution]
    ) -> None:
        """Note it."""
        assert reason, "a loss has a reason"
        assert running not in not_begun
        self.story.append(f"lost {runner}")
        self.lost[runner] = not_begun

    def tasks_started(self, runner: RunnerId, started: list[tuple[TaskUid, Attempt, float]]) -> None:
        """Note it."""
        for uid, attempt, at in started:
            assert (uid, attempt) not in self.ended, f"{uid} starts after its end"
            self.started[uid, attempt] = at

    def tasks_ended(self, runner: RunnerId, number: int, ends: list[AttemptEnd]) -> None:
        """Note it; the same number may be told again, with the same ends."""
        numbers = self.numbers.setdefault(runner, [])
        # What was released before the agent was restarted is not told again, so that a story may begin with any number.
        assert not numbers or number <= numbers[-1] + 1, f"{runner} tells {number} after {numbers[-1]}"
        again = bool(numbers) and number <= numbers[-1]
        if not again:
            numbers.append(number)
        for end in ends:
            execution = (end.task, end.attempt)
            assert execution not in self.returned, f"{execution} ends and was returned"
            assert again == (execution in self.ended), f"{execution} ends twice, or not under the number of before"
            self.ended[execution] = end

    def tasks_returned(self, runner: RunnerId, executions: list[Execution]) -> None:
        """Note it."""
        for execution in executions:
            assert execution not in self.ended and execution not in self.started, f"{execution} is returned, and had begun"
            self.returned.append(execution)

    def storage_full(self, runner: RunnerId, reason: str) -> None:
        """Note it."""
        assert reason, "a lack of room has a reason"
        self.story.append(f"storage full {runner}")

    def service_spoke(self, service: TaskUid, attempt: Attempt, lines: dict[str, str]) -> None:
        """Note it."""
        self.story.append(f"service {service} spoke")

    def nodes_lost(self, nodes: list[int], reason: str) -> None:
        """Note it."""
        assert reason, "a loss has a reason"
        self.story.append(f"lost nodes {nodes}")

    def over(self) -> set[Execution]:
        """Return what has ended or was returned."""
        return {*self.ended, *self.returned}


class Agent:
    """Drives one executor as an agent does."""

    def __init__(
        self, executor: Executor, templates: Mapping[TemplateId, Template], arguments: tuple[str, ...], host: int = 0
    ) -> None:
        self.executor = executor
        self.host = host
        """Where runners are started."""
        self.told = Told()
        self.folder = Path()
        self._templates = templates
        self._arguments = arguments
        self._lanes = 0
        self._released: dict[RunnerId, int] = {}

    def start(self, known: Mapping[RunnerId, RunnerProcess] | None = None) -> None:
        """Begin."""
        self.executor.start(self.told, known or {})

    def start_runner(self, runner: RunnerId = RUNNER) -> None:
        """Start a runner and wait until it is there."""
        self.executor.start_runner(runner, None, {}, self.host)
        self.until(lambda: runner in self.told.reconciled)

    def launch(self, *names: str, template: TemplateId = SHORT, runner: RunnerId = RUNNER) -> list[Execution]:
        """Launch tasks in a new lane; return their executions."""
        self._lanes += 1
        arguments = () if template == SHORT else self._arguments
        tasks = [(Attempt(1), Row(TaskUid(name), template, arguments)) for name in names]
        self.executor.launch(runner, [LaneTasks(LaneId(self._lanes), self.placement, tasks)], self._templates)
        return [(TaskUid(name), Attempt(1)) for name in names]

    @property
    def placement(self) -> Placement:
        """A core of a node of the host."""
        return (NodeShare(self.host, 1, b"\x01"),)

    def released(self, runner: RunnerId) -> int:
        """Return the number of the last endings that were released."""
        return self._released.get(runner, 0)

    def turn(self, release: bool = True) -> None:
        """One turn: act, and release what was told."""
        self.executor.turn(time.time())
        if release:
            for runner, numbers in list(self.told.numbers.items()):
                if numbers[-1] > self._released.get(runner, 0):
                    self._released[runner] = numbers[-1]
                    self.executor.release(runner, numbers[-1])
        self.executor.flush()

    def until(self, condition: Callable[[], bool], release: bool = True) -> None:
        """Turn whenever the executor says that there is something to do, until this is so."""
        until = time.monotonic() + DEADLINE_S
        self.executor.flush()
        while not condition():
            left_s = until - time.monotonic()
            assert left_s > 0, f"it does not come to that; told so far: {self.told.story}, over: {self.told.over()}"
            due = self.executor.next_deadline()
            patience_s = left_s if due is None else min(left_s, max(0.0, due - time.time()))
            select.select([self.executor.fileno()], [], [], patience_s)
            self.turn(release)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


class ExecutorContract(ABC):
    """Subclass it under a name that begins with ``Test``.

    ``short`` ends by itself, soon and well. ``long``, called with ``long_arguments``, goes on until it is ended.
    """

    short: Template
    long: Template
    long_arguments: tuple[str, ...] = ()
    outlives_agent: ClassVar[bool] = False
    """Whether runners and tasks go on when the agent dies, and are adopted by the next one."""
    hosts: ClassVar[int] = 1
    """On how many hosts it has runners; the node of the same number is one of each. Most tests use the last."""

    @abstractmethod
    def make_executor(self, folder: Path) -> Executor:
        """Return a fresh executor. ``folder`` is private and has a short path; after ``leave`` it is that of before."""

    @pytest.fixture
    def agent(self) -> Iterator[Agent]:
        """An agent around a fresh executor; in the end no process is left."""
        before = set(descendants(os.getpid()))
        folder = Path(tempfile.mkdtemp(prefix="pilotage-"))
        service = msgspec.structs.replace(self.long, service=Service())
        templates = {SHORT: self.short, LONG: self.long, SERVICE: service}
        agent = Agent(self.make_executor(folder), templates, self.long_arguments, self.hosts - 1)
        agent.folder = folder
        try:
            yield agent
        finally:
            agent.executor.close(0.2)
            shutil.rmtree(folder, ignore_errors=True)
        until = time.monotonic() + DEADLINE_S
        while left := [pid for pid in descendants(os.getpid()) if pid not in before and _runs(pid)]:
            assert time.monotonic() < until, f"processes {left} are left after close"
            os.sched_yield()

    def test_a_runner_connects_and_then_has_told_all_that_it_had(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        assert agent.told.story == [f"connected {RUNNER}", f"reconciled {RUNNER}"]
        assert agent.told.reconciled[RUNNER] == []
        assert agent.told.connected[RUNNER].pid > 0

    def test_a_task_ends_well_with_its_times(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("a")
        agent.until(lambda: execution in agent.told.ended)
        end = agent.told.ended[execution]
        assert end.ending is Ending.DONE
        assert 0.0 < end.started <= end.ended

    def test_tasks_wait_for_a_runner_that_is_not_up_yet(self, agent: Agent) -> None:
        agent.start()
        agent.executor.start_runner(RUNNER, None, {}, agent.host)
        executions = agent.launch("a", "b")
        agent.until(lambda: set(executions) <= agent.told.over())
        # Whether they came too early for it, and are returned, is up to the executor; they are not lost.
        assert RUNNER not in agent.told.lost

    def test_every_task_of_many_lanes_is_told_as_over_exactly_once(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        executions = [execution for lane in range(8) for execution in agent.launch(*(f"t{lane}.{n}" for n in range(5)))]
        agent.until(lambda: set(executions) <= agent.told.over())
        assert set(agent.told.ended) == set(executions)

    def test_tasks_of_one_lane_run_one_after_another_in_their_order(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        executions = agent.launch(*(f"t{number}" for number in range(6)))
        agent.until(lambda: set(executions) <= agent.told.over())
        ends = [agent.told.ended[execution] for execution in executions]
        # A millisecond is left to the clocks: the end is seen by one process, the next start by another.
        assert all(before.ended <= after.started + 0.001 for before, after in pairwise(ends))

    def test_messages_of_endings_are_numbered_from_one_without_gaps(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        for number in range(3):
            (execution,) = agent.launch(f"t{number}")
            agent.until(lambda execution=execution: execution in agent.told.ended)  # type: ignore[misc]
        numbers = agent.told.numbers[RUNNER]
        assert numbers == list(range(1, len(numbers) + 1))

    def test_what_is_ended_is_told_with_that_ending(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("long", template=LONG)
        agent.turn()
        agent.executor.end(RUNNER, [execution], Ending.CANCELLED, "nobody needs it")
        agent.until(lambda: execution in agent.told.over())
        if execution in agent.told.ended:
            end = agent.told.ended[execution]
            assert (end.ending, end.message) == (Ending.CANCELLED, "nobody needs it")

    def test_what_does_not_catch_the_signal_that_it_is_sent_is_told_as_cut_short(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("long", template=LONG)
        # Where nothing runs, nothing is told as begun: then it ends by itself.
        agent.until(lambda: execution in agent.told.started or execution in agent.told.over())
        began = execution in agent.told.started
        for _ in range(2):
            agent.executor.signal(RUNNER, [execution, (TaskUid("unknown"), Attempt(1))], signal.SIGUSR1)
        agent.until(lambda: execution in agent.told.over())
        assert agent.told.ended[execution].ending is (Ending.OUT_OF_WALLTIME if began else Ending.DONE)

    def test_a_service_is_told_as_begun_and_runs_until_it_is_ended(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("service", template=SERVICE)
        agent.until(lambda: execution in agent.told.started)
        (other,) = agent.launch("other")
        agent.until(lambda: other in agent.told.ended)
        assert execution not in agent.told.over()
        agent.executor.end(RUNNER, [execution], Ending.DONE, "stopped")
        agent.until(lambda: execution in agent.told.ended)
        end = agent.told.ended[execution]
        assert (end.ending, end.message) == (Ending.DONE, "stopped")
        assert 0.0 < end.started <= end.ended

    def test_what_waits_behind_a_long_task_is_over_too_when_it_is_ended(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        executions = agent.launch("first", "second", "third", template=LONG)
        agent.turn()
        agent.executor.end(RUNNER, executions, Ending.TIMED_OUT, "out of time")
        agent.until(lambda: set(executions) <= agent.told.over())
        assert {end.ending for end in agent.told.ended.values()} <= {Ending.TIMED_OUT}

    def test_ending_what_is_over_or_was_never_there_does_nothing(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("a")
        agent.until(lambda: execution in agent.told.ended)
        agent.executor.end(RUNNER, [execution, (TaskUid("stranger"), Attempt(3))], Ending.CANCELLED, "too late")
        agent.executor.recall(RUNNER, [execution, (TaskUid("stranger"), Attempt(3))])
        agent.executor.end(RunnerId("nobody"), [execution], Ending.CANCELLED, "no such runner")
        agent.executor.recall(RunnerId("nobody"), [execution])
        (other,) = agent.launch("b")
        agent.until(lambda: other in agent.told.ended)
        assert agent.told.ended[execution].ending is agent.told.ended[other].ending is Ending.DONE
        assert agent.told.over() <= {execution, other, (TaskUid("stranger"), Attempt(3))}

    def test_what_was_recalled_is_returned_or_ends_and_never_both(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        executions = agent.launch("first", "second", "third", template=LONG)
        agent.turn()
        agent.executor.recall(RUNNER, executions[1:])
        agent.turn()
        agent.executor.end(RUNNER, executions[:1], Ending.CANCELLED, "the first must go")
        agent.until(lambda: executions[0] in agent.told.over())
        agent.executor.end(RUNNER, executions[1:], Ending.CANCELLED, "and the rest, if it began")
        agent.until(lambda: set(executions) <= agent.told.over())

    def test_the_same_task_may_be_attempted_again(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        (first,) = agent.launch("a")
        agent.until(lambda: first in agent.told.ended)
        lane = LaneTasks(LaneId(99), agent.placement, [(Attempt(2), Row(TaskUid("a"), SHORT))])
        agent.executor.launch(RUNNER, [lane], {SHORT: self.short})
        agent.until(lambda: (TaskUid("a"), Attempt(2)) in agent.told.ended)

    def test_a_runner_of_before_that_is_gone_is_told_as_lost_with_what_it_never_got(self, agent: Agent) -> None:
        # The pid is one that cannot be: none is that large.
        agent.start({RUNNER: KnownRunner(None, 1 << 30, 1, boot_id(), 0, agent.host)})
        (execution,) = agent.launch("a")
        agent.until(lambda: RUNNER in agent.told.lost)
        assert agent.told.lost[RUNNER] == [execution]
        agent.launch("b")
        agent.start_runner(RunnerId("spawner.1"))
        (other,) = agent.launch("c", runner=RunnerId("spawner.1"))
        agent.until(lambda: other in agent.told.ended)
        assert agent.told.over() == {other}, "what was launched on a lost runner is dropped"

    def test_tasks_run_in_an_environment_that_was_defined_before_or_after_their_runner_came_up(self, agent: Agent) -> None:
        agent.start()
        agent.executor.define_environment("early", EnvironmentDifference({"EARLY": "1"}))
        agent.start_runner()
        agent.executor.define_environment("late", EnvironmentDifference({"LATE": "1"}, ("HOME",)))
        templates = {
            TemplateId(10 + number): msgspec.structs.replace(self.short, named_env=name)
            for number, name in enumerate(("early", "late"))
        }
        executions = [(TaskUid(f"t{template}"), Attempt(1)) for template in templates]
        lanes = [
            LaneTasks(LaneId(10 + number), agent.placement, [(Attempt(1), Row(TaskUid(f"t{template}"), template))])
            for number, template in enumerate(templates)
        ]
        agent.executor.launch(RUNNER, lanes, templates)
        agent.until(lambda: set(executions) <= agent.told.over())
        assert {agent.told.ended[execution].ending for execution in executions} == {Ending.DONE}

    def test_a_stopped_runner_is_forgotten_and_another_does_its_work(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        agent.executor.stop_runner(RUNNER)
        other = RunnerId("spawner.1")
        agent.start_runner(other)
        (execution,) = agent.launch("a", runner=other)
        agent.until(lambda: execution in agent.told.ended)
        assert RUNNER not in agent.told.lost, "a runner that was told to stop is not lost"

    def test_runners_of_all_hosts_run_tasks_at_the_same_time(self, agent: Agent) -> None:
        agent.start()
        runners = [RunnerId(f"spawner.{host}") for host in range(self.hosts)]
        executions = []
        for agent.host, runner in enumerate(runners):
            agent.start_runner(runner)
            executions += agent.launch(f"on.{runner}", template=SERVICE, runner=runner)
        agent.until(lambda: set(executions) <= agent.told.started.keys())
        for runner, execution in zip(runners, executions, strict=True):
            agent.executor.end(runner, [execution], Ending.DONE, "stopped")
        agent.until(lambda: set(executions) <= agent.told.ended.keys())

    def test_close_ends_what_runs(self, agent: Agent) -> None:
        agent.start()
        agent.start_runner()
        agent.launch("long", template=LONG)
        agent.turn()

    def test_the_next_agent_adopts_what_runs(self, agent: Agent) -> None:
        self._require_adoption()
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("long", template=LONG)
        agent.until(lambda: execution in agent.told.started)
        self._die(agent)
        agent.until(lambda: RUNNER in agent.told.reconciled)
        assert agent.told.reconciled[RUNNER] == [execution]
        agent.executor.end(RUNNER, [execution], Ending.CANCELLED, "seen enough")
        agent.until(lambda: execution in agent.told.ended)
        assert agent.told.ended[execution].ending is Ending.CANCELLED

    def test_what_ended_and_was_not_released_is_told_to_the_next_agent_before_it_is_reconciled(self, agent: Agent) -> None:
        self._require_adoption()
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("a")
        agent.until(lambda: execution in agent.told.ended, release=False)
        before = agent.told.ended[execution]
        self._die(agent)
        agent.until(lambda: RUNNER in agent.told.reconciled)
        assert agent.told.ended == {execution: before}
        assert agent.told.reconciled[RUNNER] == []

    def test_what_was_released_is_not_told_again(self, agent: Agent) -> None:
        self._require_adoption()
        agent.start()
        agent.start_runner()
        (execution,) = agent.launch("a")
        agent.until(lambda: execution in agent.told.ended)
        self._die(agent)
        agent.until(lambda: RUNNER in agent.told.reconciled)
        (other,) = agent.launch("b")
        agent.until(lambda: other in agent.told.ended)
        assert set(agent.told.ended) == {other}

    def _require_adoption(self) -> None:
        if not self.outlives_agent:
            pytest.skip("its tasks end with the agent")

    def _die(self, agent: Agent) -> None:
        known = {
            name: msgspec.structs.replace(runner, released=agent.released(name), node=agent.host)
            for name, runner in agent.told.connected.items()
        }
        agent.executor.leave()
        agent.executor, agent.told = self.make_executor(agent.folder), Told()
        agent.start(known)
