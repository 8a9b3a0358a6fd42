"""Named environments of one pilot: prepared in turn, kept for the next agent, never prepared to mean something else."""

from __future__ import annotations

import os
import queue
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pilotage.agent.environments import Environments
from pilotage.agent.settings import PilotSettings
from pilotage.model.environments import EnvironmentDifference, EnvironmentSpec
from pilotage.model.ids import PilotUid, SessionUid

PATIENCE_S = 60.0


def shell(*commands: str) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(EnvironmentSpec("shell", pre_exec=commands)))


class Pilot:
    """The folder of a pilot, and the environments of its agents."""

    def __init__(self, folder: Path, partition: str = "") -> None:
        self.folder = folder
        self.session = SessionUid(f"session.{folder.name}.{os.getpid()}")
        self.settings = PilotSettings(
            session=self.session,
            pilot=PilotUid("pilot.0000"),
            session_folder="",
            pilot_folder=str(folder),
            blob_folder="",
            nodes=[],
            environment={"PATH": os.defpath, "HOME": "/root"},
            working_folder=str(folder),
            partition=partition,
        )
        self.agents: list[Environments] = []

    def agent(self) -> Environments:
        """Start the environments of another agent."""
        self.defined: dict[str, EnvironmentDifference] = {}
        self.told: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        defined, told = self.defined, self.told
        found = Environments(
            self.settings,
            self.folder,
            len(self.agents) + 1,
            defined.__setitem__,
            lambda name, error: told.put((name, error)),
        )
        self.agents.append(found)
        return found

    def next(self) -> tuple[str, str]:
        return self.told.get(timeout=PATIENCE_S)


@pytest.fixture
def pilot(tmp_path: Path) -> Iterator[Pilot]:
    pilot = Pilot(tmp_path)
    yield pilot
    for agent in pilot.agents:
        agent.close()


def test_one_after_another_in_the_order_in_which_they_were_asked_for(pilot):
    agent = pilot.agent()
    for name, command in (
        ("a", "export A=1; [ ! -e b ]; touch a"),
        ("b", "[ -e a ]; touch b"),
        ("c", "[ -e b ] && export C=1"),
    ):
        agent.prepare(name, shell(command))
    assert [pilot.next() for _ in range(3)] == [("a", ""), ("b", ""), ("c", "")]
    agent.define("c")
    assert pilot.defined == {"c": EnvironmentDifference({"C": "1"})}


def test_what_cannot_be_had_is_told_and_may_be_tried_again(pilot):
    agent = pilot.agent()
    agent.prepare("e", shell("cat settings"))
    name, error = pilot.next()
    assert name == "e" and "pre_exec[0], 'cat settings', failed with exit code 1" in error
    (pilot.folder / "settings").touch()
    agent.prepare("e", shell("cat settings"))
    assert pilot.next() == ("e", "")


def test_a_name_means_the_same_for_the_life_of_the_pilot(pilot):
    agent = pilot.agent()
    agent.prepare("e", shell("export A=1"))
    agent.prepare("e", shell("export A=2"))
    agent.prepare("e", shell("export A=1"))
    assert pilot.next() == ("e", "")
    _, error = pilot.next()
    assert "prepared before, and differently (pre_exec was ('export A=1',))" in error
    assert "choose another" in error
    assert pilot.next() == ("e", "")
    agent.define("e")
    assert pilot.defined["e"].variables == {"A": "1"}


def test_the_next_agent_has_what_was_prepared_and_does_not_evaluate_it_again(pilot):
    first = pilot.agent()
    first.prepare("e", shell("echo once >> times; export A=1; unset HOME"))
    assert pilot.next() == ("e", "")
    kept = pilot.folder / "env" / ".e.difference"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600, "environments hold secrets"
    second = pilot.agent()
    assert pilot.defined == {"e": EnvironmentDifference({"A": "1"}, ("HOME",))}
    second.prepare("e", shell("echo once >> times; export A=1; unset HOME"))
    assert pilot.next() == ("e", "")
    assert (pilot.folder / "times").read_text() == "once\n"


def test_the_next_agent_ends_what_the_last_was_preparing(pilot):
    pilot.agent()
    marks = {"PILOTAGE_SESSION_ID": pilot.session, "PILOTAGE_PILOT_ID": "pilot.0000", "PILOTAGE_ENVIRONMENT": "e"}
    with subprocess.Popen(["sleep", "1000"], env={**os.environ, **marks}) as left:
        second = pilot.agent()
        second.prepare("e", shell("export A=1"))
        assert pilot.next() == ("e", "")
        assert left.wait(PATIENCE_S) == -9


def test_an_agent_that_ends_ends_what_it_prepares(pilot):
    os.mkfifo(pilot.folder / "reached")
    agent = pilot.agent()
    agent.prepare("slow", shell("echo $$ > reached; sleep 1000"))
    agent.prepare("next", shell("touch began"))
    pid = int((pilot.folder / "reached").read_text())
    agent.close()
    until = time.monotonic() + PATIENCE_S
    while os.path.exists(f"/proc/{pid}"):
        assert time.monotonic() < until, "it goes on"
    assert pilot.told.empty()
    assert not (pilot.folder / "began").exists()
    assert os.listdir(pilot.folder) == ["reached"]


def test_a_full_disk_is_named(pilot):
    (pilot.folder / "env").write_text("no folder")
    agent = pilot.agent()
    agent.prepare("e", shell("export A=1"))
    _, error = pilot.next()
    assert "what it amounts to cannot be written to" in error and "File exists" in error


def test_a_mistake_of_ours_does_not_leave_tasks_waiting(pilot, monkeypatch):
    def broken(self: Any) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("pilotage.environments.preparation.Preparation.run", broken)
    agent = pilot.agent()
    agent.prepare("e", shell("true"))
    assert "its preparation broke: ZeroDivisionError" in pilot.next()[1]


def test_partitions_prepare_an_environment_once_between_them(tmp_path):
    pilots = [Pilot(tmp_path, partition=f"p{number}") for number in range(3)]
    agents = [pilot.agent() for pilot in pilots]
    try:
        for agent in agents:
            agent.prepare("e", shell("echo once >> witness", "export A=$(wc -l < witness)"))
        assert [pilot.next() for pilot in pilots] == [("e", "")] * 3
        for agent, pilot in zip(agents, pilots, strict=True):
            agent.define("e")
            assert pilot.defined["e"].variables == {"A": "1"}
        assert (pilots[0].folder / "witness").read_text() == "once\n"
    finally:
        for agent in agents:
            agent.close()


def test_of_what_fails_partitions_that_were_asked_meanwhile_learn_without_trying_it_too(tmp_path):
    os.mkfifo(tmp_path / "reached")
    pilots = [Pilot(tmp_path, partition=f"p{number}") for number in range(3)]
    agents = [pilot.agent() for pilot in pilots]
    fails = shell("echo once >> witness; echo > reached; cat settings")
    try:
        for agent in agents:
            agent.prepare("e", fails)
        # All have been asked, and one of them is at it.
        (tmp_path / "reached").read_text()
        errors = {pilot.next() for pilot in pilots}
        assert len(errors) == 1 and "failed with exit code 1" in errors.pop()[1]
        assert (tmp_path / "witness").read_text() == "once\n"
        assert stat.S_IMODE((tmp_path / "env" / ".e.failure").stat().st_mode) == 0o600
        # Who is asked again tries again.
        (tmp_path / "settings").touch()
        agents[1].prepare("e", fails)
        (tmp_path / "reached").read_text()
        assert pilots[1].next() == ("e", "")
        agents[2].prepare("e", fails)
        assert pilots[2].next() == ("e", "")
        assert (tmp_path / "witness").read_text() == "once\n" * 2
    finally:
        for agent in agents:
            agent.close()


def test_what_a_dead_partition_left_preparing_is_ended_before_another_begins(tmp_path):
    first, second = Pilot(tmp_path, partition="p0"), Pilot(tmp_path, partition="p1")
    marks = {"PILOTAGE_SESSION_ID": first.settings.session, "PILOTAGE_PILOT_ID": first.settings.pilot}
    marks |= {"PILOTAGE_ENVIRONMENT": "e", "PILOTAGE_PARTITION": "p0"}
    left = subprocess.Popen(["sleep", "60"], env={**os.environ, **marks})
    agent = second.agent()
    try:
        agent.prepare("e", shell("export A=1"))
        assert second.next() == ("e", "")
        assert left.wait(PATIENCE_S) == -signal.SIGKILL
    finally:
        agent.close()
        left.kill()
        left.wait()
