"""One call of a user's function, from pickled arguments to what is told of its end.

A ``Function`` is a template's callable, opened once. ``Function.run`` never raises for what the user's code does: it raised,
left through ``SystemExit``, returned what cannot be pickled, changed the current folder; all that is data in the end.
"""

from __future__ import annotations

import functools
import os
import pickle
import types
from collections.abc import Callable
from time import time
from typing import Any

from pilotage.errors import BackendError, SerializationError
from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt
from pilotage.model.outcome import Ending
from pilotage.model.payload import Payload
from pilotage.model.workload import Row, Template
from pilotage.wire.pickles import PROTOCOL, open_value, pickle_by_value, pickle_exception, pickle_value

MESSAGE_LIMIT = 2_000
DETAIL_LIMIT = 32_000
"""Characters of a traceback that are kept, half from its beginning and half from its end."""

DONE, RAISED = Ending.DONE, Ending.RAISED

_dumps, _loads = pickle.dumps, pickle.loads
_NO_ARGUMENTS = pickle.dumps(((), {}), PROTOCOL)
_NONE = pickle.dumps(None, PROTOCOL)
# A search costs as much as pickling a number does.
_SHORTEST_REFERENCE = len(b"\x80\x05\x8c\x08__main__\x94\x8c\x01f\x94\x93\x94.")
_OUR_FOLDER = os.path.dirname(__file__) + os.sep
_COROUTINE_FUNCTION = 0x80


class Home:
    """The folder in which every call begins, held open so that going back costs little and works if it was renamed."""

    def __init__(self) -> None:
        self._path = os.getcwd()
        self._descriptor = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def go_back(self) -> None:
        """Make it the current folder again."""
        try:
            os.fchdir(self._descriptor)
        except OSError:
            # The function closed descriptors that are not its own.
            os.chdir(self._path)
            self._descriptor = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Function:
    """The callable of one template. ``load`` brings the bytes of a payload; ``failure`` tells why it cannot be called."""

    __slots__ = ("_call", "_environment", "_home", "_load", "failure")

    def __init__(self, template: Template, load: Callable[[Payload], bytes], home: Home) -> None:
        self._load = load
        self._home = home
        self._environment = template.environment
        self.failure: SerializationError | None = None
        try:
            if template.function is None:
                raise SerializationError("the task has no function; set TaskDescription.function")
            self._call = _synchronous(open_value(load(template.function)))
        except BaseException as error:  # importing a user's module runs the user's code, which may raise anything
            self.failure = _cannot_open("the function", error)

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
            return _raised(row, attempt, _cannot_open("the arguments", error), started)
        try:
            result = self._call(*args, **kwargs) if not self._environment else self._call_in_environment(args, kwargs)
        except BaseException as error:  # whatever a user's function raises, SystemExit included, is its own failure
            self._home.go_back()
            return _raised(row, attempt, error, started)
        self._home.go_back()
        if result is None:
            pickled = _NONE
        else:
            try:
                pickled = _dumps(result, PROTOCOL)
                if len(pickled) >= _SHORTEST_REFERENCE and b"__main__" in pickled:
                    pickled = pickle_by_value(result)
            except BaseException:  # the user's classes may raise anything while they are pickled
                return _by_value(row, attempt, result, started)
        return AttemptEnd(row.uid, attempt, DONE, None, pickled, "", "", started, time())

    def _opened(self, payload: Payload) -> Any:
        return open_value(self._load(payload))

    def _call_in_environment(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        before = {name: os.environ.get(name) for name in self._environment}
        os.environ.update(self._environment)
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


def _synchronous(function: Any) -> Callable[..., Any]:
    """Return a callable whose result is a value: a coroutine function is run in an event loop of its own, per call."""
    if not callable(function):
        raise SerializationError(f"a {type(function).__name__} is not callable; set TaskDescription.function to a function")
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    code = getattr(inner, "__code__", None) or getattr(type(inner).__call__, "__code__", None)
    if not getattr(code, "co_flags", 0) & _COROUTINE_FUNCTION:
        return function  # type: ignore[no-any-return]

    def run_coroutine(*args: Any, **kwargs: Any) -> Any:
        import asyncio  # only here: it would triple the start time of a worker

        return asyncio.run(function(*args, **kwargs))

    return run_coroutine


def _by_value(row: Row, attempt: Attempt, result: object, started: float) -> AttemptEnd:
    """End a call whose result plain pickling refused."""
    kind = type(result)
    try:
        pickled = pickle_value(result)
    except BaseException as error:  # the user's classes may raise anything while they are pickled
        reason = f"task {row.uid!r} returned a {kind.__module__}.{kind.__qualname__}, which cannot be pickled"
        if kind in (types.GeneratorType, types.AsyncGeneratorType):
            remedy = "a generator lives in its own process only: return a list of what it yields"
        elif isinstance(result, types.CoroutineType):
            result.close()
            remedy = "it has to be awaited where it was made: make the function itself `async def`, or use asyncio.run in it"
        else:
            remedy = f"({_message(error)}) return plain values, or write it to a file and return the name"
        return _raised(row, attempt, SerializationError(f"{reason}; {remedy}"), started)
    return AttemptEnd(row.uid, attempt, DONE, None, pickled, "", "", started, time())


def _cannot_open(what: str, error: BaseException) -> SerializationError:
    if isinstance(error, ModuleNotFoundError) and error.name:
        root = error.name.partition(".")[0]
        refusal = SerializationError(
            f"cannot import module {error.name!r} in the worker: {what} of the task needs it; install {root!r} where the pilot "
            "runs, add its folder to PYTHONPATH, or define the function in the main script, which travels with its code"
        )
    elif isinstance(error, (SerializationError, BackendError)):
        refusal = SerializationError(f"cannot open {what} of the task in the worker: {error}")
    else:
        refusal = SerializationError(
            f"cannot open {what} of the task in the worker: {_message(error)}; "
            "the same versions of the user's modules must be importable on both sides"
        )
    refusal.__cause__ = error
    return refusal


def _raised(row: Row, attempt: Attempt, error: BaseException, started: float) -> AttemptEnd:
    ended = time()
    message = _message(error)
    detail = _traceback_text(error)
    error.__traceback__ = None
    return AttemptEnd(row.uid, attempt, RAISED, None, pickle_exception(error), message, detail, started, ended)


def _message(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException as second:  # a user's __str__ may raise anything
        text = f"<its text cannot be shown: {type(second).__name__}>"
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "..."


def _traceback_text(error: BaseException) -> str:
    import traceback  # only here: most workers never need it

    try:
        for one in _chain(error):
            one.__traceback__ = _without_ours(one.__traceback__)
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except BaseException as second:  # the user's __repr__, source files and loaders take part in this
        return f"{type(error).__name__}: its traceback cannot be shown: {type(second).__name__}"
    if len(text) > DETAIL_LIMIT:
        half = DETAIL_LIMIT // 2
        text = f"{text[:half]}\n  ... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    return text


def _chain(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and not any(following is one for one in found):
        found.append(following)
        following = following.__cause__ or following.__context__
    return found


def _without_ours(frames: types.TracebackType | None) -> types.TracebackType | None:
    """Cut the frames before the user's: the worker's, and those of the event loop that it started."""
    while frames is not None:
        name = frames.tb_frame.f_code.co_filename
        if not (name.startswith(_OUR_FOLDER) or f"{os.sep}asyncio{os.sep}" in name):
            break
        frames = frames.tb_next
    return frames
