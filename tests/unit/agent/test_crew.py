"""The agent's crew: nothing of it is there before it is needed; what it has to say wakes the loop."""

from __future__ import annotations

import errno
import os
import resource
import select
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotage.agent import storage
from pilotage.agent.crew import Crew
from pilotage.agent.progress import Progress
from pilotage.agent.settings import PilotSettings
from pilotage.agent.storage import has_room
from pilotage.core.agent import actions, events
from pilotage.core.agent.state import AgentState, LaneRecord, TaskRecord
from pilotage.executors.simulated import SimulatedExecutor
from pilotage.model.environments import EnvironmentDifference, EnvironmentSpec
from pilotage.model.ids import Attempt, Binding, LaneId, PilotUid, RunnerId, SessionUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.partitions import Load
from pilotage.model.resources import Node, NodeShape
from pilotage.model.services import Service
from pilotage.model.staging import Directive
from pilotage.model.workload import Extra, Row, Template
from pilotage.staging.files import Files

PATIENCE_S = 60.0
TEMPLATES = {TemplateId(1): Template()}


class NotingExecutor(SimulatedExecutor):
    def __init__(self) -> None:
        super().__init__()
        self.defined: dict[str, EnvironmentDifference] = {}

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        self.defined[name] = difference


class Stage:
    def __init__(self, folder: Path) -> None:
        self.executor = NotingExecutor()
        (folder / "tasks").mkdir()
        settings = PilotSettings(
            session=SessionUid("s"),
            pilot=PilotUid("p"),
            session_folder="",
            pilot_folder=str(folder),
            blob_folder="",
            nodes=[Node(0, "localhost", NodeShape(1, 0, 1, 1))],
            environment={"PATH": os.defpath},
            working_folder=str(folder),
        )
        self.crew = Crew(settings, Path(), 1, self.executor)
        self.crew.start()

    def next(self) -> events.Event:
        """Wait as the loop waits, and return the one thing that the crew says."""
        assert select.select([self.crew], [], [], PATIENCE_S)[0], "the crew says nothing"
        (event,) = self.crew.take()
        return event

    def close(self) -> None:
        self.crew.close()
        self.executor.close(0.0)


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.chdir(tmp_path)
    before = set(os.listdir("/proc/self/fd"))
    stage = Stage(tmp_path)
    yield stage
    stage.close()
    assert set(os.listdir("/proc/self/fd")) <= before


def test_a_pilot_that_needs_nothing_has_no_thread_and_is_not_woken(stage):
    assert not [thread for thread in threading.enumerate() if thread.name in ("environments", "services", "stager", "storage")]
    assert select.select([stage.crew], [], [], 0)[0] == []
    assert stage.crew.take() == []


def test_our_own_environments_are_there_from_the_beginning(stage):
    assert set(stage.executor.defined) == {"rp", "pilotage"}


def test_an_environment_is_defined_before_the_core_hears_that_it_is_there(stage):
    spec = msgspec.Raw(msgspec.msgpack.encode(EnvironmentSpec("shell", pre_exec=("export A=1",))))
    stage.crew.perform(actions.PrepareEnvironment("mine", spec), TEMPLATES)
    event = stage.next()
    assert isinstance(event, events.EnvironmentPrepared)
    assert (event.name, event.error) == ("mine", "")
    assert stage.executor.defined["mine"] == EnvironmentDifference({"A": "1"})


def test_a_service_is_watched_and_told(stage):
    row = Row(TaskUid("web"), TemplateId(1))
    stage.crew.perform(actions.WatchService(Attempt(3), row, Service(), 0, False), TEMPLATES)
    event = stage.next()
    assert isinstance(event, events.ServiceReady)
    assert (event.service, event.attempt, event.info) == ("web", 3, "")
    stage.crew.perform(actions.UnwatchService(TaskUid("web")), TEMPLATES)


# ---------------------------------------------------------------------------------------------------------------- storage


@pytest.fixture
def no_room() -> Iterator[None]:
    """Let no file of this process be larger than a small one, as if there were no more space."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (storage.PROBE_BYTES // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_room_is_what_can_be_written(tmp_path, no_room):
    assert not has_room(tmp_path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert has_room(tmp_path)
    assert os.listdir(tmp_path) == [], "it is given back"
    assert not has_room(tmp_path / "nowhere")


def test_room_is_waited_for_and_told_once(stage, no_room, monkeypatch):
    looked = threading.Semaphore(0)
    monkeypatch.setattr(storage, "PROBE_S", 0.001)
    real = has_room

    def noting(folder: Path) -> bool:
        looked.release()
        return real(folder)

    monkeypatch.setattr(storage, "has_room", noting)
    stage.crew.storage_full()
    stage.crew.storage_full()
    for _ in range(3):
        assert looked.acquire(timeout=PATIENCE_S)
    assert stage.crew.take() == []
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert isinstance(stage.next(), events.StorageFreed)
    stage.crew.storage_full()
    assert isinstance(stage.next(), events.StorageFreed), "it can happen again"


def test_storage_that_is_soon_full_again_is_probed_less_often(tmp_path, monkeypatch):
    freed = threading.Semaphore(0)
    probe = storage.StorageProbe(tmp_path, freed.release)
    monkeypatch.setattr(storage, "PROBE_S", 0.001)
    monkeypatch.setattr(storage, "LONGEST_PROBE_S", 0.005)
    pauses = []
    for soon_s in (60.0, 60.0, 60.0, 60.0, -1.0, 60.0):
        monkeypatch.setattr(storage, "SOON_S", soon_s)
        probe.begin()
        pauses.append(probe._pause_s)
        assert freed.acquire(timeout=PATIENCE_S)
    probe.close()
    assert pauses == [0.001, 0.002, 0.004, 0.005, 0.001, 0.002]


def test_stagers_that_find_no_room_say_so_and_what_was_put_off(stage, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("a")
    extra = Extra((Directive(f"file://{tmp_path}/a", "task:///a"),), ())

    def no_room(*arguments):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(Files, "_write", no_room)
    row = Row(TaskUid("task"), TemplateId(1), extra=extra)
    stage.crew.perform(actions.StageTasks("input", [(Attempt(0), row)]), TEMPLATES)
    assert select.select([stage.crew], [], [], PATIENCE_S)[0], "the crew says nothing"
    full, ended = stage.crew.take()
    assert isinstance(full, events.StorageFilled) and "Disk quota exceeded" in full.reason
    assert isinstance(ended, events.StagingEnded) and (ended.done, ended.failed) == ([], [])
    assert ended.put_off == [("task", 0)]


def test_a_pilot_may_end_while_there_is_no_room(stage, no_room):
    stage.crew.storage_full()


# --------------------------------------------------------------------------------------------------------------- progress


class Link:
    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.connected = True

    def send(self, message: Any) -> None:
        self.sent.append(message)


def test_what_holds_on_is_told_to_each_client_that_comes():
    state = AgentState()
    state.tasks[TaskUid("web")] = TaskRecord(Row(TaskUid("web"), TemplateId(1)), Binding(2), 0.0, Attempt(1), started=5.0)
    state.services[TaskUid("web")] = "http://here"
    state.tasks[TaskUid("next")] = TaskRecord(Row(TaskUid("next"), TemplateId(1)), Binding(2), 0.0, Attempt(1))
    state.lanes[LaneId(1)] = LaneRecord(RunnerId("spawner.0"), (), TemplateId(1), {TaskUid("web"): None, TaskUid("next"): None})
    link = Link()
    progress = Progress(state, link, Load)  # type: ignore[arg-type]
    progress.greeted()
    assert progress.due is not None and progress.due <= time.time() + 1
    progress.tell()
    assert progress.due is None
    progress.service_ready(TaskUid("web"))
    progress.tasks_started([TaskUid("web"), TaskUid("gone")])
    progress.notice("the disk is full", lasting=True)
    progress.tell()
    progress.greeted()
    progress.tell()
    progress.notice("there is room", lasting=False)
    progress.tell()
    progress.greeted()
    progress.tell()
    service, runs = ("web", 2, 1, "http://here"), ("web", 2, 1, 5.0)
    told = [(message.started, message.services, message.notice) for message in link.sent]
    assert told == [
        ([runs], [service], ""),
        ([runs], [service], "the disk is full"),
        ([runs], [service], "the disk is full"),
        ([], [], "there is room"),
        ([runs], [service], ""),
    ]


def test_all_that_the_user_should_know_is_told_when_a_client_is_there():
    link = Link()
    progress = Progress(AgentState(), link, Load)  # type: ignore[arg-type]
    link.connected = False
    progress.notice("one", lasting=False)
    progress.notice("two", lasting=False)
    progress.notice("one", lasting=False)
    progress.tell()
    assert link.sent == []
    link.connected = True
    progress.greeted()
    progress.tell()
    progress.greeted()
    progress.tell()
    assert [message.notice for message in link.sent] == ["one", "two"]


def test_tasks_whose_output_is_staged_are_told_instead_of_as_running():
    state = AgentState()
    rows = {
        "out": Row(TaskUid("out"), TemplateId(1), extra=Extra(output_staging=(Directive("a", "b"),))),
        "cleaned": Row(TaskUid("cleaned"), TemplateId(1), extra=Extra(input_staging=(Directive("a", "b"),))),
        "over": Row(TaskUid("over"), TemplateId(1)),
    }
    for uid in ("out", "cleaned"):
        state.tasks[TaskUid(uid)] = TaskRecord(rows[uid], Binding(1), 0.0, Attempt(2), started=5.0)
        state.outputs[TaskUid(uid)] = Outcome(TaskUid(uid), Binding(1), Attempt(2), Ending.DONE)
    link = Link()
    progress = Progress(state, link, Load)  # type: ignore[arg-type]
    progress.tasks_started([TaskUid("out")])
    progress.outputs_begun([TaskUid(uid) for uid in rows])
    progress.tell()
    progress.greeted()
    progress.tell()
    assert [(message.started, message.unloading) for message in link.sent] == [([], [("out", 1, 2)])] * 2


def test_a_client_of_a_pilot_without_services_is_told_nothing():
    progress = Progress(AgentState(), Link(), Load)  # type: ignore[arg-type]
    progress.greeted()
    assert progress.due is None
