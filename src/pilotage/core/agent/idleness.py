"""A pilot that has nothing left to do gives its nodes back.

It is idle while there are no tasks in it but services that are ready, no environment is in preparation, and its client has
sent nothing. An agent that was restarted begins to count anew.
"""

from __future__ import annotations

from pilotage.core.agent.state import AgentState


class Idleness:
    """Knows since when the pilot is idle. Derived from the state. ``timeout_s``: how long it may be (0.0: for ever)."""

    def __init__(self, state: AgentState, timeout_s: float) -> None:
        self._state = state
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

    def _prepares(self) -> bool:
        return any(not environment.prepared and not environment.error for environment in self._state.environments.values())

    @property
    def due(self) -> float | None:
        """When it has been idle for too long (seconds since the epoch), if nothing happens; None if it is not idle."""
        return None if self._since is None or self._state.ending is not None else self._since + self._timeout_s

    @property
    def reason(self) -> str:
        """Why it ends then."""
        return f"nothing was left to do for {self._timeout_s:g} s, its idle_timeout_s"
