"""When there is no room for sandboxes and output nothing is placed, and it is said why."""

from __future__ import annotations

from agent_builders import CLEANED_TASK, again, end, ended, executions, launched_by, outcomes_of, ready_core, staged, submitted

from pilotage.core.agent import events
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending

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
