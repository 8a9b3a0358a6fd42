"""A partition's agent on a thread: it has what a process of its own would have, and leaves nothing when it is over."""

from __future__ import annotations

import os
import select
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotage.agent import agent_thread
from pilotage.agent.agent import Agent
from pilotage.agent.agent_thread import HANGS, AgentThread
from pilotage.agent.claim import claimant, forbid
from pilotage.agent.settings import PilotSettings, write_settings
from pilotage.agent.sub_agent import AgentEnd
from pilotage.log.reader import recover
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.resources import Node, NodeShape
from pilotage.wire.keys import read_connection

PATIENCE_S = 60.0


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of partition ``p``, with its settings; in the end no thread, descriptor or private folder is left."""
    place = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))
    private = place / "private"
    private.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(private))
    settings = PilotSettings(
        session=SessionUid("s"),
        pilot=PilotUid("pilot.0000"),
        session_folder=str(place),
        pilot_folder=str(place),
        blob_folder=str(place),
        nodes=[Node(0, "localhost", NodeShape(1, 0, 1, 1))],
        executor="simulated",
        partition="p",
        present=[0],
    )
    settings.agent_folder.mkdir(mode=0o700, parents=True)
    write_settings(settings)
    (place / "pilot.json").touch()
    threads, descriptors = set(threading.enumerate()), set(os.listdir("/proc/self/fd"))
    yield settings.agent_folder
    assert set(threading.enumerate()) == threads
    assert set(os.listdir("/proc/self/fd")) == descriptors
    shutil.rmtree(place)


def until_readable(descriptor: int) -> None:
    assert select.select([descriptor], [], [], PATIENCE_S)[0], "nothing is heard of the thread"


def end_of(agent: AgentThread) -> AgentEnd:
    """Wait for the end, as the head does, and let go of what the head holds."""
    until_readable(agent.ended_fd)
    end = agent.reap()
    for descriptor in (agent.ready_fd, agent.ended_fd):
        os.close(descriptor)
    return end


def private_folders() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("*/*"))


def test_it_claims_the_partition_listens_and_ends_when_it_is_told_to(folder: Path) -> None:
    agent = AgentThread(folder, 1)
    until_readable(agent.ready_fd)
    assert claimant(folder) == read_connection(folder / "connection.json").pid == os.getpid()
    assert len(private_folders()) == 1
    agent.terminate()
    assert end_of(agent) == AgentEnd("its agent ended: the agent was told to end by its head")
    assert claimant(folder) is None and private_folders() == []
    assert "this agent of partition p ends: the agent was told to end" in (folder / "agent.err").read_text()


def test_one_that_raises_leaves_the_partition_to_the_next(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gather(*_arguments: object) -> None:
        raise ArithmeticError("a mistake of ours")

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "_gather", gather)
        agent = AgentThread(folder, 1)
        until_readable(agent.ready_fd)
        agent.terminate()
        assert end_of(agent) == AgentEnd("its agent raised ArithmeticError: a mistake of ours")
    printed = (folder / "agent.err").read_text()
    assert "Traceback (most recent call last)" in printed and "in gather" in printed
    assert claimant(folder) is None
    # Runners look for the next agent there.
    assert len(private_folders()) == 1
    written = recover(folder / "log").last
    assert written > 0
    following = AgentThread(folder, 2)
    until_readable(following.ready_fd)
    assert read_connection(folder / "connection.json").incarnation == 2
    following.terminate()
    end_of(following)
    assert recover(folder / "log").last >= written


def test_of_two_in_one_process_the_second_goes_away(folder: Path) -> None:
    first = AgentThread(folder, 1)
    until_readable(first.ready_fd)
    assert end_of(AgentThread(folder, 2)).is_taken
    assert claimant(folder) == os.getpid()
    first.terminate()
    assert not end_of(first).is_taken


def test_none_begins_in_a_partition_that_is_given_up(folder: Path) -> None:
    forbid(folder)
    assert end_of(AgentThread(folder, 1)).is_taken
    assert claimant(folder) is None and not (folder / "connection.json").exists()


def test_one_that_is_told_to_end_before_it_listens_ends(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_begin = threading.Event()
    plain = agent_thread.read_settings

    def read_late(agent_folder: Path) -> PilotSettings:
        assert may_begin.wait(PATIENCE_S)
        return plain(agent_folder)

    monkeypatch.setattr(agent_thread, "read_settings", read_late)
    agent = AgentThread(folder, 1)
    agent.terminate()
    may_begin.set()
    assert end_of(agent).how == "its agent ended: the agent was told to end by its head"


def test_one_that_hangs_takes_the_process_along(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exits: list[int] = []
    agent = AgentThread(folder, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "_exit", exits.append)
        agent.kill()
    assert exits == [HANGS]
    assert "the agent of partition p hangs" in capsys.readouterr().err
    agent.terminate()
    end_of(agent)


def test_a_machine_that_has_no_thread_left_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="can't start new thread"):
            AgentThread(folder, 1)
