"""Tasks that run beside others, and tasks that are too late, or that no node is left for: when who can never run is told so."""

from __future__ import annotations

import math

import pytest
from agent_builders import (
    EXECUTABLE,
    WITH_INPUT,
    PromptCore,
    again,
    connected,
    end,
    ended,
    launched_by,
    nodes,
    outcomes_of,
    ready_core,
    staged,
    submitted,
    with_,
)

from pilotage.core.agent import events, state
from pilotage.core.agent.core import AgentCore
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import Template

SPAWNER = RunnerId("spawner.0")


def beside(uid: str) -> Template:
    return with_(EXECUTABLE, request=Request(beside=uid))


def ending_at(time: float, count: int = 1, cores: int = 1) -> AgentCore:
    """A core whose tasks have to end by then."""
    core = PromptCore(Scheduler(nodes(count, cores), latest=time), spawners=1)
    core.start(0.0)
    core.handle(connected("spawner.0"))
    core.handle(events.RunnerReconciled(0.0, SPAWNER, []))
    return core


def node_of(core: AgentCore, uid: str) -> int:
    return core.state.lanes[core.state.tasks[TaskUid(uid)].lane].placement[0].node


# ----------------------------------------------------------------------------------------------------------- after a restart


def test_an_agent_that_was_restarted_knows_where_tasks_ran_that_are_over() -> None:
    core = ready_core(count=4, cores=1)
    core.handle(submitted(1, ["a", "b", "c", "d"]))
    node = node_of(core, "c")
    core.handle(ended("spawner.0", 1, *(end(uid) for uid in "abcd")))
    another, _ = again(core, count=4, cores=1)
    another.handle(submitted(2, ["e"], beside("c")))
    assert node_of(another, "e") == node


def test_of_many_attempts_the_last_place_counts_after_a_restart_too() -> None:
    core = ready_core(count=2, cores=1)
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, retries=1)))
    first = node_of(core, "a")
    core.handle(submitted(2, ["x"], with_(EXECUTABLE, priority=1)))
    core.handle(submitted(3, ["y"], with_(EXECUTABLE, priority=1)))
    core.handle(ended("spawner.0", 1, end("a", 1, Ending.EXITED)))
    core.handle(ended("spawner.0", 2, end("x")))
    second = node_of(core, "a")
    assert first != second
    another, _ = again(core, count=2, cores=1)
    another.handle(ended("spawner.0", 3, end("a", 2), end("y")))
    another.handle(submitted(4, ["b"], beside("a")))
    assert node_of(another, "b") == second


def test_of_places_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "PLACES_KEPT", 8)
    core = ready_core(cores=2)
    for number in range(1, 40):
        core.handle(submitted(number, [f"{number}.0", f"{number}.1"]))
        core.handle(ended("spawner.0", number, end(f"{number}.0"), end(f"{number}.1")))
        assert 4 * min(number, 4) <= len(core.state.places) <= 32
    assert core.state.places[-4:] == ["39.0", 0, "39.1", 0]


# ------------------------------------------------------------------------------------------- beside what never came, or late


def test_who_names_a_task_that_never_came_is_told_why_and_fails_when_nothing_runs() -> None:
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"]))
    core.handle(submitted(2, ["b"], beside("nobody")))
    assert "cannot run any more: task='nobody' is to say on which node it runs" in core.why(TaskUid("b"))
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert ("b", Ending.INFEASIBLE) in outcomes_of(step)


def test_who_names_a_task_that_stages_its_input_waits_for_it() -> None:
    core = ready_core(count=2)
    core.handle(submitted(1, ["a"], extra=WITH_INPUT))
    assert outcomes_of(core.handle(submitted(2, ["b"], beside("a")))) == []
    assert outcomes_of(core.handle(events.TimePassed(3.0))) == []
    step = core.handle(staged("input", "a"))
    assert launched_by(step) == [("a", 1), ("b", 1)]
    assert node_of(core, "a") == node_of(core, "b")


def test_those_who_name_each_other_or_themselves_fail() -> None:
    core = ready_core()
    step = core.handle(submitted(1, ["itself"], beside("itself")))
    assert outcomes_of(step) == [("itself", Ending.INFEASIBLE)]
    core.handle(submitted(2, ["x"], with_(EXECUTABLE, request=Request(cores=2))))
    core.handle(submitted(3, ["one"], beside("other")))
    core.handle(submitted(4, ["other"], beside("one")))
    step = core.handle(ended("spawner.0", 1, end("x")))
    assert sorted(outcomes_of(step)[1:]) == [("one", Ending.INFEASIBLE), ("other", Ending.INFEASIBLE)]


def test_who_was_to_run_beside_one_that_can_never_run_fails_with_it() -> None:
    core = ready_core(count=2, cores=1)
    core.handle(submitted(1, ["x"], with_(EXECUTABLE, request=Request(ranks=2))))
    core.handle(submitted(2, ["a"], beside("nobody")))
    core.handle(submitted(3, ["b"], beside("a")))
    step = core.handle(ended("spawner.0", 1, end("x")))
    assert outcomes_of(step)[1:] == [("a", Ending.INFEASIBLE), ("b", Ending.INFEASIBLE)]


# ------------------------------------------------------------------------------------------------------------------ too late


def test_who_would_end_after_the_pilot_is_told_when_that_is_known_while_others_run() -> None:
    core = ending_at(100.0)
    core.handle(submitted(1, ["long"]))
    core.handle(submitted(2, ["b", "c"], with_(EXECUTABLE, duration_s=30.0)))
    due = core.next_deadline()
    assert due == math.nextafter(70.0, math.inf)
    assert outcomes_of(core.handle(events.TimePassed(70.0))) == []
    step = core.handle(events.TimePassed(due))
    assert outcomes_of(step) == [("b", Ending.INFEASIBLE), ("c", Ending.INFEASIBLE)]
    assert core.next_deadline() is None
    assert list(core.state.tasks) == ["long"]


def test_who_comes_too_late_is_told_at_once() -> None:
    core = ending_at(100.0)
    core.handle(submitted(1, ["long"]))
    step = core.handle(submitted(2, ["b"], with_(EXECUTABLE, duration_s=30.0), at=80.0))
    assert outcomes_of(step) == [("b", Ending.INFEASIBLE)]
    (outcome,) = (each for fact in step.facts if type(fact).__name__ == "Ended" for each in fact.outcomes)  # type: ignore[union-attr]
    assert "it is declared to take 30 s, and tasks have to end within 20 s in this pilot" in outcome.message


def test_who_runs_again_may_be_too_late() -> None:
    core = ending_at(100.0)
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, duration_s=30.0, retries=3)))
    step = core.handle(ended("spawner.0", 1, end("a", 1, Ending.EXITED), at=71.0))
    assert outcomes_of(step) == [("a", Ending.INFEASIBLE)]


def test_who_waits_beside_one_that_is_too_late_is_not_forgotten() -> None:
    core = ending_at(100.0)
    core.handle(submitted(1, ["long"]))
    core.handle(submitted(2, ["a"], with_(EXECUTABLE, duration_s=30.0)))
    core.handle(submitted(3, ["b"], beside("a")))
    core.handle(events.TimePassed(71.0))
    assert "no placement of that task is known here" in core.why(TaskUid("b"))
    step = core.handle(ended("spawner.0", 1, end("long"), at=72.0))
    assert ("b", Ending.INFEASIBLE) in outcomes_of(step)


# ------------------------------------------------------------------------------------------------------- nodes that are lost


def test_what_no_node_is_left_for_ends_at_once_while_others_run() -> None:
    core = ready_core(count=3, cores=1)
    core.handle(submitted(1, ["a"]))
    core.handle(submitted(2, ["wide"], with_(EXECUTABLE, request=Request(ranks=3))))
    step = core.handle(events.NodesLost(2.0, [2]))
    assert outcomes_of(step) == [("wide", Ending.INFEASIBLE)]
    assert list(core.state.tasks) == ["a"]


def test_a_partition_may_get_other_nodes_for_those_that_were_lost() -> None:
    policy = Scheduler(nodes(4, 1), present=(0, 1))
    core = AgentCore(policy, spawners=1, nodes=(0, 1))
    core.start(0.0)
    core.handle(connected("spawner.0"))
    core.handle(events.RunnerReconciled(0.0, SPAWNER, []))
    core.handle(submitted(1, ["a"]))
    core.handle(submitted(2, ["wide"], with_(EXECUTABLE, request=Request(ranks=2))))
    assert outcomes_of(core.handle(events.NodesLost(2.0, [1]))) == []
    core.handle(events.NodesGranted(3.0, 3, [2]))
    core.handle(ended("spawner.0", 1, end("a")))
    assert core.state.tasks[TaskUid("wide")].lane
