"""Pickled functions, arguments, results and exceptions: written on one side, opened on the other.

A value is pickled by reference where it can be (plain ``pickle``: the other side imports what is named), and by value (with
``cloudpickle``) where it cannot: what was defined in ``__main__``, in a notebook or inside a function. What travels by value
holds byte code, which only the same minor version of Python runs, so it is marked with the version that wrote it::

    80 05 ...                       a plain pickle, protocol 5
    ff cpython-3.11 0a 80 05 ...    by value, written by CPython 3.11

An exception travels in parts, because many classes cannot be pickled as they stand: their ``__init__`` wants other arguments
than ``args``. It is opened once before it is sent, so that what arrives can be opened.
"""

from __future__ import annotations

import itertools
import pickle
import sys
from typing import Any

from pilotage.errors import SerializationError

PROTOCOL = 5
"""The pickle protocol of every value on the wire; all supported versions of Python read and write it."""

# No pickle begins with this byte, so that a marked value costs the plain ones nothing: ``loads`` itself refuses it.
_MARK = b"\xff"
_CHAIN_LIMIT = 20

dumps = pickle.dumps
loads = pickle.loads


def python_tag() -> str:
    """Return the name of the Python versions that can open what this one pickles by value, such as ``cpython-3.11``."""
    return f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"


def pickle_value(value: object) -> bytes:
    """Return ``value`` pickled, by reference if that is possible and by value otherwise.

    Raises whatever the value's own pickling raises.
    """
    try:
        pickled = dumps(value, PROTOCOL)
    except Exception:  # a class may raise anything while it is pickled; the second way decides
        return pickle_by_value(value)
    return pickle_by_value(value) if b"__main__" in pickled else pickled


def pickle_by_value(value: object) -> bytes:
    """Return ``value`` pickled with its code, marked with the version of Python that can open it."""
    # Only here: it is half of the start time of a worker that may never need it.
    import cloudpickle  # type: ignore[import-untyped]

    written: bytes = cloudpickle.dumps(value, PROTOCOL)
    return b"%b%b\n%b" % (_MARK, python_tag().encode(), written)


def open_value(pickled: bytes) -> Any:
    """Return the value that was pickled.

    Raises:
        SerializationError: it was pickled by value under another minor version of Python.
        Exception: whatever opening the value raises, such as ModuleNotFoundError.
    """
    if pickled[:1] != _MARK:
        return loads(pickled)
    end = pickled.index(b"\n")
    tag = pickled[1:end].decode()
    if tag != python_tag():
        raise SerializationError(
            f"it was pickled with its code under {tag}, which {python_tag()} ({sys.executable}) cannot run; "
            "use the same minor version of Python on both sides, or put the code into a module that both can import"
        )
    return loads(memoryview(pickled)[end + 1 :])


def pickle_exception(error: BaseException) -> bytes | None:
    """Return ``error`` with its notes and its chain of causes, pickled so that it can be opened; None if it cannot be."""
    chain: list[tuple[bytes, bool]] = []
    following: BaseException | None = error
    while following is not None and len(chain) < _CHAIN_LIMIT:
        pickled = _openable(following)
        if pickled is None:
            break
        explicit = following.__suppress_context__
        chain.append((pickled, explicit))
        following = following.__cause__ if explicit else following.__context__
    return dumps(chain, PROTOCOL) if chain else None


def open_exception_chain(pickled: bytes) -> BaseException:
    """Return the exception that ``pickle_exception`` wrote, with its causes. Raises whatever opening it raises."""
    chain = [(_open_one(one), explicit) for one, explicit in loads(pickled)]
    for (error, explicit), (led_to, _) in itertools.pairwise(chain):
        if explicit:
            error.__cause__ = led_to
        else:
            error.__context__ = led_to
    return chain[0][0]


def _openable(error: BaseException) -> bytes | None:
    """Return one exception pickled in the first of two ways in which it comes back saying the same.

    As its class wants it; or as class, ``args`` and attributes, to be made without its ``__init__``.
    """
    for form in (error, (type(error), error.args, error.__dict__)):
        try:
            pickled = pickle_value(form)
            if str(_open_one(pickled)) == str(error):
                return pickled
        except Exception:  # the exception's own class may raise anything here; the other way is left
            continue
    return None


def _open_one(pickled: bytes) -> BaseException:
    form = open_value(pickled)
    if isinstance(form, BaseException):
        return form
    kind, args, attributes = form
    error: BaseException = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error
