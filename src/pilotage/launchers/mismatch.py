"""Is a program started by the mpiexec of the MPI library that it uses? If not, says so in words a user can act on.

The library of a rank asks the process manager that started it for its rank and for the number of all ranks. MPICH and Intel MPI
ask by PMI, OpenMPI asks by PMIx, and neither understands the other's manager. Then each rank believes to be alone: a program
over 16 ranks does all the work 16 times, or ends at once. Nothing in that says why, so it is looked for:

* before the start, in the libraries that a compiled program is linked with (``check_executable``),
* while it runs, in what its processes have loaded (``check_running``): Python loads its MPI library late,
* at the end, in what the MPI libraries and mpi4py print when they notice (``check_output``).

Each returns the message, or None. One rank alone needs no manager: there is nothing to look for. PALS serves both sides.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from pilotage.launchers.libmpi import FAMILY_NAMES, Family, MpiLibrary, library_of, loaded_library
from pilotage.launchers.mpiexec import describe
from pilotage.model.workload import MpiKind, MpiLauncher

_FAMILIES: dict[MpiKind, Family] = {"mpich": "mpich", "intelmpi": "mpich", "openmpi": "openmpi"}
_OTHER: dict[Family, Family] = {"mpich": "openmpi", "openmpi": "mpich"}

# What is printed under a process manager of this family by the libraries of the other one, and by mpi4py upon it.
_COMPLAINTS: dict[Family, re.Pattern[str]] = {
    "openmpi": re.compile(
        r"environment uses unsupported PMI version PMIx"
        r"|environment has OMPI_COMM_WORLD_SIZE=\d+ set, but mpi4py was built with"
    ),
    "mpich": re.compile(
        r"No PMIx server was reachable, but a PMI1/2 was detected|no-pmix-but"
        r"|environment has PMI_SIZE=\d+ set, but mpi4py was built with Open MPI"
    ),
}


def check_executable(path: str, launcher: MpiLauncher, library_path: str = "") -> str | None:
    """Return why the program at ``path`` cannot be started by ``launcher``; None if it can, or if its file does not tell.

    ``library_path`` is the ``LD_LIBRARY_PATH`` of the task.
    """
    return explain(f"{path} is linked with", library_of(path, library_path), launcher)


def check_running(pids: Iterable[int], launcher: MpiLauncher) -> str | None:
    """Return why these processes, which ``launcher`` started, do not see each other; None if nothing says so (yet)."""
    for pid in pids:
        if message := explain(f"{_name_of(pid)} has loaded", loaded_library(pid), launcher):
            return message
    return None


def check_output(text: str, launcher: MpiLauncher) -> str | None:
    """Return why the ranks that printed this did not see each other; None if none of them complains of that."""
    family = _FAMILIES.get(launcher.kind)
    if family is None or not _COMPLAINTS[family].search(text):
        return None
    return _message("its program uses", MpiLibrary(_OTHER[family], ""), launcher)


def explain(who_uses: str, library: MpiLibrary | None, launcher: MpiLauncher) -> str | None:
    """Return why whoever uses this library cannot be started by ``launcher``; None if it can, or uses none."""
    return None if library is None or fits(library, launcher) else _message(who_uses, library, launcher)


def fits(library: MpiLibrary, launcher: MpiLauncher) -> bool:
    """Tell whether programs with this library can be started by ``launcher``; also where that cannot be told."""
    family = _FAMILIES.get(launcher.kind)
    return family is None or library.family == family or (family == "openmpi" and library.pmix)


def _message(who_uses: str, library: MpiLibrary, launcher: MpiLauncher) -> str:
    place = f" ({library.path})" if library.path else ""
    return (
        f"PMI mismatch: {who_uses} {FAMILY_NAMES[library.family]}{place}, but its ranks are started by {describe(launcher)}, "
        f"so that each sees itself alone; set launch_method={library.family!r} (or to the path of that MPI's mpiexec), "
        "or use a program built with the MPI of this mpiexec"
    )


def _name_of(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return "its program"
