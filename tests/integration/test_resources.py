"""Ranks as plain processes, GPUs, threads and tags on emulated nodes, and the order in which tasks run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_support import Campaign, eventually, shell

import pilotage as rp

TELL_RANK = (
    'echo "$PILOTAGE_RANK $PILOTAGE_RANKS $PILOTAGE_LOCAL_RANK $PILOTAGE_NODE $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS" '
    '> "rank.$PILOTAGE_RANK"'
)


@pytest.fixture(scope="module")
def machine(base: Path, _nothing_left: None) -> Iterator[Campaign]:
    """Four emulated nodes of 4 cores and 2 GPUs."""
    campaign = Campaign(base)
    try:
        campaign.start(resource="local.emulated", nodes=4, cores_per_node=4, gpus_per_node=2, memory_per_node=4096)
        yield campaign
    finally:
        campaign.session.close()


def told(task: rp.Task) -> list[list[str]]:
    """Return what each rank wrote, by rank."""
    assert task.state == rp.DONE, task.exception
    ranks = int(task.description.ranks)
    return [Path(task.sandbox, f"rank.{rank}").read_text().split(" ") for rank in range(ranks)]


def test_each_rank_is_a_process_that_knows_its_place(machine: Campaign) -> None:
    ranks = told(machine.shell(TELL_RANK, ranks=6, use_mpi=False, cores_per_rank=2))
    assert [rank[0] for rank in ranks] == [str(rank) for rank in range(6)]
    assert {rank[1] for rank in ranks} == {"6"}
    by_node: dict[str, list[str]] = {}
    for rank in ranks:
        by_node.setdefault(rank[3], []).append(rank[2])
    assert all(local == [str(number) for number in range(len(local))] for local in by_node.values())
    assert len(by_node) == 3


def test_ranks_per_node(machine: Campaign) -> None:
    ranks = told(machine.shell(TELL_RANK, ranks=4, use_mpi=False, ranks_per_node=1))
    assert len({rank[3] for rank in ranks}) == 4


def test_all_ranks_write_into_one_output(machine: Campaign) -> None:
    task = machine.shell("echo rank $PILOTAGE_RANK", ranks=5, use_mpi=False)
    assert sorted(task.stdout.splitlines()) == [f"rank {rank}" for rank in range(5)]


def test_one_failing_rank_fails_the_task_and_ends_the_others(machine: Campaign) -> None:
    task = machine.shell(
        'if [ "$PILOTAGE_RANK" = 2 ]; then echo broken >&2; exit 9; fi; exec sleep 600', ranks=4, use_mpi=False
    )
    assert (task.state, task.exit_code) == (rp.FAILED, 9)
    assert "broken" in task.exception_detail


def test_whole_gpus_are_distinct(machine: Campaign) -> None:
    ranks = told(machine.shell(TELL_RANK, ranks=8, use_mpi=False, gpus_per_rank=1))
    assert len({(rank[3], rank[4]) for rank in ranks}) == 8
    (both,) = told(machine.shell(TELL_RANK, gpus_per_rank=2))
    assert both[4] == "0,1"


def test_parts_of_a_gpu_are_shared(machine: Campaign) -> None:
    ranks = told(machine.shell(TELL_RANK, ranks=4, use_mpi=False, ranks_per_node=4, gpus_per_rank=0.5))
    assert sorted(rank[4] for rank in ranks) == ["0", "0", "1", "1"]
    assert len({rank[3] for rank in ranks}) == 1


def test_the_variable_follows_the_gpu_type(machine: Campaign) -> None:
    task = machine.shell("echo $ROCR_VISIBLE_DEVICES", gpus_per_rank=1, gpu_type="ROCm")
    assert task.stdout in ("0\n", "1\n")


def test_openmp_threads(machine: Campaign) -> None:
    ((*_, threads),) = told(machine.shell(TELL_RANK, cores_per_rank=3, threading_type=rp.OpenMP))
    assert threads == "3\n"


def test_at_no_time_is_more_in_use_than_there_is(machine: Campaign) -> None:
    tasks = machine.run([shell("true", cores_per_rank=3) for _ in range(30)])
    spans = sorted(change for task in tasks for change in ((task.times.started, 1), (task.times.ended, -1)))
    running = most = 0
    for _, change in spans:
        running += change
        most = max(most, running)
    assert most <= 4


def test_colocated_tasks_share_a_node(machine: Campaign) -> None:
    script = "echo $PILOTAGE_NODE"
    tasks = machine.run([shell(script, tags={"colocate": f"pair {number % 3}"}) for number in range(12)])
    nodes = [{task.stdout for task in tasks[number::3]} for number in range(3)]
    assert [len(node) for node in nodes] == [1, 1, 1]


def test_exclusive_tasks_have_their_node_to_themselves(machine: Campaign, tmp_path: Path) -> None:
    # While the exclusive task runs on its node, three more could run there, but only the other nodes take any.
    go = tmp_path / "go"
    script = f"echo $PILOTAGE_NODE; while [ ! -e {go} ]; do sleep 0.01; done"
    alone = machine.tasks.submit_tasks(shell(script, tags={"exclusive": True}))
    eventually(lambda: alone.stdout, "the exclusive task runs")
    others = machine.tasks.submit_tasks([shell(script) for _ in range(12)])
    eventually(lambda: all(task.stdout for task in others), "the others run")
    nodes = {task.stdout for task in others}
    go.touch()
    machine.tasks.wait_tasks(timeout=40)
    assert len(nodes) == 3
    assert alone.stdout not in nodes


def test_higher_priorities_run_first(machine: Campaign, tmp_path: Path) -> None:
    go, order = tmp_path / "go", tmp_path / "order"
    machine_filler = shell(f"while [ ! -e {go} ]; do sleep 0.01; done", ranks=4, use_mpi=False, cores_per_rank=4)
    first = machine.tasks.submit_tasks(machine_filler)
    first.wait(rp.AGENT_EXECUTING, timeout=40)
    script = f'echo "$PILOTAGE_TASK_NAME" >> {order}'
    machine.tasks.submit_tasks(
        [shell(script, ranks=4, use_mpi=False, cores_per_rank=4, name=str(one), priority=one) for one in (0, 5, -3, 9, 5)]
    )
    go.touch()
    machine.tasks.wait_tasks(timeout=40)
    lines = order.read_text().split()
    assert lines[::4] == ["9", "5", "5", "0", "-3"]


def test_cores_are_those_of_the_machine_only_when_it_has_them(fresh: Campaign) -> None:
    with pytest.warns(UserWarning, match=r"asks for 1000 cores, this machine has \d+"):
        fresh.start(cores=1000)
    tasks = fresh.run([shell("true") for _ in range(50)])
    assert {task.state for task in tasks} == {rp.DONE}
