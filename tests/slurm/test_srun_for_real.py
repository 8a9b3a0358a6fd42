"""Lines of the launch method ``srun``, run in a job of four nodes: where ranks are, what they hold, and how they end.

The nodes say that they have 8 cores each, whatever this machine has: so ranks are bound to the cores that it does have.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from slurm_allocation import Allocation
from slurm_cluster import PATIENCE_S, SlurmCluster

from pilotage.launchers.method import Step, parse_step_name
from pilotage.launchers.registry import launch_method
from pilotage.model.ranks import RankSlot

HERE = sorted(os.sched_getaffinity(0))
STAY = "echo $$; exec sleep infinity"
TELL = 'echo "$PILOTAGE_RANK $SLURMD_NODENAME $(taskset -cp $$ | sed "s/.*: //") GPU:$CUDA_VISIBLE_DEVICES $1"'


@pytest.fixture(scope="module")
def allocation(_shared_slurm: SlurmCluster) -> Iterator[Allocation]:
    """A job that has four nodes, with all that is on them."""
    yield Allocation(_shared_slurm, "--nodes=4", "--gres=gpu:4")
    _shared_slurm.cancel_all()


def slots_on(nodes: Sequence[int], gpus: int = 0, cores: int = 1) -> list[RankSlot]:
    """Return slots of ranks on these nodes; those of a node take its GPUs in their order."""
    local = [list(nodes[:rank]).count(node) for rank, node in enumerate(nodes)]
    return [
        RankSlot(node, at, tuple(range(at * cores, (at + 1) * cores)), tuple(range(at * gpus, (at + 1) * gpus)))
        for node, at in zip(nodes, local, strict=True)
    ]


def cores_of(slots: Sequence[RankSlot]) -> list[frozenset[int]]:
    """Return the core of each rank: those of this machine in turn, as it may have fewer than the nodes say."""
    return [frozenset({HERE[slot.cores[0] % len(HERE)]}) for slot in slots]


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Return exit code, output and errors of a launch."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


def pids_of(process: subprocess.Popen[str], ranks: int) -> list[int]:
    """Return the process ids that ranks have printed, when all of them have."""
    assert process.stdout is not None
    return [int(process.stdout.readline()) for _ in range(ranks)]


# ----- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes",
    [[0], [3], [0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1, 2, 2, 3, 3], [0, 0, 1], [1, 2, 2, 2], [2, 0, 1, 0]],
    ids=lambda nodes: "".join(map(str, nodes)),
)
def test_each_rank_is_on_its_node_and_its_core_and_sees_no_gpu(
    allocation: Allocation, tmp_path: Path, nodes: list[int]
) -> None:
    slots = slots_on(nodes)
    code, out, err = finish(allocation.start(tmp_path, slots, TELL, bind=cores_of(slots)))

    assert (code, err) == (0, "")
    expected = [
        f"{rank} {allocation.node_names[node]} {min(core)} GPU: it's  a"
        for rank, (node, core) in enumerate(zip(nodes, cores_of(slots), strict=True))
    ]
    assert sorted(out.splitlines()) == expected


@pytest.mark.parametrize("gpus_per_node", ["", "4"], ids=["job's GPUs", "told"])
def test_each_rank_sees_its_gpus(allocation: Allocation, tmp_path: Path, gpus_per_node: str) -> None:
    slots = slots_on([0, 0, 1], gpus=2)
    code, out, err = finish(allocation.start(tmp_path, slots, TELL, bind=cores_of(slots), gpus_per_node=gpus_per_node))

    assert (code, err) == (0, "")
    assert [line.split()[3] for line in sorted(out.splitlines())] == ["GPU:0,1", "GPU:2,3", "GPU:0,1"]


def test_tasks_share_a_node_whatever_each_takes_of_it(allocation: Allocation, tmp_path: Path) -> None:
    # Each waits for the other: were one of them kept waiting for the other's cores, GPUs or memory, neither would end.
    meet = f"touch {tmp_path}/$PILOTAGE_TASK; until [ -e {tmp_path}/a ] && [ -e {tmp_path}/b ]; do sleep 0.05; done"
    slots = slots_on([0, 1], gpus=4, cores=8)
    processes = [
        allocation.start(
            tmp_path / f"files-{task}", slots, meet.replace("$PILOTAGE_TASK", task), bind=cores_of(slots), task=task
        )
        for task in ("a", "b")
    ]

    assert [finish(process) for process in processes] == [(0, "", "")] * 2


def test_slurm_places_ranks_that_are_not_bound(allocation: Allocation, tmp_path: Path) -> None:
    on_a_node = min(2, len(HERE))
    slots = slots_on([0] * on_a_node + [1] * on_a_node, gpus=2)
    code, out, err = finish(allocation.start(tmp_path, slots, f"{TELL} | sed s/GPU:.*/$SLURM_STEP_GPUS/"))

    assert (code, err) == (0, "")
    told = [line.split() for line in sorted(out.splitlines())]
    assert [place[1] for place in told] == [allocation.node_names[slot.node] for slot in slots]
    # A core of its own for each rank of a node, and GPUs for all of them together.
    for node in (0, 1):
        here = told[node * on_a_node : (node + 1) * on_a_node]
        assert len({place[2] for place in here}) == on_a_node
        assert {len(place[3].split(",")) for place in here} == {2 * on_a_node}


# ----- memory ---------------------------------------------------------------------------------------------------------


def test_a_step_holds_the_memory_of_its_ranks(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0, 0, 1, 1])
    process = allocation.start(tmp_path, slots, STAY, bind=cores_of(slots), memory_mib=1500, task="memory")
    pids_of(process, len(slots))
    [step] = wait_for_steps(allocation, "memory")

    assert "mem=6000M" in allocation.slurm.output("scontrol", "show", "step", step.id)
    allocation.slurm.output("scancel", step.id)
    finish(process)


def test_more_memory_than_there_is_waits_in_silence_and_holds_up_nobody(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0])
    waiting = allocation.start(tmp_path / "a", slots, "true", bind=cores_of(slots), memory_mib=16001, task="waiting")

    assert finish(allocation.start(tmp_path / "b", slots, "true", bind=cores_of(slots))) == (0, "", "")
    assert waiting.poll() is None

    def ended_by_term() -> bool:
        # One that is about to ask again can miss a signal.
        waiting.send_signal(signal.SIGTERM)
        return waiting.poll() is not None

    allocation.slurm.wait_until(ended_by_term, "srun ends by TERM")
    assert finish(waiting)[:2] == (1, "")


# ----- ends -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("exit 7", 7, "Exited with exit code 7"),
        ("kill -KILL $$", 137, "Killed"),
        ("kill -SEGV $$", 139, "Segmentation fault"),
        ("exec /nonexistent/md", 127, "Exited with exit code 127"),
    ],
)
def test_how_a_rank_ended_is_how_srun_ends(allocation: Allocation, tmp_path: Path, script: str, code: int, words: str) -> None:
    slots = slots_on([1])
    ended, out, err = finish(allocation.start(tmp_path, slots, script, bind=cores_of(slots)))

    assert (ended, out) == (code, "")
    assert words in err


def test_a_rank_that_fails_ends_the_others_and_the_highest_code_of_all_is_told(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0, 1])
    script = "case $PILOTAGE_RANK in 1) exit 3;; *) exec sleep infinity;; esac"
    ended, out, err = finish(allocation.start(tmp_path, slots, script, bind=cores_of(slots)))

    assert (ended, out) == (143, "")
    assert "task 1: Exited with exit code 3" in err


def test_a_node_that_is_not_the_jobs_is_named_by_nobody(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0])
    process = allocation.start(tmp_path, slots, "true", bind=cores_of(slots), names={0: "node9"})

    code, out, err = finish(process)
    assert (code, out) == (1, "")
    assert "Unable to create step" in err


def test_term_to_srun_ends_its_ranks_and_leaves_them_no_time(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0, 1, 2, 3])
    process = allocation.start(tmp_path, slots, STAY, bind=cores_of(slots), task="ended")
    pids = pids_of(process, len(slots))

    process.send_signal(signal.SIGTERM)

    # Slurm sends TERM and KILL as one.
    assert finish(process)[0] in (137, 143)
    allocation.slurm.wait_until(lambda: not any(map(sleeps, pids)), "no rank is left")


def test_a_signal_to_the_step_gives_its_ranks_time_to_end(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0, 1, 2, 3])
    trap = "trap 'sleep 0.3; echo saved; exit 0' TERM; echo $$; while :; do sleep 0.05; done"
    process = allocation.start(tmp_path, slots, trap, bind=cores_of(slots), task="saving")
    pids_of(process, len(slots))
    [step] = wait_for_steps(allocation, "saving")

    allocation.slurm.output("scancel", "--signal=TERM", step.id)

    code, out, _ = finish(process)
    assert (code, out) == (0, "saved\n" * 4)


# ----- steps ----------------------------------------------------------------------------------------------------------


def test_a_left_step_is_found_by_its_name_and_cancelled(allocation: Allocation, tmp_path: Path) -> None:
    slots = slots_on([0, 1])
    processes = {
        task: allocation.start(tmp_path / task, slots, STAY, bind=cores_of(slots), task=task)
        for task in ("task.000001", "task.000002")
    }
    pids = {task: pids_of(process, len(slots)) for task, process in processes.items()}
    steps = {name[0]: step for step in wait_for_steps(allocation, *processes) if (name := parse_step_name(step.name))}
    assert set(steps) == set(processes)
    # The agent that started them is gone, and its launcher with it: the ranks are still there, until somebody ends them.
    processes["task.000001"].send_signal(signal.SIGSTOP)

    control = launch_method("srun").facts.steps
    assert control is not None
    allocation.slurm.output(*control.cancel_arguments(allocation.job, steps["task.000001"].id))

    allocation.slurm.wait_until(lambda: not any(map(sleeps, pids["task.000001"])), "the ranks of the step are gone")
    assert all(map(sleeps, pids["task.000002"]))
    processes["task.000001"].send_signal(signal.SIGCONT)
    processes["task.000002"].send_signal(signal.SIGTERM)
    for process in processes.values():
        assert finish(process)[0] != 0


def wait_for_steps(allocation: Allocation, *tasks: str) -> list[Step]:
    """Return the steps of the job that are a task's, when all these tasks have one."""
    control = launch_method("srun").facts.steps
    assert control is not None
    found: list[Step] = []

    def there() -> bool:
        listed = control.parse_steps(allocation.slurm.output(*control.list_arguments(allocation.job)))
        found[:] = [step for step in listed if (name := parse_step_name(step.name)) and name[0] in tasks]
        return len(found) == len(tasks)

    allocation.slurm.wait_until(there, lambda: f"steps of {', '.join(tasks)}; there are {found}")
    return found


def sleeps(pid: int) -> bool:
    """Return whether a rank still runs."""
    try:
        return b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
