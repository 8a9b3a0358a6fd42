"""Where in a TOML file something stands: the line of each key, table and element, by its path.

A path is what leads to a value in the parsed document: ``("classes", 1, "duration_s", "uniform")``. The text was parsed before
by ``tomllib``, so it is known to be valid, and what is here only has to find its way through it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_TEXT = re.compile(r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'', re.DOTALL)
_PLAIN = re.compile(r"[^,\]}#\n]*")
_TIDY = re.compile(r"[ \t]*")
_ESCAPES = {'"': '"', "\\": "\\", "b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r"}


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, from 1, on which each key, table and element of a valid TOML document begins."""
    scanner = _Scanner(text)
    scanner.scan_document()
    return scanner.lines


def line_of(lines: Mapping[Path, int], path: Sequence[str | int]) -> int:
    """Return the line of what is at ``path``, or of the nearest that contains it.

    >>> line_of(lines_of('a = 1\\n[[b]]\\nc = { d = 2 }'), ("b", 0, "c", "d", "e"))
    3
    """
    for length in range(len(path), 0, -1):
        found = lines.get(tuple(path[:length]))
        if found is not None:
            return found
    return 1


class _Scanner:
    """Walks over a document once and notes what begins where."""

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self._text = text
        self._at = 0
        self._counted = 0
        self._line = 1
        self._tables: dict[Path, int] = {}
        """How many tables each array of tables has so far."""

    def scan_document(self) -> None:
        table: Path = ()
        while self._skip(_BLANK):
            if self._text[self._at] == "[":
                table = self._scan_header()
            else:
                self._scan_pair(table)

    def _scan_header(self) -> Path:
        is_array = self._text.startswith("[[", self._at)
        line = self._line_here()
        self._at += 2 if is_array else 1
        *parents, last = self._scan_keys()
        self._at += 2 if is_array else 1
        path: Path = ()
        for key in parents:
            path = self._latest((*path, key))
            self.lines.setdefault(path, line)
        path = (*path, last)
        if is_array:
            self._tables[path] = self._tables.get(path, 0) + 1
        self.lines.setdefault(path, line)
        path = self._latest(path)
        self.lines.setdefault(path, line)
        return path

    def _latest(self, path: Path) -> Path:
        """Return the path of the last table, where ``path`` is that of an array of tables."""
        return (*path, self._tables[path] - 1) if path in self._tables else path

    def _scan_pair(self, table: Path) -> None:
        line = self._line_here()
        path = table
        for key in self._scan_keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._at += 1  # the sign of equality
        self._scan_value(path)

    def _scan_keys(self) -> list[str]:
        """Read a key, which may be dotted, and stop at what follows it."""
        keys = []
        while True:
            self._skip(_TIDY)
            quoted = _TEXT.match(self._text, self._at)
            found = quoted or _BARE.match(self._text, self._at)
            assert found is not None, "the document was parsed before"
            self._at = found.end()
            keys.append(_unquoted(found[0]) if quoted else found[0])
            self._skip(_TIDY)
            if self._text[self._at] != ".":
                return keys
            self._at += 1

    def _scan_value(self, path: Path) -> None:
        self._skip(_TIDY)
        opening = self._text[self._at]
        if opening in "[{":
            self._at += 1
            index = 0
            while self._skip(_BLANK) and self._text[self._at] not in "]}":
                if self._text[self._at] == ",":
                    self._at += 1
                elif opening == "{":
                    self._scan_pair(path)
                else:
                    place = (*path, index)
                    self.lines[place] = self._line_here()
                    self._scan_value(place)
                    index += 1
            self._at += 1
            return
        found = _TEXT.match(self._text, self._at) or _PLAIN.match(self._text, self._at)
        assert found is not None, "an empty value matches, too"
        self._at = found.end()

    def _skip(self, blank: re.Pattern[str]) -> bool:
        """Go over what means nothing; tell whether anything is left."""
        found = blank.match(self._text, self._at)
        assert found is not None, "it matches nothing at all, too"
        self._at = found.end()
        return self._at < len(self._text)

    def _line_here(self) -> int:
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line


def _unquoted(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    return re.sub(r'\\(u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|["\\btnfr])', _unescaped, key[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    escape = found[1]
    return _ESCAPES.get(escape) or chr(int(escape[1:], 16))
