"""Tasks over the nodes of a job: a real spawner on its first node, which starts their ranks by ``srun``."""

from __future__ import annotations

import os
import select
import signal
import stat
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_allocation import Allocation
from slurm_cluster import SlurmCluster
from slurm_spawner import HERE, PATIENCE_S, JobSpawner, job_settings, spread_over, task_steps

from mpi_installations import MpiInstallation
from pilotage.executors.local import LocalExecutor
from pilotage.launchers.method import Installed
from pilotage.model.execution import LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.workload import ALL_RANKS, Hooks, Row, Template
from pilotage.system.processes import started_ticks
from pilotage.wire.pickles import open_value, pickle_by_value, pickle_value
from pilotage.wire.runner_messages import EndTasks, SignalTasks, StopRunner
from pilotage.wire.runner_settings import write_settings

SPAWNER = RunnerId("spawner.0")
StartSpawner = Callable[..., JobSpawner]

RANK = "echo $PILOTAGE_RANK $PILOTAGE_LOCAL_RANK $PILOTAGE_NODE $SLURMD_NODENAME"
CORE = "$(taskset -cp $$ | sed 's/.*: //')"
SAY_AND_STAY = "trap 'echo $PILOTAGE_RANK >>saved; exit 0' TERM; echo $$ >>pids; while :; do sleep 0.05; done"
STAY = "echo $$ >>pids; exec sleep infinity"


@pytest.fixture(scope="module")
def allocation(_shared_slurm: SlurmCluster) -> Iterator[Allocation]:
    """A job that has four nodes, with all that is on them."""
    yield Allocation(_shared_slurm, "--nodes=4", "--gres=gpu:4")
    _shared_slurm.cancel_all()


@pytest.fixture
def start_spawner(allocation: Allocation, tmp_path: Path) -> Iterator[StartSpawner]:
    """Start a spawner on the first node of the job; what it runs ends with the test."""
    started: list[JobSpawner] = []

    def start(**changes: object) -> JobSpawner:
        driver = JobSpawner(allocation, tmp_path / "agent", **changes)
        started.append(driver)
        driver.start()
        driver.start_runner("pilotage.spawner.main", "spawner.0")
        return driver

    yield start
    for driver in started:
        driver.close()
        for step in allocation.slurm.steps(allocation.job):
            if not step.endswith(".batch"):
                allocation.slurm.run("scancel", step)


@pytest.fixture
def driver(start_spawner: StartSpawner) -> JobSpawner:
    """A spawner with the usual settings."""
    return start_spawner()


def pids_in(driver: JobSpawner, uid: str, count: int) -> dict[int, int | None]:
    """Return the process ids that ranks have written, when all of them have, with their start times."""
    return {int(pid): started_ticks(int(pid)) for pid in driver.lines_of(uid, "pids", count)}


def none_lives(pids: dict[int, int | None]) -> bool:
    return all(ticks is None or started_ticks(pid) != ticks for pid, ticks in pids.items())


def assert_nothing_is_left(driver: JobSpawner) -> None:
    """See that there is neither a step of a task, nor a file of its launcher, nor a note of it."""
    # Slurm may list a step for a moment longer than it lasts.
    driver.wait_for(lambda: driver.steps() == set(), PATIENCE_S, "no step is left")
    assert driver.shared_files() == []


# ----- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [[0, 1, 2, 3], [0, 0, 1, 1], [0, 1, 1, 1], [0, 2, 0, 1]],
    ids=lambda nodes: "".join(map(str, nodes)),
)
def test_ranks_are_where_their_task_was_placed(driver: JobSpawner, nodes: list[int]) -> None:
    driver.shell("task.1", nodes, f"{RANK} {CORE} $PWD $CUDA_VISIBLE_DEVICES $OWN", gpus=1, environment={"OWN": "mine"})

    end = driver.end_of("task.1")

    assert (end.ending, end.exit_code, end.message) == (Ending.DONE, 0, "")
    names = driver.allocation.node_names
    local = [nodes[:rank].count(node) for rank, node in enumerate(nodes)]
    assert driver.output("task.1") == [
        f"{rank} {local[rank]} {names[node]} {names[node]} {HERE[local[rank] % len(HERE)]} {driver.sandbox('task.1')} "
        f"{local[rank]} mine"
        for rank, node in enumerate(nodes)
    ]
    assert_nothing_is_left(driver)


def test_gpus_and_cores_are_named_as_their_node_names_them(start_spawner: StartSpawner) -> None:
    driver = start_spawner(
        gpu_ids=["0.0", "0.1"], node_gpu_ids={2: ["GPU-a", ""]}, node_core_ids={1: [HERE[-1]] * 8}, core_ids=[HERE[0]] * 8
    )

    driver.shell("task.1", [0, 1, 2, 2], f"echo $PILOTAGE_RANK {CORE} $CUDA_VISIBLE_DEVICES", gpus=1)

    assert driver.end_of("task.1").ending is Ending.DONE
    first, last = HERE[0], HERE[-1]
    assert driver.output("task.1") == [f"0 {first} 0.0", f"1 {last} 0.0", f"2 {first} GPU-a", f"3 {first} 1"]


def test_slurm_places_what_is_not_bound_and_tells_the_gpus(start_spawner: StartSpawner) -> None:
    driver = start_spawner(bind=False)

    driver.shell("task.1", [0, 1], "echo $PILOTAGE_RANK $SLURMD_NODENAME ${CUDA_VISIBLE_DEVICES:-none}", gpus=2)

    assert driver.end_of("task.1").ending is Ending.DONE
    names = driver.allocation.node_names
    told = [line.split() for line in driver.output("task.1")]
    assert [line[:2] for line in told] == [["0", names[0]], ["1", names[1]]]
    assert [len(line[2].split(",")) for line in told] == [2, 2]


def test_ranks_without_mpi_need_a_launcher_only_for_other_nodes(driver: JobSpawner) -> None:
    script = f"{RANK} ${{SLURM_JOB_ID-no job}}"
    driver.shell("here", [0, 0], script, launch_method="")
    driver.shell("there", [0, 1], script, launch_method="")
    ends = driver.wait_for_ends(["here", "there"], PATIENCE_S)

    assert {end.ending for end in ends.values()} == {Ending.DONE}
    # No launcher, and nothing of the batch system either.
    assert driver.output("here") == ["0 0 node1 no job", "1 1 node1 no job"]
    job = driver.allocation.job
    assert driver.output("there") == [f"0 0 node1 node1 {job}", f"1 0 node2 node2 {job}"]


def test_what_the_batch_system_says_is_no_option_of_a_step(start_spawner: StartSpawner, allocation: Allocation) -> None:
    job = {name.decode(): value.decode() for name, value in allocation.environment.items() if name.startswith(b"SLURM")}
    options = {"SLURM_CPUS_PER_TASK": "7", "SLURM_NTASKS": "9", "SLURM_MEM_PER_CPU": "99999", "SLURM_PROCID": "5"}
    driver = start_spawner(allocation_environment={**job, **options})

    driver.shell("task.1", [0, 1], "echo $PILOTAGE_RANK of $SLURM_NTASKS, ${SLURM_CPUS_PER_TASK-unset}")

    assert driver.end_of("task.1").ending is Ending.DONE
    assert driver.output("task.1") == ["0 of 2, unset", "1 of 2, unset"]


def test_files_for_the_launcher_are_private_and_go_with_it(driver: JobSpawner) -> None:
    driver.shell("task.1", [1, 0, 1], "touch $PILOTAGE_RANK; while [ ! -e go ]; do sleep 0.05; done")
    sandbox = driver.sandbox("task.1")
    driver.wait_for(lambda: all((sandbox / str(rank)).exists() for rank in range(3)), PATIENCE_S, "all ranks run")

    note, hosts = driver.shared_files()
    assert note.name == "pilotage:task.1:1"
    assert hosts.read_text() == "node2\nnode1\nnode2\n"
    assert stat.S_IMODE(hosts.stat().st_mode) == 0o600
    assert stat.S_IMODE(hosts.parent.stat().st_mode) == 0o700
    (sandbox / "go").touch()

    assert driver.end_of("task.1").ending is Ending.DONE
    assert_nothing_is_left(driver)


# ----- hooks and functions --------------------------------------------------------------------------------------------


def test_ranks_of_several_nodes_wait_for_each_others_hooks(driver: JobSpawner) -> None:
    # Rank 2 is the last to be ready; none may begin before.
    slow = "[ $PILOTAGE_RANK != 2 ] || while [ $(ls hook.* | wc -l) -lt 2 ]; do sleep 0.05; done; touch hook.$PILOTAGE_RANK"
    hooks = Hooks(pre_launch=("export FROM=launch",), pre_exec=((ALL_RANKS, slow), (1, "export ONE=1")), sync=True)

    driver.shell("task.1", [0, 1, 2], "echo $PILOTAGE_RANK sees $(ls hook.* | wc -l) $FROM $ONE", hooks=hooks)

    end = driver.end_of("task.1")
    assert (end.ending, end.message) == (Ending.DONE, "")
    assert driver.output("task.1") == ["0 sees 3 launch", "1 sees 3 launch 1", "2 sees 3 launch"]
    assert_nothing_is_left(driver)


def test_a_hook_that_fails_on_another_node_is_told(driver: JobSpawner) -> None:
    hooks = Hooks(pre_exec=((1, "cd /nonexistent"),), sync=True)

    driver.shell("task.1", [0, 1, 2], "exit 0", hooks=hooks)

    end = driver.end_of("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert "rank 1: pre_exec[0] failed with exit code" in end.message
    assert_nothing_is_left(driver)


def test_a_function_over_several_nodes_has_its_communicator(start_spawner: StartSpawner, mpich: MpiInstallation) -> None:
    def gathered(comm, factor):  # type: ignore[no-untyped-def]
        import os

        return comm.gather((comm.rank * factor, os.environ["SLURMD_NODENAME"]), root=0)

    driver = start_spawner()
    srun = driver.settings.launchers["srun"]
    driver.close()
    driver = start_spawner(launchers={"srun": Installed(srun.path, version=srun.version, options={"mpi": "pmi2"})})
    function, arguments = pickle_by_value(gathered), pickle_value(((10,), {}))
    driver.launch("task.1", [0, 1, 1], "", mode="function", function=function, payload=arguments, launch_method="mpi")

    end = driver.end_of("task.1")

    assert (end.ending, end.message) == (Ending.DONE, "")
    assert isinstance(end.result, bytes)
    assert open_value(end.result) == [(0, "node1"), (10, "node2"), (20, "node2")]


def test_an_mpiexec_starts_ranks_of_its_own_node(start_spawner: StartSpawner, mpich: MpiInstallation) -> None:
    launchers = {"mpiexec": Installed(mpich.mpiexec, "mpich")}
    driver = start_spawner(launchers=launchers)

    driver.shell("task.1", [0, 0], "echo $PILOTAGE_RANK $PMI_RANK of $PMI_SIZE", launch_method="mpich")

    assert driver.end_of("task.1").ending is Ending.DONE
    assert driver.output("task.1") == ["0 0 of 2", "1 1 of 2"]


@pytest.fixture
def hydra(start_spawner: StartSpawner, mpich: MpiInstallation) -> JobSpawner:
    """A spawner of a pilot whose one launcher is MPICH's mpiexec, which starts its daemons by ``srun``."""
    return start_spawner(launchers={"mpiexec": Installed(mpich.mpiexec, "mpich", options={"daemons": "slurm"})})


def test_tasks_share_nodes_that_an_mpiexec_reaches_by_srun(hydra: JobSpawner) -> None:
    # Each waits for the other: were one of their steps kept waiting for the other's, neither would end.
    meet = "touch $PILOTAGE_RANK; until [ -e ../a/1 ] && [ -e ../b/1 ]; do sleep 0.05; done"
    for uid in ("a", "b"):
        hydra.shell(uid, [0, 1], f"{meet}; echo $PMI_RANK of $PMI_SIZE on $SLURMD_NODENAME {CORE}")
    ends = hydra.wait_for_ends(["a", "b"], PATIENCE_S)

    assert {end.ending for end in ends.values()} == {Ending.DONE}
    for uid in ("a", "b"):
        assert hydra.output(uid) == [f"0 of 2 on node1 {HERE[0]}", f"1 of 2 on node2 {HERE[0]}"]


def test_ranks_of_an_mpiexec_on_other_nodes_end_with_it(hydra: JobSpawner) -> None:
    hydra.shell("task.1", [0, 1, 2], STAY, grace_s=2.0)
    pids = pids_in(hydra, "task.1", 3)

    hydra.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "on demand"))

    assert hydra.end_of("task.1").ending is Ending.CANCELLED
    hydra.wait_for(lambda: none_lives(pids), PATIENCE_S, "no rank is left")


# ----- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "ending", "code", "message"),
    [
        ("exit 3", Ending.EXITED, 3, "rank 1 exited with code 3"),
        ("kill -SEGV $$", Ending.SIGNALLED, -11, "rank 1 ended by signal 11 (SIGSEGV)"),
        ("exec /nonexistent/md", Ending.EXITED, 127, "rank 1 exited with code 127"),
    ],
)
def test_a_rank_that_fails_is_named_though_the_others_were_ended(
    driver: JobSpawner, script: str, ending: Ending, code: int, message: str
) -> None:
    driver.shell("task.1", [0, 1], f'[ "$PILOTAGE_RANK" = 1 ] || exec sleep infinity; {script}')

    end = driver.end_of("task.1")

    assert (end.ending, end.exit_code, end.message) == (ending, code, message)
    assert_nothing_is_left(driver)


def test_a_node_that_is_not_the_jobs_is_told_as_a_launch_that_failed(start_spawner: StartSpawner) -> None:
    driver = start_spawner()
    nodes = [driver.settings.nodes[0], *[type(node)(node.index, "node9", node.shape) for node in driver.settings.nodes[1:]]]
    driver.close()
    driver = start_spawner(nodes=nodes)

    driver.shell("task.1", [0, 1], "true")

    end = driver.end_of("task.1")
    assert end.ending is Ending.LAUNCH_FAILED
    assert end.message.startswith("srun did not start the ranks: ")
    assert "step" in end.message


@pytest.mark.parametrize("ending", [Ending.CANCELLED, Ending.TIMED_OUT])
def test_ranks_are_ended_by_term_and_have_time(driver: JobSpawner, ending: Ending) -> None:
    nodes = [0, 1, 2, 3]
    driver.shell("task.1", nodes, SAY_AND_STAY, grace_s=PATIENCE_S)
    pids = pids_in(driver, "task.1", len(nodes))

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], ending, "on demand"))

    end = driver.end_of("task.1")
    assert (end.ending, end.message) == (ending, "on demand")
    assert driver.lines_of("task.1", "saved", len(nodes)) == ["0", "1", "2", "3"]
    assert none_lives(pids)
    assert_nothing_is_left(driver)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_ranks_are_told_by_a_signal_and_go_on(driver: JobSpawner, number: signal.Signals) -> None:
    name = number.name.removeprefix("SIG")
    script = f"trap 'echo $PILOTAGE_RANK >>told' {name}; echo $$ >>pids; while [ ! -e go ]; do sleep 0.05; done"
    driver.shell("task.1", [0, 1, 2], script)
    pids_in(driver, "task.1", 3)

    driver.send(SignalTasks([(TaskUid("task.1"), Attempt(1))], number))

    assert driver.lines_of("task.1", "told", 3) == ["0", "1", "2"]
    (driver.sandbox("task.1") / "go").touch()
    assert driver.end_of("task.1").ending is Ending.DONE


def test_ranks_that_do_not_end_are_killed_after_their_grace(driver: JobSpawner) -> None:
    nodes = [0, 1, 2, 3]
    script = "trap 'echo $PILOTAGE_RANK >>told' TERM; echo $$ >>pids; while :; do sleep 0.05; done"
    driver.shell("task.1", nodes, script, grace_s=1.0)
    pids = pids_in(driver, "task.1", len(nodes))

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "on demand"))

    assert driver.end_of("task.1").ending is Ending.CANCELLED
    assert none_lives(pids)
    assert driver.lines_of("task.1", "told", len(nodes)) == ["0", "1", "2", "3"]
    assert_nothing_is_left(driver)


def test_a_launcher_that_is_killed_takes_its_ranks_with_it(driver: JobSpawner) -> None:
    nodes = [1, 2]
    driver.shell("task.1", nodes, STAY)
    pids = pids_in(driver, "task.1", len(nodes))

    # srun has a second process; the first alone is what the spawner knows.
    os.kill(driver.wait_for_start("task.1"), signal.SIGKILL)

    end = driver.end_of("task.1")
    assert (end.ending, end.exit_code) == (Ending.SIGNALLED, -signal.SIGKILL)
    assert none_lives(pids)
    assert_nothing_is_left(driver)


def test_a_launcher_that_waits_for_its_step_ends_when_it_is_asked(driver: JobSpawner) -> None:
    request = {"launch_method": "srun", "grace_s": 1.0}
    driver.launch("task.1", [0, 1], "/bin/true", **request, hooks=Hooks(pre_launch=("touch here; sleep infinity",)))
    driver.wait_for(lambda: (driver.sandbox("task.1") / "here").exists(), PATIENCE_S, "the hook runs")

    driver.send(EndTasks([(TaskUid("task.1"), Attempt(1))], Ending.CANCELLED, "on demand"))

    assert driver.end_of("task.1").ending is Ending.CANCELLED
    assert_nothing_is_left(driver)


def test_a_stopped_spawner_ends_the_steps_of_its_tasks(driver: JobSpawner) -> None:
    driver.shell("task.1", [1, 2], SAY_AND_STAY)
    pids = pids_in(driver, "task.1", 2)

    driver.send(StopRunner(PATIENCE_S))

    assert driver.end_of("task.1").ending is Ending.CANCELLED
    assert driver.lines_of("task.1", "saved", 2) == ["0", "1"]
    assert none_lives(pids)
    process = next(iter(driver.processes.values()))
    driver.wait_for(lambda: process.poll() is not None, PATIENCE_S, "the spawner exits")
    assert_nothing_is_left(driver)


def test_steps_of_a_spawner_that_is_killed_are_ended_before_its_loss_is_told(allocation: Allocation, tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    folder.mkdir(mode=0o700)
    settings = job_settings(allocation, folder)
    Path(settings.pilot_folder).mkdir()
    write_settings(folder, settings)
    executor, told = LocalExecutor(folder, settings.session, settings.pilot, tmp_path, 1), Told()
    executor.start(told, {})  # type: ignore[arg-type]
    try:
        executor.start_runner(SPAWNER, None, {})
        placement, request = spread_over([1, 0, 2])
        template = Template(executable="/bin/sh", request=request, launch_method="srun")
        row = Row(TaskUid("task.1"), TemplateId(1), ("-c", STAY))
        executor.launch(SPAWNER, [LaneTasks(LaneId(1), placement, [(Attempt(1), row)])], {TemplateId(1): template})
        pids_file = Path(settings.pilot_folder) / "tasks" / "task.1" / "pids"
        turn_until(executor, lambda: pids_file.exists() and len(pids_file.read_text().split()) == 3)
        pids = {int(pid): started_ticks(int(pid)) for pid in pids_file.read_text().split()}
        assert list(Path(settings.pilot_folder).glob("launches/*/*/*.hosts"))

        os.kill(told.calls["runner_connected"][0][1], signal.SIGKILL)
        turn_until(executor, lambda: told.calls["runner_lost"])

        assert none_lives(pids)
        assert task_steps(allocation) == set()
        assert list(Path(settings.pilot_folder).glob("launches/*")) == []
    finally:
        executor.close(0.0)


class Told:
    """A listener that keeps what it is told, by the names of the calls."""

    def __init__(self) -> None:
        self.calls: dict[str, list[tuple[Any, ...]]] = defaultdict(list)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments: self.calls[name].append(arguments)


def turn_until(executor: LocalExecutor, condition: Callable[[], object]) -> None:
    """Have an executor turn until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        select.select([executor.fileno()], [], [], 0.02)
        executor.turn(time.time())
        executor.flush()
