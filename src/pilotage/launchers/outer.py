"""What an outer launch left in the environment, which the programs of tasks must not take for their own.

A pilot may itself have been started inside a step of ``srun`` or by an ``mpiexec``, and so may the user's program. An MPI
program that finds the address of that launch's process manager connects to it, with the rank that it finds: it hangs, or ends
the outer launch. What describes the allocation (``SLURM_JOB_ID``), and what users set to tune their MPI (``OMPI_MCA_btl``,
``I_MPI_FABRICS``, ``PMIX_MCA_*``), is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PREFIXES = (
    # Process managers: where they are, and which rank this is.
    "PMI_",
    "PMI2_",
    "PMIX_(?!MCA_|PREFIX$|INSTALL_PREFIX$)",
    "MPI_LOCALN?RANK",
    # MPICH's and Intel's Hydra.
    "HYDRA_BSTRAP_",
    "HYDRA_(?:LAUNCH_TYPE|IP_VERSION|USER_PROVIDED_BINDING)",
    "HYDI_",
    "MPIR_CVAR_PMI_VERSION$",
    "I_MPI_(?:PIN_INFO|PIN_MAPPING|INFO_|HYDRA_UUID|BIND_WIN_ALLOCATE$|RETURN_WIN_MEM_NUMA|INTERNAL_MEM_POLICY)",
    "MV2_COMM_WORLD_",
    "MPIRUN_",
    "MPISPAWN_",
    # OpenMPI, and PRRTE below it.
    "OMPI_(?:COMM_WORLD_|WORLD_|UNIVERSE_SIZE|APP_CTX|NUM_APP_CTX|FIRST_RANKS|FILE_LOCATION|ARGV|COMMAND|TOOL_NAME)",
    "OMPI_MCA_(?:orte_|ess|initial_wdir|num_procs|cpu_type|pmix$|mpi_oversubscribe|shmem_RUNTIME_QUERY_hint|PREFIXES$)",
    "OPAL_USER_PARAMS_GIVEN",
    "PRTE_(?:LAUNCHED|SHARED_FS)",
    # PALS, ALPS, jsrun, Flux.
    "PALS_",
    "ALPS_APP_",
    "JSM_",
    "FLUX_TASK_",
    # A step of Slurm, not its job.
    "SLURM_(?:STEP|PROCID|LOCALID|NODEID|GTIDS|TASK_PID|SRUN_|LAUNCH_NODE|PMI|MPI_TYPE|CPU_BIND|MEM_BIND|DISTRIBUTION|TOPOLOGY)",
)
_OUTER = re.compile(("^(?:" + "|".join(_PREFIXES) + ")").encode())


def without_outer_launch(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment without the variables of a launch that this process is part of."""
    return {name: value for name, value in environment.items() if not _OUTER.match(name)}
