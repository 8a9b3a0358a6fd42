"""How commands say what they found: a table for people, one JSON document for programs, or uids alone for shells.

A table on a terminal is laid out by rich, in colours unless ``$NO_COLOR`` is set. In a pipe it is plain text with columns as
wide as what is in them, so that nothing is cut off. JSON is one document, ``{"schema": 1, "<what>": ...}``; times in it are
seconds since the epoch, and keys are only ever added.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TextIO

import msgspec

SCHEMA = 1
"""Version of the JSON documents; raised if a key changes its meaning or goes away."""

_STYLES = {
    "DONE": "green",
    "ok": "green",
    "FAILED": "red",
    "broken": "red",
    "crashed": "red",
    "CANCELED": "yellow",
    "warning": "yellow",
    "open": "cyan",
    "AGENT_EXECUTING": "cyan",
    "PMGR_ACTIVE": "cyan",
}


_BLANKS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)), " ")
"""Control characters, which a task's name may hold: in a table they would move the rest of it, or colour it."""


class Format(str, Enum):
    """How to print: ``table``, ``json``, or ``quiet`` (uids alone, one a line)."""

    TABLE = "table"
    JSON = "json"
    QUIET = "quiet"


class Column(msgspec.Struct, frozen=True):
    """A column of a table: the key of its values, its title, and which way they are aligned."""

    key: str
    title: str
    right: bool = False
    kind: str = ""
    """How values are shown: ``age`` (seconds since the epoch as time gone by), ``span`` (seconds), or as they are."""


def print_rows(
    what: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], format: Format, *, uid: str = "uid"
) -> None:
    """Print ``rows``, which are ``what`` (a plural): as a table of ``columns``, whole as JSON, or their ``uid`` alone."""
    if format is Format.JSON:
        print_json({what: list(rows)})
    elif format is Format.QUIET:
        for row in rows:
            print(row[uid])
    elif is_terminal(sys.stdout):
        _print_rich(rows, columns)
    else:
        print(plain_table(rows, columns), end="")


def print_one(what: str, fields: Mapping[str, Any], shown: Sequence[Column], format: Format, *, uid: str = "uid") -> None:
    """Print one thing: a line for each of the columns that has a value, whole as JSON, or its ``uid`` alone."""
    if format is Format.JSON:
        print_json({what: fields})
        return
    if format is Format.QUIET:
        print(fields[uid])
        return
    width = max(len(column.title) for column in shown)
    for column in shown:
        text = show(fields.get(column.key), column.kind)
        if text:
            first, *others = text.split("\n")
            print(f"{column.title:<{width}}  {first}")
            for line in others:
                print(f"{'':<{width}}  {line}")


def print_json(document: Mapping[str, Any]) -> None:
    """Print one JSON document."""
    print(msgspec.json.format(msgspec.json.encode({"schema": SCHEMA, **document}), indent=2).decode())


def plain_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> str:
    """Return a table as text: titles, and a line for each row, each column as wide as it must be."""
    cells = [[column.title for column in columns]]
    cells += [[_cell(row, column) for column in columns] for row in rows]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = []
    for line in cells:
        padded = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(line, widths, columns, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines) + "\n"


def _print_rich(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, column in enumerate(columns):
        # The first column is what one copies from a table.
        table.add_column(column.title, justify="right" if column.right else "left", overflow="fold", no_wrap=place == 0)
    for row in rows:
        cells = [_cell(row, column) for column in columns]
        table.add_row(*(Text(cell, _STYLES.get(cell, "")) for cell in cells))
    Console(highlight=False).print(table)


def _cell(row: Mapping[str, Any], column: Column) -> str:
    return show(row.get(column.key), column.kind).translate(_BLANKS)


def show(value: Any, kind: str = "") -> str:
    """Return a value as people read it; None and empty values are empty."""
    if value is None or value == "" or value == [] or value == {}:
        return ""
    if kind == "age":
        return f"{span(max(0.0, time.time() - value))} ago" if value else ""
    if kind == "span":
        return span(value)
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def span(seconds: float) -> str:
    """Return a length of time as people say it.

    >>> span(0.0123), span(3.21), span(59.7), span(125), span(7300), span(200000)
    ('12 ms', '3.2 s', '60 s', '2 min 5 s', '2 h 1 min', '2 d 7 h')
    """
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole <= 60:
        return f"{whole} s"
    for large, small, names in ((60, 1, ("min", "s")), (3600, 60, ("h", "min")), (86400, 3600, ("d", "h"))):
        if whole < large * 60 or large == 86400:
            if large == 3600 and whole >= 86400:
                continue
            rest = whole % large // small
            return f"{whole // large} {names[0]} {rest} {names[1]}" if rest else f"{whole // large} {names[0]}"
    return f"{whole} s"


def size(bytes_: float) -> str:
    """Return a size as people say it, in powers of 1024.

    >>> size(512), size(2048), size(3 << 30)
    ('512 B', '2.0 KiB', '3.0 GiB')
    """
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if bytes_ < 1024 or unit == "TiB":
            break
        bytes_ /= 1024
    return f"{bytes_:.0f} {unit}" if unit == "B" else f"{bytes_:.1f} {unit}"


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "task"), plural(12000, "task")
    ('1 task', '12,000 tasks')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person looks at this stream, on a terminal that can do more than print lines."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def note(message: str) -> None:
    """Say something about the work on stderr."""
    print(f"pilotage: {message}", file=sys.stderr, flush=True)
