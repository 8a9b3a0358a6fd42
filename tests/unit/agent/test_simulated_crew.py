"""The crew of a simulated pilot: everything is there at once, and nothing is touched."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pilotage.agent.settings import PilotSettings
from pilotage.agent.simulated_crew import SimulatedCrew
from pilotage.core.agent import actions, events
from pilotage.executors.simulated import SimulatedExecutor
from pilotage.model.ids import Attempt, PilotUid, SessionUid, TaskUid, TemplateId
from pilotage.model.services import Probe, Service
from pilotage.model.staging import Directive
from pilotage.model.workload import Extra, Row, Template

ROW = Row(TaskUid("a"), TemplateId(1), extra=Extra((Directive("file:///nowhere/at/all", "task:///b"),)))


@pytest.fixture
def crew(tmp_path: Path) -> Iterator[SimulatedCrew]:
    settings = PilotSettings(
        session=SessionUid("s"), pilot=PilotUid("p"), session_folder="", pilot_folder=str(tmp_path), blob_folder="", nodes=[]
    )
    executor = SimulatedExecutor()
    crew = SimulatedCrew(settings, tmp_path, 1, executor)
    yield crew
    crew.close()
    executor.close(0.0)


def told(crew: SimulatedCrew, errand: object) -> list[events.Event]:
    crew.perform(errand, {TemplateId(1): Template()})  # type: ignore[arg-type]
    ready = bool(select.select([crew], [], [], 0)[0])
    said = crew.take()
    assert ready == bool(said), "the loop is woken when there is something to take, and only then"
    return said


def test_files_are_said_to_be_staged_and_are_not(crew: SimulatedCrew, tmp_path: Path) -> None:
    before = os.listdir(tmp_path)
    (event,) = told(crew, actions.StageTasks("input", [(Attempt(0), ROW)]))
    assert isinstance(event, events.StagingEnded)
    assert (event.phase, event.done, event.failed) == ("input", [("a", 0)], [])
    assert told(crew, actions.EndStaging([ROW.uid])) == []
    assert os.listdir(tmp_path) == before


def test_an_environment_is_there_at_once(crew: SimulatedCrew) -> None:
    (event,) = told(crew, actions.PrepareEnvironment("conda", msgspec.Raw(b"\x80")))
    assert isinstance(event, events.EnvironmentPrepared)
    assert (event.name, event.error) == ("conda", "")


@pytest.mark.parametrize("ready", [False, True])
def test_a_service_is_ready_at_once_and_once(crew: SimulatedCrew, ready: bool) -> None:
    service = Service(ready=Probe("port", "localhost:1"))
    said = told(crew, actions.WatchService(Attempt(2), ROW, service, 0, ready))
    assert [(event.service, event.attempt) for event in said if isinstance(event, events.ServiceReady)] == (
        [] if ready else [("a", 2)]
    )
    assert told(crew, actions.UnwatchService(ROW.uid)) == []
