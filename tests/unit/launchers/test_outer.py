"""What an outer launch leaves in the environment is removed; what users set, and what tells of the allocation, is not."""

from __future__ import annotations

import pytest

from pilotage.launchers.outer import without_outer_launch

LEFT_BY_LAUNCHES = """
    PMI_RANK PMI_SIZE PMI_FD PMI_HOSTNAME PMI_PORT PMI_ID MPI_LOCALNRANKS MPI_LOCALRANKID HYDI_CONTROL_FD
    HYDRA_BSTRAP_LAUNCHER HYDRA_LAUNCH_TYPE I_MPI_PIN_INFO I_MPI_INFO_NP I_MPI_HYDRA_UUID MV2_COMM_WORLD_RANK
    OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE OMPI_UNIVERSE_SIZE OMPI_FILE_LOCATION OMPI_MCA_orte_hnp_uri OMPI_MCA_ess
    OMPI_MCA_ess_base_vpid OMPI_MCA_pmix PMIX_RANK PMIX_NAMESPACE PMIX_SERVER_URI41 PMIX_SERVER_TMPDIR PRTE_LAUNCHED
    PALS_RANKID PALS_APID JSM_NAMESPACE_RANK FLUX_TASK_RANK ALPS_APP_PE MPT_MPI_RANK MP_CHILD PILOTAGE_LAUNCH_RANK
    SLURM_PROCID SLURM_LOCALID SLURM_STEP_ID SLURM_STEPID SLURM_GTIDS SLURM_SRUN_COMM_PORT SLURM_CPU_BIND SLURM_PMIXP_ABORT
""".split()  # noqa: SIM905

KEPT = """
    PATH HOME SLURM_JOB_ID SLURM_JOB_NODELIST SLURM_SUBMIT_DIR SLURM_CPUS_ON_NODE PBS_JOBID PBS_NODEFILE
    OMPI_MCA_btl OMPI_CC OMPI_ALLOW_RUN_AS_ROOT OPAL_PREFIX PRTE_PREFIX PMIX_PREFIX PMIX_MCA_gds PMIX_INSTALL_PREFIX
    I_MPI_ROOT I_MPI_FABRICS I_MPI_PIN HYDRA_IFACE MPICH_GPU_SUPPORT_ENABLED MPIR_CVAR_CH4_NETMOD FLUX_URI MPI_ROOT
    XPMI_RANK
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", LEFT_BY_LAUNCHES)
def test_what_a_launch_left_is_removed(name: str) -> None:
    assert without_outer_launch({name.encode(): b"1"}) == {}


def test_the_rest_is_kept() -> None:
    environment = {name.encode(): b"1" for name in KEPT}

    assert without_outer_launch(environment) == environment
