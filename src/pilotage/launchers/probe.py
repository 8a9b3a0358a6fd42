"""Trying a launcher: do two ranks of a real MPI program see each other?

The program is a few lines of Python. It uses mpi4py, as users' programs do, or the bare MPI library that belongs to the
launcher, through ctypes: then nothing but the launcher and its own library is on trial. Each rank prints one line that says
who it is, and which library it has loaded.
"""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from pilotage.errors import BackendError
from pilotage.launchers.launch_line import render
from pilotage.launchers.libmpi import library_of
from pilotage.launchers.mismatch import check_output, explain, fits
from pilotage.launchers.outer import without_outer_launch
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import MpiLauncher

PATIENCE_S = 60.0
_GRACE_S = 5.0
_RANKS = 2
_MARK = "pilotage-probe "

# Of the standard library alone, as it runs under any Python. A rank prints with one call, so that lines stay whole.
_PROGRAM = r"""
import json, os, sys
library = sys.argv[1]
if library:
    import ctypes
    mpi = ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    world = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world"))) \
        if hasattr(mpi, "ompi_mpi_comm_world") else ctypes.c_int(0x44000000)
    rank, size = ctypes.c_int(-1), ctypes.c_int(-1)
    mpi.MPI_Init(None, None)
    mpi.MPI_Comm_rank(world, ctypes.byref(rank))
    mpi.MPI_Comm_size(world, ctypes.byref(size))
    mpi.MPI_Barrier(world)
    rank, size, finish = rank.value, size.value, mpi.MPI_Finalize
else:
    from mpi4py import MPI
    MPI.COMM_WORLD.Barrier()
    rank, size, finish = MPI.COMM_WORLD.rank, MPI.COMM_WORLD.size, lambda: None
with open("/proc/self/maps") as file:
    loaded = sorted({line.split()[-1] for line in file if "/libmpi" in line})
told = {"rank": rank, "size": size, "loaded": loaded}
os.write(1, ("\n%MARK%" + json.dumps(told) + "\n").encode())
finish()
""".replace("%MARK%", _MARK)


# Without starting MPI: it would look for a process manager.
_LOADING = """
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
with open("/proc/self/maps") as file:
    print(next(line.split()[-1] for line in file if "/libmpi" in line))
"""


class Told(msgspec.Struct, frozen=True):
    """What one rank printed."""

    rank: int
    size: int
    loaded: list[str]


class Probed(msgspec.Struct, frozen=True):
    """How a trial came out. ``found``: in words. ``library``: the libmpi that the ranks had loaded, if they said so."""

    works: bool
    found: str
    library: str = ""


def own_library(launcher: MpiLauncher) -> str:
    """Return the MPI library that belongs to a launcher: the one installed with it; empty if it is not where it should be."""
    beside = os.path.dirname(os.path.dirname(os.path.abspath(launcher.path)))
    real = os.path.dirname(os.path.dirname(os.path.realpath(launcher.path)))
    folders = [
        os.path.join(root, name) for root in dict.fromkeys((beside, real)) for name in ("lib", "lib64", "lib/*-linux-gnu")
    ]
    for folder in folders:
        for path in sorted(glob.glob(os.path.join(folder, "libmpi*.so*"))):
            if (library := library_of(path)) and library.path == path and fits(library, launcher):
                return path
    return ""


def mpi4py_library(python: str = sys.executable, patience_s: float = PATIENCE_S) -> str:
    """Return the MPI library that mpi4py loads under this Python.

    Raises:
        BackendError: there is no mpi4py, or it loads none; says why.
    """
    try:
        with _surroundings() as environment:
            done = subprocess.run(
                [python, "-c", _LOADING],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=patience_s,
            )
    except OSError as error:
        raise BackendError(f"{python} cannot be started: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise BackendError(f"mpi4py of {python} was not loaded after {patience_s:.0f} s") from None
    if done.returncode:
        raise BackendError(done.stderr.strip().rpartition("\n")[2] or f"{python} ended with exit code {done.returncode}")
    return done.stdout.strip()


def probe(launcher: MpiLauncher, *, library: str = "", python: str = sys.executable, patience_s: float = PATIENCE_S) -> Probed:
    """Start two ranks by ``launcher`` and return whether they see each other.

    They use ``library``, the path of an MPI library, or if that is empty mpi4py under ``python``.
    """
    slots = [RankSlot(0, rank, (), ()) for rank in range(_RANKS)]
    variables: list[dict[bytes, bytes]] = [{} for _ in slots]
    line = render(launcher, slots, [python, "-c", _PROGRAM, library], variables)
    with _surroundings() as environment:
        try:
            process = subprocess.Popen(
                line.arguments,
                env={**environment, **line.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            return Probed(False, f"{launcher.path} cannot be started: {error.strerror}")
        try:
            out, err = process.communicate(timeout=patience_s)
        except subprocess.TimeoutExpired:
            _end(process)
            return Probed(False, f"nothing came of two ranks for {patience_s:.0f} s")
    return judge(launcher, process.returncode, out.decode(errors="replace"), err.decode(errors="replace"))


@contextmanager
def _surroundings() -> Iterator[dict[bytes, bytes]]:
    """Give an environment without an outer launch, and with a folder for what MPI libraries leave behind."""
    with tempfile.TemporaryDirectory(prefix="pilotage-", ignore_cleanup_errors=True) as folder:
        yield {**without_outer_launch(os.environb), b"TMPDIR": os.fsencode(folder)}


def judge(launcher: MpiLauncher, status: int, out: str, err: str) -> Probed:
    """Return what the exit code and the output of the two ranks amount to."""
    told = [msgspec.json.decode(line.removeprefix(_MARK), type=Told) for line in out.splitlines() if line.startswith(_MARK)]
    library = next((path for rank in told for path in rank.loaded), "")
    if status == 0 and sorted(rank.rank for rank in told) == [0, 1] and all(rank.size == _RANKS for rank in told):
        return Probed(True, f"2 ranks see each other, through {library or 'a library without a file'}", library)
    explained = explain("its program uses", library_of(library), launcher) or check_output(err, launcher)
    if explained:
        return Probed(False, explained, library)
    if told and all(rank.size == 1 for rank in told):
        return Probed(False, f"PMI mismatch: {len(told)} ranks, and each sees itself alone, through {library}", library)
    said = (err.strip() or out.strip())[-500:]
    return Probed(False, f"two ranks ended with exit code {status}: {said or 'they said nothing'}", library)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End an mpiexec: by TERM, so that it ends its ranks, and by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        os.killpg(process.pid, number)
        try:
            process.communicate(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
        return
