"""Calls of functions that were cut short as a batch system ends what runs them.

A worker that TERM ends cannot tell that, nor that what a function raised came of TERM to it or to its child. Its spawner
knows, as it gets TERM, too, and says so (``EndedByOthers``, ``WorkerExited.cut_short``). Then such calls are told as the
spawner tells of executables that it ends: the agent, which did not ask for that, says what it means (see
``core.agent.job_end``).
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec

from pilotage.executors.runner import Runner
from pilotage.model.execution import AttemptEnd, Execution
from pilotage.model.outcome import Ending
from pilotage.wire.runner_messages import DOUBT_S, ENDED_WITH_PILOT, EndedByOthers, TasksEnded


def note(spawner: Runner, message: EndedByOthers, runners: Iterable[Runner]) -> None:
    """The workers beside this spawner are ended."""
    for runner in runners:
        if runner.beside == spawner.name:
            runner.ended_by_others_at = message.at


def judged(runner: Runner, ends: list[AttemptEnd]) -> list[AttemptEnd]:
    """Return ends that a runner has told, with those that were the doing of others told so."""
    at = runner.ended_by_others_at
    if at is None:
        return ends
    return [_cut_short(end) if end.ending is Ending.RAISED and end.ended >= at - DOUBT_S else end for end in ends]


def end_of_running(worker: Runner, running: Execution) -> TasksEnded:
    """Return what a worker would have told of the call that it was in when it was ended."""
    end = AttemptEnd(*running, Ending.CANCELLED, message=ENDED_WITH_PILOT, ended=time.time())
    return TasksEnded(max(worker.received, worker.released) + 1, [end])


def _cut_short(end: AttemptEnd) -> AttemptEnd:
    return msgspec.structs.replace(end, ending=Ending.CANCELLED, result=None, message=ENDED_WITH_PILOT)
