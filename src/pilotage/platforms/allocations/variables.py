"""Which variables are of a batch system: what it, and the launch that a job's script is part of, tell the processes inside.

Launchers that are started inside a job read them, and so do the nodes' hosts. Programs of tasks must not: they would take the
whole job for their own, with all its nodes, or the job around a client for that of the pilot.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

_OF_A_JOB = (
    "SLURM_",
    "SLURMD_",
    "SBATCH_",
    "SRUN_",
    "PBS_",
    "PBSCOREFILE",
    "LSB_",
    "LSF_",
    "LS_JOBPID",
    "LS_SUBCWD",
    "COBALT_",
    "FLUX_",
    "SGE_",
    "LOADL_",
    "LOADLBATCH",
    "CSM_ALLOCATION_ID",
    "PALS_",
    "PMI_",
    "PMIX_",
    "JSM_",
)
_OF_THE_SITE = (
    "SLURM_CONF",
    "SLURM_CLUSTERS",
    "SLURM_TIME_FORMAT",
    "PBS_CONF_FILE",
    "PBS_DEFAULT",
    "PBS_EXEC",
    "PBS_HOME",
    "PBS_SERVER",
    "LSF_BINDIR",
    "LSF_ENVDIR",
    "LSF_LIBDIR",
    "LSF_SERVERDIR",
    "SGE_CELL",
    "SGE_CLUSTER_NAME",
    "SGE_EXECD_PORT",
    "SGE_QMASTER_PORT",
    "SGE_ROOT",
    "PMIX_MCA_",
    "PMIX_PREFIX",
)
"""What is said of a batch system, and not of a job: where its configuration is, how it is to print."""

_OF_GRID_ENGINE = ("JOB_ID", "JOB_NAME", "NHOSTS", "NSLOTS", "NQUEUES", "PE", "PE_HOSTFILE", "QUEUE")
"""Names that others use, too."""


def batch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return those variables that are of a batch system: what it tells of the job, and what the site says of it.

    >>> batch_variables({"SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"})
    {'SLURM_JOB_ID': '7', 'SLURM_CONF': '/etc/slurm.conf'}
    """
    grid_engine = _is_in_grid_engine(environment)
    return {
        name: value
        for name, value in environment.items()
        if name.startswith((*_OF_A_JOB, *_OF_THE_SITE)) or (grid_engine and name in _OF_GRID_ENGINE)
    }


def without_job(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables without those that tell of a job.

    >>> without_job({"SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/slurm.conf", "HOME": "/home/me"})
    {'SLURM_CONF': '/etc/slurm.conf', 'HOME': '/home/me'}
    """
    grid_engine = _is_in_grid_engine(environment)
    return {
        name: value
        for name, value in environment.items()
        if (not name.startswith(_OF_A_JOB) or name.startswith(_OF_THE_SITE)) and not (grid_engine and name in _OF_GRID_ENGINE)
    }


def client_in_job(environment: Mapping[str, str], job: Mapping[str, str]) -> dict[str, str]:
    """Return a client's variables for when it runs in a job, whose environment is ``job``: nothing in them tells of a job.

    Folders that the platform's setup has put into PATH, with the batch system's commands, stand behind what the user had.

    >>> client_in_job({"PATH": "/mine:/bin", "SLURM_JOB_ID": "7"}, {"PATH": "/bin:/slurm"})
    {'PATH': '/mine:/bin:/slurm'}
    """
    paths = [path for each in (environment, job) for path in each.get("PATH", "").split(os.pathsep) if path]
    return without_job(environment) | {"PATH": os.pathsep.join(dict.fromkeys(paths))}


def _is_in_grid_engine(environment: Mapping[str, str]) -> bool:
    return "SGE_TASK_ID" in environment or "PE_HOSTFILE" in environment
