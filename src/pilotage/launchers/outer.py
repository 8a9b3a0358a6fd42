"""What an outer launch left in the environment, which the programs of tasks must not take for their own.

A pilot may itself have been started inside a step of ``srun`` or by an ``mpiexec``, and so may the user's program. An MPI
program that finds the address of that launch's process manager connects to it, with the rank that it finds: it hangs, or ends
the outer launch. What describes the allocation (``SLURM_JOB_ID``), and what users set to tune their MPI (``OMPI_MCA_btl``,
``I_MPI_FABRICS``, ``PMIX_MCA_*``), is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping

_PREFIXES = (
    # Process managers: where they are, and which rank this is.
    b"PMI_",
    b"PMI2_",
    b"PMIX_",
    b"MPI_LOCALNRANKS",
    b"MPI_LOCALRANKID",
    b"MPIR_CVAR_PMI_VERSION",
    # MPICH's Hydra, Intel's, and MVAPICH.
    b"HYDRA_BSTRAP_",
    b"HYDRA_LAUNCH_TYPE",
    b"HYDRA_IP_VERSION",
    b"HYDRA_USER_PROVIDED_BINDING",
    b"HYDI_",
    b"I_MPI_PIN_INFO",
    b"I_MPI_PIN_MAPPING",
    b"I_MPI_INFO_",
    b"I_MPI_HYDRA_UUID",
    b"I_MPI_BIND_WIN_ALLOCATE",
    b"I_MPI_RETURN_WIN_MEM_NUMA",
    b"I_MPI_INTERNAL_MEM_POLICY",
    b"MV2_COMM_WORLD_",
    b"MPIRUN_",
    b"MPISPAWN_",
    # OpenMPI, and PRRTE below it.
    b"OMPI_COMM_WORLD_",
    b"OMPI_WORLD_",
    b"OMPI_UNIVERSE_SIZE",
    b"OMPI_APP_CTX",
    b"OMPI_NUM_APP_CTX",
    b"OMPI_FIRST_RANKS",
    b"OMPI_FILE_LOCATION",
    b"OMPI_ARGV",
    b"OMPI_COMMAND",
    b"OMPI_TOOL_NAME",
    b"OMPI_MCA_orte_",
    b"OMPI_MCA_ess",
    b"OMPI_MCA_pmix",
    b"OMPI_MCA_initial_wdir",
    b"OMPI_MCA_num_procs",
    b"OMPI_MCA_cpu_type",
    b"OMPI_MCA_mpi_oversubscribe",
    b"OMPI_MCA_shmem_RUNTIME_QUERY_hint",
    b"OMPI_MCA_PREFIXES",
    b"OPAL_USER_PARAMS_GIVEN",
    b"PRTE_LAUNCHED",
    b"PRTE_SHARED_FS",
    # PALS, ALPS, jsrun, Flux, MPT, POE, and our own logins.
    b"PALS_",
    b"ALPS_APP_",
    b"JSM_",
    b"FLUX_TASK_",
    b"MPT_MPI_RANK",
    b"MP_CHILD",
    b"PILOTAGE_LAUNCH_RANK",
    # A step of Slurm, not its job.
    b"SLURM_STEP",
    b"SLURM_PROCID",
    b"SLURM_LOCALID",
    b"SLURM_NODEID",
    b"SLURM_GTIDS",
    b"SLURM_TASK_PID",
    b"SLURM_SRUN_",
    b"SLURM_LAUNCH_NODE",
    b"SLURM_PMI",
    b"SLURM_MPI_TYPE",
    b"SLURM_CPU_BIND",
    b"SLURM_MEM_BIND",
    b"SLURM_DISTRIBUTION",
    b"SLURM_TOPOLOGY",
)
_KEPT = (b"PMIX_MCA_", b"PMIX_PREFIX", b"PMIX_INSTALL_PREFIX")


def without_outer_launch(environment: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the environment without the variables of a launch that this process is part of."""
    return {name: value for name, value in environment.items() if not name.startswith(_PREFIXES) or name.startswith(_KEPT)}
