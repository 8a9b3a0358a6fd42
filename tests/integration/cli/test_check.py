"""``pilotage check``: real tasks and real ranks, and the truth about them."""

from __future__ import annotations

import os

from test_commands import asked, pilotage

from mpi_installations import MpiInstallation

CORES = sorted(os.sched_getaffinity(0))


def test_ranks_have_the_cores_that_they_were_given(mpich: MpiInstallation) -> None:
    for method in (mpich.mpiexec, "fork"):
        told = asked("check", "binding", "--ranks", str(len(CORES)), "--launch-method", method)
        assert [rank["cores"] for rank in told["ranks"]] == [[core] for core in CORES]
        assert (told["as_given"], {rank["verdict"] for rank in told["ranks"]}) == (True, {"as given"})


def test_a_difference_is_said_plainly() -> None:
    ranks = len(CORES) + 1
    options = ("--resource", "local.emulated", "--launch-method", "fork", "--gpus", "1")

    done = pilotage("check", "binding", "--ranks", str(ranks), *options)

    assert done.returncode == 1
    assert done.stdout.splitlines()[-1] == f"{ranks} of {ranks} ranks not as given"
    assert done.stdout.count("other cores") == ranks
    assert "the nodes are emulated" in done.stderr


def test_what_cannot_be_checked_here() -> None:
    elsewhere = pilotage("check", "binding", "--resource", "ornl.frontier")
    missing = pilotage("check", "mpi", "--launch-method", "/no/such/mpiexec")

    assert (elsewhere.returncode, missing.returncode) == (2, 1)
    assert "is not on this machine; give local.localhost or local.emulated" in elsewhere.stderr
    assert "launch_method='/no/such/mpiexec': there is no such file" in missing.stderr


def test_mpi_ranks_see_each_other(mpich: MpiInstallation, openmpi: MpiInstallation) -> None:
    fits = pilotage("check", "mpi", "--launch-method", mpich.mpiexec)
    other = pilotage("check", "mpi", "--launch-method", mpich.mpiexec, "--python", openmpi.python)

    assert (fits.returncode, fits.stdout.count("2 ranks see each other")) == (0, 2)
    assert (other.returncode, other.stdout.count("2 ranks see each other")) == (1, 1)
    assert "PMI mismatch: its program uses OpenMPI" in other.stdout
