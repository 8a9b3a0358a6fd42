"""How an attempt at a task ended.

Every task gets exactly one final outcome. ``Ending`` says how in one word, ``Outcome`` carries what is needed to tell the
user: exit code or signal, the tail of stderr or the traceback, the result of a function, and when things happened.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec

from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.payload import Payload
from pilotage.model.states import CANCELED, DONE, FAILED


class Ending(IntEnum):
    """How an attempt ended. Only ``DONE`` is success."""

    DONE = 0
    """Exit code 0, or a function that returned."""
    EXITED = 1
    """A non-zero exit code."""
    SIGNALLED = 2
    """Ended by a signal that Pilotage did not send."""
    TIMED_OUT = 3
    """Ran longer than its ``timeout``."""
    OUT_OF_MEMORY = 4
    """Ended by the kernel for memory."""
    NODE_FAILED = 5
    """Its node, or the spawner on it, was lost while the task ran."""
    PREEMPTED = 6
    """The pilot's allocation was taken back."""
    LAUNCH_FAILED = 7
    """It could not be started: a missing executable, an output file that cannot be opened."""
    STAGING_FAILED = 8
    """Its input or output could not be staged."""
    RAISED = 9
    """A function raised, or its result cannot be pickled."""
    INFEASIBLE = 10
    """No node, or all nodes of the pilot together, can ever satisfy the request."""
    LOST = 11
    """No proof remains of what became of it; it may have run."""
    CANCELLED = 12
    """Cancelled by the user."""
    OUT_OF_WALLTIME = 13
    """The pilot's time was over before the task was, or before it began; no other pilot went on with it."""


class Times(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """When an attempt passed its stations, in seconds since the epoch by the clock of the pilot's node; 0.0: did not."""

    accepted: float = 0.0
    """The agent took the task."""
    launched: float = 0.0
    """The agent handed it to a runner."""
    started: float = 0.0
    """Its process was spawned, or its function called."""
    ended: float = 0.0
    """Its process tree was gone, or its function had returned."""


class Outcome(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The end of one execution ``(task, binding, attempt)``.

    ``exit_code``: of an executable; negative is the number of the signal that ended it; None if there was no process.
    ``result``: the pickled return value or, for ``RAISED``, the pickled exception, if there is one.
    ``message``: one line that names the cause. ``detail``: the tail of stderr, or the remote traceback.
    """

    task: TaskUid
    binding: Binding
    attempt: Attempt
    ending: Ending
    exit_code: int | None = None
    result: Payload | None = None
    message: str = ""
    detail: str = ""
    times: Times = Times()

    @property
    def state(self) -> str:
        """The final state that this outcome gives the task."""
        return state_of(self.ending)


def state_of(ending: Ending) -> str:
    """Return the final task state that belongs to an ending."""
    if ending is Ending.DONE:
        return DONE
    return CANCELED if ending is Ending.CANCELLED else FAILED
