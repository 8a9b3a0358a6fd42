"""Workloads that files describe: which tasks, when, of which shape, how long."""

from __future__ import annotations

from pathlib import Path
from random import Random
from statistics import fmean

import pytest

from pilotage.errors import InvalidRequest, InvariantViolated
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import NodeShape, Request
from pilotage.model.workload import Row
from pilotage.sim.files import read_machine, read_workload
from pilotage.sim.workloads.demand import Demand
from pilotage.sim.workloads.distributions import Distribution
from pilotage.sim.workloads.generated import GeneratedWorkload
from pilotage.sim.workloads.shapes import rounded

SHAPE = NodeShape(cores=8, gpus=4, memory=100)
HEAD = 'description = "d"\nsource = "s"\n'


def workload(tmp_path: Path, text: str, *, nodes: int = 4, seed: int = 0, shape: NodeShape = SHAPE) -> GeneratedWorkload:
    path = tmp_path / "mine.toml"
    path.write_text(HEAD + text)
    return GeneratedWorkload(read_workload(str(path)), nodes=nodes, shape=shape, seed=seed)


def one_class(text: str, name: str = "a") -> str:
    return f'[[classes]]\nname = "{name}"\n{text}\n'


def arrived(made: GeneratedWorkload) -> list[tuple[float, list[str]]]:
    return [(arrival.time_s, [row.uid for row in arrival.rows]) for arrival in made.arrivals()]


def rows_of(made: GeneratedWorkload) -> list[Row]:
    return [row for arrival in made.arrivals() for row in arrival.rows]


def requests(made: GeneratedWorkload) -> list[Request]:
    return [made.templates[row.template].request for row in rows_of(made)]


def end(made: GeneratedWorkload, uid: str, ending: Ending = Ending.DONE, time_s: float = 1.0) -> list[str]:
    arrival = made.follow(Outcome(TaskUid(uid), Binding(1), Attempt(1), ending), time_s)
    assert arrival is None or (arrival.rows and arrival.time_s == time_s)
    return [] if arrival is None else [row.uid for row in arrival.rows]


def test_all_come_at_the_begin_one_class_after_another(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 2\nduration_s = 3") + one_class("count = 1\nduration_s = 5.5", "b"))
    assert arrived(made) == [(0.0, ["a.000000", "a.000001", "b.000000"])]
    assert [made.duration_s(TaskUid(uid)) for uid in ("a.000000", "a.000001", "b.000000")] == [3.0, 3.0, 5.5]
    assert made.count == 3


def test_mixed_classes_are_shuffled_and_complete(tmp_path: Path) -> None:
    text = "mixed = true\n" + one_class("count = 50\nduration_s = 1") + one_class("count = 50\nduration_s = 1", "b")
    uids = [row.uid for row in rows_of(workload(tmp_path, text))]
    assert sorted(uids) == sorted([*(f"a.{n:06}" for n in range(50)), *(f"b.{n:06}" for n in range(50))])
    assert 10 < sum(uid.startswith("a") for uid in uids[:50]) < 40


def test_a_great_class_comes_in_bulks(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 10000\nduration_s = 1"))
    assert [(time_s, len(uids)) for time_s, uids in arrived(made)] == [(0.0, 4096), (0.0, 4096), (0.0, 1808)]


def test_tasks_come_at_times_in_equal_parts(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 5\nduration_s = 1\nat_s = [10, 0]"))
    assert arrived(made) == [(0.0, ["a.000000", "a.000001"]), (10.0, ["a.000002", "a.000003", "a.000004"])]


def test_tasks_come_one_after_another(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 3\nduration_s = 1\nrate_per_s = 2\nat_s = [10]"))
    assert arrived(made) == [(10.0, ["a.000000"]), (10.5, ["a.000001"]), (11.0, ["a.000002"])]


def test_a_high_rate_comes_in_ten_bulks_a_second(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 450\nduration_s = 1\nrate_per_s = 1000"))
    assert [(round(time_s, 9), len(uids)) for time_s, uids in arrived(made)] == [
        (0.0, 100), (0.1, 100), (0.2, 100), (0.3, 100), (0.4, 50),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        ("count = 7", 7),
        ("count_per_node = 1.5", 6),
        ("count_per_core = 2", 64),
        ("count = { 4 = 10, 16 = 90 }", 10),
        ("count = { 1 = 10, 16 = 90 }", 30),
    ],
)
def test_how_many_follows_from_the_nodes(tmp_path: Path, count: str, expected: int) -> None:
    assert len(rows_of(workload(tmp_path, one_class(f"{count}\nduration_s = 1")))) == expected


@pytest.mark.parametrize(
    ("fields", "request_"),
    [
        ("", Request()),
        ("ranks = 2\ncores_per_rank = 3\ngpus_per_rank = 0.5\nmem_per_rank = 65", Request(2, 3, 32, 2)),
        ("ranks = 4\nranks_per_node = 2\nexclusive = true", Request(4, 1, ranks_per_node=2, exclusive=True)),
        ("nodes = 3", Request(3, 8, 256, ranks_per_node=1)),
        ("nodes = 3\nranks_per_node = 4", Request(12, 2, 64, ranks_per_node=4)),
        ("nodes = 3\nranks_per_node = 8\ngpus_per_rank = 0", Request(24, 1, ranks_per_node=8)),
    ],
)
def test_what_a_task_asks_for(tmp_path: Path, fields: str, request_: Request) -> None:
    assert requests(workload(tmp_path, one_class(f"count = 1\nduration_s = 1\n{fields}"))) == [request_]


def test_other_fields_reach_the_template(tmp_path: Path) -> None:
    fields = 'kind = "function"\npriority = 3\nretries = 2\npartition = "fast"'
    made = workload(tmp_path, one_class(f"count = 1\nduration_s = 1\n{fields}"))
    template = made.templates[rows_of(made)[0].template]
    assert (template.mode, template.priority, template.retries, template.partition) == ("function", 3, 2, "fast")


def test_tasks_that_ask_for_the_same_share_a_template(tmp_path: Path) -> None:
    made = workload(
        tmp_path, one_class("count = 500\nduration_s = { uniform = [1, 9] }\ncores_per_rank = { uniform = [1, 4] }")
    )
    assert {request.cores for request in requests(made)} == {1, 2, 3, 4}
    assert len(made.templates) == 4


@pytest.mark.parametrize(("declared", "said"), [("false", 0.0), ("true", 181.0), ("1.5", 271.5), ("{ choice = [2.0] }", 362.0)])
def test_declared_durations_are_rounded_up_to_two_digits(tmp_path: Path, declared: str, said: float) -> None:
    made = workload(tmp_path, one_class(f"count = 1\nduration_s = 181\ndeclared = {declared}"))
    assert made.templates[rows_of(made)[0].template].duration_s == rounded(said)
    assert made.duration_s(TaskUid("a.000000")) == 181.0


def test_the_same_seed_gives_the_same_and_another_another(tmp_path: Path) -> None:
    text = one_class("count = 20\nduration_s = { normal = [100, 10], least = 0 }\ncores_per_rank = { uniform = [1, 8] }")

    def made(seed: int) -> list[tuple[float, int]]:
        one = workload(tmp_path, text, seed=seed)
        return [(one.duration_s(row.uid), one.templates[row.template].request.cores) for row in rows_of(one)]

    assert made(1) == made(1)
    assert made(1) != made(2)


def test_the_tasks_of_a_class_do_not_depend_on_when_they_come(tmp_path: Path) -> None:
    chance = "count = 4\nduration_s = { uniform = [0, 1] }\n"
    text = one_class(chance) + one_class(f'{chance}after = "a"', "b") + one_class(f'{chance}after = "a"', "c")
    forwards, backwards = workload(tmp_path, text), workload(tmp_path, text)
    numbers = range(4)
    for made, order in ((forwards, numbers), (backwards, reversed(numbers))):
        assert len(rows_of(made)) == 4
        for number in order:
            end(made, f"a.{number:06}")
    for name in "abc":
        uids = [TaskUid(f"{name}.{number:06}") for number in numbers]
        assert [forwards.duration_s(uid) for uid in uids] == [backwards.duration_s(uid) for uid in uids]


def test_a_pipeline(tmp_path: Path) -> None:
    text = one_class("count = 2\nduration_s = 1", "pre") + one_class('count = 2\nduration_s = 1\nafter = "pre"', "sim")
    made = workload(tmp_path, text)
    assert arrived(made) == [(0.0, ["pre.000000", "pre.000001"])]
    assert end(made, "pre.000001") == ["sim.000000"]
    assert end(made, "sim.000000") == []
    assert end(made, "pre.000000") == ["sim.000001"]
    assert end(made, "sim.000001") == []


def test_each_end_brings_its_part_of_the_next_class(tmp_path: Path) -> None:
    text = one_class("count = 4\nduration_s = 1") + one_class('count = 6\nduration_s = 1\nafter = "a"', "b")
    made = workload(tmp_path, text)
    rows_of(made)
    assert [len(end(made, f"a.{number:06}")) for number in range(4)] == [1, 2, 1, 2]


def test_nothing_comes_after_a_task_that_failed(tmp_path: Path) -> None:
    text = one_class("count = 2\nduration_s = 1") + one_class('count = 2\nduration_s = 1\nafter = "a"', "b")
    made = workload(tmp_path, text)
    rows_of(made)
    assert end(made, "a.000000", Ending.NODE_FAILED) == []
    assert end(made, "a.000001") == ["b.000000"]


def test_a_generation_comes_when_all_of_the_last_are_final(tmp_path: Path) -> None:
    text = (
        one_class("count = 2\nduration_s = 1\nat_s = [0, 50]")
        + one_class('count = 2\nduration_s = 1\nafter = "a"\nwhen = "all"', "b")
        + one_class('count = 1\nduration_s = 1\nafter = "b"\nwhen = "all"', "c")
    )
    made = workload(tmp_path, text)
    arrivals = made.arrivals()
    assert [row.uid for row in next(arrivals).rows] == ["a.000000"]
    assert end(made, "a.000000") == []
    assert [row.uid for row in next(arrivals).rows] == ["a.000001"]
    assert end(made, "a.000001", Ending.EXITED) == ["b.000000", "b.000001"]
    assert end(made, "b.000001") == []
    assert end(made, "b.000000") == ["c.000000"]


def test_a_generation_after_a_pipeline_that_lost_tasks(tmp_path: Path) -> None:
    text = (
        one_class("count = 2\nduration_s = 1")
        + one_class('count = 2\nduration_s = 1\nafter = "a"', "b")
        + one_class('count = 1\nduration_s = 1\nafter = "b"\nwhen = "all"', "c")
    )
    made = workload(tmp_path, text)
    rows_of(made)
    assert end(made, "a.000000") == ["b.000000"]
    assert end(made, "b.000000") == []
    assert end(made, "a.000001", Ending.LOST) == ["c.000000"]


def test_adaptive_classes_keep_a_floor_in_proportion(tmp_path: Path) -> None:
    text = (
        "[adaptive]\nfloor = 3\nfill = false\n"
        + one_class("count = 4\nduration_s = 1\nadaptive = true")
        + one_class("count = 2\nduration_s = 1\nadaptive = true", "b")
    )
    made = workload(tmp_path, text)
    assert arrived(made) == [(0.0, ["a.000000", "b.000000", "a.000001"])]
    assert end(made, "b.000000") == ["a.000002"]
    assert end(made, "a.000002") == ["b.000001"]
    assert end(made, "a.000000") == ["a.000003"]
    assert end(made, "a.000003") == []


def test_adaptive_classes_fill_what_is_idle(tmp_path: Path) -> None:
    text = (
        "[adaptive]\n"
        + one_class("count = 1\nnodes = 2\nduration_s = 9\nat_s = [0]", "fixed")
        + one_class("count = 9\nnodes = 1\ngpus_per_rank = 0\nduration_s = 1\nadaptive = true")
    )
    made = workload(tmp_path, text)
    assert arrived(made) == [(0.0, ["fixed.000000"]), (0.0, ["a.000000", "a.000001"])]
    assert end(made, "a.000000") == ["a.000002"]
    assert end(made, "fixed.000000") == ["a.000003", "a.000004"]


def test_gpus_count_as_what_they_are_of_a_node(tmp_path: Path) -> None:
    made = workload(tmp_path, "[adaptive]\n" + one_class("count = 99\ngpus_per_rank = 1\nduration_s = 1\nadaptive = true"))
    assert len(rows_of(made)) == 16


def test_it_serves_one_simulation(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 1\nduration_s = 1"))
    rows_of(made)
    with pytest.raises(InvariantViolated, match="serves one simulation"):
        rows_of(made)


def test_what_all_tasks_ask_for(tmp_path: Path) -> None:
    text = one_class("count = 3\nduration_s = 10\nranks = 2\ngpus_per_rank = 0.5") + one_class(
        "count = 1\nnodes = 2\nduration_s = 50", "b"
    )
    demand = workload(tmp_path, text).demand()
    assert demand == Demand(
        tasks=4, core_s=3 * 2 * 10 + 16 * 50, gpu_s=3 * 10 + 8 * 50, mean_s=20.0, longest_s=50.0, largest_nodes=2.0
    )
    assert demand.least_makespan_s(4, SHAPE) == 50.0
    assert demand.least_makespan_s(1, SHAPE) == 430 / 4
    assert demand.least_makespan_s(1, NodeShape(8)) == float("inf")


def test_all_templates_are_known_before_the_first_task_comes(tmp_path: Path) -> None:
    made = workload(tmp_path, one_class("count = 100\nduration_s = 1\ncores_per_rank = { uniform = [1, 4] }"))
    assert len(made.templates) == 4


def test_what_does_not_fit_the_nodes(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="ranks_per_node=9 exceeds the 8 cores"):
        workload(tmp_path, one_class("count = 1\nduration_s = 1\nnodes = 1\nranks_per_node = 9"))
    text = one_class("count_per_node = 0.1\nduration_s = 1") + one_class('count = 1\nduration_s = 1\nafter = "a"', "b")
    with pytest.raises(InvalidRequest, match="'b' comes after 'a', which has no task"):
        workload(tmp_path, text)


def shipped_one(name: str, nodes: int, machine: str = "frontier") -> GeneratedWorkload:
    return GeneratedWorkload(read_workload(name), nodes=nodes, shape=read_machine(machine).shape)


def run_through(made: GeneratedWorkload) -> list[Row]:
    """Let every task end as soon as it came; return all."""
    waiting = rows_of(made)
    seen = list(waiting)
    while waiting:
        arrival = made.follow(Outcome(waiting.pop().uid, Binding(1), Attempt(1), Ending.DONE), 0.0)
        if arrival is not None:
            waiting += arrival.rows
            seen += arrival.rows
    return seen


@pytest.mark.parametrize(("nodes", "tasks", "ideal_s"), [(256, 550, 14_960), (1024, 1800, 12_075)])
def test_impeccable_is_as_large_as_published(nodes: int, tasks: int, ideal_s: float) -> None:
    made = shipped_one("impeccable", nodes)
    rows = run_through(made)
    assert len(rows) == tasks == made.count
    cores = [request.ranks * request.cores for request in (made.templates[row.template].request for row in rows)]
    assert (min(cores), max(cores)) == (1, 7168)
    assert fmean(cores) / 56 == pytest.approx(38, rel=0.01)
    assert sum(cores) / 56 * 180 / nodes == pytest.approx(ideal_s, rel=0.02)
    assert {made.duration_s(row.uid) for row in rows} == {180.0}


def test_impeccable_has_its_floor_from_the_begin() -> None:
    assert [len(rows_of(shipped_one("impeccable", nodes))) for nodes in (256, 1024)] == [204, 816]


def test_colmena_is_150_pipelines_on_32_nodes() -> None:
    rows = run_through(shipped_one("colmena", 32, "frontera"))
    assert [sum(row.uid.startswith(name) for row in rows) for name in ("pre.", "sim.", "post.")] == [150, 150, 150]


def test_docking_has_the_measured_mean_and_a_tail() -> None:
    made = shipped_one("docking", 100, "frontera")
    durations = [made.duration_s(row.uid) for row in rows_of(made)]
    assert len(durations) == 8 * 5600
    assert fmean(durations) == pytest.approx(10.5, rel=0.03)
    assert min(durations) >= 1.0
    assert 60.0 < max(durations) <= 120.0


@pytest.mark.parametrize(
    ("name", "nodes", "tasks", "generations"),
    [
        ("heterogeneous", 1024, 3098, 1),
        ("heterogeneous", 4097, 12_276, 1),
        ("heterogeneous-strong", 1024, 24_784, 8),
        ("heterogeneous-strong", 4097, 24_552, 2),
    ],
)
def test_the_heterogeneous_tasks_fill_summit_to_the_last_core(name: str, nodes: int, tasks: int, generations: int) -> None:
    asked = requests(shipped_one(name, nodes, "summit"))
    assert len(asked) == tasks
    assert {request.cores for request in asked} >= {1, 42}
    assert {request.gpu_shares for request in asked} >= {0, 6 * 64}
    full = 1024 * (nodes // 1024) * generations
    assert sum(request.cores for request in asked) == 42 * full
    assert sum(request.gpu_shares for request in asked) == 64 * 6 * full


@pytest.mark.parametrize(("name", "nodes", "tasks"), [("null", 1, 224), ("sleep", 4, 896), ("null", 1024, 229_376)])
def test_null_and_sleep_are_four_tasks_for_each_core(name: str, nodes: int, tasks: int) -> None:
    made = shipped_one(name, nodes)
    assert made.count == tasks
    assert next(made.arrivals()).rows[0].uid == f"{name}.000000"


def test_the_machine_scale_workload() -> None:
    description = read_workload("machine-scale")
    assert (description.machine, description.nodes) == ("frontier", 9408)
    made = shipped_one("machine-scale", 9408)
    assert made.count == 1_000_000
    first = next(made.arrivals())
    assert len(first.rows) == 4096
    assert len({row.uid.partition(".")[0] for row in first.rows}) == 7
    nodes = {"mpi": (4 * 2 + 2 * 4 + 8) / 7, "mpi-large": (8 * 16 + 4 * 32 + 2 * 64 + 128) / 15}
    mean = sum(each.number(9408, SHAPE) * nodes.get(each.name, 1.0) for each in description.classes) / made.count
    assert mean == pytest.approx(1.2, abs=0.02)
    assert {bool(each.declared) for each in description.classes} == {True, False}


@pytest.mark.parametrize(
    ("distribution", "mean", "limits"),
    [
        (Distribution(uniform=(10.0, 20.0)), 15.0, (10.0, 20.0)),
        (Distribution(normal=(100.0, 5.0)), 100.0, (60.0, 140.0)),
        (Distribution(normal=(0.0, 1.0), least=0.0), 0.798, (0.0, 6.0)),
        (Distribution(lognormal=(50.0, 25.0)), 50.0, (1.0, 1000.0)),
        (Distribution(lognormal=(50.0, 25.0), most=40.0), 29.42, (1.0, 40.0)),
        (Distribution(choice=(1.0, 3.0)), 2.0, (1.0, 3.0)),
        (Distribution(choice=(1.0, 3.0), weights=(3.0, 1.0)), 1.5, (1.0, 3.0)),
        (Distribution(lognormal=(7.0, 0.0)), 7.0, (6.999, 7.001)),
    ],
    ids=str,
)
def test_distributions(distribution: Distribution, mean: float, limits: tuple[float, float]) -> None:
    draw, random = distribution.draw(), Random(1)
    values = [draw(random) for _ in range(20_000)]
    assert fmean(values) == pytest.approx(mean, rel=0.02)
    assert limits[0] <= min(values) <= max(values) <= limits[1]
