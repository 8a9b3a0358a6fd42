"""The catalogue tells of all events, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
from trace_builders import AgentLog, ClientLog, batch, outcome

from pilotage.core.agent import events
from pilotage.core.agent import facts as agent_facts
from pilotage.core.client import facts as client_facts
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.workload import Template
from pilotage.trace import CATALOGUE, TraceEvent, catalogue, read_events, read_pilot

PILOT = PilotUid("pilot.0000")


def test_each_record_of_both_logs_tells_of_an_event_or_is_silent_for_a_reason() -> None:
    records = {f"client.{kind.__name__}" for kind in get_args(client_facts.Fact)}
    records |= {f"agent.{kind.__name__}" for kind in get_args(agent_facts.Fact)}
    telling = {kind.fact for kind in CATALOGUE}
    assert telling | catalogue.SILENT_FACTS.keys() == records
    assert not telling & catalogue.SILENT_FACTS.keys()


def test_names_are_unique_and_begin_with_their_entity() -> None:
    names = [kind.name for kind in CATALOGUE]
    assert len(set(names)) == len(names)
    assert all(kind.name.startswith(f"{kind.entity}.") or kind.name.startswith("outcomes.") for kind in CATALOGUE)


def test_the_catalogue_is_in_the_documentation_of_its_module() -> None:
    assert catalogue.render_catalogue() in (catalogue.__doc__ or "")
    assert all(kind.meaning in (catalogue.__doc__ or "") for kind in CATALOGUE)


def make_eventful_run(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session)
    user.begin(100.0, PILOT)
    user.write(client_facts.JobSubmitting(100.25, PILOT, "slurm", "pilotage.s.pilot.0000.3f9a2b1c"))
    user.write(client_facts.JobSubmitted(100.5, PILOT, "12"))
    user.write(client_facts.JobTold(100.75, PILOT, "queued", "Resources"))
    user.write(client_facts.PilotActivated(101.0, PILOT, 1, agent.machine))
    agent.start(100.5, 100.75)
    uids = ["task.0", "task.1", "task.2", "task.3"]
    user.submit(102.0, batch(uids))
    user.submit(102.0, batch(["task.4"]), pilot="")
    user.write(client_facts.TasksHeld(102.0, {TaskUid("task.4"): client_facts.Held((TaskUid("task.0"),))}))
    user.write(client_facts.TasksFreed(102.25, [TaskUid("task.4")]))
    user.write(client_facts.TasksBound(102.5, PILOT, Binding(1), [TaskUid("task.4")]))
    user.write(client_facts.TasksUnbound(102.75, [TaskUid("task.4")]))
    user.write(client_facts.TasksSettled(103.0, Ending.CANCELLED, "cancelled", [TaskUid("task.4")]))
    agent.submit(103.0, batch(uids))
    agent.started(104.0, "task.0", 103.5)
    user.write(client_facts.TasksStarted(104.0, [TaskUid("task.0")]))
    user.write(client_facts.OutputsBegun(104.25, [TaskUid("task.0")]))
    agent.running.pop("task.1")
    agent.tell(events.TasksReturned(104.5, agent.spawner, [(TaskUid("task.1"), Attempt(1))]))
    user.write(client_facts.CancelAsked(104.75, PILOT, [(TaskUid("task.0"), Binding(1))]))
    agent.tell(events.CancelRequested(105.0, next(agent.numbers), [(TaskUid("task.0"), Binding(1))]))
    told = agent.tell(events.LinkOpened(106.0))
    assert not told.facts
    agent.ended(107.0, ("task.0", 103.5, 106.5), ending=Ending.CANCELLED, exit_code=-15)
    agent.tell(events.LinkOpened(107.5))
    agent.tell(events.OutcomesReceived(108.0, 1))
    user.receive(108.0, [outcome("task.0", 103, 103, 103.5, 106.5, ending=Ending.CANCELLED)])
    user.write(client_facts.PilotEndAsked(109.0, PILOT, False))
    agent.tell(events.EndRequested(109.0, next(agent.numbers), False, "enough"))
    agent.tell(events.RunnerLost(110.0, agent.spawner, "told to end", 0))
    agent.tell(events.LinkOpened(111.0))
    agent.tell(events.LinkOpened(111.0))
    user.write(client_facts.PilotEnded(112.0, PILOT, 2, "DONE", "enough"), client_facts.SessionEnding(113.0))


def test_an_eventful_run_has_nearly_all_events_and_they_name_known_entities(session: Path) -> None:
    make_eventful_run(session)
    told = list(read_events(session))
    known = {kind.name for kind in CATALOGUE}
    assert {event.name for event in told} <= known
    assert known - {event.name for event in told} <= {
        "task.repeated", "task.input_staged", "task.ready", "task.output_begun", "environment.asked", "environment.prepared",
        "task.given_back", "task.left", "pilot.draining", "pilot.begun_again",
        "partition.grew", "partition.shrank", "partition.lost_nodes", "pilot.lost_nodes",
    }  # fmt: skip
    assert {event.entity for event in told if event.name.startswith("task.")} == {f"task.{number}" for number in range(5)}
    assert {event.entity for event in told if event.name.startswith("session.")} == {session.name}
    assert min(event.time for event in told) == 100.0


def test_the_events_of_one_task_tell_its_story_in_order(session: Path) -> None:
    make_eventful_run(session)
    story = [event.name for event in read_events(session) if event.entity == "task.0"]
    assert story == [
        "task.submitted", "task.bound", "task.accepted", "task.launched", "task.started", "task.seen_running",
        "task.seen_unloading",
        "task.cancel_asked", "task.end_asked", "task.ended", "task.collected", "task.final",
    ]  # fmt: skip


def test_a_repeated_attempt_is_an_event(session: Path) -> None:
    agent = AgentLog(session)
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0"], Template(executable="/bin/false", retries=1)))
    agent.ended(102.0, ("task.0", 101.5, 101.75), ending=Ending.EXITED, exit_code=1)
    repeated = [event for event in read_pilot(session / PILOT) if event.name == "task.repeated"]
    assert repeated == [TraceEvent(102.0, "task.repeated", "task.0", {"pilot": PILOT, "runner": "spawner.0"})]


@pytest.mark.parametrize("what", ["missing", "empty"])
def test_no_log_has_no_events(session: Path, what: str) -> None:
    assert list(read_events(session if what == "empty" else session / what)) == []
