"""What differs from task to task in ``pilotage run``: numbers (``-n``, ``--array``), columns of a table (``--from-csv``).

In a command line ``{i}`` stands for the number of the task and, with a table, ``{column}`` for what its row says. Other braces
are left as they are.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from pilotage.cli.renderers import note
from pilotage.errors import InvalidRequest, nearest

Values = Mapping[str, "int | str"]
"""What stands for the names of one task; ``i`` is always there."""

ITEMS_LIMIT = 10_000_000
_PART = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


class Items(msgspec.Struct, frozen=True):
    """The values of all tasks, and how many of them may be unfinished at one time (0: all)."""

    values: Sequence[Values]
    names: tuple[str, ...] = ("i",)
    limit: int = 0


class Placeholders:
    """Finds and fills in the names of ``Items`` in texts."""

    def __init__(self, names: Iterable[str]) -> None:
        known = "|".join(re.escape(name) for name in names)
        self._found = re.compile(rf"\{{({known})(?::(\d+)d?)?\}}")

    def occur(self, text: str) -> bool:
        """Tell whether a name stands in braces in ``text``."""
        return self._found.search(text) is not None

    def pattern(self, text: str) -> str:
        """Return the text for Python's ``%``, which fills in values in the least time."""
        return self._found.sub(_formatted, text.replace("%", "%%"))

    def fill(self, text: str, values: Values) -> str:
        """Return ``text`` with the values of one task.

        >>> Placeholders(["i"]).fill("run{i:03}.out", {"i": 7})
        'run007.out'
        """
        return self.pattern(text) % values if self.occur(text) else text


def _formatted(found: re.Match[str]) -> str:
    name, width = found.groups()
    return f"%({name}){width}d" if width else f"%({name})s"


def counted(count: int) -> Items:
    """Return the items of ``-n COUNT``."""
    return Items([{"i": number} for number in range(count)])


def parse_array(text: str) -> Items:
    """Return the items of an array as Slurm's users write it: ``0-999``, ``1,5,7-9``, ``0-100:10``, with ``%50`` for a limit.

    >>> [values["i"] for values in parse_array("0-6:3,9%2").values]
    [0, 3, 6, 9]

    Raises:
        InvalidRequest: it cannot be read; says how it is written.
    """
    ranges, has_limit, limit = text.partition("%")
    if has_limit and not (limit.isdigit() and int(limit) > 0):
        raise InvalidRequest(f"--array {text!r}: {limit!r} after '%' is no number of tasks; write, for example, 0-999%50")
    numbers: dict[int, None] = {}
    for part in ranges.split(","):
        found = _PART.fullmatch(part.strip())
        if found is None:
            raise InvalidRequest(
                f"--array {text!r}: {part!r} is no number or range; write, for example, 0-999, 1,5,7-9 or 0-100:10"
            )
        first, last, step = int(found[1]), int(found[2] or found[1]), int(found[3] or 1)
        if last < first or not step:
            why = "ends before it begins" if last < first else "has a step of 0"
            raise InvalidRequest(f"--array {text!r}: the range {part!r} {why}")
        if (last - first) // step + len(numbers) >= ITEMS_LIMIT:
            raise InvalidRequest(f"--array {text!r}: more than {ITEMS_LIMIT:,} tasks; split it into several runs")
        numbers.update(dict.fromkeys(range(first, last + 1, step)))
    return Items([{"i": number} for number in numbers], limit=int(limit or 0))


def read_table(path: Path) -> Items:
    """Return the items of a CSV file: one task for each row, its columns by the names in the first line.

    Raises:
        InvalidRequest: it cannot be read, has no rows, or a row has too many or too few columns.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            dialect = _dialect(file.read(65536))
            file.seek(0)
            lines = csv.reader(file, dialect)
            names = [name.strip() for name in next(lines, [])]
            _check_names(path, names)
            values: list[Values] = []
            for row in lines:
                if not row:
                    continue
                if len(row) != len(names):
                    raise InvalidRequest(
                        f"{path}:{lines.line_num}: {len(row)} columns, and its first line has {len(names)}: {', '.join(names)}"
                    )
                values.append({"i": len(values), **dict(zip(names, row, strict=True))})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidRequest(f"--from-csv {path}: it cannot be read: {reason}") from error
    if not values:
        raise InvalidRequest(
            f"--from-csv {path}: it has no rows; the first line has the names of the columns, each other is a task"
        )
    return Items(values, ("i", *(name for name in names if name != "i")))


def _dialect(sample: str) -> type[csv.Dialect]:
    try:
        return csv.Sniffer().sniff(sample, ",;\t|")
    except csv.Error:
        # One column, or nothing that tells: as spreadsheets write it.
        return csv.excel


def _check_names(path: Path, names: Sequence[str]) -> None:
    for name in names:
        if not re.fullmatch(r"\w[\w .-]*", name):
            raise InvalidRequest(
                f"--from-csv {path}: {name!r} in its first line cannot name a column; use letters, digits and _"
            )
        if names.count(name) > 1:
            raise InvalidRequest(f"--from-csv {path}: two columns are named {name!r}")


def check_used(placeholders: Placeholders, texts: Sequence[str], items: Items) -> None:
    """Refuse a table of which nothing is used, most likely for a name that is misspelt; point out one among others that may be.

    Raises:
        InvalidRequest: names what stands in braces, and the nearest column.
    """
    if len(items.names) == 1:
        return
    said = [name for text in texts for name in re.findall(r"\{(\w+)\}", text)]
    if any(placeholders.occur(text) for text in texts):
        for name in dict.fromkeys(said):
            hint = "" if name in items.names else nearest(name, items.names)
            if hint:
                note(f"{{{name}}} is no column of the table, and stays as it is{hint}")
        return
    hint = f"; {{{said[0]}}} is none of them{nearest(said[0], items.names)}" if said else ""
    raise InvalidRequest(
        f"no column of the table is used; write its name in braces: {', '.join('{' + name + '}' for name in items.names)}{hint}"
    )


def missing(items: Items, pattern: str, placeholders: Placeholders, folder: Path) -> Items:
    """Return the items of which the output file does not exist, or is empty; ``pattern`` is relative to ``folder``."""

    def is_there(path: Path) -> bool:
        try:
            return path.stat().st_size > 0 or path.is_dir()
        except OSError:
            return False

    left = [values for values in items.values if not is_there(folder / placeholders.fill(pattern, values))]
    return msgspec.structs.replace(items, values=left)
