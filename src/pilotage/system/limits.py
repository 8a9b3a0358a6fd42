"""What a job on a node may use: what the node grants, not the login node that it was submitted from."""

from __future__ import annotations

import contextlib
import os
import resource

_OF_THE_NODE = (
    resource.RLIMIT_NPROC,
    resource.RLIMIT_AS,
    resource.RLIMIT_DATA,
    resource.RLIMIT_RSS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_MEMLOCK,
)


def lift_limits_of_submission() -> None:
    """Raise this process's soft limits on processes, memory and CPU time to the hard ones, in a job of Slurm.

    Slurm lowers a job's soft limits to those of the shell that submitted it, and lets the hard ones be the node's. What a login
    node allows is too little for the tasks of a node. How large stacks, dumps and files may be is left as it was in that
    shell: users set these there for their programs.
    """
    if "SLURM_JOB_ID" not in os.environ:
        return
    for kind in _OF_THE_NODE:
        _, hard = resource.getrlimit(kind)
        # A container may not let even that be set.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (hard, hard))
