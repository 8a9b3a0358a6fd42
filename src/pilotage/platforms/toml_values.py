"""Reads a TOML file into a value, and tells what is wrong with it by file, line and nearest name.

Types are said once, in the struct that is read. Limits of single fields are there, too, as ``msgspec.Meta``; what concerns
several fields is checked by its readers, which raise through ``Source.error``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pilotage.errors import InvalidRequest, nearest
from pilotage.platforms.toml_lines import line_of, lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

T = TypeVar("T")


class Source:
    """A TOML file that was read: ``content`` as parsed, and where each part of it stands. ``kind`` is for messages.

    Raises:
        InvalidRequest: the file cannot be read, or is not TOML.
    """

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self.kind = kind
        self._made: tuple[str, ...] = ()
        """Fields that follow from elsewhere, so that nobody is to be pointed to them."""
        try:
            self.text = path.read_text(encoding="utf-8")
            self.content: dict[str, Any] = tomllib.loads(self.text)
        except OSError as error:
            raise InvalidRequest(f"{kind} file {path}: cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InvalidRequest(f"{kind} file {path}: is not valid TOML: {error}") from error

    def line(self, path: Sequence[str | int]) -> int:
        """Return the line of what is at ``path``."""
        return line_of(self._lines, path)

    @cached_property
    def _lines(self) -> dict[tuple[str | int, ...], int]:
        return lines_of(self.text)

    def error(self, path: Sequence[str | int], message: str) -> InvalidRequest:
        """Return the error that says ``message`` of what is at ``path``."""
        where = shown_path(path)
        return InvalidRequest(f"{self.kind} file {self.path}:{self.line(path)}: {f'{where}: ' if where else ''}{message}")

    def convert(self, wanted: type[T], **more: object) -> T:
        """Return the file's content as ``wanted``. ``more``: fields that do not stand in the file.

        Raises:
            InvalidRequest: a field is unknown, missing, of a wrong type or beyond its limits; names the file, the line, the
                value and the nearest field.
        """
        for name in more:
            if name in self.content:
                raise self.error((name,), "is no field of the file: it follows from the file's name")
        self._made = tuple(more)
        return self._converted({**self.content, **more}, wanted, ())

    def part(self, path: Sequence[str | int], wanted: type[T]) -> T:
        """Return what is at ``path`` as ``wanted``.

        Raises:
            InvalidRequest: as ``convert``.
        """
        value: Any = self.content
        for step in path:
            value = value[step]
        return self._converted(value, wanted, tuple(path))

    def _converted(self, content: Any, wanted: type[T], path: tuple[str | int, ...]) -> T:
        self._refuse_unknown(content, msgspec.inspect.type_info(wanted), path)
        self._refuse_endless(content, path)
        try:
            return msgspec.convert(content, wanted, str_keys=True)
        except msgspec.ValidationError as error:
            reason, inner, value = _blame(content, wanted, error)
            # What JSON calls an object is a table here, and there is no null.
            said = (reason[:1].lower() + reason[1:]).replace("object", "table").replace(" | null", "")
            known = choices(msgspec.inspect.type_info(wanted), inner)
            if known and isinstance(value, str):
                raise self.error(
                    (*path, *inner), f"{value!r} is not one of {', '.join(known)}{nearest(value, known)}"
                ) from None
            is_known = "missing" not in said and (path or inner)
            raise self.error((*path, *inner), f"{said}, and it is {value!r}" if is_known else said) from None

    def _refuse_unknown(self, value: Any, wanted: msgspec.inspect.Type, path: tuple[str | int, ...]) -> None:
        inspect = msgspec.inspect
        match wanted:
            case inspect.StructType(fields=fields) if isinstance(value, dict):
                known = {field.encode_name: field.type for field in fields}
                for name, inner in value.items():
                    if name not in known:
                        said = [each for each in known if path or each not in self._made]
                        hint = nearest(name, said) or f"; known are {', '.join(said)}"
                        raise self.error((*path, name), f"there is no such field{hint}")
                    self._refuse_unknown(inner, known[name], (*path, name))
            case inspect.DictType(key_type=key_type, value_type=inner_type) if isinstance(value, dict):
                names = key_type.values if isinstance(key_type, inspect.LiteralType) else ()
                for name, inner in value.items():
                    if names and name not in names:
                        known_names = [str(each) for each in names]
                        hint = nearest(name, known_names) or f"; known are {', '.join(known_names)}"
                        raise self.error((*path, name), f"there is no such field{hint}")
                    self._refuse_unknown(inner, inner_type, (*path, name))
            case inspect.ListType(item_type=inner_type) | inspect.VarTupleType(item_type=inner_type):
                for index, inner in enumerate(value if isinstance(value, list) else ()):
                    self._refuse_unknown(inner, inner_type, (*path, index))
            case inspect.UnionType(types=types):
                # Each union has one table and one array at the most; the others are plain values.
                for choice in types:
                    self._refuse_unknown(value, choice, path)
            case _:
                pass

    def _refuse_endless(self, value: Any, path: tuple[str | int, ...]) -> None:
        match value:
            case float() if not math.isfinite(value):
                raise self.error(path, f"is {value}, which nothing can come to; give a number, or leave it out")
            case dict():
                for name, inner in value.items():
                    self._refuse_endless(inner, (*path, name))
            case list():
                for index, inner in enumerate(value):
                    self._refuse_endless(inner, (*path, index))
            case _:
                pass


def _blame(content: Any, wanted: type[T], error: msgspec.ValidationError) -> tuple[str, tuple[str | int, ...], Any]:
    """Return what msgspec says of ``content``, the path to what it means, and what is there.

    Of values in a dictionary msgspec does not tell the key. So each is tried alone.
    """
    reason, _, place = str(error).partition(" - at ")
    path, value = _follow(content, place)
    if "[...]" not in place or not isinstance(value, dict) or len(value) < 2:
        return reason, path, value
    for key in value:
        alone = _replaced(content, path, {key: value[key]})
        try:
            msgspec.convert(alone, wanted, str_keys=True)
        except msgspec.ValidationError as again:
            if str(again) == str(error):
                return _blame(alone, wanted, again)
    return reason, path, value


def _replaced(content: Any, path: Sequence[str | int], value: Any) -> Any:
    """Return ``content`` with ``value`` at ``path``."""
    if not path:
        return value
    copied = content.copy()
    copied[path[0]] = _replaced(content[path[0]], path[1:], value)
    return copied


def _follow(content: Any, place: str) -> tuple[tuple[str | int, ...], Any]:
    """Return the path that msgspec names (```$.classes[1].ranks```), as far as it names one, and what is there."""
    path: list[str | int] = []
    value: Any = content
    step: str | int
    for name, index in re.findall(r"\.([^.\[\]`]+)|\[(\d+|\.\.\.)\]", place):
        if index == "...":
            # Some value of a dictionary: its key is not told, unless there is but one.
            if not isinstance(value, dict) or len(value) != 1:
                break
            (step,) = value
        else:
            step = name or int(index)
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            break
        path.append(step)
    return tuple(path), value


def choices(wanted: msgspec.inspect.Type, path: Sequence[str | int]) -> list[str]:
    """Return the words that what is at ``path`` in a ``wanted`` has to be one of; none if there is no choice."""
    inspect = msgspec.inspect
    if isinstance(wanted, inspect.UnionType):
        return [word for each in wanted.types for word in choices(each, path)]
    if not path:
        return [str(value) for value in wanted.values] if isinstance(wanted, inspect.LiteralType) else []
    match wanted:
        case inspect.StructType(fields=fields):
            return [word for field in fields if field.encode_name == path[0] for word in choices(field.type, path[1:])]
        case inspect.ListType(item_type=inner) | inspect.VarTupleType(item_type=inner) | inspect.DictType(value_type=inner):
            return choices(inner, path[1:])
        case _:
            return []


def shown_path(path: Sequence[str | int]) -> str:
    """Return a path as a person writes it; elements are counted from 1.

    >>> shown_path(("classes", 1, "ranks"))
    'classes[2].ranks'
    """
    shown = ""
    for step in path:
        shown += f"[{step + 1}]" if isinstance(step, int) else f"{'.' if shown else ''}{step}"
    return shown
