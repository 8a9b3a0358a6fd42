"""One call of a user's function, from pickled arguments to what is told of its end.

A ``Function`` is a template's callable, opened once. ``Function.run`` never raises for what the user's code does: it raised,
left through ``SystemExit``, returned what cannot be pickled, changed the current folder; all that is data in the end.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from time import time
from typing import Any

from pilotage.errors import SerializationError
from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt
from pilotage.model.outcome import Ending
from pilotage.model.payload import Payload
from pilotage.model.sandboxes import folder_of_call
from pilotage.model.workload import Row, Template
from pilotage.wire.pickles import PROTOCOL, open_value, pickle_by_value
from pilotage.workers.calling import SHORTEST_REFERENCE, cannot_open, pickled_otherwise, raised, synchronous
from pilotage.workers.descriptors import CLOSED

DONE, RAISED = Ending.DONE, Ending.RAISED

_dumps, _loads = pickle.dumps, pickle.loads
_NO_ARGUMENTS = pickle.dumps(((), {}), PROTOCOL)
_NONE = pickle.dumps(None, PROTOCOL)


class Home:
    """The folder in which calls begin, held open so that going back costs little and works if it was renamed.

    Those that files are staged for begin in their sandbox, in ``pilot_folder``.
    """

    def __init__(self, pilot_folder: str) -> None:
        self.is_closed = False
        """Whether a function has closed what is held open."""
        self._pilot_folder = pilot_folder
        self._path = os.getcwd()
        self._descriptor = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def leave_for(self, template: Template, row: Row) -> None:
        """Go to where the files of this task are, if it has any."""
        folder = folder_of_call(template, row)
        if folder is not None:
            sandbox = os.path.join(self._pilot_folder, folder)
            os.makedirs(sandbox, exist_ok=True)
            os.chdir(sandbox)

    def go_back(self) -> None:
        """Make it the current folder again."""
        try:
            os.fchdir(self._descriptor)
        except OSError as error:
            self.is_closed = error.errno in CLOSED
            os.chdir(self._path)


class Function:
    """The callable of one template. ``load`` brings the bytes of a payload; ``failure`` tells why it cannot be called."""

    __slots__ = ("_call", "_environment", "_home", "_load", "_template", "failure")

    def __init__(self, template: Template, load: Callable[[Payload], bytes], home: Home) -> None:
        self._load = load
        self._home = home
        self._template = template
        self._environment = template.environment
        self.failure: SerializationError | None = None
        try:
            if template.function is None:
                raise SerializationError("the task has no function; set TaskDescription.function")
            self._call = synchronous(open_value(load(template.function)))
        except BaseException as error:  # importing a user's module runs the user's code, which may raise anything
            self.failure = cannot_open("the function", error)

    def run(self, attempt: Attempt, row: Row, started: float) -> AttemptEnd:
        """Call the function with the arguments of this row and return how that ended; ``started`` is the time now."""
        if self.failure is not None:
            return _raised(row, attempt, self.failure, started)
        payload = row.payload
        try:
            if payload == _NO_ARGUMENTS or payload is None:
                args, kwargs = (), {}
            else:
                # A plain pickle is the common case; a marked one, and a blob, are not bytes that ``loads`` takes.
                args, kwargs = _loads(payload) if payload.__class__ is bytes and payload[0] == 0x80 else self._opened(payload)
        except BaseException as error:  # opening arguments runs the user's code, which may raise anything
            return _raised(row, attempt, cannot_open("the arguments", error), started)
        variables = self._environment
        try:
            if row.extra is not None:
                variables = {**variables, **row.extra.variables}
                self._home.leave_for(self._template, row)
            result = self._call(*args, **kwargs) if not variables else self._call_in_environment(variables, args, kwargs)
        except BaseException as error:  # whatever a user's function raises, SystemExit included, is its own failure
            self._home.go_back()
            return _raised(row, attempt, error, started)
        self._home.go_back()
        if result is None:
            pickled = _NONE
        else:
            try:
                pickled = _dumps(result, PROTOCOL)
                if len(pickled) >= SHORTEST_REFERENCE and b"__main__" in pickled:
                    pickled = pickle_by_value(result)
            except BaseException:  # the user's classes may raise anything while they are pickled
                return _by_value(row, attempt, result, started)
        return AttemptEnd(row.uid, attempt, DONE, None, pickled, "", "", started, time())

    def _opened(self, payload: Payload) -> Any:
        return open_value(self._load(payload))

    def _call_in_environment(self, variables: dict[str, str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            return self._call(*args, **kwargs)
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def failed(row: Row, attempt: Attempt, error: BaseException) -> AttemptEnd:
    """Return the end of a call that this error ended outside of the function."""
    return _raised(row, attempt, error, time())


def _by_value(row: Row, attempt: Attempt, result: object, started: float) -> AttemptEnd:
    """End a call whose result plain pickling refused."""
    try:
        pickled = pickled_otherwise(row.uid, result)
    except SerializationError as refusal:
        return _raised(row, attempt, refusal, started)
    return AttemptEnd(row.uid, attempt, DONE, None, pickled, "", "", started, time())


def _raised(row: Row, attempt: Attempt, error: BaseException, started: float) -> AttemptEnd:
    ended = time()
    told = raised(error)
    return AttemptEnd(row.uid, attempt, RAISED, None, told.pickled, told.message, told.detail, started, ended)
