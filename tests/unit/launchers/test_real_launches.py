"""Rendered lines, run by the real mpiexecs of two kinds."""

from __future__ import annotations

import os
import subprocess

import pytest

from mpi_installations import MpiInstallation
from pilotage.launchers.mpiexec import find_mpiexec, render
from pilotage.launchers.outer import without_outer_launch
from pilotage.model.ranks import RankSlot

PATIENCE_S = 60.0
PRINT = """\
printf '%s\\n' "$PILOTAGE_RANK of ${PMI_SIZE:-$OMPI_COMM_WORLD_SIZE} on $PILOTAGE_NODE.$PILOTAGE_LOCAL_RANK: \
GPU $CUDA_VISIBLE_DEVICES, cores $(taskset -cp $$ | sed 's/.*: //'), $1"
"""
SLURM_ALLOCATION = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOBID": "77",
    "SLURM_NODELIST": "n[01-02]",
    "SLURM_JOB_NODELIST": "n[01-02]",
    "SLURM_NNODES": "2",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_CPUS_PER_NODE": "4(x2)",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
}
PBS_ALLOCATION = {"PBS_JOBID": "33.head", "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_NODEFILE": "/dev/null"}
OUTER_LAUNCHES = {"PMI_RANK": "1", "PMI_SIZE": "7", "PMI_FD": "99", "OMPI_COMM_WORLD_RANK": "5", "PMIX_RANK": "5"}


@pytest.fixture(params=["mpich", "openmpi"])
def installation(request: pytest.FixtureRequest) -> MpiInstallation:
    found: MpiInstallation = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize(
    "around",
    [{}, SLURM_ALLOCATION, PBS_ALLOCATION, OUTER_LAUNCHES],
    ids=["alone", "in a Slurm allocation", "in a PBS allocation", "in another launch"],
)
def test_more_ranks_than_cores_over_emulated_nodes(installation: MpiInstallation, around: dict[str, str]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    slots = [RankSlot(rank // 3, rank % 3, (rank,), (rank % 3,)) for rank in range(5)]
    variables = [
        {
            b"PILOTAGE_RANK": b"%d" % rank,
            b"PILOTAGE_NODE": b"node%d" % slot.node,
            b"PILOTAGE_LOCAL_RANK": b"%d" % slot.local_rank,
            b"CUDA_VISIBLE_DEVICES": b"%d" % slot.gpus[0],
        }
        for rank, slot in enumerate(slots)
    ]
    bind = [frozenset({cores[rank % len(cores)]}) for rank in range(5)]
    line = render(find_mpiexec("", installation.mpiexec), slots, ["/bin/sh", "-c", PRINT, "sh", "a : b"], variables, bind)
    environment = {**os.environb, **{name.encode(): value.encode() for name, value in around.items()}}

    done = subprocess.run(
        line.arguments,
        env={**without_outer_launch(environment), **line.environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [
        f"{rank} of 5 on node{rank // 3}.{rank % 3}: GPU {rank % 3}, cores {cores[rank % len(cores)]}, a : b"
        for rank in range(5)
    ]


def test_the_exit_code_of_a_rank_is_that_of_the_launch(installation: MpiInstallation) -> None:
    slots = [RankSlot(0, rank, (), ()) for rank in range(2)]
    variables = [{b"PILOTAGE_RANK": b"%d" % rank} for rank in range(2)]
    command = ["/bin/sh", "-c", 'if [ "$PILOTAGE_RANK" = 1 ];then exit 7;fi']
    line = render(find_mpiexec("", installation.mpiexec), slots, command, variables)

    done = subprocess.run(line.arguments, env={**os.environb, **line.environment}, capture_output=True, timeout=PATIENCE_S)

    assert done.returncode == 7
