"""The command line that starts the ranks of one task by an mpiexec: pure text work.

An mpiexec gives all ranks the same environment, and its own ways to bind them differ with each kind, with its version, and with
the shape of the machine. So each is told to bind nothing, to run every rank here and to mind neither slots nor the batch
system; and between it and the program stands one small shell script, the same for all of them::

    mpiexec ... -n 4 /bin/sh -c SCRIPT sh PROGRAM ARGUMENT...

The script knows its rank from the variable of this kind of mpiexec, exports what is the rank's own (its number under our names,
its GPUs), and becomes the program, through ``taskset`` where the rank has cores of its own. So a rank is bound once, by us, to
exactly its cores. It costs 1 ms, and 1 ms for ``taskset``; MPICH's own ``-bind-to user:`` costs 2.5 ms, as it looks at the
whole machine first. (A program line for each rank, ``a : b : c``, would need no script, but changes ``MPI_APPNUM``, which
coupled programs go by.)
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import NamedTuple

from pilotage.errors import BackendError, unreachable
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import MpiKind, MpiLauncher

Variables = Mapping[bytes, bytes]

SCRIPT_LIMIT_BYTES = 120_000
"""Linux passes at most 128 KiB in one argument."""

RANK_VARIABLES: dict[MpiKind, str] = {
    "mpich": "PMI_RANK",
    "intelmpi": "PMI_RANK",
    "openmpi": "OMPI_COMM_WORLD_RANK",
    "pals": "PALS_RANKID",
}
"""What each kind of mpiexec calls the number of a rank."""

AS_ROOT = {
    b"OMPI_ALLOW_RUN_AS_ROOT": b"1",
    b"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": b"1",
    b"PRTE_ALLOW_RUN_AS_ROOT": b"1",
    b"PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": b"1",
}
"""OpenMPI refuses to work for root, who is the only user of many a container, unless told twice."""

_NO_TASKSET = "pilotage: there is no taskset (package util-linux) in PATH: rank $_rank is not bound to cores of its own"
_BATCH_SYSTEMS = b"^slurm,tm,pbs,lsf,gridengine,loadleveler,alps,cobalt"


Words = Sequence[str | None]
"""Words of a POSIX shell for the parts of a command, its program first; None: the part as it is. Empty: all as they are."""


class LaunchLine(NamedTuple):
    """A command line, and what is set in the environment of its process, beneath what the user sets for the task."""

    arguments: list[str]
    environment: dict[bytes, bytes]


def render(
    launcher: MpiLauncher,
    slots: Sequence[RankSlot],
    command: Sequence[str],
    rank_variables: Sequence[Variables],
    bind: Sequence[frozenset[int]] | None = None,
    words: Words = (),
) -> LaunchLine:
    """Return the line that starts ``command`` in one rank for each of the slots, all on this host.

    ``rank_variables``: of each rank. ``bind``: the machine's numbers of the cores that each rank is bound to; None: ranks stay
    on the cores of the process that starts them (and share them, where nodes are emulated). ``words``: how the shell of a rank
    is to read the command, where that differs.

    Raises:
        BackendError: so many ranks differ, or the words are so long, that the line cannot say it.
    """
    arguments, environment = _own_part(launcher, slots)
    # An argument that is a colon alone would begin another program: then the script brings the command along.
    brought = ":" in command
    program = '"$@"'
    if brought or words:
        program = " ".join(_quoted(command, words) if brought else positional(words))
    common, script = _script(RANK_VARIABLES[launcher.kind], program, rank_variables, bind)
    if len(script.encode("utf-8", "surrogateescape")) > SCRIPT_LIMIT_BYTES:
        raise BackendError(
            f"{len(slots)} ranks differ in so much, or their arguments hold so many variables, that the command line of "
            f"{launcher.path} cannot say it in {SCRIPT_LIMIT_BYTES} bytes; ask for fewer ranks with more cores each, or pass "
            "arguments in a file"
        )
    line = [launcher.path, *arguments, "-n", str(len(slots)), "/bin/sh", "-c", script, "sh", *([] if brought else command)]
    return LaunchLine(line, {**environment, **common})


def positional(words: Words) -> Iterator[str]:
    """Return a command as a shell reads it that has the command for its parameters."""
    return (f'"${{{number}}}"' if word is None else word for number, word in enumerate(words, 1))


def _quoted(command: Sequence[str], words: Words) -> Iterator[str]:
    return (shlex.quote(text) if word is None else word for text, word in zip_longest(command, words))


def _own_part(launcher: MpiLauncher, slots: Sequence[RankSlot]) -> tuple[list[str], dict[bytes, bytes]]:
    """Return the options and variables that have this kind of mpiexec start ranks here, and bind none."""
    match launcher.kind:
        case "mpich":
            # The variables are of MVAPICH, whose library would bind its ranks itself.
            unbound = {b"MV2_ENABLE_AFFINITY": b"0", b"MVP_ENABLE_AFFINITY": b"0"}
            return ["-launcher", "fork", "-hosts", "localhost", "-bind-to", "none"], unbound
        case "intelmpi":
            return ["-launcher", "fork", "-hosts", "localhost"], {b"I_MPI_PIN": b"0"}
        case "openmpi":
            return ["--bind-to", "none", "--map-by", "slot:OVERSUBSCRIBE"], _openmpi_variables(launcher)
        case "pals":
            return ["--ppn", str(len(slots)), "--cpu-bind", "none"], {}
        case _:
            return unreachable(launcher.kind)


def _openmpi_variables(launcher: MpiLauncher) -> dict[bytes, bytes]:
    major = launcher.version.partition(".")[0]
    if major.isdigit() and int(major) < 5:
        local = {b"OMPI_MCA_ras": _BATCH_SYSTEMS, b"OMPI_MCA_plm": b"isolated"}
    else:
        # It wants an agent for other hosts, though there are none, and fails where no ssh is installed.
        local = {b"PRTE_MCA_ras": _BATCH_SYSTEMS, b"PRTE_MCA_plm": b"ssh", b"PRTE_MCA_plm_ssh_agent": b"/bin/sh"}
    return {**AS_ROOT, **local}


def _script(
    rank_variable: str, program: str, rank_variables: Sequence[Variables], bind: Sequence[frozenset[int]] | None
) -> tuple[dict[bytes, bytes], str]:
    """Return the variables that all ranks have in common, and the script that gives each rank its own."""
    ranks = range(len(rank_variables))
    numbers: list[str | None] = [str(rank) for rank in ranks]
    columns: list[list[str | None]] = []
    common: dict[bytes, bytes] = {}
    exports = []

    def column_of(values: list[str | None]) -> str:
        """Return the shell variable that holds these values, the rank's in each rank."""
        if values == numbers:
            return "_rank"
        if values not in columns:
            columns.append(values)
        return f"_{columns.index(values)}"

    for name in _names(rank_variables):
        given = [variables.get(name) for variables in rank_variables]
        if given[0] is not None and all(value == given[0] for value in given):
            common[name] = given[0]
            continue
        values = [None if value is None else value.decode("utf-8", "surrogateescape") for value in given]
        shell, text = column_of(values), name.decode("utf-8", "surrogateescape")
        missing = None in values
        exports.append(f'[ -z "${{{shell}+x}}" ] || export {text}="${shell}"' if missing else f'export {text}="${shell}"')
    bound = ""
    if bind is not None:
        lists: list[str | None] = [core_list(cores) for cores in bind]
        bound = lists[0] or "" if len(set(lists)) == 1 else f"${column_of(lists)}"
    lines = [f"_rank=${rank_variable}"]
    if columns:
        lines += ["case $_rank in", *(f"{rank}){_assignments(columns, rank)};;" for rank in ranks)]
        lines += [f"*)echo \"pilotage: {rank_variable}='$_rank' is no rank of this task\" >&2;exit 127;;", "esac"]
    if bound:
        lines.append(
            f'if command -v taskset >/dev/null;then _bind="taskset -c {bound}";else _bind=;echo "{_NO_TASKSET}" >&2;fi'
        )
        program = f"$_bind {program}"
    return common, "\n".join([*lines, *exports, f"exec {program}"])


def _names(rank_variables: Iterable[Variables]) -> list[bytes]:
    return list(dict.fromkeys(name for variables in rank_variables for name in variables))


def _assignments(columns: Sequence[Sequence[str | None]], rank: int) -> str:
    values = [(index, column[rank]) for index, column in enumerate(columns)]
    return " ".join(f"_{index}={shlex.quote(value)}" for index, value in values if value is not None)


def core_list(cores: Iterable[int]) -> str:
    """Return cores as ``taskset`` takes them.

    >>> core_list({0, 1, 2, 5, 8, 7})
    '0-2,5,7-8'
    """
    parts: list[str] = []
    ordered = sorted(cores)
    begin = 0
    for index, core in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] != core + 1:
            parts.append(str(core) if index == begin else f"{ordered[begin]}-{core}")
            begin = index + 1
    return ",".join(parts)
