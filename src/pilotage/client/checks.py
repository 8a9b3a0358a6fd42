"""Checks of single values of a task description, with errors that name the value, the limit and the remedy.

``task`` is how messages name the task, such as ``task 'md'``.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterable
from typing import Any

from pilotage.client.fields import shown
from pilotage.errors import InvalidTask, nearest

COUNT_LIMIT = 1_000_000_000
"""No count or size in a description may be larger: such a value is a slip, and all of these travel as 64-bit integers."""

UID_BYTES = 200
"""A uid may be so long, in bytes of UTF-8: file systems take names of 255, and what is named after it has an ending."""


def text_of(task: str, what: str, value: Any) -> str:
    """Return a value that goes to the operating system as text: text, a number or a path."""
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
    else:
        text = None
    if not isinstance(text, str):
        raise InvalidTask(f"{task}: {what} is {shown(value)}; only text, numbers and paths can be handed over")
    if "\0" in text:
        raise InvalidTask(f"{task}: {what} is {shown(value)}; it holds a NUL character, which ends a text there: leave it out")
    if not is_unicode(text):
        raise InvalidTask(f"{task}: {what} is {shown(value)}; it is not valid Unicode and cannot be sent: rename it")
    return str(text)


def text_arguments(task: str, arguments: Iterable[Any]) -> tuple[str, ...]:
    """Return the arguments of a command line as text: texts, numbers and paths are accepted."""
    found = []
    for index, argument in enumerate(arguments):
        # Plain ASCII, which nearly all is, without a NUL can be handed over as it stands.
        if type(argument) is str and argument.isascii() and "\0" not in argument:
            found.append(argument)
        else:
            found.append(text_of(task, f"arguments[{index}]", argument))
    return tuple(found)


def count_of(task: str, name: str, value: int, least: int) -> int:
    """Return a count if it is ``least`` or more."""
    if not least <= value <= COUNT_LIMIT:
        raise InvalidTask(f"{task}: {name}={value}: it must be {least} or more, and {COUNT_LIMIT} at most")
    return value


def size_of(task: str, name: str, value: float) -> float:
    """Return a size in MB if it is one."""
    if not 0 <= value <= COUNT_LIMIT:
        raise InvalidTask(f"{task}: {name}={value}: it is in MB and must be 0 or more, and {COUNT_LIMIT} at most")
    return value


def seconds_of(task: str, name: str, value: float, *, least: float = 0.0, zero: str = "") -> float:
    """Return a time in seconds if it is one; ``zero`` says what 0 means."""
    if not least <= value < math.inf:
        raise InvalidTask(f"{task}: {name}={value}: it is in seconds and must be {least:g} or more{zero}")
    return float(value)


def one_of(task: str, name: str, value: str, known: Collection[str]) -> str:
    """Return a word if it is known, in any case of its letters; as it is known."""
    for word in known:
        if value.lower() == word.lower():
            return word
    raise InvalidTask(f"{task}: {name}={value!r} is none of {', '.join(map(repr, known))}{nearest(value, known)}")


def is_unicode(text: str) -> bool:
    """Tell whether a text can be encoded."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_short(uid: str) -> bool:
    """Tell whether a uid can name a file: it is valid Unicode, and has no more than ``UID_BYTES`` bytes."""
    if uid.isascii():
        return len(uid) <= UID_BYTES
    return is_unicode(uid) and len(uid.encode()) <= UID_BYTES


def length_of(uid: str) -> str:
    """Return how long a uid is, for the message that refuses one that is too long; else nothing."""
    if is_short(uid) or not is_unicode(uid):
        return ""
    return f"it has {len(uid.encode())} bytes in UTF-8: "
