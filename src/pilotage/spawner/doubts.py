"""Failures that may be the work of others, as a batch system tells all processes of a job's step to end, one after another.

A program whose child is told before itself fails in a way of its own, and may be over before the spawner is told. So in a job
failures that nobody asked for are told a moment later; if TERM comes to the spawner meanwhile, they and those that follow were
cut short by it. They are reported like all that it ends then: it is for the agent, which did not ask for that, to say what it
means (see ``core.agent.job_end``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.outcome import Ending
from pilotage.spawner.timers import Timers
from pilotage.wire.runner_messages import DOUBT_S, ENDED_WITH_PILOT

_FAILURES = (Ending.EXITED, Ending.SIGNALLED, Ending.LAUNCH_FAILED, Ending.RAISED)


class Doubts:
    """Passes ends on to ``tell``. ``in_job``: whether there is a batch system; else all are told at once, as they are.

    Times are of ``time.monotonic``.
    """

    def __init__(self, timers: Timers, tell: Callable[[AttemptEnd, float], None], *, in_job: bool) -> None:
        self._timers = timers
        self._tell = tell
        self._in_job = in_job
        self._held: dict[Execution, AttemptEnd] = {}
        self._cut_short: set[Execution] = set()
        self._stopping = False

    def over(self, end: AttemptEnd, now: float, *, is_wanted: bool) -> None:
        """An attempt is over. ``is_wanted``: nobody has asked for its end."""
        execution = (end.task, end.attempt)
        if not self._in_job or end.ending not in _FAILURES:
            self._tell(end, now)
        elif execution in self._cut_short:
            self._tell(_ended_by_others(end), now)
        elif is_wanted and not self._stopping:
            self._held[execution] = end
            self._timers.at(now + DOUBT_S, partial(self._believe, execution))
        else:
            self._tell(end, now)

    def stop(self, running: Iterable[Execution], now: float, *, by_others: bool) -> None:
        """The spawner is to end. ``running``: what is not over, and nobody asked to end. ``by_others``: than its agent."""
        self._stopping = True
        if by_others:
            self._cut_short.update(running)
        held, self._held = self._held, {}
        for end in held.values():
            self._tell(_ended_by_others(end) if by_others else end, now)

    def _believe(self, execution: Execution) -> None:
        end = self._held.pop(execution, None)
        if end is not None:
            self._tell(end, time.monotonic())


def _ended_by_others(end: AttemptEnd) -> AttemptEnd:
    # Of a function, what it raised when its children or itself were told to end.
    return msgspec.structs.replace(end, ending=Ending.CANCELLED, result=None, message=ENDED_WITH_PILOT)
