"""What a call of a user's function amounts to, wherever it is made: in a worker, or in a process of its own.

Of the standard library and nothing else but our errors and pickles, since a process of its own may run in an environment of
the user's that has little installed.
"""

from __future__ import annotations

import functools
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from pilotage.errors import BackendError, SerializationError
from pilotage.wire.pickles import PROTOCOL, dumps, pickle_by_value, pickle_exception, pickle_value

MESSAGE_LIMIT = 2_000
DETAIL_LIMIT = 32_000
"""Characters of a traceback that are kept, half from its beginning and half from its end."""

EXIT_GRACE_S = 5.0
"""For the exit handlers and threads of the user's modules, after the process itself is done."""

# A search costs as much as pickling a number does.
SHORTEST_REFERENCE = len(b"\x80\x05\x8c\x08__main__\x94\x8c\x01f\x94\x93\x94.")

_OUR_FOLDER = os.path.dirname(__file__) + os.sep
_COROUTINE_FUNCTION = 0x80


class Raised(NamedTuple):
    """A failure as it is told: the pickled exception (None if it cannot be pickled), one line, and the traceback."""

    pickled: bytes | None
    message: str
    detail: str


def synchronous(function: Any) -> Callable[..., Any]:
    """Return a callable whose result is a value: a coroutine function is run in an event loop of its own, per call.

    Raises:
        SerializationError: it is not callable.
    """
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


def pickled_result(task: str, result: object) -> bytes:
    """Return what a function returned, pickled.

    Raises:
        SerializationError: it cannot be; says what to return instead.
    """
    try:
        pickled = dumps(result, PROTOCOL)
        if len(pickled) >= SHORTEST_REFERENCE and b"__main__" in pickled:
            pickled = pickle_by_value(result)
        return pickled
    except BaseException:  # the user's classes may raise anything while they are pickled
        return pickled_otherwise(task, result)


def pickled_otherwise(task: str, result: object) -> bytes:
    """Return what plain pickling has refused, pickled. Raises as ``pickled_result``."""
    kind = type(result)
    try:
        return pickle_value(result)
    except BaseException as error:  # the user's classes may raise anything while they are pickled
        reason = f"task {task!r} returned a {kind.__module__}.{kind.__qualname__}, which cannot be pickled"
        if kind in (types.GeneratorType, types.AsyncGeneratorType):
            remedy = "a generator lives in its own process only: return a list of what it yields"
        elif isinstance(result, types.CoroutineType):
            result.close()
            remedy = "it has to be awaited where it was made: make the function itself `async def`, or use asyncio.run in it"
        else:
            reason += f": {' '.join(message_of(error).split())}"
            remedy = "return plain values, or write it to a file and return the name"
        # Without a cause: how pickling works inside is of no use to the user.
        raise SerializationError(f"{reason}; {remedy}") from None


def cannot_open(what: str, error: BaseException, where: str = "the worker") -> SerializationError:
    """Return why ``what`` ('the function', 'the arguments') of a task cannot be unpickled there."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        root = error.name.partition(".")[0]
        refusal = SerializationError(
            f"cannot import module {error.name!r} in {where}: {what} of the task needs it; install {root!r} where the pilot "
            "runs, add its folder to PYTHONPATH, or define the function in the main script, which travels with its code"
        )
    elif isinstance(error, (SerializationError, BackendError)):
        refusal = SerializationError(f"cannot open {what} of the task in {where}: {error}")
    else:
        refusal = SerializationError(
            f"cannot open {what} of the task in {where}: {message_of(error)}; "
            "the same versions of the user's modules must be importable on both sides"
        )
    refusal.__cause__ = error
    return refusal


def raised(error: BaseException) -> Raised:
    """Return an exception as it is told, whatever its class does, and let go of its frames."""
    message = message_of(error)
    detail = _traceback_text(error)
    error.__traceback__ = None
    return Raised(pickle_exception(error), message, detail)


def message_of(error: BaseException) -> str:
    """Return an exception in one line."""
    try:
        text = str(error)
    except BaseException as second:  # a user's __str__ may raise anything
        text = f"<its text cannot be shown: {type(second).__name__}>"
    message = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return message if len(message) <= MESSAGE_LIMIT else message[:MESSAGE_LIMIT] + "..."


def leave(status: int) -> NoReturn:
    """End this process, soon: threads and exit handlers of the user's modules get ``EXIT_GRACE_S``."""
    import threading
    import time

    def leave_anyway() -> None:
        time.sleep(EXIT_GRACE_S)
        os._exit(status)

    threading.Thread(target=leave_anyway, name="pilotage-exit", daemon=True).start()
    sys.exit(status)


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
