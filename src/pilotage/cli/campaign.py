"""The tasks of ``pilotage run``: one program many times, ``{i}`` replaced by the number of the copy.

What is the same for all tasks is said once, and only names and arguments are made for each, so that a hundred thousand are
described and submitted in about a second.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pilotage.errors import InvalidRequest

if TYPE_CHECKING:
    from pilotage.client.task_description import TaskDescription

_INDEX = re.compile(r"\{i(?::(\d+)d?)?\}")


def has_index(text: str) -> bool:
    """Tell whether ``{i}`` (or ``{i:04}``) occurs in a text."""
    return _INDEX.search(text) is not None


def with_index(text: str, index: int) -> str:
    """Return a text with ``{i}`` replaced; ``{i:04}`` gives four digits.

    >>> with_index("run{i}.out", 7), with_index("{i:03}", 7)
    ('run7.out', '007')
    """
    return _pattern(text) % {"i": index} if has_index(text) else text


def _pattern(text: str) -> str:
    """Return the text for Python's ``%``, which fills in a number in the least time."""
    return _INDEX.sub(lambda found: f"%(i){found[1] or ''}d", text.replace("%", "%%"))


def checked_program(program: Sequence[str], folder: str) -> list[str]:
    """Return the command line of a program, as an absolute path if it names a file.

    Raises:
        InvalidRequest: there is no such program, or it cannot be run; says what to do.
    """
    name = program[0]
    if "/" not in name:
        if not has_index(name) and shutil.which(name) is None:
            here = os.path.join(folder, name)
            remedy = (
                f"write ./{name} for the one in this folder" if os.path.exists(here) else "check its name, or give its path"
            )
            raise InvalidRequest(f"there is no program {name!r} in PATH; {remedy}")
        return list(program)
    path = os.path.normpath(os.path.join(folder, name))
    first = with_index(path, 0)
    if not os.path.exists(first):
        raise InvalidRequest(f"there is no program {first}; check its path")
    if os.path.isdir(first) or not os.access(first, os.X_OK):
        kind = "is a folder" if os.path.isdir(first) else "is not executable"
        remedy = "name the program in it" if os.path.isdir(first) else f"run: chmod +x {first}"
        raise InvalidRequest(f"{first} {kind}; {remedy}")
    return [path, *program[1:]]


def files_of_folder(program: Sequence[str], folder: str) -> list[str]:
    """Return the arguments that name files of ``folder`` by relative paths, which a task elsewhere would not find."""
    found = (with_index(argument, 0) for argument in program[1:])
    return [name for name in found if name and name[0] not in "/-" and os.path.isfile(os.path.join(folder, name))]


def checked_environment(variables: Sequence[str]) -> dict[str, str]:
    """Return variables from ``NAME=VALUE``; ``NAME`` alone takes its present value.

    Raises:
        InvalidRequest: a variable has no name, or no value.
    """
    found = {}
    for text in variables:
        name, given, value = text.partition("=")
        if not name or (not given and name not in os.environ):
            raise InvalidRequest(f"--env {text!r} is not NAME=VALUE{'' if given else ', and no such variable is set'}")
        found[name] = value if given else os.environ[name]
    return found


def checked_output(option: str, pattern: str, count: int, folder: str) -> str:
    """Return the pattern of an output file, taken from ``folder``; empty for the default.

    Raises:
        InvalidRequest: all tasks would write into one file.
    """
    if not pattern:
        return pattern
    if count > 1 and not has_index(pattern) and pattern != os.devnull:
        raise InvalidRequest(f"{option} {pattern} is one file for {count:,} tasks; put {{i}} into its name")
    return os.path.normpath(os.path.join(folder, pattern))


def descriptions(
    count: int, program: Sequence[str], name: str, shared: dict[str, Any], environment: dict[str, str]
) -> Iterator[TaskDescription]:
    """Describe ``count`` tasks. In ``shared`` texts and in ``environment`` values ``{i}`` is replaced, too."""
    from pilotage.client.task_description import TaskDescription

    executable, *arguments = program
    own = {field: _pattern(text) for field, text in shared.items() if isinstance(text, str) and has_index(text)}
    if has_index(executable):
        own["executable"] = _pattern(executable)
    own["name"] = _pattern(name) if has_index(name) else f"{_pattern(name)}.%(i)d"
    variables = {key: _pattern(value) for key, value in environment.items() if has_index(value)}
    texts = [(_pattern(argument), True) if has_index(argument) else (argument, False) for argument in arguments]
    fields = {**shared, "executable": executable}
    if environment:
        fields["environment"] = environment
    for index in range(count):
        values = {"i": index}
        description = {**fields, "arguments": [text % values if varies else text for text, varies in texts]}
        for field, pattern in own.items():
            description[field] = pattern % values
        if variables:
            description["environment"] = environment | {key: pattern % values for key, pattern in variables.items()}
        yield TaskDescription(description)
