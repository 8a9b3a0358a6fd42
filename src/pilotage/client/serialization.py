"""What a user hands over as Python objects, made ready to travel, and what comes back, opened.

Functions and arguments are pickled where the user submits them, so that what cannot travel is refused at that line, by name.
Results and exceptions are opened only when the user asks for them.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from pilotage.errors import SerializationError, TaskFailed
from pilotage.wire.pickles import PROTOCOL, open_exception_chain, open_value, pickle_by_value, pickle_value, python_tag

__all__ = [
    "RemoteTraceback",
    "open_exception",
    "open_metadata",
    "open_result",
    "pack_arguments",
    "pack_function",
    "pack_metadata",
    "python_tag",
]

_dumps = pickle.dumps
_PLAIN = frozenset({bytes, bytearray, str, int, float, complex, bool, type(None)})
_SEARCH_BYTES = 1024

_REMEDY = (
    "open it inside the function instead, or pass what it is made from (a file's name, an address); "
    "locks, sockets, open files, generators and threads cannot leave their process"
)


class RemoteTraceback(Exception):
    """Shows, as the cause of an exception, where it was raised in the worker. Its text is the traceback of that place."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n{self.text}"


def pack_function(function: Callable[..., Any]) -> bytes:
    """Return a callable pickled: by reference if workers can import it, otherwise (main script, notebook, lambda, closure) with
    its code.

    Raises:
        SerializationError: it is not callable, or holds what cannot be pickled; names the function and that part of it.
    """
    if not callable(function):
        raise SerializationError(f"function={function!r:.100} is a {type(function).__name__}, not a callable")
    try:
        return pickle_value(function)
    except Exception as error:  # the user's classes may raise anything while they are pickled
        name = getattr(function, "__qualname__", None) or repr(function)
        raise SerializationError(
            f"function {name!r} cannot be pickled: {_culprit(_parts_of_function(function), error)}; {_REMEDY}"
        ) from error


def pack_arguments(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bytes:
    """Return the arguments of one call pickled, as ``(tuple, dict)``.

    Raises:
        SerializationError: one cannot be pickled; names it.
    """
    arguments = (tuple(args), kwargs if kwargs.__class__ is dict else dict(kwargs))
    try:
        pickled = _dumps(arguments, PROTOCOL)
        # What refers to the main script travels by value: a worker's main script is another. A large plain value refers to
        # nothing, and searching it would cost more than pickling it.
        if len(pickled) > _SEARCH_BYTES and not kwargs and all(value.__class__ in _PLAIN for value in args):
            return pickled
        return pickled if b"__main__" not in pickled else pickle_by_value(arguments)
    except Exception:  # the user's classes may raise anything while they are pickled; by value may be the way
        pass
    try:
        return pickle_by_value(arguments)
    except Exception as error:  # as above
        raise SerializationError(f"cannot pickle {_culprit(_parts_of_call(*arguments), error)}; {_REMEDY}") from error


def pack_metadata(metadata: object) -> bytes:
    """Return a task's metadata pickled. Raises ``SerializationError`` if it cannot be."""
    try:
        return pickle_value(metadata)
    except Exception as error:  # the user's classes may raise anything while they are pickled
        raise SerializationError(
            f"metadata cannot be pickled, to be there after a resume: {_in_one_line(error)}; leave that out"
        ) from error


def open_metadata(pickled: bytes) -> Any:
    """Return a task's metadata. Raises ``SerializationError`` if it cannot be opened in this process."""
    try:
        return open_value(pickled)
    except Exception as error:  # opening imports the user's modules and runs the user's classes
        raise SerializationError(
            f"cannot open the metadata here: {type(error).__name__}: {error}; "
            "what it is made of must be importable in this program"
        ) from error


def open_result(pickled: bytes) -> Any:
    """Return the result of a function from its pickled bytes.

    Raises:
        SerializationError: it cannot be opened in this process; says why and what to do.
    """
    try:
        return open_value(pickled)
    except Exception as error:  # opening imports the user's modules and runs the user's classes
        reason = str(error) if isinstance(error, SerializationError) else f"{type(error).__name__}: {error}"
        raise SerializationError(
            f"cannot open the result of {len(pickled)} bytes here: {reason}; "
            "what it is made of must be importable in this program"
        ) from error


def open_exception(pickled: bytes | None, message: str, detail: str) -> BaseException:
    """Return the exception that a function raised, ready to be raised here; it shows the remote traceback ``detail``.

    Without a pickled exception, or if it cannot be opened here, it is a ``TaskFailed`` with ``message``. So it is, with the
    original as its cause, if the original would end this program (``SystemExit``, ``KeyboardInterrupt``).
    """
    error: BaseException | None = None
    if pickled is not None:
        try:
            error = open_exception_chain(pickled)
        except Exception:  # opening imports the user's modules and runs the user's classes; the message is left
            error = None
    if error is None:
        error = TaskFailed(message)
    elif not isinstance(error, Exception):
        fatal, error = error, TaskFailed(message)
        error.__cause__ = fatal
    if detail:
        _show_remote_traceback(error, detail)
    return error


def _show_remote_traceback(error: BaseException, detail: str) -> None:
    if sys.version_info >= (3, 11):
        error.add_note(f"\nin the worker:\n{detail.rstrip()}")
        return
    # The chain tells the same as the text, so the text takes its place in what is shown, and at its end for who walks it.
    last = error
    while last.__cause__ is not None:
        last = last.__cause__
    last.__cause__ = RemoteTraceback(detail)


def _culprit(parts: Iterator[tuple[str, Any]], error: Exception) -> str:
    """Return the description of the first part that cannot be pickled by itself, with the reason."""
    for what, part in parts:
        try:
            pickle_value(part)
        except Exception as reason:  # the user's classes may raise anything while they are pickled
            return f"{what}, a {type(part).__module__}.{type(part).__qualname__}: {_in_one_line(reason)}"
    return f"{type(error).__name__}: {_in_one_line(error)}"


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _parts_of_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for position, value in enumerate(args):
        yield f"argument {position}", value
    for name, value in kwargs.items():
        yield f"argument {name!r}", value


def _parts_of_function(function: Any) -> Iterator[tuple[str, Any]]:
    """Yield what travels with a callable, with words for it: the smallest parts first."""
    for attribute, words in (("__self__", "its object"), ("func", "the function it wraps")):
        inner = getattr(function, attribute, None)
        if inner is None or inner is function or isinstance(inner, type(sys)):
            continue
        for name, value in getattr(inner, "__dict__", {}).items():
            yield f"attribute {name!r} of {words}", value
        if callable(inner):
            yield from _parts_of_function(inner)
        yield words, inner
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is not None:
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield f"its variable {name!r} from the enclosing function", cell.cell_contents
        for name in code.co_names:
            if name in function.__globals__:
                yield f"its global variable {name!r}", function.__globals__[name]
        for position, value in enumerate(function.__defaults__ or ()):
            yield f"default {position} of its parameters", value
        for name, value in (function.__kwdefaults__ or {}).items():
            yield f"the default of its parameter {name!r}", value
    elif hasattr(function, "__dict__"):
        for name, value in vars(function).items():
            yield f"its attribute {name!r}", value
    yield from _parts_of_call(getattr(function, "args", ()), getattr(function, "keywords", None) or {})
