"""What passes between an agent and its runners about executions: handed over in lanes, and over again.

An execution is named ``(task, attempt)`` here; the binding stays with the agent.
"""

from __future__ import annotations

import msgspec

from pilotage.model.ids import Attempt, LaneId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.payload import Payload
from pilotage.model.resources import Placement
from pilotage.model.workload import Row

Execution = tuple[TaskUid, Attempt]


class LaneTasks(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Tasks to run one after another in one lane. ``placement`` comes with the first tasks of a lane, None later."""

    lane: LaneId
    placement: Placement | None
    tasks: list[tuple[Attempt, Row]]


class AttemptEnd(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One execution is over: its process tree is gone, or its function has returned or raised."""

    task: TaskUid
    attempt: Attempt
    ending: Ending
    exit_code: int | None = None
    result: Payload | None = None
    message: str = ""
    detail: str = ""
    started: float = 0.0
    ended: float = 0.0
