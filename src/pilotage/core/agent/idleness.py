"""A pilot that has nothing left to do gives its nodes back.

It is idle while there are no tasks in it but services that are ready, no environment is in preparation, and its client has
sent nothing. An agent that was restarted begins to count anew. Metaschedulers reckon alike.

A job may begin before its client has handed anything over, as one that submits a campaign and leaves does last of all. So a
pilot that has not heard a word yet waits for ``FIRST_WORD_S`` at least.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Protocol

from pilotage.core.agent.client_side import EndingPilot

FIRST_WORD_S = 60.0
"""For how long at least a pilot is not idle that its client has not told anything yet."""


class AnyPilot(Protocol):
    """The state of a pilot."""

    @property
    def received(self) -> int:
        """Number of the client's last message that is in the log."""
        ...

    @property
    def tasks(self) -> Sized:
        """The tasks that are here."""
        ...

    @property
    def services(self) -> Sized:
        """Those of them that are services, and ready."""
        ...

    @property
    def ending(self) -> EndingPilot | None:
        """Why it ends, if it does."""
        ...


class Idleness:
    """Knows since when the pilot is idle. Derived from the state. ``timeout_s``: how long it may be (0.0: for ever).

    ``prepares`` tells whether an environment is in preparation.
    """

    def __init__(self, state: AnyPilot, timeout_s: float, prepares: Callable[[], bool]) -> None:
        self._state = state
        self._prepares = prepares
        self._timeout_s = timeout_s
        self._received = state.received
        self._since: float | None = None

    def look(self, now: float) -> None:
        """Take note of the state as it is now, after an event."""
        state = self._state
        if not self._timeout_s:
            return
        if len(state.tasks) > len(state.services) or self._prepares():
            self._since = None
        elif self._since is None or state.received != self._received:
            self._since = now
        self._received = state.received

    @property
    def due(self) -> float | None:
        """When it has been idle for too long (seconds since the epoch), if nothing happens; None if it is not idle."""
        return None if self._since is None or self._state.ending is not None else self._since + self._patience_s

    @property
    def reason(self) -> str:
        """Why it ends then."""
        if self._patience_s > self._timeout_s:
            return f"nothing was handed over to it in {self._patience_s:g} s, and its idle_timeout_s is {self._timeout_s:g} s"
        return f"nothing was left to do for {self._timeout_s:g} s, its idle_timeout_s"

    @property
    def _patience_s(self) -> float:
        return self._timeout_s if self._state.received else max(self._timeout_s, FIRST_WORD_S)
