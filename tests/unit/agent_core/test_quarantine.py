"""Two agents that crash at one record of the log cost the tasks that it names, and nothing else."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from agent_builders import FUNCTION, connected, end, ended, executions, fresh_core, launched_by, outcomes_of, submitted

from pilotage.agent import startup
from pilotage.agent.recovery import recover_state, tasks_of_last_record
from pilotage.core.agent import actions, events
from pilotage.log.crashes import note_start
from pilotage.log.reader import recover
from pilotage.log.writer import LogWriter
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending


@pytest.fixture
def log_folder(tmp_path: Path) -> Path:
    """The log of an agent with one core: tasks a and b wait, then c is accepted in the last record; a is launched."""
    folder = tmp_path / "log"
    core = fresh_core(cores=1)
    log = LogWriter.open(folder, writer="test")
    steps = [core.start(0.0)]
    steps += [core.handle(event) for event in (connected("spawner.0"), submitted(1, ["a", "b"]), submitted(2, ["c"], FUNCTION))]
    for step in steps:
        log.append(msgspec.msgpack.encode(step.facts))
    log.close()
    return folder


def start_again(log_folder: Path, crash: bool = False):
    """Start as the agent does, up to its first step."""
    assert startup.was_begun(log_folder)
    core = fresh_core(cores=1, state=recover_state(log_folder)[0])
    core.recover(5.0)
    startup.quarantine(core, log_folder, tasks_of_last_record)
    step = core.start(5.0)
    if crash:
        startup.note_own_crash(log_folder)
    return core, step


def test_the_first_two_crashes_cost_nothing(log_folder):
    for _ in range(2):
        _, step = start_again(log_folder, crash=True)
        assert outcomes_of(step) == []


def test_the_third_start_ends_the_tasks_that_the_record_names_and_goes_on(log_folder):
    start_again(log_folder, crash=True)
    start_again(log_folder, crash=True)
    core, step = start_again(log_folder)
    assert outcomes_of(step) == [("c", Ending.LOST)]
    (outcome,) = core.state.unsent
    assert "crashed 2 times at record 4" in outcome.message
    assert sorted(core.state.tasks) == ["a", "b"]


def test_a_task_that_runs_is_ended_by_its_runner_and_not_repeated(log_folder):
    log = LogWriter.open(log_folder, writer="test")
    core = fresh_core(cores=1, state=recover_state(log_folder)[0])
    core.recover(3.0)
    started = events.TasksStarted(3.0, RunnerId("spawner.0"), [(*executions(("a", 1))[0], 3.0)])
    log.append(msgspec.msgpack.encode(core.handle(started).facts))
    log.close()
    start_again(log_folder, crash=True)
    start_again(log_folder, crash=True)
    core, step = start_again(log_folder)
    (action,) = (action for action in step.actions if isinstance(action, actions.EndExecutions))
    assert (action.executions, action.ending) == (executions(("a", 1)), Ending.LOST)
    step = core.handle(ended("spawner.0", 1, msgspec.structs.replace(end("a", ending=action.ending), message=action.message)))
    assert outcomes_of(step) == [("a", Ending.LOST)]
    assert launched_by(step) == [("b", 1)]


def test_agents_that_were_killed_cost_nothing_however_many(log_folder):
    for _ in range(5):
        note_start(log_folder, recover(log_folder).last)
    _, step = start_again(log_folder)
    assert outcomes_of(step) == []
