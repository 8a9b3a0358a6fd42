"""Which task the caller is part of, for those that want to know.

In a worker, asking costs less than being told: four environment variables would double the price of a short call. A process
of a task's own has them.
"""

from __future__ import annotations

import os

import msgspec

from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.workload import Row


class CurrentTask(msgspec.Struct, frozen=True, gc=False):
    """The task that is running: its ``uid``, its ``name`` (may be empty), and which ``attempt`` this is."""

    uid: TaskUid
    name: str
    attempt: Attempt


call: tuple[Attempt, Row] | None = None
"""The call that this worker is running; set by the worker."""


def current_task() -> CurrentTask | None:
    """Return the task that called this function, or whose process this is.

    None outside of a task, for example in the user's own program.
    """
    if call is not None:
        attempt, row = call
        return CurrentTask(row.uid, row.name, attempt)
    uid, attempt_text = os.environ.get("PILOTAGE_TASK_ID", ""), os.environ.get("PILOTAGE_ATTEMPT", "")
    if not uid or not attempt_text.isdecimal():
        return None
    return CurrentTask(TaskUid(uid), os.environ.get("PILOTAGE_TASK_NAME", ""), Attempt(int(attempt_text)))
