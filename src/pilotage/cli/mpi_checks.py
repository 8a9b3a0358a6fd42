"""What ``pilotage doctor`` and ``pilotage check mpi`` look at: which mpiexecs there are, and whether ranks see each other."""

from __future__ import annotations

import os
import sys

import msgspec

from pilotage.cli.findings import Finding, Status
from pilotage.errors import BackendError
from pilotage.launchers.libmpi import FAMILY_NAMES, library_of
from pilotage.launchers.mismatch import explain
from pilotage.launchers.mpiexec import NAMES, all_mpiexecs, describe, find_mpiexec
from pilotage.launchers.probe import mpi4py_library, own_library, probe
from pilotage.model.workload import MpiLauncher

TRY_ANOTHER = "name another mpiexec with launch_method=..., and try it with: pilotage check mpi --launch-method ..."


class Trial(msgspec.Struct, frozen=True):
    """A launcher, and how ranks under it came out: with its own MPI library, and with mpi4py. ``used``: taken by default."""

    mpiexec: str
    kind: str
    version: str
    used: bool
    library: str
    mpi4py: str
    works: bool


def search_path() -> str:
    """Return the PATH in which mpiexecs are looked for."""
    return os.environ.get("PATH", os.defpath)


def launchers(wanted: str = "") -> list[MpiLauncher]:
    """Return the launchers that are there, the one used by default first; or the one that is wanted.

    Raises:
        BackendError: there is none; says how to get one.
    """
    if wanted not in ("", "mpiexec"):
        return [find_mpiexec(search_path(), wanted)]
    return all_mpiexecs(search_path()) or [find_mpiexec(search_path())]


def try_launcher(launcher: MpiLauncher, *, used: bool, python: str = sys.executable) -> Trial:
    """Start two ranks by this launcher, with its own library and with the mpi4py of ``python``."""
    own = own_library(launcher)
    bare = probe(launcher, library=own) if own else None
    try:
        mpi4py_library(python)
    except BackendError as error:
        through = None
        said = f"cannot be tried: {error}"
    else:
        through = probe(launcher, python=python)
        said = through.found
    return Trial(
        mpiexec=launcher.path,
        kind=NAMES[launcher.kind],
        version=launcher.version,
        used=used,
        library=bare.found if bare else "its own MPI library is not beside it",
        mpi4py=said,
        works=bool((bare or through) and (not bare or bare.works) and (not through or through.works)),
    )


def check_mpi() -> list[Finding]:
    """See which mpiexec MPI tasks would be started by, whether two ranks see each other, and which MPI mpi4py loads."""
    found = all_mpiexecs(search_path())
    if not found:
        return [
            Finding(
                "mpiexec",
                Status.WARNING,
                "none in PATH: MPI tasks cannot run here, and several ranks see nothing of each other",
                "if you want MPI: pip install mpich, or load the site's MPI (module load ...)",
            )
        ]
    used, *others = found
    said = describe(used) + (f"; also there: {', '.join(describe(other) for other in others)}" if others else "")
    findings = [Finding("mpiexec", Status.OK, said)]
    library = own_library(used)
    if library:
        probed = probe(used, library=library)
        status = Status.OK if probed.works else Status.BROKEN
        findings.append(Finding("PMI", status, probed.found, "" if probed.works else TRY_ANOTHER))
    findings.append(_check_mpi4py(used))
    return findings


def _check_mpi4py(launcher: MpiLauncher | None, python: str = sys.executable) -> Finding:
    try:
        library = mpi4py_library(python)
    except BackendError as error:
        if "No module named 'mpi4py'" in str(error):
            return Finding("mpi4py", Status.OK, f"not installed for {python}; MPI functions need it")
        remedy = f"MPI functions need it: {python} -m pip install --force-reinstall mpi4py mpich"
        return Finding("mpi4py", Status.WARNING, str(error), remedy)
    said = f"of {python} loads {library}"
    # A mismatch is a warning: programs that use no mpi4py are none the worse for it.
    mismatch = explain("mpi4py uses", library_of(library), launcher) if launcher else None
    return Finding("mpi4py", Status.WARNING if mismatch else Status.OK, said, mismatch or "")


def check_executable(path: str) -> list[Finding]:
    """Tell which MPI library the program at ``path`` uses, and whether the mpiexec that is used can start it.

    Of a Python it is the one that its mpi4py loads; others are looked at, and not started.
    """
    name = f"libmpi of {os.path.basename(path)}"
    if not os.path.isfile(path):
        return [Finding(name, Status.BROKEN, f"{path}: there is no such file", "give the path of the program")]
    found = all_mpiexecs(search_path())
    launcher = found[0] if found else None
    if os.path.basename(path).startswith("python"):
        return [_check_mpi4py(launcher, path)]
    library = library_of(path, os.environ.get("LD_LIBRARY_PATH", ""))
    if library is None:
        return [Finding(name, Status.OK, "none: a script, a program without MPI, or one that loads it when it runs")]
    said = f"{FAMILY_NAMES[library.family]}, {library.path}"
    if not os.path.isabs(library.path):
        said += ", which is in no folder that is searched for it"
        remedy = "load the MPI it was built with (module load ...), or set LD_LIBRARY_PATH"
        return [Finding(name, Status.BROKEN, said, remedy)]
    mismatch = explain(f"{path} is linked with", library, launcher) if launcher else None
    return [Finding(name, Status.WARNING if mismatch else Status.OK, said, mismatch or "")]
