"""Executables of two MPI ranks, against bare loops of the same mpiexec with as many in flight.

One program does what every MPI program does, ``MPI_Init`` and ``MPI_Finalize``, and nothing else: that is what users have. The
other one does not even that: ``true`` shows what stands between an mpiexec and its ranks here, and would be lost in the time
that MPI takes to begin.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import pilotage as rp
from pilotage.bench.measure import Row, medians, row
from pilotage.bench.runs import bench_pilot
from pilotage.errors import BackendError
from pilotage.launchers.mpi_methods import AS_ROOT
from pilotage.launchers.mpiexec import describe, find_mpiexec
from pilotage.launchers.probe import own_library

RANKS = 2
PLACES = (("2 cores, bound", "local.localhost", 1), ("emulated, 2 at a time", "local.emulated", 2))
"""Name, platform, and how many tasks are in flight, of which the numbers of launches are multiples."""

# Through ctypes, as not every machine that has an MPI has its compilers.
_NULL_PROGRAM = """
import ctypes, sys
mpi = ctypes.CDLL(sys.argv[1], ctypes.RTLD_GLOBAL)
mpi.MPI_Init(None, None)
mpi.MPI_Finalize()
"""


def bare_loops(mpiexec: str, program: Sequence[str], count: int, loops: int) -> float:
    """Run ``count`` launches in so many processes that do nothing else, equal parts in each; return launches per second."""
    command = [mpiexec, "-n", str(RANKS), *program]
    environment = {**os.environb, **AS_ROOT}
    # Tasks have no input either; an mpiexec that has some sends it on to ranks that are gone.
    no_input = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
    start = time.perf_counter()
    pids = []
    for _ in range(loops):
        pid = os.fork()
        if not pid:
            for _ in range(count // loops):
                launch = os.posix_spawn(mpiexec, command, environment, file_actions=no_input)
                if os.waitpid(launch, 0)[1]:
                    os._exit(1)
            os._exit(0)
        pids.append(pid)
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(statuses):
        raise BackendError(f"{' '.join(command)} failed outside of Pilotage; try it: pilotage check mpi")
    return count / (time.perf_counter() - start)


def mpi(quick: bool = False) -> list[Row]:
    """Submission to the last final state at the client, ranks bound to cores where the nodes are real."""
    launcher = find_mpiexec(os.environ.get("PATH", os.defpath))
    null_program = [sys.executable, "-I", "-S", "-c", _NULL_PROGRAM, own_library(launcher)]
    rows: list[Row] = []
    for name, program, count in (("null MPI program", null_program, 20), ("true", ["/bin/true"], 200)):
        for where, resource, loops in PLACES:
            rounds, launches = (3, count // 5) if quick else (5, count)
            described = {"executable": program[0], "arguments": program[1:], "ranks": RANKS, "launch_method": launcher.path}
            with bench_pilot(resource=resource, cores=RANKS * loops) as bench:
                bench.run([rp.TaskDescription(described)])

                def ours() -> float:
                    start = time.perf_counter()
                    bench.run([rp.TaskDescription(described) for _ in range(launches)])  # noqa: B023
                    return launches / (time.perf_counter() - start)  # noqa: B023

                def bare() -> float:
                    return bare_loops(launcher.path, program, launches, loops)  # noqa: B023

                ours_rate, bare_rate = medians(rounds, ours, bare)
            rows.append(
                row(
                    f"{name}, {RANKS} ranks by {describe(launcher).partition(' (')[0]}, {where}",
                    ours_rate,
                    "tasks/s",
                    baseline=bare_rate,
                    against=f"{loops} bare loop{'s' if loops > 1 else ''}",
                    target="ratio >= 0.9" if program is null_program else "",
                )
            )
    return rows
