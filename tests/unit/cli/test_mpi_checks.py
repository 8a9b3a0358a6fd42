"""What the doctor says of MPI: mpiexecs, the process manager, and the libraries of mpi4py and of programs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mpi_installations import MpiInstallation
from pilotage.cli import mpi_checks
from pilotage.cli.findings import Finding, Status


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def alone(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """Let PATH be this, and nothing lie beside this Python."""
    monkeypatch.setenv("PATH", path)
    monkeypatch.setattr("pilotage.launchers.mpiexec.sys.executable", "/nowhere/bin/python")


def mpi4py_module(installation: MpiInstallation) -> str:
    """Return a file that is linked with the MPI of an installation."""
    (found,) = Path(installation.mpiexec).parent.parent.glob("lib/libmpi.so.[0-9][0-9]")
    return str(found)


def test_a_machine_without_mpi(monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, "/nowhere")

    (finding,) = mpi_checks.check_mpi()

    assert (finding.check, finding.status) == ("mpiexec", Status.WARNING)
    assert "pip install mpich" in finding.remedy


def test_an_mpi_that_fits(mpich: MpiInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.path.dirname(mpich.mpiexec))

    found = by_name(mpi_checks.check_mpi())

    assert {name: finding.status.value for name, finding in found.items()} == {"mpiexec": "ok", "PMI": "ok", "mpi4py": "ok"}
    assert found["mpiexec"].found.startswith("MPICH's mpiexec")
    assert "also there" not in found["mpiexec"].found
    assert found["PMI"].found.startswith("2 ranks see each other, through ")
    assert found["mpi4py"].found == f"of {sys.executable} loads {mpi4py_module(mpich)}"


def test_an_mpi4py_of_another_mpi(mpich: MpiInstallation, openmpi: MpiInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{os.path.dirname(openmpi.mpiexec)}:{os.path.dirname(mpich.mpiexec)}")

    found = by_name(mpi_checks.check_mpi())

    assert found["mpiexec"].found.startswith("OpenMPI's mpiexec")
    assert "also there: MPICH's mpiexec" in found["mpiexec"].found
    assert found["PMI"].status is Status.OK
    assert found["mpi4py"].status is Status.WARNING
    assert found["mpi4py"].remedy.startswith("PMI mismatch: mpi4py uses MPICH")
    assert "launch_method='mpich'" in found["mpi4py"].remedy


def test_a_program_and_its_mpi(mpich: MpiInstallation, openmpi: MpiInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, os.path.dirname(mpich.mpiexec))

    (fits,) = mpi_checks.check_executable(mpi4py_module(mpich))
    (other,) = mpi_checks.check_executable(mpi4py_module(openmpi))
    (none,) = mpi_checks.check_executable("/bin/sh")
    (missing,) = mpi_checks.check_executable("/no/such/program")

    assert (fits.status, fits.found) == (Status.OK, f"MPICH, {mpi4py_module(mpich)}")
    assert (other.status, other.found) == (Status.WARNING, f"OpenMPI, {mpi4py_module(openmpi)}")
    assert "set launch_method='openmpi'" in other.remedy
    assert (none.status, none.found.partition(":")[0]) == (Status.OK, "none")
    assert (missing.status, missing.found) == (Status.BROKEN, "/no/such/program: there is no such file")


def test_a_python_and_its_mpi4py(mpich: MpiInstallation, openmpi: MpiInstallation, monkeypatch: pytest.MonkeyPatch) -> None:
    alone(monkeypatch, os.path.dirname(mpich.mpiexec))

    (finding,) = mpi_checks.check_executable(openmpi.python)

    assert (finding.check, finding.status) == ("mpi4py", Status.WARNING)
    assert finding.found == f"of {openmpi.python} loads {mpi4py_module(openmpi)}"


def test_a_program_whose_mpi_is_nowhere(openmpi: MpiInstallation) -> None:
    (module,) = Path(openmpi.python).parent.parent.glob("lib/python*/site-packages/mpi4py/MPI.openmpi.*.so")

    (finding,) = mpi_checks.check_executable(str(module))

    assert finding.status is Status.BROKEN
    assert finding.found == "OpenMPI, libmpi.so.40, which is in no folder that is searched for it"
