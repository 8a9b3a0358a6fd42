"""When an agent tells its client how busy the pilot is."""

from __future__ import annotations

from typing import Any

import pytest

from pilotage.agent import progress as progress_module
from pilotage.agent.progress import Progress
from pilotage.core.agent.state import AgentState
from pilotage.model.partitions import Load


class Desk:
    """A pilot's load and clock, and what its client was told."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.busy = Load(waiting=1)
        self.looked = 0
        self.connected = True
        self.sent: list[Any] = []
        patch.setattr(progress_module.time, "time", lambda: self.now)
        self.progress = Progress(AgentState(), self, self.look)  # type: ignore[arg-type]

    def look(self) -> Load:
        self.looked += 1
        return self.busy

    def send(self, message: Any) -> None:
        self.sent.append(message.load)

    def turn(self) -> None:
        """What the agent's loop does after each turn."""
        if self.progress.due is not None and self.now >= self.progress.due:
            self.progress.tell()


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Desk:
    return Desk(monkeypatch)


def test_nobody_asked_and_nothing_is_told_or_looked_at(desk: Desk) -> None:
    desk.progress.greeted()
    desk.progress.changed()
    assert desk.progress.due is None
    desk.progress.notice("news", lasting=False)
    desk.now += 1
    desk.turn()
    assert (desk.sent, desk.looked) == ([None], 0)


def test_once_is_once(desk: Desk) -> None:
    desk.progress.ask_load(0.0)
    desk.turn()
    desk.busy = Load(waiting=2)
    desk.progress.changed()
    assert (desk.sent, desk.progress.due) == ([Load(waiting=1)], None)


def test_changes_are_told_as_often_as_was_asked_and_not_if_nothing_changed(desk: Desk) -> None:
    desk.progress.ask_load(0.5)
    desk.turn()
    assert desk.progress.due is None
    desk.busy = Load(waiting=2)
    desk.progress.changed()
    desk.progress.changed()
    assert desk.progress.due == 1000.5
    desk.now = 1000.4
    desk.turn()
    assert desk.sent == [Load(waiting=1)]
    desk.now = 1000.6
    desk.turn()
    assert desk.sent == [Load(waiting=1), Load(waiting=2)]
    desk.progress.changed()
    desk.now = 1002.0
    desk.turn()
    assert (desk.sent, desk.progress.due) == ([Load(waiting=1), Load(waiting=2)], None)


def test_other_news_do_not_bring_the_load_before_its_time(desk: Desk) -> None:
    desk.progress.ask_load(0.5)
    desk.turn()
    desk.busy = Load(waiting=2)
    desk.progress.changed()
    desk.progress.notice("news", lasting=False)
    desk.now = 1000.1
    desk.turn()
    assert (desk.sent, desk.progress.due) == ([Load(waiting=1), None], 1000.5)


def test_who_asks_again_is_answered_even_if_nothing_changed(desk: Desk) -> None:
    for _ in range(2):
        desk.progress.ask_load(0.0)
        desk.turn()
    assert desk.sent == [Load(waiting=1)] * 2


def test_another_client_has_to_ask_for_itself(desk: Desk) -> None:
    desk.progress.ask_load(0.5)
    desk.turn()
    desk.progress.greeted()
    desk.progress.changed()
    assert desk.progress.due is None
