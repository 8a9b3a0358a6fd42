"""How busy pilots are: asked for when somebody wants to know, and told from then on while somebody follows it."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from typing import Protocol

from pilotage.model.ids import PilotUid
from pilotage.model.partitions import Load
from pilotage.wire.codec import encode
from pilotage.wire.messages import AskLoad

FOLLOWED_EVERY_S = 0.25
ANSWER_S = 5.0
"""A pilot that has not answered after so long has to be taken by what it told before."""


class Link(Protocol):
    """What is needed of the link to a pilot."""

    @property
    def is_open(self) -> bool:
        """Whether the pilot's agent can be talked to now."""
        ...

    def send(self, frame: bytes) -> None:
        """Send a message that may be lost."""
        ...


class Loads:
    """The loads of the pilots of a session. All calls but ``ask`` are made with the engine's lock."""

    def __init__(self, lock: threading.Lock, links: Mapping[PilotUid, Link]) -> None:
        self.told: dict[PilotUid, Load] = {}
        """What each pilot told last."""
        self._links = links
        self._followers = 0
        self._answers: dict[PilotUid, int] = {}
        self._heard = threading.Condition(lock)

    def take(self, pilot: PilotUid, load: Load) -> None:
        """A pilot told its load."""
        self.told[pilot] = load
        self._answers[pilot] = self._answers.get(pilot, 0) + 1
        self._heard.notify_all()

    def greeted(self, pilot: PilotUid) -> None:
        """A pilot said hello; it does not know what another connection of this client wanted."""
        if self._followers:
            self._send(pilot)

    def over(self, pilot: PilotUid) -> None:
        """A pilot is gone."""
        self.told.pop(pilot, None)
        self._heard.notify_all()

    def follow(self, more: int) -> None:
        """So many more (or, below 0, fewer) want to know whenever a load has changed."""
        before, self._followers = bool(self._followers), self._followers + more
        if bool(self._followers) != before:
            for pilot in self._links:
                self._send(pilot)

    def ask(self, pilots: Collection[PilotUid]) -> None:
        """Have these pilots tell their loads now, and wait until they have; of those that can be reached."""
        with self._heard:
            before = {pilot: self._answers.get(pilot, 0) for pilot in pilots if self._is_open(pilot)}
            for pilot in before:
                self._send(pilot)
            until = time.monotonic() + ANSWER_S
            while any(self._answers.get(pilot, 0) == count and self._is_open(pilot) for pilot, count in before.items()):
                left = until - time.monotonic()
                if left <= 0:
                    return
                self._heard.wait(left)

    def _is_open(self, pilot: PilotUid) -> bool:
        link = self._links.get(pilot)
        return link is not None and link.is_open

    def _send(self, pilot: PilotUid) -> None:
        if self._is_open(pilot):
            self._links[pilot].send(encode(AskLoad(FOLLOWED_EVERY_S if self._followers else 0.0)))
