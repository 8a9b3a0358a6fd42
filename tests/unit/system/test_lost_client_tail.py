"""The client's node is lost, and the end of its log with it: an agent hears again of what it has had."""

from __future__ import annotations

import msgspec
from agent_builders import WITH_OUTPUT, end, ended, launched_by, outcomes_of, ready_core, staged, submitted

from pilotage.core.agent import events
from pilotage.model.ids import Binding
from pilotage.model.outcome import Ending


def test_a_running_task_that_is_submitted_again_goes_on_and_ends_once() -> None:
    core = ready_core(cores=2)
    assert launched_by(core.handle(submitted(1, ["a"]))) == [("a", 1)]
    assert launched_by(core.handle(submitted(2, ["a"]))) == []
    assert outcomes_of(core.handle(ended("spawner.0", 1, end("a")))) == [("a", Ending.DONE)]
    assert core.state.received == 2 and not core.state.tasks


def test_a_task_that_is_submitted_again_goes_by_its_new_binding() -> None:
    core = ready_core(cores=3)
    core.handle(submitted(1, ["runs"]))
    core.handle(submitted(2, ["staged"], extra=WITH_OUTPUT))
    core.handle(ended("spawner.0", 1, end("staged")))
    again = submitted(3, ["runs", "staged"])
    step = core.handle(msgspec.structs.replace(again, binding=Binding(2)))
    assert launched_by(step) == []
    core.handle(ended("spawner.0", 2, end("runs")))
    core.handle(staged("output", "staged", attempt=1))
    assert [(outcome.task, outcome.binding) for outcome in core.state.unsent] == [("runs", 2), ("staged", 2)]


def test_a_waiting_task_that_is_submitted_again_waits_once() -> None:
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(submitted(2, ["b"]))
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert launched_by(step) == [("b", 1)]


def test_a_task_whose_outcome_is_under_way_is_not_run_again() -> None:
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"]))
    core.handle(ended("spawner.0", 1, end("a")))
    core.handle(events.LinkOpened(3.0))
    assert launched_by(core.handle(submitted(2, ["a"]))) == []


def test_a_task_that_is_over_is_told_of_again_under_its_new_binding() -> None:
    core = ready_core(cores=2)
    core.handle(submitted(1, ["told", "untold"]))
    core.handle(ended("spawner.0", 1, end("told")))
    core.handle(events.LinkOpened(3.0))
    core.handle(ended("spawner.0", 2, end("untold", ending=Ending.EXITED)))
    step = core.handle(msgspec.structs.replace(submitted(2, ["told", "untold"]), binding=Binding(2)))
    assert launched_by(step) == []
    assert [(outcome.task, outcome.binding, outcome.ending) for outcome in core.state.unsent] == [
        ("untold", 1, Ending.EXITED),
        ("told", 2, Ending.DONE),
        ("untold", 2, Ending.EXITED),
    ]
    core.handle(msgspec.structs.replace(submitted(3, ["told"]), binding=Binding(2)))
    assert len(core.state.unsent) == 3
