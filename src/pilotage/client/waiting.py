"""Waiting for tasks or pilots without waking up for each of them.

A ``Waiter`` holds a list of records and a position: all before it have arrived where they are waited for. The engine moves
the position when records change, which costs nothing while the first missing one is missing, and wakes the user's thread
once, at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Protocol

from pilotage.errors import InvalidRequest, nearest
from pilotage.model.states import FINAL, PILOT_STATES, TASK_STATES


class HasState(Protocol):
    """What can be waited for."""

    @property
    def state(self) -> str:
        """The present state."""
        ...


def satisfying(states: str | Collection[str] | None, *, pilot: bool = False) -> frozenset[str]:
    """Return the states in which a wait for any of ``states`` is over: those, later ones, and the final ones.

    Raises:
        InvalidRequest: no such state.
    """
    if not states:
        return frozenset(FINAL)
    order = PILOT_STATES if pilot else TASK_STATES
    wanted = [states] if isinstance(states, str) else list(states)
    for state in wanted:
        if state not in order and state not in FINAL:
            known = (*order, *FINAL)
            raise InvalidRequest(f"there is no state {state!r}{nearest(str(state), known)}; known are {', '.join(known)}")
    first = min((order.index(state) for state in wanted if state in order), default=len(order))
    return frozenset((*order[first:], *FINAL))


class Waiter:
    """One thread's wait for all of ``records`` to be in one of the states ``over``."""

    __slots__ = ("_over", "_position", "_records", "_wake")

    def __init__(self, records: Sequence[HasState], over: frozenset[str]) -> None:
        self._records = records
        self._over = over
        self._position = 0
        self._wake = threading.Lock()
        self._wake.acquire()

    def advance(self) -> bool:
        """Look how far the records are; return True when the wait is over. Called with the engine's lock."""
        records, over, position = self._records, self._over, self._position
        end = len(records)
        while position < end and records[position].state in over:
            position += 1
        self._position = position
        return position == end

    def wake(self) -> None:
        """Let ``sleep`` return True."""
        if self._wake.locked():
            self._wake.release()

    def sleep(self, timeout_s: float | None) -> bool:
        """Sleep until woken; False when the time is over before. A signal handler that raises interrupts it."""
        limit_s = -1 if timeout_s is None or timeout_s > threading.TIMEOUT_MAX else max(0.0, timeout_s)
        return self._wake.acquire(timeout=limit_s)


class Waiters:
    """The waits of a session's threads. All calls are made with the engine's lock."""

    def __init__(self) -> None:
        self._all: list[Waiter] = []

    def add(self, waiter: Waiter) -> None:
        """One waits from now on, until it is woken or removed."""
        self._all.append(waiter)

    def remove(self, waiter: Waiter) -> None:
        """One waits no longer; again does nothing."""
        if waiter in self._all:
            self._all.remove(waiter)

    def look(self) -> None:
        """Records have changed: wake those whose waits are over."""
        for waiter in [waiter for waiter in self._all if waiter.advance()]:
            self._all.remove(waiter)
            waiter.wake()

    def wake_all(self) -> None:
        """Nobody need wait any longer."""
        for waiter in self._all:
            waiter.wake()
        self._all.clear()
