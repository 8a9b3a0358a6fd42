"""Which task the calling function is the body of, for functions that want to know.

Asking costs less than being told: four environment variables would double the price of a short call.
"""

from __future__ import annotations

import msgspec

from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.workload import Row


class CurrentTask(msgspec.Struct, frozen=True, gc=False):
    """The task whose function is being called: its ``uid``, its ``name`` (may be empty), and which ``attempt`` this is."""

    uid: TaskUid
    name: str
    attempt: Attempt


call: tuple[Attempt, Row] | None = None
"""The call that this worker is running; set by the worker."""


def current_task() -> CurrentTask | None:
    """Return the task that called this function; None outside of a task, for example in the user's own program."""
    if call is None:
        return None
    attempt, row = call
    return CurrentTask(row.uid, row.name, attempt)
