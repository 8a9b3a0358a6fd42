"""What is said to limit a run: each limit is brought about, and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from pilotage.sim.advice import Advice, advise
from pilotage.sim.plans import Plan, PlannedPartition, described_workload, settle

MACHINE = """\
description = "small"
nodes = 64
cores_per_node = 4
gpus_per_node = 2
[sources]
nodes = "made up"
cores_per_node = "made up"
gpus_per_node = "made up"
"""


@pytest.fixture
def advice(tmp_path: Path) -> Callable[..., Advice]:
    (tmp_path / "small.toml").write_text(MACHINE)

    def run(
        classes: str,
        launcher: str = "",
        nodes: int = 8,
        faults: str = "",
        pilots: int = 1,
        partitions: Sequence[PlannedPartition] = (),
    ) -> Advice:
        workload = tmp_path / "load.toml"
        workload.write_text(f'description = "d"\nsource = "s"\nmachine = "small.toml"\n{classes}')
        (tmp_path / "slow.toml").write_text(f'description = "d"\n{launcher}')
        (tmp_path / "faults.toml").write_text(faults)
        plan = Plan(
            nodes=nodes,
            launcher="slow.toml" if launcher else "ideal",
            faults="faults.toml" if faults else None,
            pilots=pilots,
            partitions=tuple(partitions) or None,
            folder=tmp_path,
        )
        return advise(settle(plan, described_workload(str(workload))).run())

    return run


def tasks(count: int, duration: str = "10", more: str = "", name: str = "a") -> str:
    return f'[[classes]]\nname = "{name}"\ncount = {count}\nduration_s = {duration}\n{more}\n'


def quantity(field: str, value: float) -> str:
    return f'[{field}]\nvalue = {value}\nsource = "made up"\n'


def test_nothing(advice: Callable[..., Advice]) -> None:
    assert advice(tasks(32)) == Advice("nothing", 0.0, "tasks ran nearly all of the time")


@pytest.mark.parametrize(
    ("field", "value", "count", "limit", "text"),
    [
        ("startup_s", 100.0, 32, "startup", "slow takes "),
        ("most_at_once", 4, 64, "launcher ceiling", "slow runs no more than 4 tasks at a time"),
        ("most_per_node", 1, 64, "launcher ceiling", "slow runs no more than 8 tasks at a time"),
        ("starts_per_s", 1.0, 64, "launcher rate", "slow starts 1 tasks in a second, and tasks of 10 s end faster"),
        ("schedules_per_s", 1.0, 64, "scheduling", "the scheduler before slow is slower than tasks end"),
        ("prepare_s", 30.0, 64, "preparation", "slow takes long to bring tasks up"),
        ("acknowledge_s", 30.0, 64, "acknowledgement", "slow takes long to notice that tasks have ended"),
    ],
)
def test_launchers(advice: Callable[..., Advice], field: str, value: float, count: int, limit: str, text: str) -> None:
    found = advice(tasks(count), quantity(field, value))
    assert found.limit == limit
    assert found.text.startswith(text)
    assert found.share > 0.3


def test_a_launcher_whose_rates_differ_by_kind(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(64), quantity("starts_per_s", 1.0) + quantity("kinds.function.starts_per_s", 500.0))
    assert found.text.startswith("slow starts 1 to 500 tasks in a second")


def test_the_ceiling_of_several_pilots_is_that_of_each(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(64), quantity("most_at_once", 4), pilots=2)
    assert found.text.startswith("slow runs no more than 8 tasks at a time")


def test_a_workload_that_does_not_fill_the_nodes(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(6))
    assert (found.limit, found.text) == (
        "size",
        "the workload fills no more than 19% of the nodes at any time: 2 nodes would do",
    )


def test_a_tail(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(64) + tasks(1, "200", name="last"))
    assert found.limit == "tail"
    assert "the longest task takes 3 min" in found.text


def test_a_task_that_waits_for_many_nodes(advice: Callable[..., Advice]) -> None:
    large = tasks(2, "2", "nodes = 8\ngpus_per_rank = 0", name="large")
    short = "".join(
        tasks(30, "{ uniform = [5, 60] }", name=f"small{n}") + large.replace("large", f"large{n}") for n in range(4)
    )
    found = advice(short)
    assert (found.limit, found.text[:46]) == ("largest task", "the largest task takes 8 of the 8 nodes, and n")


def test_tasks_that_come_too_slowly(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(64, "2", "at_s = [0, 20]"))
    assert (found.limit, found.text[:30]) == ("arrival", "nodes wait for tasks to come: ")


def test_tasks_that_leave_cores_over(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(80, "10", "cores_per_rank = 3"))
    assert (found.limit, found.text[:41]) == ("packing", "tasks do not fit together on the nodes: a")


def test_gpus_are_what_is_scarce_where_they_are(advice: Callable[..., Advice]) -> None:
    assert advice(tasks(160, "10", "gpus_per_rank = 1")).limit == "nothing"


def test_lost_nodes(advice: Callable[..., Advice]) -> None:
    lost = "lose_nodes_at_s = [[5, 0], [5, 1], [5, 2], [5, 3]]\n"
    found = advice(tasks(64, "10", "retries = 1"), faults=lost)
    assert (found.limit, found.text[:32]) == ("losses", "nodes were lost and stayed away:")


def test_tasks_for_which_there_is_no_room(advice: Callable[..., Advice]) -> None:
    found = advice(tasks(3) + tasks(1, "10", "gpus_per_rank = 4", name="large"))
    assert (found.limit, found.share) == ("requests", 0.25)
    assert found.text.startswith("1 of the tasks ask for more than there is, and what comes after")
    assert found.text.endswith(
        "(large.000000: 4 GPUs per rank exceed the 2 GPUs of a node; ask for at most 2 or use more ranks)"
    )


def test_no_task_at_all(advice: Callable[..., Advice]) -> None:
    assert advice(tasks(0)).text == "there is nothing to run"


def test_partitions_of_which_one_has_nothing_to_do(advice: Callable[..., Advice]) -> None:
    parts = [PlannedPartition(name="programs", kinds=("executable",)), PlannedPartition(name="calls", kinds=("function",))]
    found = advice(tasks(64), partitions=parts)
    assert (found.limit, found.text[:43]) == ("division", "calls is used to 0%, and programs to 100%: ")


def test_partitions_that_start_tasks_slowly(advice: Callable[..., Advice]) -> None:
    parts = [PlannedPartition(name="one"), PlannedPartition(name="two")]
    found = advice(tasks(64), quantity("starts_per_s", 0.5), partitions=parts)
    assert (found.limit, found.text[:58]) == ("launcher rate", "slow starts 0.5 tasks in a second in each of 2 parts, and ")
