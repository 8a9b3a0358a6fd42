"""Named environments: tasks wait until theirs is prepared, and fail if it cannot be had."""

from __future__ import annotations

import pytest
from agent_builders import (
    EXECUTABLE,
    FUNCTION,
    SPEC,
    WITH_INPUT,
    again,
    cancelled,
    end,
    ended,
    launched_by,
    outcomes_of,
    ready_core,
    staged,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.lanes import EXECUTABLE as EXECUTABLE_LANE
from pilotage.core.agent.lanes import group_of
from pilotage.model.outcome import Ending

IN_CONDA = with_(EXECUTABLE, named_env="conda")


def asked(number: int, name: str = "conda", at: float = 1.2) -> events.EnvironmentAsked:
    return events.EnvironmentAsked(at, number, name, SPEC)


def prepared(name: str = "conda", error: str = "", at: float = 2.0) -> events.EnvironmentPrepared:
    return events.EnvironmentPrepared(at, name, error)


def test_an_environment_is_prepared_when_it_is_asked_for_and_tasks_wait_for_it():
    core = ready_core()
    step = core.handle(asked(1))
    assert step.facts == [facts.EnvironmentAsked(1.2, 1, "conda", SPEC)]
    assert step.actions == [actions.PrepareEnvironment("conda", SPEC)]
    assert launched_by(core.handle(submitted(2, ["a"], IN_CONDA))) == []
    assert core.doing("a") == "awaiting environment"
    assert core.why("a") == "waits for the environment 'conda', which is being prepared"
    assert core.summary()["environment conda"] == "in preparation"
    assert launched_by(core.handle(prepared())) == [("a", 1)]
    assert core.summary()["environment conda"] == "prepared"
    assert launched_by(core.handle(submitted(3, ["b"], IN_CONDA))) == [("b", 1)]


def test_a_task_may_come_before_its_environment_is_asked_for():
    core = ready_core()
    core.handle(submitted(1, ["a"], IN_CONDA))
    assert "nobody has asked for yet" in core.why("a")
    core.handle(asked(2))
    assert launched_by(core.handle(prepared())) == [("a", 1)]


def test_others_do_not_wait():
    core = ready_core()
    core.handle(submitted(1, ["a"], IN_CONDA))
    assert launched_by(core.handle(submitted(2, ["b"]))) == [("b", 1)]


@pytest.mark.parametrize("name", ["rp", "pilotage"])
def test_the_agents_own_python_is_always_there(name):
    core = ready_core()
    assert launched_by(core.handle(submitted(1, ["a"], with_(EXECUTABLE, named_env=name)))) == [("a", 1)]


def test_a_function_in_an_environment_is_a_process_of_a_spawner():
    assert group_of(with_(FUNCTION, named_env="conda")).lane_kind == EXECUTABLE_LANE
    core = ready_core()
    (launch,) = core.handle(submitted(1, ["f"], with_(FUNCTION, named_env="rp"))).actions
    assert launch.runner == "spawner.0"


def test_an_environment_that_cannot_be_had_fails_its_tasks_now_and_later():
    core = ready_core()
    core.handle(asked(1))
    core.handle(submitted(2, ["a"], IN_CONDA))
    step = core.handle(prepared(error="no module named 'conda'"))
    assert outcomes_of(step) == [("a", Ending.LAUNCH_FAILED)]
    assert "'conda'" in core.state.unsent[0].message and "no module named" in core.state.unsent[0].message
    assert outcomes_of(core.handle(submitted(3, ["b"], IN_CONDA))) == [("b", Ending.LAUNCH_FAILED)]
    assert core.summary()["environment conda"] == "no module named 'conda'"


def test_one_that_could_not_be_had_is_tried_again_when_it_is_asked_for_again_and_one_that_is_there_is_not():
    core = ready_core()
    core.handle(asked(1))
    assert told_by(core.handle(asked(2)), actions.PrepareEnvironment) == [], "it is on its way"
    core.handle(prepared(error="no room"))
    assert told_by(core.handle(asked(3)), actions.PrepareEnvironment) == [actions.PrepareEnvironment("conda", SPEC)]
    core.handle(submitted(4, ["a"], IN_CONDA))
    assert launched_by(core.handle(prepared())) == [("a", 1)]
    assert told_by(core.handle(asked(5)), actions.PrepareEnvironment) == []
    assert core.state.received == 5
    assert core.handle(asked(5)).facts == [], "told twice"


def test_a_preparation_that_nobody_waits_for_is_ignored():
    core = ready_core()
    assert core.handle(prepared()).facts == []
    core.handle(asked(1))
    core.handle(prepared())
    assert core.handle(prepared(error="late")).facts == []
    assert core.stale == 2


def test_what_waits_for_an_environment_is_cancelled_at_once():
    core = ready_core()
    core.handle(asked(1))
    core.handle(submitted(2, ["a", "b"], IN_CONDA))
    assert outcomes_of(core.handle(cancelled(3, "a"))) == [("a", Ending.CANCELLED)]
    assert launched_by(core.handle(prepared())) == [("b", 1)]


def test_input_is_staged_while_the_environment_is_prepared():
    core = ready_core()
    core.handle(asked(1))
    core.handle(submitted(2, ["a"], IN_CONDA, extra=WITH_INPUT))
    assert launched_by(core.handle(staged("input", "a"))) == []
    assert launched_by(core.handle(prepared(at=4.0))) == [("a", 1)]


def test_another_agent_asks_for_a_preparation_again_and_tasks_still_wait():
    core = ready_core()
    core.handle(asked(1))
    core.handle(submitted(2, ["a"], IN_CONDA))
    another, step = again(core)
    assert told_by(step, actions.PrepareEnvironment) == [actions.PrepareEnvironment("conda", SPEC)]
    assert launched_by(step) == []
    assert launched_by(another.handle(prepared(at=9.5))) == [("a", 1)]
    _, step = again(another)
    assert told_by(step, actions.PrepareEnvironment) == [], "it is there"


def test_a_pilot_that_drains_waits_for_an_environment_on_its_way_but_not_for_one_that_nobody_asked_for():
    core = ready_core()
    core.handle(asked(1))
    core.handle(submitted(2, ["a"], IN_CONDA))
    core.handle(submitted(3, ["b"], with_(EXECUTABLE, named_env="spack")))
    step = core.handle(events.EndRequested(1.5, 4, True, "enough"))
    assert outcomes_of(step) == [("b", Ending.LAUNCH_FAILED)]
    assert "'spack'" in core.state.unsent[0].message and "Pilot.prepare_env" in core.state.unsent[0].message
    assert launched_by(core.handle(prepared())) == [("a", 1)]
    core.handle(ended("spawner.0", 1, end("a")))
    assert core.finished
