"""What the tests have of MPI; the fixtures ``mpich`` and ``openmpi`` give it."""

from __future__ import annotations

from typing import NamedTuple


class MpiInstallation(NamedTuple):
    """An mpiexec, and a Python whose mpi4py uses its MPI."""

    mpiexec: str
    python: str
