"""The line of each part of a TOML document."""

from __future__ import annotations

import sys

import pytest

from pilotage.platforms.toml_lines import line_of, lines_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCUMENT = '''\
# a comment with [brackets] and key = 1
name = "a # b"
"quoted.key" = 'x'
dotted.inner = 2

[table]
many = [
    1,  # one
    { a = 2, b = [3,
        4] },
]
text = """
[not.a.table]
no = "key"
"""

[[classes]]
name = "first"
[classes.shape]
cores = 1

[[classes]]
name = 2024-01-01
[[classes.parts]]
x = 1
[[classes.parts]]
x = 2
'''

PLACES = {
    ("name",): 2,
    ("quoted.key",): 3,
    ("dotted", "inner"): 4,
    ("table",): 6,
    ("table", "many"): 7,
    ("table", "many", 0): 8,
    ("table", "many", 1): 9,
    ("table", "many", 1, "b"): 9,
    ("table", "many", 1, "b", 1): 10,
    ("table", "text"): 12,
    ("classes",): 17,
    ("classes", 0): 17,
    ("classes", 0, "name"): 18,
    ("classes", 0, "shape"): 19,
    ("classes", 0, "shape", "cores"): 20,
    ("classes", 1): 22,
    ("classes", 1, "name"): 23,
    ("classes", 1, "parts", 0, "x"): 25,
    ("classes", 1, "parts", 1, "x"): 27,
}


def test_the_document_is_one() -> None:
    assert tomllib.loads(DOCUMENT)["table"]["many"] == [1, {"a": 2, "b": [3, 4]}]


@pytest.mark.parametrize(("path", "line"), PLACES.items(), ids=str)
def test_line_of_a_path(path: tuple[str | int, ...], line: int) -> None:
    assert lines_of(DOCUMENT)[path] == line


def test_nothing_in_a_text_is_taken_for_a_key() -> None:
    assert not [path for path in lines_of(DOCUMENT) if "no" in path or "not" in path or "key" in path]


def test_what_is_not_there_is_where_it_would_be() -> None:
    lines = lines_of(DOCUMENT)
    assert line_of(lines, ("classes", 1, "parts", 1, "missing")) == 26
    assert line_of(lines, ("nowhere",)) == 1


@pytest.mark.parametrize(
    "text",
    [
        'a = "\\u0041"',
        '"\\u0041\\n" = 1',
        "a = '''x''' # y\nb = 1",
        'a = """x"y\\"""" # z\nb=1',
        "",
        "# only",
        "a = []\nb = {}",
    ],
)
def test_all_keys_are_found(text: str) -> None:
    assert {path[0] for path in lines_of(text)} == set(tomllib.loads(text))
