"""Input before a task waits for resources, output after its last attempt, and the sandbox that goes with it."""

from __future__ import annotations

import msgspec
import pytest
from agent_builders import (
    CLEANED_TASK,
    EXECUTABLE,
    INPUT,
    OUTPUT,
    WITH_INPUT,
    WITH_OUTPUT,
    Extra,
    again,
    cancelled,
    end,
    ended,
    executions,
    fresh_core,
    launched_by,
    not_staged,
    outcomes_of,
    ready_core,
    staged,
    staged_by,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import aftermath
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import SHARED_SANDBOX


def core_with_output_under_way(template=EXECUTABLE, ending=Ending.DONE, extra=WITH_OUTPUT):
    """A core with task a, whose first attempt is over."""
    core = ready_core()
    core.handle(submitted(1, ["a"], template, extra=extra))
    if extra.input_staging:
        core.handle(staged("input", "a"))
    return core, core.handle(ended("spawner.0", 1, end("a", ending=ending)))


# ---------------------------------------------------------------------------------------------------------------- input


def test_a_task_with_input_waits_for_resources_once_its_input_is_there():
    core = ready_core()
    step = core.handle(submitted(1, ["a"], extra=WITH_INPUT))
    assert staged_by(step) == [("input", "a", 0, True)]
    assert launched_by(step) == []
    assert core.doing("a") == "staging input"
    assert "input is being staged" in core.why("a")
    step = core.handle(staged("input", "a"))
    assert step.facts[0] == facts.InputsStaged(3.0, ["a"])
    assert launched_by(step) == [("a", 1)]


def test_tasks_without_input_do_not_wait_for_those_with_it():
    core = ready_core()
    core.handle(submitted(1, ["with"], extra=WITH_INPUT))
    assert launched_by(core.handle(submitted(2, ["without"]))) == [("without", 1)]


def test_environment_variables_alone_are_nothing_to_stage():
    core = ready_core()
    step = core.handle(submitted(1, ["a"], extra=Extra(variables={"A": "1"})))
    assert launched_by(step) == [("a", 1)]
    assert outcomes_of(core.handle(ended("spawner.0", 1, end("a")))) == [("a", Ending.DONE)]


def test_nothing_is_staged_for_a_task_that_can_never_run():
    core = ready_core(cores=2)
    step = core.handle(submitted(1, ["big"], with_(EXECUTABLE, request=Request(cores=3)), extra=WITH_INPUT))
    assert staged_by(step) == []
    assert outcomes_of(step) == [("big", Ending.INFEASIBLE)]
    assert core.state.inputs == {}


def test_input_that_cannot_be_staged_fails_the_task_with_the_reason():
    core = ready_core()
    core.handle(submitted(1, ["a"], extra=WITH_INPUT))
    step = core.handle(not_staged("input", "a", "no such file: 'data'"))
    assert outcomes_of(step) == [("a", Ending.STAGING_FAILED)]
    assert "no such file: 'data'" in core.state.unsent[0].message


def test_input_is_staged_again_as_often_as_retries_say():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, retries=1, retry_on=("staging",)), extra=WITH_INPUT))
    step = core.handle(not_staged("input", "a", "busy"))
    assert staged_by(step) == [("input", "a", 0, True)]
    step = core.handle(not_staged("input", "a", "busy"))
    assert outcomes_of(step) == [("a", Ending.STAGING_FAILED)]


def test_a_cancel_while_input_is_staged_takes_effect_when_the_stagers_are_done():
    core = ready_core()
    core.handle(submitted(1, ["a"], extra=WITH_INPUT))
    step = core.handle(cancelled(2, "a"))
    assert told_by(step, actions.EndStaging) == [actions.EndStaging(["a"])]
    assert outcomes_of(step) == []
    assert "cancelled by the user" in core.why("a")
    step = core.handle(staged("input", "a"))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]
    assert launched_by(step) == []


def test_input_is_not_staged_again_for_another_attempt():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, retries=1), extra=WITH_INPUT))
    core.handle(staged("input", "a"))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED)))
    assert staged_by(step) == []
    assert launched_by(step) == [("a", 2)]


def test_another_agent_asks_for_input_again_and_ends_what_was_cancelled():
    core = ready_core()
    core.handle(submitted(1, ["a", "b"], extra=WITH_INPUT))
    core.handle(cancelled(2, "b"))
    another, step = again(core)
    assert staged_by(step) == [("input", "a", 0, True)]
    assert outcomes_of(step) == [("b", Ending.CANCELLED)]
    assert launched_by(another.handle(staged("input", "a", at=9.5))) == [("a", 1)]


def test_staging_that_nobody_waits_for_is_ignored():
    core = ready_core()
    core.handle(submitted(1, ["a"], extra=WITH_OUTPUT))
    assert core.handle(staged("input", "a", "ghost")).facts == []
    assert core.handle(staged("output", "a", attempt=1)).facts == []
    assert core.stale == 3


# --------------------------------------------------------------------------------------------------------------- output


def test_an_outcome_waits_for_the_output_and_the_lane_does_not():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"], extra=WITH_OUTPUT))
    core.handle(submitted(2, ["b"]))
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert staged_by(step) == [("output", "a", 1, True)]
    assert outcomes_of(step) == []
    assert launched_by(step) == [("b", 1)]
    assert core.doing("a") == "staging output" and "its output is being staged" in core.why("a")
    step = core.handle(staged("output", "a", attempt=1))
    assert outcomes_of(step) == [("a", Ending.DONE)]
    (outcome,) = core.state.unsent
    assert outcome.exit_code == 0 and outcome.times.ended == 2.0, "the attempt's end, not that of the staging"


def test_output_that_cannot_be_staged_fails_a_task_that_was_done():
    core, _ = core_with_output_under_way()
    step = core.handle(not_staged("output", "a", "disk quota exceeded", attempt=1))
    assert outcomes_of(step) == [("a", Ending.STAGING_FAILED)]
    assert "disk quota exceeded" in core.state.unsent[0].message
    assert core.state.unsent[0].result is None


def test_output_that_cannot_be_staged_is_a_failure_that_retries_may_be_for():
    core, _ = core_with_output_under_way(with_(EXECUTABLE, retries=1, retry_on=("staging",)))
    step = core.handle(not_staged("output", "a", "busy", attempt=1))
    assert launched_by(step) == [("a", 2)]
    core.handle(ended("spawner.0", 2, end("a", 2)))
    step = core.handle(not_staged("output", "a", "busy", attempt=2))
    assert outcomes_of(step) == [("a", Ending.STAGING_FAILED)]


def test_output_of_a_failure_is_staged_only_if_it_is_asked_for():
    _, step = core_with_output_under_way(ending=Ending.EXITED)
    assert outcomes_of(step) == [("a", Ending.EXITED)]
    core, step = core_with_output_under_way(with_(EXECUTABLE, stage_on_error=True), ending=Ending.EXITED)
    assert staged_by(step) == [("output", "a", 1, True)]
    step = core.handle(not_staged("output", "a", "no such file", attempt=1))
    assert outcomes_of(step) == [("a", Ending.EXITED)], "the attempt's failure counts"
    assert "no such file" in core.state.unsent[0].message


def test_output_of_an_attempt_that_is_repeated_is_not_staged():
    _, step = core_with_output_under_way(with_(EXECUTABLE, stage_on_error=True, retries=1), ending=Ending.EXITED)
    assert staged_by(step) == []
    assert launched_by(step) == [("a", 2)]


@pytest.mark.parametrize("how", ["staged", "not staged"])
def test_a_cancel_while_output_is_staged_cancels_a_task_that_was_done(how):
    core, _ = core_with_output_under_way(with_(EXECUTABLE, retries=1))
    step = core.handle(cancelled(2, "a"))
    assert told_by(step, actions.EndStaging) == [actions.EndStaging(["a"])]
    over = staged("output", "a", attempt=1) if how == "staged" else not_staged("output", "a", "given up", attempt=1)
    step = core.handle(over)
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]
    assert launched_by(step) == []


def test_a_cancel_while_output_is_staged_does_not_hide_that_the_task_failed():
    core, _ = core_with_output_under_way(with_(EXECUTABLE, stage_on_error=True), ending=Ending.EXITED)
    core.handle(cancelled(2, "a"))
    assert outcomes_of(core.handle(staged("output", "a", attempt=1))) == [("a", Ending.EXITED)]


def test_a_task_that_ended_before_its_cancel_arrived_is_cancelled_if_its_output_was_still_to_be_staged():
    core = ready_core()
    core.handle(submitted(1, ["a"], extra=WITH_OUTPUT))
    core.handle(cancelled(2, "a"))
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert staged_by(step) == []
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]


def test_a_cancelled_task_has_no_output_even_if_that_of_failures_is_wanted():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, stage_on_error=True), extra=WITH_OUTPUT))
    core.handle(cancelled(2, "a"))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED)))
    assert staged_by(step) == []
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]


def test_a_runner_that_is_lost_does_not_matter_to_output_that_is_staged():
    core, _ = core_with_output_under_way()
    step = core.handle(events.RunnerLost(2.5, RunnerId("spawner.0"), "lost"))
    assert outcomes_of(step) == []
    assert outcomes_of(core.handle(staged("output", "a", attempt=1))) == [("a", Ending.DONE)]


def test_a_pilot_that_drains_waits_for_output_and_one_that_ends_at_once_gives_it_up():
    core, _ = core_with_output_under_way()
    core.handle(events.EndRequested(2.5, 2, True, "enough"))
    assert not core.finished
    core.handle(staged("output", "a", attempt=1))
    assert core.finished
    core, _ = core_with_output_under_way()
    step = core.handle(events.EndRequested(2.5, 2, False, "enough"))
    assert told_by(step, actions.EndStaging) == [actions.EndStaging(["a"])]
    assert outcomes_of(core.handle(not_staged("output", "a", "given up", attempt=1))) == [("a", Ending.CANCELLED)]
    assert core.finished


def test_another_agent_stages_output_again_with_the_outcome_that_was_kept():
    core, _ = core_with_output_under_way()
    another, step = again(core)
    assert staged_by(step) == [("output", "a", 1, True)]
    assert launched_by(step) == []
    assert outcomes_of(another.handle(staged("output", "a", attempt=1))) == [("a", Ending.DONE)]


def test_another_agent_does_not_stage_what_was_cancelled():
    core, _ = core_with_output_under_way()
    core.handle(cancelled(2, "a"))
    _, step = again(core)
    assert staged_by(step) == []
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]


def test_tasks_that_agents_die_of_are_not_staged_again():
    core = ready_core()
    core.handle(submitted(1, ["a"], extra=WITH_INPUT))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(core.state), type=AgentState)
    another = fresh_core(state=state)
    another.recover(9.0)
    another.quarantine(9.0, [TaskUid("a")], "two agents died of it")
    step = another.start(9.0)
    assert staged_by(step) == []
    assert outcomes_of(step) == [("a", Ending.LOST)]


def test_of_a_lost_pilot_those_whose_output_was_staged_have_outcomes_and_have_begun():
    core, _ = core_with_output_under_way()
    core.handle(submitted(2, ["b"], with_(EXECUTABLE, stage_on_error=True), extra=WITH_OUTPUT))
    core.handle(submitted(3, ["c"], CLEANED_TASK))
    core.handle(submitted(4, ["d"], extra=WITH_INPUT))
    core.handle(ended("spawner.0", 2, end("b", ending=Ending.EXITED)))
    core.handle(ended("spawner.0", 3, end("c")))
    left = aftermath(core.state, 0)
    assert [(outcome.task, outcome.ending) for outcome in left.outcomes] == [
        ("a", Ending.STAGING_FAILED),
        ("b", Ending.EXITED),
        ("c", Ending.DONE),
    ]
    assert [uid for uid, _ in left.not_begun] == ["d"]
    assert left.may_have_run == []


# -------------------------------------------------------------------------------------------------------------- cleaning


@pytest.mark.parametrize("ending", [Ending.DONE, Ending.EXITED, Ending.CANCELLED])
def test_a_sandbox_is_removed_whatever_the_ending(ending):
    core = ready_core()
    core.handle(submitted(1, ["a"], CLEANED_TASK))
    if ending is Ending.CANCELLED:
        core.handle(cancelled(2, "a"))
    step = core.handle(ended("spawner.0", 1, end("a", ending=ending)))
    assert staged_by(step) == [("output", "a", 1, False)]
    assert "its sandbox is being removed" in core.why("a")
    assert outcomes_of(core.handle(staged("output", "a", attempt=1))) == [("a", ending)]


def test_a_failure_without_wanted_output_has_only_its_sandbox_removed():
    _, step = core_with_output_under_way(CLEANED_TASK, Ending.EXITED, Extra(INPUT, OUTPUT))
    assert staged_by(step) == [("output", "a", 1, False)]


def test_a_sandbox_that_cannot_be_removed_is_no_failure():
    core, _ = core_with_output_under_way(CLEANED_TASK, extra=WITH_INPUT)
    assert outcomes_of(core.handle(not_staged("output", "a", "busy", attempt=1))) == [("a", Ending.DONE)]


def test_a_task_that_never_had_a_sandbox_has_none_removed():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a", "b"], CLEANED_TASK))
    step = core.handle(cancelled(2, "b"))
    assert staged_by(step) == []
    assert outcomes_of(step) == [("b", Ending.CANCELLED)]
    core.handle(submitted(3, ["c"], with_(CLEANED_TASK, sandbox=SHARED_SANDBOX)))
    core.handle(ended("spawner.0", 1, end("a")))
    step = core.handle(ended("spawner.0", 2, end("c")))
    assert outcomes_of(step) == [("c", Ending.DONE)], "what is shared stays"


def test_a_sandbox_that_has_only_input_yet_is_removed():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"]))
    core.handle(submitted(2, ["b"], CLEANED_TASK, extra=WITH_INPUT))
    core.handle(staged("input", "b"))
    step = core.handle(cancelled(3, "b"))
    assert staged_by(step) == [("output", "b", 0, False)]
    assert outcomes_of(core.handle(staged("output", "b"))) == [("b", Ending.CANCELLED)]


def test_another_agent_removes_sandboxes_that_were_to_go():
    core = ready_core()
    core.handle(submitted(1, ["a"], CLEANED_TASK))
    core.handle(ended("spawner.0", 1, end("a")))
    core.handle(cancelled(2, "a"))
    another, step = again(core)
    assert staged_by(step) == [("output", "a", 1, False)]
    assert outcomes_of(another.handle(staged("output", "a", attempt=1))) == [("a", Ending.DONE)]


def test_the_message_of_a_runner_counts_as_told_when_all_its_tasks_have_output():
    core, _ = core_with_output_under_way()
    assert core.state.runners[RunnerId("spawner.0")].released == 1
    assert core.handle(ended("spawner.0", 1, end("a"))).facts == []


def test_output_and_plain_ends_come_in_one_message():
    core = ready_core(cores=3)
    core.handle(submitted(1, ["plain"]))
    core.handle(submitted(2, ["output"], extra=WITH_OUTPUT))
    core.handle(submitted(3, ["again"], with_(EXECUTABLE, retries=1)))
    step = core.handle(ended("spawner.0", 1, end("plain"), end("output"), end("again", ending=Ending.EXITED)))
    assert outcomes_of(step) == [("plain", Ending.DONE)]
    assert staged_by(step) == [("output", "output", 1, True)]
    assert launched_by(step) == [("again", 2)]
    assert core.summary()["staging output"] == 1
    assert executions(("output", 1)) == [(uid, outcome.attempt) for uid, outcome in core.state.outputs.items()]
