"""Programs that are started by the mpiexec of another MPI, with the real libraries of two."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from elf_files import write_elf

from mpi_installations import MpiInstallation
from pilotage.launchers.launch_line import render
from pilotage.launchers.mismatch import check_executable, check_output, check_running
from pilotage.launchers.mpiexec import find_mpiexec
from pilotage.launchers.outer import without_outer_launch
from pilotage.launchers.probe import Probed, own_library, probe
from pilotage.model.ranks import RankSlot
from pilotage.model.workload import MpiKind, MpiLauncher

PATIENCE_S = 60.0


def some(kind: MpiKind) -> MpiLauncher:
    return MpiLauncher(kind, "/opt/bin/mpiexec", "1.2")


@pytest.mark.parametrize("needed", ["libmpi.so.12", "libmpi.so.40"])
@pytest.mark.parametrize("kind", ["mpich", "intelmpi", "openmpi", "pals"])
def test_programs_are_started_by_their_own_family(tmp_path: Path, kind: MpiKind, needed: str) -> None:
    program = write_elf(tmp_path / "md", [needed])
    fits = kind == "pals" or (kind == "openmpi") == (needed == "libmpi.so.40")

    assert (check_executable(program, some(kind)) is None) == fits


def test_what_is_said(tmp_path: Path) -> None:
    program = write_elf(tmp_path / "md", ["libmpi.so.40"], runpath=str(tmp_path))
    write_elf(tmp_path / "libmpi.so.40", name="libmpi.so.40")

    assert check_executable(program, some("mpich")) == (
        f"PMI mismatch: {program} is linked with OpenMPI ({tmp_path}/libmpi.so.40), but its ranks are started by MPICH's "
        "mpiexec 1.2 (/opt/bin/mpiexec), so that each sees itself alone; set launch_method='openmpi' (or to the path of that "
        "MPI's mpiexec), or use a program built with the MPI of this mpiexec"
    )


def test_an_mpich_that_was_built_with_pmix_is_started_by_either(tmp_path: Path) -> None:
    program = write_elf(tmp_path / "md", ["libmpi.so.12"], runpath=str(tmp_path))
    write_elf(tmp_path / "libmpi.so.12", ["libpmix.so.2"], name="libmpi.so.12")

    assert check_executable(program, some("openmpi")) is None


def test_programs_that_do_not_tell() -> None:
    assert check_executable("/bin/sh", some("mpich")) is None
    assert check_executable("/no/such/program", some("mpich")) is None


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("openmpi", "check_MPIR_CVAR_PMI_VERSION(167):  Runtime environment uses unsupported PMI version PMIx. Aborting."),
        ("openmpi", "Your environment has OMPI_COMM_WORLD_SIZE=2 set, but mpi4py was built with MPICH."),
        ("mpich", "No PMIx server was reachable, but a PMI1/2 was detected."),
        ("intelmpi", "Your environment has PMI_SIZE=2 set, but mpi4py was built with Open MPI."),
    ],
)
def test_complaints_of_the_libraries_are_understood(kind: MpiKind, text: str) -> None:
    assert (check_output(f"starting\n{text}\nbye\n", some(kind)) or "").startswith("PMI mismatch: its program uses")
    assert check_output("no complaint", some(kind)) is None


def mpiexec_of(installation: MpiInstallation) -> MpiLauncher:
    return find_mpiexec("", installation.mpiexec)


def test_each_launcher_and_its_own_library(mpich: MpiInstallation, openmpi: MpiInstallation) -> None:
    for installation in (mpich, openmpi):
        launcher = mpiexec_of(installation)
        library = own_library(launcher)
        assert Path(library).is_file()
        works = Probed(True, f"2 ranks see each other, through {library}", library)
        assert [probe(launcher, library=library), probe(launcher, python=installation.python)] == [works, works]


def test_mpi4py_started_by_the_other_mpi(mpich: MpiInstallation, openmpi: MpiInstallation) -> None:
    for ours, theirs in ((mpich, openmpi), (openmpi, mpich)):
        found = probe(mpiexec_of(ours), python=theirs.python)
        assert not found.works
        assert found.found.startswith("PMI mismatch: its program uses"), found
        assert f"launch_method='{mpiexec_of(theirs).kind}'" in found.found


@pytest.fixture
def ranks(tmp_path: Path, mpich: MpiInstallation, openmpi: MpiInstallation) -> Iterator[tuple[MpiLauncher, list[int]]]:
    """Two ranks of an mpi4py program that uses OpenMPI, started by MPICH's mpiexec, with their MPI library loaded."""
    held = tmp_path / "held"
    os.mkfifo(held)
    program = f"import os; from mpi4py import MPI; os.write(1, b'%d\\n' % os.getpid()); open({str(held)!r}).read()"
    launcher = mpiexec_of(mpich)
    line = render(launcher, [RankSlot(0, rank, (), ()) for rank in range(2)], [openmpi.python, "-c", program], [{}, {}])
    process = subprocess.Popen(
        line.arguments,
        env={**without_outer_launch(os.environb), **line.environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        yield launcher, [int(process.stdout.readline()) for _ in range(2)]
    finally:
        # Opened for both, it does not wait for the ranks, and its end is theirs.
        os.close(os.open(held, os.O_RDWR))
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


def test_what_ranks_have_loaded_tells(
    ranks: tuple[MpiLauncher, list[int]], mpich: MpiInstallation, openmpi: MpiInstallation
) -> None:
    launcher, pids = ranks
    library = own_library(mpiexec_of(openmpi))

    message = check_running(pids, launcher) or ""

    assert message.startswith(f"PMI mismatch: {os.path.realpath(openmpi.python)} has loaded OpenMPI ({library}), but its ranks")
    assert check_running(pids, mpiexec_of(openmpi)) is None
    assert check_running([os.getpid(), 2**22 + 1], launcher) is None
