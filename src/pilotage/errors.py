"""The errors that Pilotage raises, and how they hang together.

::

    PilotageError
    ├── InvalidRequest (ValueError)      the caller's mistake: names the value, the limit and the remedy
    │   ├── InvalidTask                  a task description that cannot be accepted
    │   ├── InvalidPilot                 a pilot description that cannot be accepted
    │   └── UnknownPlatform              no such platform; names the nearest one
    ├── UnknownAttribute (AttributeError, TypeError)   a misspelt attribute; names the nearest one
    ├── SessionError
    │   ├── SessionClosed                the session was closed before this call
    │   ├── SessionInUse                 another process holds the session's lease
    │   └── SessionForked                the call came from a forked child of the session's process
    ├── WaitInCallback                   waiting or closing inside a callback would deadlock
    ├── SerializationError               a function, argument or result that cannot be pickled or opened
    ├── TaskFailed                       raised by ``task.result()``; carries the task's outcome
    │   └── TaskCancelled
    ├── LogCorrupted                     an invalid record before valid ones: recovery stops here
    ├── BackendError                     a runtime or a batch system failed; ``transient`` says if a retry may help
    ├── StagingFailed                    files could not be brought where they are wanted
    ├── PilotFailed                      the pilot ended before it could do what was asked
    ├── ProtocolError                    a peer sent, or was to be sent, what is no message of this protocol
    └── InvariantViolated                a bug in Pilotage, with the story of what led to it
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

__all__ = [
    "BackendError",
    "InvalidPilot",
    "InvalidRequest",
    "InvalidTask",
    "InvariantViolated",
    "LogCorrupted",
    "PilotFailed",
    "PilotageError",
    "ProtocolError",
    "SerializationError",
    "SessionClosed",
    "SessionError",
    "SessionForked",
    "SessionInUse",
    "StagingFailed",
    "TaskCancelled",
    "TaskFailed",
    "UnknownAttribute",
    "UnknownPlatform",
    "WaitInCallback",
    "nearest",
    "unreachable",
]


class PilotageError(Exception):
    """The root of every error that Pilotage raises on purpose."""


class InvalidRequest(PilotageError, ValueError):
    """A value that cannot be accepted; the message names the value, the limit and the remedy."""


class InvalidTask(InvalidRequest):
    """A task description that cannot be accepted."""


class InvalidPilot(InvalidRequest):
    """A pilot description that cannot be accepted."""


class UnknownPlatform(InvalidRequest):
    """No platform has this name."""


class UnknownAttribute(PilotageError, AttributeError, TypeError):
    """A description or handle has no attribute of this name."""


class SessionError(PilotageError, RuntimeError):
    """The session cannot do this in its present state."""


class SessionClosed(SessionError):
    """The session, or the manager, was closed before this call."""


class SessionInUse(SessionError):
    """Another process holds the lease of this session."""


class SessionForked(SessionError):
    """The session belongs to the parent of this forked process."""


class WaitInCallback(PilotageError, RuntimeError):
    """Waiting or closing inside a callback would wait for the callback itself."""


class SerializationError(PilotageError, TypeError):
    """A function, an argument or a result cannot be pickled, or cannot be opened here."""


class TaskFailed(PilotageError):
    """A task did not end well. ``outcome`` tells how; ``task`` is its uid."""

    def __init__(self, message: str, task: str = "", outcome: object = None) -> None:
        super().__init__(message)
        self.task = task
        self.outcome = outcome

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.args[0], self.task, self.outcome)


class TaskCancelled(TaskFailed):
    """The task was cancelled before it ended by itself."""


class LogCorrupted(PilotageError):
    """A record that does not check stands before valid ones, so history cannot be trusted."""


class BackendError(PilotageError):
    """A runtime, launcher or batch system failed. ``transient``: trying again may help."""

    def __init__(self, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class StagingFailed(PilotageError):
    """Files could not be brought where they are wanted; the message names the directive, the value and the remedy."""


class PilotFailed(PilotageError):
    """The pilot ended before it could do what was asked of it."""


class ProtocolError(PilotageError):
    """A frame is no message of this protocol, is too long, or contradicts what was said before."""


class InvariantViolated(PilotageError, AssertionError):
    """A bug in Pilotage. The message tells the story of the task or pilot concerned."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint such as ``"; did you mean 'ranks'?"``, or nothing when no known name is near."""
    import difflib  # only here: every process of ours imports this module, and hardly one needs it

    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def unreachable(value: NoReturn) -> NoReturn:
    """Stand where a ``match`` over a closed union is exhausted; the type checker proves that it is never reached."""
    raise InvariantViolated(f"no case for {value!r}")
