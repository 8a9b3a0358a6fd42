"""MPI tasks on real pilots: ranks that see each other, what is each rank's own, and how such tasks end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of

import pilotage as rp
from mpi_installations import MpiInstallation

CORES = sorted(os.sched_getaffinity(0))

RANKS = """
import os
from mpi4py import MPI
comm = MPI.COMM_WORLD
ranks = comm.gather((comm.rank, os.environ["PILOTAGE_RANK"], os.environ["RP_RANK"], os.environ["PILOTAGE_LOCAL_RANK"],
                     os.environ["PILOTAGE_NODE"], os.environ.get("CUDA_VISIBLE_DEVICES"), sorted(os.sched_getaffinity(0))))
total = comm.allreduce(comm.rank + 1)
if comm.rank == 0:
    print(repr((comm.size, total, ranks)))
"""


def script(source: str, *arguments: str, python: str = sys.executable, **more: Any) -> rp.TaskDescription:
    return rp.TaskDescription(executable=python, arguments=["-c", source, *arguments], **more)


def printed(task: rp.Task) -> Any:
    assert task.state == rp.DONE, (task.exception, task.stderr)
    return eval(task.stdout or "")


@pytest.fixture(scope="module")
def emulated(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """A session with an active pilot of two emulated nodes of 4 cores and 2 GPUs."""
    campaign = Campaign(base)
    try:
        campaign.start(resource="local.emulated", nodes=2, cores_per_node=4, gpus_per_node=2)
        yield campaign
    finally:
        campaign.session.close()


@pytest.fixture(params=["mpich", "openmpi"])
def installation(request: pytest.FixtureRequest) -> MpiInstallation:
    found: MpiInstallation = request.getfixturevalue(request.param)
    return found


def test_ranks_see_each_other_and_have_cores_of_their_own(campaign: Campaign, installation: MpiInstallation) -> None:
    ranks = len(CORES[:2])
    task = campaign.run(script(RANKS, python=installation.python, ranks=ranks, launch_method=installation.mpiexec))

    size, total, found = printed(task)
    assert (size, total) == (ranks, sum(range(1, ranks + 1)))
    assert [rank[:4] for rank in found] == [(rank, str(rank), str(rank), str(rank)) for rank in range(ranks)]
    assert [rank[6] for rank in found] == [[core] for core in CORES[:ranks]]
    assert task.slots is not None
    assert [slot.cores[0].index for slot in task.slots] == list(range(ranks))


def test_ranks_over_emulated_nodes_have_gpus_of_their_own(emulated: Campaign, installation: MpiInstallation) -> None:
    task = emulated.run(
        script(
            RANKS,
            python=installation.python,
            ranks=4,
            ranks_per_node=2,
            gpus_per_rank=1,
            launch_method=installation.mpiexec,
        )
    )

    size, total, found = printed(task)
    assert (size, total) == (4, 10)
    nodes = [rank[4] for rank in found]
    assert len(set(nodes)) == 2
    for node in set(nodes):
        assert [rank[3] for rank in found if rank[4] == node] == ["0", "1"]
        assert sorted(rank[5] for rank in found if rank[4] == node) == ["0", "1"]


def test_the_mpi_of_this_python_is_used_unless_another_is_asked_for(campaign: Campaign, mpich: MpiInstallation) -> None:
    task = campaign.run(script(RANKS, ranks=2, environment={"PATH": f"{os.path.dirname(mpich.mpiexec)}:{os.environ['PATH']}"}))

    assert printed(task)[:2] == (2, 3)


def test_each_rank_has_its_own_variables_in_its_arguments(campaign: Campaign, installation: MpiInstallation) -> None:
    described = rp.TaskDescription(
        executable="/bin/echo",
        arguments=["rank $RP_RANK of $PILOTAGE_RANKS:", "$NAMES $HOOKED", ":", "$$ $(false)"],
        environment={"NAMES": "'Ann';  \"Bo\" `false` $HOOKED"},
        ranks=2,
        launch_method=installation.mpiexec,
    )
    hooked = rp.TaskDescription(described.as_dict(), pre_exec="export HOOKED=$RP_RANK.hook")
    for task, hooks in zip(campaign.run(described, hooked), (("$HOOKED", "$HOOKED"), ("0.hook", "1.hook")), strict=True):
        assert task.state == rp.DONE, task.exception
        assert sorted((task.stdout or "").splitlines()) == [
            f"rank {rank} of 2: 'Ann';  \"Bo\" `false` $HOOKED {hooks[rank]} : $$ $(false)" for rank in range(2)
        ]


def test_a_rank_that_fails_fails_the_task(campaign: Campaign, installation: MpiInstallation) -> None:
    source = (
        "import os, sys; from mpi4py import MPI; comm = MPI.COMM_WORLD\n"
        "if comm.rank == 1:\n    sys.stderr.write('no such atom\\n'); sys.stderr.flush(); os._exit(7)\n"
        "comm.Barrier()"
    )
    task = campaign.run(script(source, python=installation.python, ranks=2, launch_method=installation.mpiexec))

    assert (task.state, outcome_of(task).ending) == (rp.FAILED, rp.Ending.EXITED)
    assert task.exit_code == 7
    assert "no such atom" in (task.stderr or "")


WAIT = "from mpi4py import MPI; import sys; open(sys.argv[1] + str(MPI.COMM_WORLD.rank), 'w').close(); MPI.COMM_WORLD.recv()"


def waiting(campaign: Campaign, installation: MpiInstallation, place: Path, **more: Any) -> rp.Task:
    """Start a task whose ranks wait for a message that nobody sends, and wait until both do."""
    task = campaign.tasks.submit_tasks(
        script(WAIT, f"{place}/rank", python=installation.python, ranks=2, launch_method=installation.mpiexec, **more)
    )
    eventually(lambda: (place / "rank0").exists() and (place / "rank1").exists(), "both ranks wait")
    return task


def test_a_task_is_cancelled(campaign: Campaign, installation: MpiInstallation, tmp_path: Path) -> None:
    task = waiting(campaign, installation, tmp_path)
    task.cancel()

    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED


def test_a_task_runs_out_of_time(campaign: Campaign, mpich: MpiInstallation, tmp_path: Path) -> None:
    task = waiting(campaign, mpich, tmp_path, timeout=2.0)

    assert task.wait(timeout=PATIENCE_S) == rp.FAILED
    assert outcome_of(task).ending is rp.Ending.TIMED_OUT


def test_hooks_run_in_each_rank(campaign: Campaign, installation: MpiInstallation) -> None:
    source = (
        "import os; from mpi4py import MPI; comm = MPI.COMM_WORLD\n"
        "found = comm.gather((os.environ['FOR_ALL'], os.environ.get('FOR_ONE')))\n"
        "if comm.rank == 0: print(repr(found))"
    )
    task = campaign.run(
        script(
            source,
            python=installation.python,
            ranks=2,
            launch_method=installation.mpiexec,
            pre_exec=["export FOR_ALL=a$PILOTAGE_RANK", {1: "export FOR_ONE=b"}],
            pre_exec_sync=True,
        )
    )

    assert printed(task) == [("a0", None), ("a1", "b")]


# functions


def add_up(comm: Any, factor: int) -> tuple[int, int, int]:
    return comm.rank, comm.size, comm.allreduce(factor * (comm.rank + 1))


def fail_in_one(comm: Any) -> None:
    if comm.rank == 1:
        raise ValueError("no such atom")
    comm.Barrier()


def describe_self(comm: Any) -> tuple[str, str, int, list[int]]:
    task = rp.current_task()
    assert task is not None
    cores = comm.gather(sorted(os.sched_getaffinity(0)))
    return task.uid, task.name, task.attempt, cores


def large(comm: Any, size: int) -> bytes:
    return bytes(size)


def function(call: Callable[..., Any], *args: Any, mpi: MpiInstallation, **more: Any) -> rp.TaskDescription:
    return rp.TaskDescription(function=call, args=list(args), ranks=2, launch_method=mpi.mpiexec, **more)


def test_an_mpi_function(campaign: Campaign, mpich: MpiInstallation) -> None:
    task = campaign.run(function(add_up, 10, mpi=mpich))

    assert task.result(0) == (0, 2, 30)


def test_an_mpi_function_knows_its_task_and_has_its_cores(campaign: Campaign, mpich: MpiInstallation) -> None:
    task = campaign.run(function(describe_self, mpi=mpich, name="the one"))

    assert task.result(0) == (task.uid, "the one", 1, [[core] for core in CORES[:2]])


def test_a_large_result(campaign: Campaign, mpich: MpiInstallation) -> None:
    assert campaign.run(function(large, 1 << 20, mpi=mpich)).result(0) == bytes(1 << 20)


def test_an_exception_in_one_rank_ends_all(campaign: Campaign, mpich: MpiInstallation) -> None:
    task = campaign.run(function(fail_in_one, mpi=mpich))

    assert (task.state, outcome_of(task).ending) == (rp.FAILED, rp.Ending.RAISED)
    assert outcome_of(task).message == "rank 1: ValueError: no such atom"
    assert "fail_in_one" in outcome_of(task).detail
    with pytest.raises(ValueError, match="no such atom"):
        task.result(0)


def test_an_mpi_function_is_cancelled(campaign: Campaign, mpich: MpiInstallation, tmp_path: Path) -> None:
    def wait(comm: Any, path: str) -> None:
        open(path + str(comm.rank), "w").close()
        comm.recv()

    task = campaign.tasks.submit_tasks(function(wait, f"{tmp_path}/rank", mpi=mpich))
    eventually(lambda: (tmp_path / "rank0").exists() and (tmp_path / "rank1").exists(), "both ranks wait")
    task.cancel()

    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED


# what does not fit together


# A rank of OpenMPI that believes to be alone leaves a folder in TMPDIR.
def test_programs_of_another_mpi(campaign: Campaign, mpich: MpiInstallation, openmpi: MpiInstallation, tmp_path: Path) -> None:
    own = {"TMPDIR": str(tmp_path)}
    for ours, theirs, family in ((mpich, openmpi, "OpenMPI"), (openmpi, mpich, "MPICH")):
        task = campaign.run(script(RANKS, python=theirs.python, ranks=2, launch_method=ours.mpiexec, environment=own))
        assert (task.state, outcome_of(task).ending) == (rp.FAILED, rp.Ending.LAUNCH_FAILED), outcome_of(task)
        message = outcome_of(task).message
        assert message.startswith("PMI mismatch: ")
        assert family in message
        assert ours.mpiexec in message


def test_a_program_that_waits_for_ranks_it_does_not_see(
    campaign: Campaign, mpich: MpiInstallation, openmpi: MpiInstallation, tmp_path: Path
) -> None:
    own = {"TMPDIR": str(tmp_path)}
    source = "from mpi4py import MPI; import os, sys; sys.stderr.close(); os.read(os.pipe()[0], 1)"
    task = campaign.run(script(source, python=openmpi.python, ranks=2, launch_method=mpich.mpiexec, environment=own))

    assert outcome_of(task).ending is rp.Ending.LAUNCH_FAILED, outcome_of(task)
    assert outcome_of(task).message.startswith("PMI mismatch: ")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"launch_method": "/no/such/mpiexec"}, "launch_method='/no/such/mpiexec': there is no such file"),
        ({"launch_method": "/bin/true"}, "'/bin/true' is no mpiexec that Pilotage knows"),
        ({"launch_method": "pals"}, "there is no mpiexec of PALS in PATH"),
        ({"use_mpi": False, "launch_method": "mpich"}, "contradict each other"),
    ],
)
def test_an_mpi_that_is_not_there(campaign: Campaign, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(rp.InvalidTask, match=message):
        campaign.tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", ranks=2, **wrong))


def test_no_mpi_at_all(campaign: Campaign, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("pilotage.launchers.mpiexec.sys.executable", "/nowhere/bin/python")

    with pytest.raises(rp.InvalidTask, match=r"use_mpi=True needs MPI, but there is no mpiexec .* pip install mpich"):
        campaign.tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", ranks=2, use_mpi=True))


def test_more_ranks_than_the_pilot_has_cores(campaign: Campaign, mpich: MpiInstallation) -> None:
    with pytest.raises(rp.InvalidTask, match="99 ranks of 1 core exceed the 2"):
        campaign.tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", ranks=99, launch_method=mpich.mpiexec))
