"""Ranks that an mpiexec starts: one process of ours, whose ranks are as well looked after as if they were started here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import cloudpickle
import pytest
from spawner_driver import SpawnerDriver, StartDriver

from mpi_installations import MpiInstallation
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare, Placement, Request, core_mask
from pilotage.model.workload import ALL_RANKS, Hooks, MpiLauncher
from pilotage.spawner.rank_endings import RankEnding, rank_ending
from pilotage.system.processes import started_ticks
from pilotage.wire.runner_messages import EndTasks

TWO_RANKS: Placement = (NodeShare(0, 2, core_mask(0b11), ((2, 64), (3, 64))),)
TWO = Request(ranks=2, gpu_shares=64)
RANK_1 = '[ "$PILOTAGE_RANK" = 1 ]'


def launch(driver: SpawnerDriver, mpi: MpiInstallation, script: str, **fields: object) -> None:
    launch_program(driver, mpi, "/bin/bash", ("-c", script), **fields)


def launch_program(
    driver: SpawnerDriver, mpi: MpiInstallation, executable: str, arguments: tuple[str, ...], **fields: object
) -> None:
    launcher = MpiLauncher("mpich", mpi.mpiexec)
    template = driver.template(**{"executable": executable, "launcher": launcher, "request": TWO, **fields})
    driver.launch("task.1", template=template, arguments=arguments, placement=TWO_RANKS)


def ranks_of(driver: SpawnerDriver) -> dict[int, int | None]:
    """Wait until both ranks have said who they are; return their process ids with their start times."""
    path = driver.sandbox("task.1") / "pids"
    driver.wait_for(lambda: path.exists() and len(path.read_text().split()) == 2, what="two ranks")
    return {int(pid): started_ticks(int(pid)) for pid in path.read_text().split()}


def assert_gone(pids: dict[int, int | None]) -> None:
    assert {pid: started_ticks(pid) for pid, ticks in pids.items() if started_ticks(pid) == ticks} == {}


def test_ranks_know_who_they_are(start_driver: StartDriver, mpich: MpiInstallation) -> None:
    driver = start_driver(environment={"PATH": os.environ["PATH"], "PMI_RANK": "17", "SEEN": "user"})
    script = "echo $PMI_RANK $RP_RANK of $PMI_SIZE $RP_RANKS, $PILOTAGE_LOCAL_RANK on $PILOTAGE_NODE, $CUDA_VISIBLE_DEVICES"

    launch(driver, mpich, f"{script} $SEEN $OWN", environment={"OWN": "template"})

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, 0, "")
    assert sorted(driver.output("task.1").splitlines()) == [
        "0 0 of 2 2, 0 on node0, 2 user template",
        "1 1 of 2 2, 1 on node0, 3 user template",
    ]


def test_each_rank_is_bound_to_its_own_cores(start_driver: StartDriver, mpich: MpiInstallation) -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("two ranks are bound to two cores")
    driver = start_driver(bind=True)
    placement = (NodeShare(0, 2, core_mask(sum(1 << core for core in cores)), ((2, 64), (3, 64))),)
    template = driver.template(executable="/bin/bash", launcher=MpiLauncher("mpich", mpich.mpiexec), request=TWO)

    driver.launch("task.1", template=template, arguments=("-c", "echo $RP_RANK $(taskset -cp $$)"), placement=placement)

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    told = [(line.split()[0], line.split()[-1]) for line in sorted(driver.output("task.1").splitlines())]
    assert told == [("0", str(cores[0])), ("1", str(cores[1]))]


@pytest.mark.parametrize(("script", "code"), [("exit 3", 3), (f"{RANK_1} && exit 200; exit 0", 200)])
def test_ranks_that_fail_fail_the_task(driver: SpawnerDriver, mpich: MpiInstallation, script: str, code: int) -> None:
    launch(driver, mpich, script)

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.EXITED, code, f"exited with code {code}")


def test_a_rank_that_is_ended_by_a_signal_is_named(driver: SpawnerDriver, openmpi: MpiInstallation) -> None:
    script = f"ulimit -c 0; {RANK_1} && kill -SEGV $$; exec sleep 1000"
    launch(driver, openmpi, script, launcher=MpiLauncher("openmpi", openmpi.mpiexec, "5"))

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.SIGNALLED, -11, "rank 1 ended by signal 11 (SIGSEGV)")


@pytest.mark.parametrize(
    ("executable", "words"),
    [
        ("nosuchtool", "is in no folder of the task's PATH"),
        ("/no/such/tool", "cannot be found: No such file or directory"),
        ("./tool", "cannot be found: No such file or directory"),
        ("/etc/passwd", "is not executable"),
    ],
)
def test_an_executable_that_is_none_is_named_before_there_is_an_mpiexec(
    driver: SpawnerDriver, mpich: MpiInstallation, executable: str, words: str
) -> None:
    launch_program(driver, mpich, executable, ())

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code) == (Ending.LAUNCH_FAILED, None)
    assert end.message.startswith(f"executable '{executable}'")
    assert words in end.message


def test_an_mpiexec_that_is_gone_fails_the_launch(driver: SpawnerDriver) -> None:
    launch(driver, MpiInstallation("/no/such/mpiexec", ""), "true")

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.message) == (
        Ending.LAUNCH_FAILED,
        "executable '/no/such/mpiexec' cannot be found: No such file or directory; give its full path",
    )


def test_ranks_get_term_through_their_mpiexec(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    script = "trap 'echo tidy; exit 0' TERM; echo $$ >> pids; while :; do sleep 1000 & wait; done"
    launch(driver, mpich, script, grace_s=1000.0)
    pids = ranks_of(driver)

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.TIMED_OUT, "too long"))

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.message) == (Ending.TIMED_OUT, "too long")
    assert driver.output("task.1") == "tidy\ntidy\n"
    assert_gone(pids)


@pytest.mark.parametrize("hooks", [None, Hooks(post_launch=("echo $$ > after",))], ids=["direct", "hooks"])
def test_ranks_that_are_deaf_are_killed_after_the_grace(
    driver: SpawnerDriver, mpich: MpiInstallation, hooks: Hooks | None
) -> None:
    script = (
        "trap '' TERM HUP; (setsid bash -c 'echo $$ >> pids; while :; do sleep 1000; done' &); while :; do sleep 1000; done"
    )
    launch(driver, mpich, script, grace_s=0.1, hooks=hooks)
    pids = ranks_of(driver)

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "cancelled"))

    assert driver.wait_for_end("task.1").ending is Ending.CANCELLED
    assert_gone(pids)
    assert not (driver.sandbox("task.1") / "after").exists()


def test_ranks_of_an_mpiexec_that_is_killed_are_ended(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    launch(driver, mpich, "echo $$ >> pids; while :; do sleep 1000; done", grace_s=1000.0)
    pids = ranks_of(driver)

    os.kill(driver.wait_for_start("task.1"), signal.SIGKILL)

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code) == (Ending.SIGNALLED, -9)
    assert_gone(pids)


def test_hooks_of_the_launch_run_once_and_those_of_ranks_in_each(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    hooks = Hooks(
        pre_launch=("echo pre_launch; export FROM_LAUNCH=launch; list=(x)",),
        pre_exec=((ALL_RANKS, "export A=all"), (1, "export A='one only'; true")),
        post_exec=((0, "echo post_exec $A"),),
        post_launch=("echo post_launch ${list[0]}",),
    )
    launch(driver, mpich, "echo $RP_RANK $A $FROM_LAUNCH", hooks=hooks)

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, 0, "")
    lines = driver.output("task.1").splitlines()
    assert (lines[0], lines[-1]) == ("pre_launch", "post_launch x")
    assert sorted(lines[1:-1]) == ["0 all launch", "1 one only launch", "post_exec all"]
    assert not list(driver.folder.glob("hooks/*"))


@pytest.mark.parametrize("way", ["false", "exit 0"])
@pytest.mark.parametrize("sync", [False, True], ids=["each", "sync"])
def test_a_hook_that_fails_in_a_rank_is_named(driver: SpawnerDriver, mpich: MpiInstallation, way: str, sync: bool) -> None:
    hooks = Hooks(pre_exec=((1, way),), sync=sync)
    launch(driver, mpich, "sleep 1000" if sync else "true", hooks=hooks, grace_s=0.1)

    end = driver.wait_for_end("task.1")
    verb = "failed with exit code 1" if way == "false" else "ended the shell with exit code 0 before the program began"
    assert (end.ending, end.message) == (Ending.LAUNCH_FAILED, f"rank 1: pre_exec[0] {verb}: {way}")
    assert not list(driver.folder.glob("hooks/*"))


def test_ranks_wait_for_each_others_hooks(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    hooks = Hooks(pre_exec=((ALL_RANKS, "echo hook >> order"), (0, "while ! [ -e gate ]; do sleep 0.01; done")), sync=True)
    launch(driver, mpich, "echo program >> order", hooks=hooks)
    order = driver.sandbox("task.1") / "order"
    driver.wait_for(lambda: order.exists() and order.read_text().split() == ["hook", "hook"])

    (driver.sandbox("task.1") / "gate").touch()

    assert driver.wait_for_end("task.1").ending is Ending.DONE
    assert order.read_text().split() == ["hook", "hook", "program", "program"]


def test_a_rank_whose_shell_waits_for_it_tells_its_signal(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    hooks = Hooks(post_exec=((ALL_RANKS, "true"),))
    launch(driver, mpich, f"ulimit -c 0; {RANK_1} && kill -SEGV $$; exit 0", hooks=hooks)

    end = driver.wait_for_end("task.1")
    assert (end.ending, end.exit_code, end.message) == (Ending.SIGNALLED, -11, "rank 1 ended by signal 11 (SIGSEGV)")


def test_a_program_of_another_mpi_is_seen_while_it_runs(
    driver: SpawnerDriver, mpich: MpiInstallation, openmpi: MpiInstallation
) -> None:
    program = "from mpi4py import MPI; import time; time.sleep(1000)"
    launch_program(driver, mpich, openmpi.python, ("-c", program), grace_s=0.1)

    end = driver.wait_for_end("task.1", deadline_s=60.0)
    assert end.ending is Ending.LAUNCH_FAILED
    assert "PMI mismatch" in end.message
    assert "launch_method='openmpi'" in end.message


def test_a_program_of_another_mpi_is_seen_when_it_is_over(
    driver: SpawnerDriver, mpich: MpiInstallation, openmpi: MpiInstallation
) -> None:
    launch_program(driver, mpich, openmpi.python, ("-c", "from mpi4py import MPI; print(MPI.COMM_WORLD.size)"))

    end = driver.wait_for_end("task.1", deadline_s=60.0)
    assert end.ending is Ending.LAUNCH_FAILED
    assert "PMI mismatch" in end.message


def test_an_mpi_function_gets_its_communicator(driver: SpawnerDriver, mpich: MpiInstallation) -> None:
    def gathered(comm, offset):  # type: ignore[no-untyped-def]
        return comm.gather(comm.rank + offset)

    template = driver.template(
        mode="function",
        function=cloudpickle.dumps(gathered),
        launcher=MpiLauncher("mpich", mpich.mpiexec),
        request=TWO,
    )
    driver.launch("task.1", template=template, placement=TWO_RANKS, payload=cloudpickle.dumps(((10,), {})))

    end = driver.wait_for_end("task.1", deadline_s=60.0)
    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, None, "")
    assert isinstance(end.result, bytes)
    assert cloudpickle.loads(end.result) == [10, 11]
    assert not list(Path(driver.settings.pilot_folder, "calls").iterdir())


OPENMPI_SIGNAL = """
--------------------------------------------------------------------------
prterun noticed that process rank 1 with PID 8800 on node vm exited on
signal 11 (Segmentation fault).
--------------------------------------------------------------------------
"""
OPENMPI_CODE = """
prterun detected that one or more processes exited with non-zero status,
thus causing the job to be terminated. The first process to do so was:

   Process name: [prterun-vm-8783@1,1]
   Exit code:    200
"""
SRUN_CODE = """\
srun: error: node2: task 1: Exited with exit code 3
slurmstepd-node1: error: *** STEP 1.23 ON node1 CANCELLED AT 2026-11-21T23:28:29 ***
srun: error: node1: task 0: Terminated
"""
SRUN_REFUSAL = """\
srun: error: Unable to create step for job 7: Invalid node name specified
"""
SRUN_AWAY = """\
srun: error: Unable to confirm allocation for job 1: Unable to contact slurm controller (connect failure)
"""
SRUN_NOT_YET = """\
srun: error: Unable to create step for job 1: Memory required by task is not available
"""
SRUN_CGROUP = """\
srun: error: node1: task 0: Out Of Memory
slurmstepd-node1: error: Detected 1 oom-kill event(s) in StepId=3.0. Some of your processes may have been killed by the cgroup \
out-of-memory handler.
"""
SRUN_ACCOUNTED = """\
slurmstepd-node1: error: StepId=4.0 exceeded memory limit (392945664 > 314572800), being killed
srun: Job step aborted: Waiting up to 4 seconds for job step to finish.
slurmstepd-node1: error: Exceeded job memory limit
slurmstepd-node1: error: *** STEP 4.0 ON node1 CANCELLED AT 2026-11-22T02:19:30 ***
srun: error: node1: task 0: Killed
"""
HYDRA_FAILURE = """
[mpiexec@vm] control_cb (pmiserv_cb.c:280): assert (!closed) failed
[mpiexec@vm] main (/mpich/src/pm/hydra/mpiexec/mpiexec.c:270): process manager error waiting for completion
"""
INTEL_SIGNAL = """
===================================================================================
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 1 PID 9063 RUNNING AT localhost
=   KILLED BY SIGNAL: 11 (Segmentation fault)
===================================================================================
"""


@pytest.mark.parametrize(
    ("kind", "code", "said", "ending"),
    [
        ("openmpi", 139, OPENMPI_SIGNAL, RankEnding(-11, 1)),
        ("openmpi", 139, "", RankEnding(-11)),
        ("openmpi", 200, OPENMPI_CODE, RankEnding(200, 1)),
        ("intelmpi", 255, INTEL_SIGNAL, RankEnding(-11, 1)),
        ("mpich", 7, "", RankEnding(7)),
        ("mpich", 11, "YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Segmentation fault (signal 11)\n", RankEnding(-11)),
        ("mpich", 255, HYDRA_FAILURE, RankEnding(255, None, "control_cb (pmiserv_cb.c:280): assert (!closed) failed")),
        ("pals", 1, "n1.hsn: rank 0 exited with code 1\n", RankEnding(1, 0)),
        ("srun", 143, SRUN_CODE, RankEnding(3, 1)),
        ("srun", 139, "srun: error: node2: task 1: Segmentation fault (core dumped)\n", RankEnding(-11, 1)),
        ("srun", 137, "srun: error: nid0001: tasks 4-7: Killed\n", RankEnding(-9, 4)),
        ("srun", 1, SRUN_REFUSAL, RankEnding(1, None, "Unable to create step for job 7: Invalid node name specified", True)),
        ("srun", 1, SRUN_AWAY, RankEnding(1, None, SRUN_AWAY[13:-1], refused=True, transient=True)),
        ("srun", 1, SRUN_NOT_YET, RankEnding(1, None, SRUN_NOT_YET[13:-1], refused=True, transient=True)),
        ("srun", 1, SRUN_CGROUP, RankEnding(-9, 0, out_of_memory=True)),
        ("srun", 137, SRUN_ACCOUNTED, RankEnding(-9, 0, out_of_memory=True)),
        ("srun", 137, "", RankEnding(-9)),
        ("srun", 7, "task 1: Exited with exit code 3\n", RankEnding(7)),
        ("mpich", -15, "", RankEnding(-15)),
    ],
)
def test_what_each_kind_of_mpiexec_says(kind: str, code: int, said: str, ending: RankEnding) -> None:
    assert rank_ending(kind, code, said) == ending
