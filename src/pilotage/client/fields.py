"""The attributes that a description may have: their types, defaults and what a value of the wrong type is told.

A ``Field`` is one line of a description's table. Types are checked when an attribute is set, at the line that sets it;
values (limits, combinations) are checked together by ``verify()``, since they may depend on each other.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from numbers import Integral, Real
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import msgspec


class Kind(Enum):
    """The type of an attribute, in the words of the message for a value that does not fit."""

    TEXT = "text (str)"
    PATH = "a path (str or pathlib.Path)"
    WHOLE = "a whole number (int)"
    NUMBER = "a number (int or float)"
    FLAG = "True or False (bool)"
    LIST = "a list"
    COMMANDS = "a list, or one entry of it as text or dict"
    TEXTS = "a list of texts (str), or one of them"
    CODES = "a list of exit codes (int) and words (str), or one of them"
    TASKS = "a list of tasks or their uids, or one of them"
    MOMENT = "a time: seconds since the epoch, a datetime, or text such as '2026-11-22 08:00'"
    TABLE = "a dict"
    FUNCTION = "a callable"
    ANY = "anything"


class Field(msgspec.Struct, frozen=True, gc=False):
    """One attribute. ``awaits`` is not empty for one that this version knows but does not carry out: it names the feature."""

    kind: Kind
    default: Any = None
    awaits: str = ""

    def fresh_default(self) -> Any:
        """Return the default; a list or dict is a new one, which the caller may fill."""
        return type(self.default)() if isinstance(self.default, (list, dict)) else self.default


# The types that need no look into the value: the path of nearly every assignment.
EXACT: dict[Kind, tuple[type, ...]] = {
    Kind.TEXT: (str,),
    Kind.PATH: (str,),
    Kind.WHOLE: (int,),
    Kind.NUMBER: (float, int),
    Kind.FLAG: (bool,),
    Kind.LIST: (list, tuple),
    Kind.COMMANDS: (list, tuple),
    # What they hold has to be looked at.
    Kind.TEXTS: (),
    Kind.CODES: (list, tuple),
    Kind.TASKS: (list, tuple),
    Kind.MOMENT: (float,),
    Kind.TABLE: (dict,),
    Kind.FUNCTION: (FunctionType, BuiltinFunctionType, MethodType),
    Kind.ANY: (dict, str),
}


class WrongType(Exception):
    """The value does not fit the kind; the description turns this into its own error, with the attribute's name."""


def _text(value: object) -> str:
    if isinstance(value, str):
        return str(value)  # of a subclass too (numpy.str_, a str enumeration): only plain text travels
    raise WrongType


def _path(value: object) -> str:
    if isinstance(value, (str, os.PathLike)):
        path = os.fspath(value)
        if isinstance(path, str):
            return str(path)
    raise WrongType


def _whole(value: object) -> int:
    # Integral covers numpy's integers; bool is one too, and is nearly always a mistake here.
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    raise WrongType


def _number(value: object) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, Integral) else float(value)
    raise WrongType


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise WrongType


def _list(value: object) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, (list, tuple)):
        return value
    raise WrongType


def _commands(value: object) -> list[Any] | tuple[Any, ...]:
    return [value] if isinstance(value, (str, dict)) else _list(value)


def _texts(value: object) -> list[str]:
    return [_text(entry) for entry in ([value] if isinstance(value, str) else _list(value))]


def _moment(value: object) -> float:
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            raise WrongType from None
    try:
        # One without a zone is by this machine's clock.
        return value.timestamp() if isinstance(value, datetime.datetime) else float(_number(value))
    except (OverflowError, ValueError):
        raise WrongType from None


def _codes(value: object) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool)):
        return [value]
    return _list(value)


def _tasks(value: object) -> list[Any] | tuple[Any, ...]:
    if isinstance(value, str) or isinstance(getattr(value, "uid", None), str):
        return [value]
    if isinstance(value, Mapping) or not isinstance(value, Iterable):
        raise WrongType
    return list(value)


def _table(value: object) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, Mapping):
        return dict(value)
    raise WrongType


def _function(value: object) -> object:
    if callable(value):
        return value
    raise WrongType


def _any(value: object) -> object:
    return value


CONVERT: dict[Kind, Callable[[object], Any]] = {
    Kind.TEXT: _text,
    Kind.PATH: _path,
    Kind.WHOLE: _whole,
    Kind.NUMBER: _number,
    Kind.FLAG: _flag,
    Kind.LIST: _list,
    Kind.COMMANDS: _commands,
    Kind.TEXTS: _texts,
    Kind.CODES: _codes,
    Kind.TASKS: _tasks,
    Kind.MOMENT: _moment,
    Kind.TABLE: _table,
    Kind.FUNCTION: _function,
    Kind.ANY: _any,
}


def shown(value: object, limit: int = 60) -> str:
    """Return ``value`` as a message shows it: its repr, cut to ``limit`` characters, and its type."""
    text = repr(value)
    if len(text) > limit:
        text = f"{text[: limit - 3]}..."
    return f"{text} ({type(value).__name__})"
