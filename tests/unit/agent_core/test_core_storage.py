"""When there is no room for sandboxes and output nothing is placed, and it is said why."""

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
    again,
    cancelled,
    end,
    ended,
    executions,
    launched_by,
    not_staged,
    outcomes_of,
    put_off,
    ready_core,
    staged,
    staged_by,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events
from pilotage.core.agent.core import AgentCore
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending
from pilotage.model.workload import Extra, Template

FULL = events.StorageFilled(1.5, "Disk quota exceeded: /home")
FREED = events.StorageFreed(9.0)


def test_nothing_is_placed_until_there_is_room():
    core = ready_core(cores=2)
    core.handle(FULL)
    assert launched_by(core.handle(submitted(1, ["a"]))) == []
    assert core.next_deadline() is None
    assert "nothing is started for now: Disk quota exceeded: /home" in core.why("a")
    assert core.summary()["paused"] == "Disk quota exceeded: /home"
    assert launched_by(core.handle(FREED)) == [("a", 1)]
    assert core.summary()["paused"] == ""


def test_lanes_are_not_refilled_but_closed_and_what_runs_goes_on():
    core = ready_core(cores=1)
    core.handle(submitted(1, [f"t{number}" for number in range(100)]))
    core.handle(ended("spawner.0", 1, end("t0", seconds=0.0001)))
    held = list(next(iter(core.state.lanes.values())).tasks)
    core.handle(FULL)
    step = core.handle(ended("spawner.0", 2, *(end(uid, seconds=0.0001) for uid in held)))
    assert [ending for _, ending in outcomes_of(step)] == [Ending.DONE] * len(held)
    assert launched_by(step) == []
    assert core.state.lanes == {}
    assert launched_by(core.handle(FREED))


def test_a_spawner_that_gives_back_tasks_for_want_of_room_is_still_of_use():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"]))
    core.handle(FULL)
    step = core.handle(events.TasksReturned(2.0, RunnerId("spawner.0"), executions(("a", 1))))
    assert launched_by(step) == []
    assert core.next_deadline() is None, "no other spawner is wanted"
    assert launched_by(core.handle(FREED)) == [("a", 2)]


def test_sandboxes_are_removed_meanwhile():
    core = ready_core()
    core.handle(submitted(1, ["a"], CLEANED_TASK))
    core.handle(FULL)
    core.handle(ended("spawner.0", 1, end("a")))
    assert outcomes_of(core.handle(staged("output", "a", attempt=1))) == [("a", Ending.DONE)]


def test_another_agent_finds_out_for_itself():
    core = ready_core()
    core.handle(FULL)
    core.handle(submitted(1, ["a"]))
    _, step = again(core)
    assert launched_by(step) == [("a", 1)]


# ---------------------------------------------------------------------------------------------------------------- staging


def core_without_room_for(phase: str, template: Template = EXECUTABLE, extra: Extra | None = None) -> AgentCore:
    """A core with task a, whose input or output found no room."""
    core = ready_core()
    core.handle(submitted(1, ["a"], template, extra=extra or (WITH_INPUT if phase == "input" else WITH_OUTPUT)))
    if phase == "output":
        if extra is not None:
            core.handle(staged("input", "a"))
        core.handle(ended("spawner.0", 1, end("a")))
    core.handle(events.StorageFilled(2.5, FULL.reason))
    step = core.handle(put_off("input", "a") if phase == "input" else put_off("output", "a", attempt=1))
    assert (step.facts, staged_by(step)) == ([], [])
    return core


def test_input_that_finds_no_room_is_staged_when_there_is_some():
    core = core_without_room_for("input")
    assert core.doing("a") == "staging input"
    assert core.why("a") == "its input is not staged for now, as storage is full: Disk quota exceeded: /home"
    step = core.handle(FREED)
    assert staged_by(step) == [("input", "a", 0, True)]
    assert "its input is being staged" in core.why("a")
    assert staged_by(core.handle(FREED)) == [], "it is not asked for twice"
    assert launched_by(core.handle(staged("input", "a", at=9.5))) == [("a", 1)]


def test_output_that_finds_no_room_is_staged_when_there_is_some():
    core = core_without_room_for("output")
    assert core.doing("a") == "staging output"
    assert "attempt 1 is over (DONE); its output is not staged for now, as storage is full" in core.why("a")
    assert staged_by(core.handle(FREED)) == [("output", "a", 1, True)]
    assert outcomes_of(core.handle(staged("output", "a", attempt=1))) == [("a", Ending.DONE)]


def test_it_may_find_no_room_again_and_is_tried_after_the_others_then():
    core = core_without_room_for("input")
    core.handle(submitted(2, ["b"], extra=WITH_INPUT))
    assert [uid for _, uid, _, _ in staged_by(core.handle(FREED))] == ["a", "b"]
    core.handle(events.StorageFilled(9.1, "full again"))
    core.handle(put_off("input", "b", "a", at=9.1))
    assert "full again" in core.why("a")
    assert [uid for _, uid, _, _ in staged_by(core.handle(FREED))] == ["b", "a"]


def test_no_input_is_staged_while_there_is_no_room_and_output_is():
    core = ready_core()
    core.handle(submitted(1, ["out"], extra=WITH_OUTPUT))
    core.handle(submitted(2, ["again"], with_(EXECUTABLE, retries=1), extra=WITH_INPUT))
    core.handle(FULL)
    assert staged_by(core.handle(submitted(3, ["in"], extra=WITH_INPUT))) == []
    assert staged_by(core.handle(not_staged("input", "again", "busy"))) == []
    assert "as storage is full" in core.why("in")
    assert staged_by(core.handle(ended("spawner.0", 1, end("out")))) == [("output", "out", 1, True)]
    assert staged_by(core.handle(FREED)) == [("input", "in", 0, True), ("input", "again", 0, True)]


@pytest.mark.parametrize("phase", ["input", "output"])
def test_what_waits_for_room_is_cancelled_at_once(phase):
    core = core_without_room_for(phase, with_(EXECUTABLE, retries=1))
    step = core.handle(cancelled(2, "a"))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]
    assert told_by(step, actions.EndStaging) == [], "no stager has it"
    assert core.handle(FREED).actions == []


@pytest.mark.parametrize("phase", ["input", "output"])
def test_what_was_cancelled_before_it_found_no_room_ends_when_that_is_told(phase):
    core = ready_core()
    core.handle(submitted(1, ["a"], extra=WITH_INPUT if phase == "input" else WITH_OUTPUT))
    attempt = 0
    if phase == "output":
        core.handle(ended("spawner.0", 1, end("a")))
        attempt = 1
    assert outcomes_of(core.handle(cancelled(2, "a"))) == []
    core.handle(FULL)
    assert outcomes_of(core.handle(put_off(phase, "a", attempt=attempt))) == [("a", Ending.CANCELLED)]
    assert core.handle(FREED).actions == []


def test_a_cancel_does_not_hide_that_a_task_failed_whose_output_waits_for_room():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, stage_on_error=True), extra=WITH_OUTPUT))
    core.handle(FULL)
    core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED)))
    core.handle(put_off("output", "a", attempt=1))
    assert outcomes_of(core.handle(cancelled(2, "a"))) == [("a", Ending.EXITED)]


def test_a_sandbox_with_input_that_waits_for_room_is_removed_when_the_task_is_cancelled():
    core = core_without_room_for("input", CLEANED_TASK)
    step = core.handle(cancelled(2, "a"))
    assert staged_by(step) == [("output", "a", 0, False)]
    assert outcomes_of(core.handle(staged("output", "a"))) == [("a", Ending.CANCELLED)]


@pytest.mark.parametrize("phase", ["input", "output"])
def test_a_pilot_that_ends_gives_up_what_waits_for_room_and_one_that_drains_does_not(phase):
    core = core_without_room_for(phase)
    core.handle(events.EndRequested(4.0, 2, True, "enough"))
    assert not core.finished
    step = core.handle(events.EndRequested(5.0, 3, False, "at once"))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]
    assert core.finished


@pytest.mark.parametrize("phase", ["input", "output"])
def test_another_agent_asks_for_what_was_put_off(phase):
    core = core_without_room_for(phase, extra=Extra(INPUT, OUTPUT))
    another, step = again(core)
    assert staged_by(step) == [(phase, "a", 0 if phase == "input" else 1, True)]
    assert msgspec.msgpack.encode(another.state) == msgspec.msgpack.encode(core.state)


def test_that_there_is_no_room_for_what_nobody_waits_for_is_ignored():
    core = ready_core()
    core.handle(FULL)
    assert core.handle(put_off("input", "ghost")).facts == []
    assert core.stale == 1
    assert core.handle(FREED).actions == []
