"""The small shell script that stands between a launcher and each rank's program, the same for all ranks of a task::

    LAUNCHER ... /bin/sh -c SCRIPT sh PROGRAM ARGUMENT...

A launcher gives all ranks the same environment, and its own ways to bind them differ with each launcher, with its version, and
with the shape of the machine. The script knows its rank from the variable of its launcher, exports what is the rank's own (its
number under our names, its GPUs), and becomes the program, through ``taskset`` where the rank has cores of its own. So a rank
is bound once, by us, to exactly its cores. It costs 1 ms, and 1 ms for ``taskset``; MPICH's own ``-bind-to user:`` costs
2.5 ms, as it looks at the whole machine first. (A program line for each rank, ``a : b : c``, would need no script, but changes
``MPI_APPNUM``, which coupled programs go by.)

It goes along in the command line, or in a file where it is too long for that, or holds an environment, which others could read
in the list of processes.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from typing import NamedTuple

from pilotage.errors import BackendError
from pilotage.launchers.method import LaunchRequest, Variables, Words, file_path

SCRIPT_LIMIT_BYTES = 120_000
"""Linux passes at most 128 KiB in one argument."""

TASKSET = "taskset"
_PACKAGES = {TASKSET: " (package util-linux)"}


class RankPart(NamedTuple):
    """The part of a line behind the launcher's own: what each rank executes, and what belongs to it."""

    arguments: list[str]
    environment: dict[bytes, bytes]
    files: dict[str, str]


def rank_part(
    method: str,
    request: LaunchRequest,
    rank_variable: str,
    *,
    binder: str = TASKSET,
    binds: bool = True,
    carried: bool = True,
    in_file: bool = False,
    overridden: Collection[bytes] = (),
) -> RankPart:
    """Return what a launcher is to start for each rank of a request.

    ``rank_variable``: where ranks find their number. ``binder``: takes ``-c CORES PROGRAM``. ``binds``: the script binds;
    else the launcher does. ``carried``: the launcher carries its environment to ranks; else the script holds it. ``in_file``:
    the script has to be a file. ``overridden``: variables that the launcher sets in ranks, over what it was given.

    Raises:
        BackendError: the script is too long for the line, and there is no folder for files.
    """
    command, words = request.command, request.words
    # An argument that is a colon alone would begin another program: then the script brings the command along.
    brought = ":" in command
    program = '"$@"'
    if brought or words:
        program = " ".join(_quoted(command, words) if brought else positional(words))
    common, script = _script(
        rank_variable, program, request.rank_variables, request.bind if binds else None, binder, overridden
    )
    if not carried:
        script = f"{_held(request, common)}{script}"
        common = {}
    arguments = [] if brought else command
    if carried and not in_file and len(script) * 4 <= SCRIPT_LIMIT_BYTES:
        return RankPart(["/bin/sh", "-c", script, "sh", *arguments], common, {})
    size = len(script.encode("utf-8", "surrogateescape"))
    if carried and not in_file and size <= SCRIPT_LIMIT_BYTES:
        return RankPart(["/bin/sh", "-c", script, "sh", *arguments], common, {})
    if carried and not in_file and not request.folder:
        raise BackendError(
            f"{len(request.slots)} ranks differ in so much, or their arguments hold so many variables, that the command line "
            f"of {method} cannot say it in {SCRIPT_LIMIT_BYTES} bytes; ask for fewer ranks with more cores each, or pass "
            "arguments in a file"
        )
    name, path = file_path(method, request, ".ranks.sh")
    return RankPart(["/bin/sh", path, *arguments], common, {name: f"{script}\n"})


def positional(words: Words) -> Iterator[str]:
    """Return a command as a shell reads it that has the command for its parameters."""
    return (f'"${{{number}}}"' if word is None else word for number, word in enumerate(words, 1))


def exports(variables: Variables) -> list[str]:
    """Return lines of a shell that set and export variables.

    What is no name to a shell (functions that bash exports, for one) is left out: a shell cannot set it.
    """
    texts = ((name.decode("utf-8", "surrogateescape"), value) for name, value in variables.items())
    return [
        f"export {name}={shlex.quote(value.decode('utf-8', 'surrogateescape'))}"
        for name, value in texts
        if name.isascii() and name.isidentifier()
    ]


def _held(request: LaunchRequest, common: Mapping[bytes, bytes]) -> str:
    """Return the beginning of a script that brings environment and folder to a host which has neither."""
    lines = exports({**common, **request.environment})
    if request.working_folder:
        lines.append(f"cd -- {shlex.quote(request.working_folder)} || exit 127")
    return "".join([f"{line}\n" for line in lines])


def _quoted(command: Sequence[str], words: Words) -> Iterator[str]:
    return (shlex.quote(text) if word is None else word for text, word in zip_longest(command, words))


def _script(
    rank_variable: str,
    program: str,
    rank_variables: Sequence[Variables],
    bind: Sequence[frozenset[int]] | None,
    binder: str,
    overridden: Collection[bytes],
) -> tuple[dict[bytes, bytes], str]:
    """Return the variables that all ranks have in common, and the script that gives each rank its own."""
    ranks = len(rank_variables)
    numbers = _numbers(ranks)
    columns: list[Sequence[str | None]] = []
    common: dict[bytes, bytes] = {}
    exported = []

    def column_of(values: Sequence[str | None]) -> str:
        """Return the shell variable that holds these values, the rank's in each rank."""
        if values not in columns:
            columns.append(values)
        return f"_{columns.index(values)}"

    for name in _names(rank_variables):
        given = [variables.get(name) for variables in rank_variables]
        first = given[0]
        text = name.decode("utf-8", "surrogateescape")
        if first is not None and given.count(first) == ranks:
            if name in overridden:
                exported.append(f"export {text}={_quote(first.decode('utf-8', 'surrogateescape'))}")
            else:
                common[name] = first
            continue
        if given == numbers:
            exported.append(f'export {text}="$_rank"')
            continue
        shell = column_of([None if value is None else value.decode("utf-8", "surrogateescape") for value in given])
        condition = f'[ -z "${{{shell}+x}}" ] || ' if None in given else ""
        exported.append(f'{condition}export {text}="${shell}"')
    bound = ""
    if bind is not None:
        lists = [core_list(cores) for cores in bind]
        bound = lists[0] if lists.count(lists[0]) == ranks else f"${column_of(lists)}"
    lines = [f"_rank=${rank_variable}"]
    if columns:
        lines.append("case $_rank in")
        lines += [f"{rank}){values};;" for rank, values in enumerate(_assignments(columns))]
        lines += [f"*)echo \"pilotage: {rank_variable}='$_rank' is no rank of this task\" >&2;exit 127;;", "esac"]
    if bound:
        lines.append(
            f'if command -v {binder} >/dev/null;then _bind="{binder} -c {bound}";else _bind=;'
            f'echo "pilotage: there is no {binder}{_PACKAGES.get(binder, "")} in PATH: '
            'rank $_rank is not bound to cores of its own" >&2;fi'
        )
        program = f"$_bind {program}"
    return common, "\n".join([*lines, *exported, f"exec {program}"])


@lru_cache(maxsize=256)
def _numbers(ranks: int) -> list[bytes | None]:
    return [b"%d" % rank for rank in range(ranks)]


def _names(rank_variables: Sequence[Variables]) -> Iterable[bytes]:
    names = rank_variables[0].keys()
    if all(variables.keys() == names for variables in rank_variables):
        return names
    return dict.fromkeys(name for variables in rank_variables for name in variables)


def _assignments(columns: Sequence[Sequence[str | None]]) -> Iterator[str]:
    assigned = [
        [None if value is None else f"_{index}={_quote(value)}" for value in column] for index, column in enumerate(columns)
    ]
    return (" ".join([text for text in row if text is not None]) for row in zip(*assigned, strict=True))


@lru_cache(maxsize=4096)
def _quote(text: str) -> str:
    return shlex.quote(text)


@lru_cache(maxsize=4096)
def _core_list(cores: frozenset[int]) -> str:
    parts: list[str] = []
    ordered = sorted(cores)
    begin = 0
    for index, core in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] != core + 1:
            parts.append(str(core) if index == begin else f"{ordered[begin]}-{core}")
            begin = index + 1
    return ",".join(parts)


def core_list(cores: Iterable[int]) -> str:
    """Return cores as ``taskset`` takes them.

    >>> core_list({0, 1, 2, 5, 8, 7})
    '0-2,5,7-8'
    """
    return _core_list(cores if isinstance(cores, frozenset) else frozenset(cores))
