"""Launches at once: where a launcher bears but so many, tasks that need one wait for each other, and others do not."""

from __future__ import annotations

from functools import partial

import agent_world
import pytest
from agent_builders import (
    EXECUTABLE,
    again,
    cancelled,
    end,
    ended,
    launched_by,
    outcomes_of,
    ready_core,
    submitted,
    with_,
)
from agent_world import World, walk

from pilotage.core.agent import events
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.launches import Launches
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import ANY_MPI, Template

MPI = with_(EXECUTABLE, launch_method=ANY_MPI)
WALKS = 60
CEILING = 3


def core_with(ceiling: int = 2, cores: int = 16, **more: object) -> AgentCore:
    return ready_core(cores=cores, launches=ceiling, **more)


def test_no_more_are_launched_than_the_launcher_bears() -> None:
    core = core_with()
    step = core.handle(submitted(1, ["a", "b", "c", "d"], MPI))
    assert launched_by(step) == [("a", 1), ("b", 1)]

    step = core.handle(ended("spawner.0", 1, end("b")))
    assert launched_by(step) == [("c", 1)]
    assert core.summary()["awaiting launch"] == 1

    step = core.handle(ended("spawner.0", 2, end("a"), end("c")))
    assert launched_by(step) == [("d", 1)]
    assert core.summary()["awaiting launch"] == 0


def test_partitions_share_what_the_launcher_bears_as_they_come_and_go() -> None:
    core = core_with(ceiling=4, partitions=2)
    assert launched_by(core.handle(submitted(1, ["a", "b", "c", "d", "e"], MPI))) == [("a", 1), ("b", 1)]
    assert launched_by(core.handle(events.LaunchesShared(1.0, 1))) == [("c", 1), ("d", 1)], "the other is gone"
    step = core.handle(events.LaunchesShared(2.0, 5))
    assert launched_by(step) == [], "more than there are launches: one for each"
    assert launched_by(core.handle(ended("spawner.0", 1, end("a"), end("b"), end("c")))) == []
    assert launched_by(core.handle(ended("spawner.0", 2, end("d")))) == [("e", 1)]


def test_what_has_no_ceiling_has_none_for_partitions() -> None:
    core = core_with(ceiling=0, partitions=2)
    core.handle(events.LaunchesShared(1.0, 3))
    assert len(launched_by(core.handle(submitted(1, ["a", "b", "c", "d", "e"], MPI)))) == 5


def test_tasks_that_need_no_launcher_do_not_wait_for_one() -> None:
    core = core_with()
    core.handle(submitted(1, ["a", "b", "c"], MPI))

    assert launched_by(core.handle(submitted(2, ["x", "y"]))) == [("x", 1), ("y", 1)]


def test_who_asks_is_told_what_a_task_waits_for() -> None:
    core = core_with(ceiling=1)
    core.handle(submitted(1, ["a", "b", "c"], MPI))

    assert core.doing(TaskUid("c")) == "waiting"
    assert core.why(TaskUid("c")) == (
        "waits for a launch to end: 1 may be under way at once, as the launcher bears no more, and so many are, or are placed "
        "next; 1 task is before it"
    )


def test_the_one_of_higher_priority_is_launched_next() -> None:
    core = core_with(ceiling=1)
    core.handle(submitted(1, ["a", "b"], MPI))
    core.handle(submitted(2, ["urgent"], with_(MPI, priority=5)))

    assert launched_by(core.handle(ended("spawner.0", 1, end("a")))) == [("urgent", 1)]


def test_one_that_is_cancelled_while_it_waits_ends_at_once_and_takes_no_turn() -> None:
    core = core_with(ceiling=1)
    core.handle(submitted(1, ["a", "b", "c"], MPI))

    assert outcomes_of(core.handle(cancelled(2, "b"))) == [("b", Ending.CANCELLED)]
    assert launched_by(core.handle(ended("spawner.0", 1, end("a")))) == [("c", 1)]


def test_a_restarted_agent_counts_what_runs() -> None:
    core = core_with()
    core.handle(submitted(1, ["a", "b", "c"], MPI))

    core, step = again(core, cores=16, launches=2)
    assert launched_by(step) == []
    assert core.summary()["awaiting launch"] == 1
    assert launched_by(core.handle(ended("spawner.0", 1, end("a")))) == [("c", 1)]


@pytest.mark.parametrize(
    ("hosts", "template", "counts"),
    [
        ((), MPI, True),
        ((), with_(EXECUTABLE, request=Request(ranks=2)), False),
        ((0, 1), with_(EXECUTABLE, request=Request(ranks=2)), True),
        ((0, 1), EXECUTABLE, False),
    ],
)
def test_ranks_without_mpi_need_a_launcher_where_they_may_be_on_several_hosts(
    hosts: tuple[int, ...], template: Template, counts: bool
) -> None:
    core = AgentCore(agent_world.Scheduler(agent_world.NODES), hosts=hosts, launches=1)

    core.handle(submitted(1, ["a", "b"], template))

    assert core.summary()["awaiting launch"] == (1 if counts else 0)


def test_every_task_lives_to_its_outcome_though_few_may_be_launched_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = [0]

    class Counted(World):
        def step(self) -> None:
            super().step()
            templates = self.core.state.templates
            limited = [lane for lane in self.core.state.lanes.values() if self.limits(templates[lane.template])]
            assert sum(len(lane.tasks) for lane in limited) <= CEILING

        def limits(self, template: Template) -> bool:
            return not template.request.gang and self.core._waiting.launches.limits(template)

        def settle(self) -> None:
            waited[0] += bool(self.core.summary()["awaiting launch"])
            super().settle()

    monkeypatch.setattr(agent_world, "AgentCore", partial(AgentCore, launches=CEILING))
    monkeypatch.setattr(agent_world, "World", Counted)
    monkeypatch.setattr(Launches, "limits", lambda self, template: template.service is None and not template.in_worker)
    tasks = 0
    for seed in range(WALKS):
        world = walk(seed)
        assert world.core.summary()["awaiting launch"] == 0
        tasks += len(world.client.outcomes)
    assert tasks > WALKS
    assert waited[0] > WALKS // 10, "hardly anything had to wait"
