"""Talking with the agent: connecting to it, and again when it is gone; what is told, when, and what it says.

The agent listens, we connect. Nothing is told before it has welcomed us; while it is away news wait in the outbox, and when it
stays away for longer than ``orphan_timeout_s``, or is known to be over for good, that is told to whoever asked, once.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from pilotage.model.execution import Execution
from pilotage.model.ids import RunnerId
from pilotage.spawner.link import AgentLink
from pilotage.spawner.outbox import Outbox
from pilotage.spawner.timers import Timers
from pilotage.system.processes import boot_id, started_ticks
from pilotage.wire.framing import Disconnected
from pilotage.wire.runner_messages import RunnerHello, ToRunner

_RECONNECT_FIRST_S = 0.05
_RECONNECT_LAST_S = 1.0
_GOODBYE_S = 5.0
_OVER_S = 3.0
"""A pilot that seems to be over has to seem so for this long."""


class Conversation:
    """Our side of the talk with one agent after another. Times are of ``time.monotonic``.

    ``holds`` returns what is held here and not over, for the hello; ``abandoned`` is called with why no agent will come back.
    ``is_over`` is asked while there is none.
    """

    def __init__(
        self,
        folder: Path,
        runner: RunnerId,
        orphan_timeout_s: float,
        outbox: Outbox,
        timers: Timers,
        poll: select.epoll,
        holds: Callable[[], list[Execution]],
        abandoned: Callable[[str], None],
        is_over: Callable[[], bool],
    ) -> None:
        self._runner = runner
        self._orphan_timeout_s = orphan_timeout_s
        self._outbox = outbox
        self._timers = timers
        self._poll = poll
        self._holds = holds
        self._abandoned = abandoned
        self._is_over = is_over
        self._over_since: float | None = None
        self._link = AgentLink(folder)
        self._descriptor: int | None = None
        self._all_sent = True
        self._welcomed = False
        self._away_since: float | None = None
        self._reconnect_pause_s = _RECONNECT_FIRST_S

    def open(self, now: float) -> None:
        """Look for an agent from now on."""
        self._lost(now)

    def read(self, now: float) -> list[ToRunner]:
        """Return the messages that have arrived."""
        try:
            return self._link.read()
        except Disconnected:
            self._lost(now)
            return []

    def welcome(self) -> None:
        """The agent has answered our hello: what it may not have is sent again, and from now on news are."""
        self._welcomed = True
        self._away_since = None

    def repeat(self, now: float) -> None:
        """Send all endings again that the agent may not have."""
        self._send(self._outbox.unreleased(), now)

    def due(self, busy: bool) -> float | None:
        """Return when ``tell`` has something to do; None if it has nothing. ``busy``: work waits here."""
        return self._outbox.due(busy) if self._welcomed else None

    def tell(self, busy: bool, now: float) -> None:
        """Send the news that are due, and what waits to be sent."""
        if not self._welcomed:
            return
        due = self._outbox.due(busy)
        self._send(self._outbox.take(time.time()) if due is not None and due <= now else [], now)

    def say_goodbye(self) -> None:
        """Send what is left, if the agent is there and reads it."""
        deadline = time.monotonic() + _GOODBYE_S
        if self._welcomed:
            self._send(self._outbox.take(time.time()), time.monotonic())
        while self._welcomed and not self._all_sent and time.monotonic() < deadline:
            self._poll.poll(deadline - time.monotonic())
            self._send([], time.monotonic())

    def _send(self, frames: Iterable[bytes], now: float) -> None:
        try:
            done = self._link.write(list(frames))
        except Disconnected:
            self._lost(now)
            return
        if self._descriptor is not None and done != self._all_sent:
            self._all_sent = done
            self._poll.modify(self._descriptor, select.EPOLLIN if done else select.EPOLLIN | select.EPOLLOUT)

    def _lost(self, now: float) -> None:
        if self._descriptor is not None:
            self._poll.unregister(self._descriptor)
            self._link.close()
            self._descriptor = None
        self._welcomed = False
        if self._away_since is None:
            self._away_since = now
            self._reconnect_pause_s = _RECONNECT_FIRST_S
            self._timers.at(now + self._orphan_timeout_s, partial(self._give_up, now))
            self._timers.at(now, self._connect)
        else:
            self._timers.at(now + self._reconnect_pause_s, self._connect)

    def _connect(self) -> None:
        if self._descriptor is not None:
            return
        now = time.monotonic()
        descriptor = self._link.connect()
        if descriptor is None:
            self._look_whether_over(now)
            self._timers.at(now + self._reconnect_pause_s, self._connect)
            self._reconnect_pause_s = min(2 * self._reconnect_pause_s, _RECONNECT_LAST_S)
            return
        self._over_since = None
        self._descriptor = descriptor
        self._all_sent = True
        self._poll.register(descriptor, select.EPOLLIN)
        # What ended while no agent was there is told after the welcome; without a number it would seem not to have begun.
        self._outbox.number_ends()
        pid = os.getpid()
        hello = RunnerHello(self._runner, pid, started_ticks(pid) or 0, boot_id(), self._holds(), self._outbox.sent)
        self._send([self._outbox.encode(hello)], now)

    def _look_whether_over(self, now: float) -> None:
        if not self._is_over():
            self._over_since = None
        elif self._over_since is None:
            self._over_since = now
        elif now - self._over_since >= _OVER_S:
            self._abandoned("the pilot is over")

    def _give_up(self, since: float) -> None:
        if self._away_since == since:
            self._abandoned(f"no agent for {self._orphan_timeout_s:g} s")
