"""The tasks of ``pilotage run``: one program many times, with the values of each task in the place of names in braces.

What is the same for all tasks is said once, and only names and arguments are made for each, so that a hundred thousand are
described and submitted in about a second.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pilotage.cli.items import Items, Placeholders, Values
from pilotage.errors import InvalidRequest

if TYPE_CHECKING:
    from pilotage.client.task_description import TaskDescription


def checked_program(program: Sequence[str], folder: str, names: Placeholders, first: Values) -> list[str]:
    """Return the command line of a program, as an absolute path if it names a file; ``first``: the values of the first task.

    Raises:
        InvalidRequest: there is no such program, or it cannot be run; says what to do.
    """
    name = program[0]
    if "/" not in name:
        if not names.occur(name) and shutil.which(name) is None:
            here = os.path.join(folder, name)
            remedy = (
                f"write ./{name} for the one in this folder" if os.path.exists(here) else "check its name, or give its path"
            )
            raise InvalidRequest(f"there is no program {name!r} in PATH; {remedy}")
        return list(program)
    path = os.path.normpath(os.path.join(folder, name))
    example = names.fill(path, first)
    if not os.path.exists(example):
        raise InvalidRequest(f"there is no program {example}; check its path")
    if os.path.isdir(example) or not os.access(example, os.X_OK):
        kind = "is a folder" if os.path.isdir(example) else "is not executable"
        remedy = "name the program in it" if os.path.isdir(example) else f"run: chmod +x {example}"
        raise InvalidRequest(f"{example} {kind}; {remedy}")
    return [path, *program[1:]]


def files_of_folder(program: Sequence[str], folder: str, names: Placeholders, first: Values) -> list[str]:
    """Return the arguments that name files of ``folder`` by relative paths, which a task elsewhere would not find."""
    found = (names.fill(argument, first) for argument in program[1:])
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


def checked_output(option: str, pattern: str, count: int, folder: str, names: Placeholders) -> str:
    """Return the pattern of an output file, taken from ``folder``; empty for the default.

    Raises:
        InvalidRequest: all tasks would write into one file.
    """
    if not pattern:
        return pattern
    if count > 1 and not names.occur(pattern) and pattern != os.devnull:
        raise InvalidRequest(f"{option} {pattern} is one file for {count:,} tasks; put {{i}} into its name")
    return os.path.normpath(os.path.join(folder, pattern))


def descriptions(
    items: Items, program: Sequence[str], name: str, shared: dict[str, Any], environment: dict[str, str]
) -> Iterator[TaskDescription]:
    """Describe a task for each item. In ``shared`` texts and in ``environment`` values names are replaced, too."""
    from pilotage.client.task_description import TaskDescription

    names = Placeholders(items.names)
    executable, *arguments = program
    own = {field: names.pattern(text) for field, text in shared.items() if isinstance(text, str) and names.occur(text)}
    if names.occur(executable):
        own["executable"] = names.pattern(executable)
    own["name"] = names.pattern(name) if names.occur(name) else f"{names.pattern(name)}.%(i)d"
    variables = {key: names.pattern(value) for key, value in environment.items() if names.occur(value)}
    texts = [(names.pattern(argument), True) if names.occur(argument) else (argument, False) for argument in arguments]
    fields = {**shared, "executable": executable}
    if environment:
        fields["environment"] = environment
    for values in items.values:
        description = {**fields, "arguments": [text % values if varies else text for text, varies in texts]}
        for field, pattern in own.items():
            description[field] = pattern % values
        if variables:
            description["environment"] = environment | {key: pattern % values for key, pattern in variables.items()}
        yield TaskDescription(description)
