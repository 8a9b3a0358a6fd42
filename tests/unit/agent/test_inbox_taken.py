"""An agent takes in by itself what was handed over: in order, each message once, whatever dies, and with nobody connected."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from pilotage.agent import loop
from pilotage.agent.inbox import INBOX_FOLDER, Handed, discard, hand_over, handed_over
from pilotage.agent.progress import News
from pilotage.agent.recovery import recover_state
from pilotage.agent.running import run_agent
from pilotage.agent.settings import PilotSettings, write_settings
from pilotage.agent.startup import EndCall
from pilotage.core.agent.state import AgentState
from pilotage.log.writer import LogWriter
from pilotage.model.ids import Binding, PilotUid, SessionUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape
from pilotage.model.workload import Batch, Row, Template
from pilotage.wire.codec import encode
from pilotage.wire.messages import Cancel, EndPilot, Submit

TEMPLATE = TemplateId(1)


class Crash(Exception):
    """The agent dies."""


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="pt-", dir="/tmp"))
    (folder / "pilot").mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


def settings_of(place: Path, **more: float) -> PilotSettings:
    pilot = str(place / "pilot")
    settings = PilotSettings(
        session=SessionUid("s"),
        pilot=PilotUid("pilot.0000"),
        session_folder=str(place),
        pilot_folder=pilot,
        blob_folder=str(place / "blobs"),
        nodes=[Node(0, "localhost", NodeShape(2, 0, 1, 1))],
        executor="simulated",
        on_client_loss="continue",
        **more,  # type: ignore[arg-type]
    )
    write_settings(settings)
    return settings


def live(place: Path, settings: PilotSettings, incarnation: int = 1) -> AgentState:
    """Run one agent to its end, or its death, and return what its log holds."""
    private = place / f"private.{incarnation}"
    private.mkdir(mode=0o700)
    call = EndCall()
    try:
        run_agent(settings, private, incarnation, lambda: None, call)
    finally:
        call.close()
    return logged(settings)


def logged(settings: PilotSettings) -> AgentState:
    return recover_state(settings.agent_folder / "log")[0]


def submit(number: int, *uids: str) -> Submit:
    batch = Batch(
        {TEMPLATE: Template(executable="/bin/true")} if number == 1 else {}, [Row(TaskUid(uid), TEMPLATE) for uid in uids]
    )
    return Submit(number, Binding(1), msgspec.Raw(msgspec.msgpack.encode(batch)))


def give(settings: PilotSettings, *messages: Handed) -> None:
    hand_over(settings.agent_folder, [(message.number, encode(message)) for message in messages])


def endings(state: AgentState) -> list[tuple[TaskUid, Ending]]:
    told = [outcome for outcomes in state.undelivered.values() for outcome in outcomes]
    return sorted((outcome.task, outcome.ending) for outcome in (*told, *state.unsent))


def test_tasks_that_were_handed_over_run_and_the_pilot_ends_by_itself(place: Path) -> None:
    settings = settings_of(place, idle_timeout_s=0.1)
    give(settings, submit(1, "a", "b"), submit(2, "c"))
    state = live(place, settings)
    assert endings(state) == [("a", Ending.DONE), ("b", Ending.DONE), ("c", Ending.DONE)]
    assert (state.received, state.ending and state.ending.idle) == (2, True)


def test_what_the_client_wanted_last_is_done_last(place: Path) -> None:
    settings = settings_of(place, simulated_duration_s=3600.0)
    give(settings, submit(1, "a", "b"), Cancel(2, [(TaskUid("a"), Binding(1)), (TaskUid("b"), Binding(1))]), EndPilot(3, True))
    state = live(place, settings)
    assert endings(state) == [("a", Ending.CANCELLED), ("b", Ending.CANCELLED)]
    assert (state.received, state.ending and state.ending.reason) == (3, "the pilot was ended by the user")


@pytest.mark.parametrize("taken", [0, 1, 2])
def test_an_agent_that_dies_over_its_inbox_is_followed_by_one_that_goes_on(
    place: Path, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    settings = settings_of(place)
    give(settings, submit(1, "a", "b"), submit(2, "c"), EndPilot(3, True))

    def dies(folder: Path, received: int) -> Iterator[Handed]:
        for message in handed_over(folder, received):
            if message.number > taken:
                raise Crash
            yield message

    with monkeypatch.context() as dying:
        dying.setattr(loop, "handed_over", dies)
        with pytest.raises(Crash):
            live(place, settings)
    assert logged(settings).received == taken
    state = live(place, settings, incarnation=2)
    assert endings(state) == [("a", Ending.DONE), ("b", Ending.DONE), ("c", Ending.DONE)]
    assert state.received == 3


def test_what_is_missing_is_said_and_nothing_behind_it_is_taken(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    notice = News.notice

    def listen(self: News, text: str, *, lasting: bool) -> None:
        said.append(text)
        notice(self, text, lasting=lasting)

    monkeypatch.setattr(News, "notice", listen)
    settings = settings_of(place, idle_timeout_s=0.1)
    give(settings, submit(1, "a"), submit(2, "b"), submit(3, "c"))
    (settings.agent_folder / INBOX_FOLDER / "00000002").unlink()
    state = live(place, settings)
    assert (endings(state), state.received) == ([("a", Ending.DONE)], 1)
    assert len(set(said)) == 1 and said[0].startswith("message 2 of those that were handed over in "), said


def test_a_partition_has_no_inbox(place: Path) -> None:
    settings = msgspec.structs.replace(settings_of(place), partition="p", present=[0], idle_timeout_s=0.1)
    settings.agent_folder.mkdir(mode=0o700, parents=True)
    write_settings(settings)
    give(settings, submit(1, "a"))
    state = live(place, settings)
    assert (state.received, state.outcomes) == (0, 0)


def test_what_comes_later_is_looked_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(place)
    monkeypatch.setattr(loop, "LOOK_S", 0.01)
    looks = 0

    def late(folder: Path, received: int) -> Iterator[Handed]:
        nonlocal looks
        looks += 1
        if looks == 3:
            give(settings, submit(1, "a"), EndPilot(2, True))
        return handed_over(folder, received)

    monkeypatch.setattr(loop, "handed_over", late)
    assert endings(live(place, settings)) == [("a", Ending.DONE)]


def test_a_pilot_that_ends_for_idleness_looks_once_more(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(place, idle_timeout_s=0.05)
    looks = 0

    def late(folder: Path, received: int) -> Iterator[Handed]:
        nonlocal looks
        looks += 1
        if looks == 2:
            give(settings, submit(1, "a"))
        return handed_over(folder, received)

    monkeypatch.setattr(loop, "handed_over", late)
    assert endings(live(place, settings)) == [("a", Ending.DONE)]


def in_inbox(settings: PilotSettings) -> list[int]:
    return sorted(int(path.name) for path in (settings.agent_folder / INBOX_FOLDER).iterdir())


def test_what_was_taken_is_removed(place: Path) -> None:
    settings = settings_of(place, idle_timeout_s=0.1)
    give(settings, submit(1, "a", "b"), submit(2, "c"))
    live(place, settings)
    assert in_inbox(settings) == []


def test_a_pilot_that_ends_at_once_leaves_nothing(place: Path) -> None:
    settings = settings_of(place)
    give(settings, submit(1, "a"), EndPilot(2, True))
    assert live(place, settings).received == 2
    assert in_inbox(settings) == []


def test_nothing_is_removed_before_a_node_that_is_lost_would_leave_it_in_the_log(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(place, idle_timeout_s=0.1)
    give(settings, submit(1, "a", "b"), submit(2, "c"))
    surviving = place / "surviving"
    flush = LogWriter._flush
    removed = []

    def keep(self: LogWriter) -> None:
        flush(self)
        shutil.rmtree(surviving, ignore_errors=True)
        shutil.copytree(self.folder, surviving)

    def look(folder: Path, durable: int) -> None:
        assert recover_state(surviving)[0].received >= durable
        removed.append(durable)
        discard(folder, durable)

    monkeypatch.setattr(LogWriter, "_flush", keep)
    monkeypatch.setattr(loop, "discard", look)
    live(place, settings)
    assert removed[0] == 2
    assert in_inbox(settings) == []


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_an_agent_that_dies_while_it_removes_leaves_the_rest_to_the_next(
    place: Path, monkeypatch: pytest.MonkeyPatch, removed: int
) -> None:
    settings = settings_of(place)
    give(settings, submit(1, "a", "b"), submit(2, "c"), EndPilot(3, True))
    unlinked = 0
    unlink = os.unlink

    def dies(path: Path) -> None:
        nonlocal unlinked
        if Path(path).parent.name == INBOX_FOLDER:
            if unlinked == removed:
                raise Crash
            unlinked += 1
        unlink(path)

    with monkeypatch.context() as dying:
        dying.setattr(os, "unlink", dies)
        with pytest.raises(Crash):
            live(place, settings)
    assert len(in_inbox(settings)) == 3 - removed
    # A client that comes back and was not told what the agent has hands all of it over again.
    give(settings, submit(1, "a", "b"), submit(2, "c"), EndPilot(3, True))
    state = live(place, settings, incarnation=2)
    assert endings(state) == [("a", Ending.DONE), ("b", Ending.DONE), ("c", Ending.DONE)]
    assert (state.received, in_inbox(settings)) == (3, [])
