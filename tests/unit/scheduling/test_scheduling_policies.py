"""What each policy guarantees beyond the contract: compact blocks, tags, equal slots, least load, full nodes; and bad specs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_ledger import Ledger, group, nodes, task

from pilotage.bench import packing
from pilotage.core.scheduling import GroupKey, make_policy, rounded_duration
from pilotage.core.scheduling.policies import build
from pilotage.core.scheduling.torus import Torus
from pilotage.errors import InvalidRequest
from pilotage.model.partitions import PolicySpec
from pilotage.model.resources import Node, NodeShape, Request


def ledger_of(machine: list[Node], *, end: float | None = None, **spec: Any) -> Ledger:
    return Ledger(machine, make_policy(PolicySpec(**spec), machine, end=end))  # type: ignore[arg-type]


def nodes_of(ledger: Ledger, *names: str | int, **amounts: Any) -> list[list[int]]:
    """Enqueue tasks that ask for ``amounts``, schedule, and return the nodes of the placements made, in order."""
    ledger.enqueue(group(**amounts), *names)
    return [[share.node for share in lane.placement] for lane in ledger.schedule()]


# Torus.


def test_a_task_of_several_nodes_gets_a_compact_block() -> None:
    ledger = ledger_of(nodes(64), policy="torus", torus=(4, 4, 4))
    (placed,) = nodes_of(ledger, "cube", ranks=8, ranks_per_node=1)
    corners = {(node // 16, node // 4 % 4, node % 4) for node in placed}
    spans = sorted(max(at) - min(at) + 1 for at in zip(*corners, strict=True))
    assert spans in ([2, 2, 2], [1, 2, 4]), "these have 24 links that lead out, all others more"


def test_a_block_wraps_around() -> None:
    ledger = ledger_of(nodes(4, cores=1), policy="torus", torus=(4,))
    assert nodes_of(ledger, "a", "b", "c", "d") == [[0], [1], [2], [3]]
    ledger.release("a")
    ledger.release("d")
    assert nodes_of(ledger, "pair", ranks=2) == [[3, 0]]


def test_a_midplane_of_blue_gene_q_is_512_nodes_of_4_by_4_by_4_by_4_by_2() -> None:
    torus = Torus((4, 4, 4, 8, 2))
    assert torus.boxes(512)[0] == (4, 4, 4, 4, 2)
    block = torus.block((1 << torus.size) - 1, 512)
    assert block is not None and len(set(block)) == 512


def test_what_finds_no_block_runs_on_other_nodes() -> None:
    ledger = ledger_of(nodes(4, cores=2), policy="torus", torus=(4,))
    nodes_of(ledger, *range(8))
    for name in (0, 1, 4, 5):
        ledger.release(name)
    assert nodes_of(ledger, "pair", ranks=2, cores=2) == [[0, 2]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_a_block_is_of_idle_nodes_and_found_in_an_idle_torus(sides: list[int], data: st.DataObject) -> None:
    torus = Torus(sides)
    idle = data.draw(st.integers(0, (1 << torus.size) - 1))
    count = data.draw(st.integers(1, torus.size))
    block = torus.block(idle, count)
    if block is not None:
        assert len(set(block)) == count and all(idle >> node & 1 for node in block)
    assert torus.block((1 << torus.size) - 1, count) is not None


# Tags.


def test_tasks_run_on_the_nodes_and_groups_that_they_name() -> None:
    ledger = ledger_of(nodes(4, cores=2), policy="continuous", groups={"fat": ("n2", "n3")})
    ledger.groups = {"fat": {2, 3}}
    assert nodes_of(ledger, *range(5), pinned=("fat",)) == [[2], [2], [3], [3]]
    assert nodes_of(ledger, "one", pinned=("n1",)) == [[1]]
    assert "of 2 nodes named fat 0 nodes have room" in ledger.scheduler.why(task(4))


def test_ranks_of_a_pinned_task_stay_within_its_nodes() -> None:
    ledger = ledger_of(nodes(4, cores=2), groups={"fat": ("n1", "n3")})
    ledger.groups = {"fat": {1, 3}}
    assert nodes_of(ledger, "wide", ranks=4, pinned=("fat",)) == [[1, 3]]
    assert ledger.scheduler.refusal(Request(ranks=5, pinned=("fat",))) == (
        "on the nodes named fat: 5 ranks of 1 core exceed the 4 that all 2 nodes hold; ask for at most 4 ranks or a larger "
        "pilot"
    )


@pytest.mark.parametrize("policy", ["continuous", "tagged", "packed", "spread"])
def test_a_task_runs_on_the_node_of_an_earlier_one(policy: str) -> None:
    ledger = ledger_of(nodes(3, cores=2), policy=policy)
    nodes_of(ledger, "a", pinned=("n2",))
    ledger.release("a")
    assert nodes_of(ledger, "b", beside="a") == [[2]]


def test_who_runs_beside_a_task_that_waits_waits_for_it() -> None:
    ledger = ledger_of(nodes(2, cores=1))
    nodes_of(ledger, "x", "y")
    ledger.enqueue(group(), "a")
    assert nodes_of(ledger, "b", beside="a") == []
    assert "it is to run on the node of task 'a', which is not placed yet" in ledger.scheduler.why(task("b"))
    assert ledger.scheduler.stranded() == []
    ledger.release("y")
    assert [lane.placement[0].node for lane in ledger.schedule()] == [1]
    ledger.release("a")
    assert [lane.placement[0].node for lane in ledger.schedule()] == [1]


def test_who_runs_beside_an_unknown_task_is_told_so_until_it_comes() -> None:
    ledger = ledger_of(nodes(2))
    assert nodes_of(ledger, "b", beside="a") == []
    ((stranded, reason),) = ledger.scheduler.stranded()
    assert stranded == ["b"] and "no placement of that task is known here" in reason
    ledger.withdraw("b")
    ledger.enqueue(group(), "a")
    ledger.enqueue(group(beside="a"), "b")
    assert [lane.tasks for lane in ledger.schedule()] == [["a"], ["b"]]


def test_without_a_tag_the_nodes_of_groups_are_the_last() -> None:
    ledger = ledger_of(nodes(3, cores=1), policy="tagged", groups={"fat": ("n0", "n1")})
    ledger.groups = {"fat": {0, 1}}
    assert nodes_of(ledger, "plain") == [[2]]
    assert nodes_of(ledger, "fat", pinned=("fat",)) == [[0]]
    assert nodes_of(ledger, "more") == [[1]], "better there than nowhere"


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (
            Request(pinned=("n9",)),
            "the tag names 'n9', which is neither one of the 2 nodes of this pilot nor one of its 1 groups",
        ),
        (Request(pinned=("fatt",)), "did you mean 'fat'?"),
        (Request(colocate="a", beside="b"), "leave one of the two tags out"),
    ],
)
def test_tags_that_lead_nowhere_are_refused(request_: Request, words: str) -> None:
    reason = ledger_of(nodes(2), groups={"fat": ("n0",)}).scheduler.refusal(request_)
    assert reason is not None and words in reason


# Homogeneous.


def test_the_first_request_cuts_all_nodes_into_slots() -> None:
    ledger = ledger_of(nodes(2, cores=7, gpus=2), policy="homogeneous")
    placed = nodes_of(ledger, *range(5), cores=3, gpu_shares=64)
    assert placed == [[0], [0], [1], [1]]
    assert ledger.scheduler.refusal(Request(cores=2)) == (
        "it needs 2 cores on one node, and all slots of this pilot are for 3 cores and 1 GPU on one node, as its first task "
        "asked for; ask for the same, or use scheduler='continuous'"
    )
    ledger.release(2)
    assert [lane.placement[0].node for lane in ledger.schedule()] == [1]


def test_slots_are_not_for_tags() -> None:
    reason = ledger_of(nodes(2), policy="homogeneous").scheduler.refusal(Request(pinned=("n0",)))
    assert reason is not None and "use scheduler='continuous'" in reason


# Spread.


def test_tasks_go_to_the_least_loaded_node() -> None:
    ledger = ledger_of(nodes(3, cores=4), policy="spread")
    placed = nodes_of(ledger, *range(6))
    assert sorted(node for (node,) in placed[:3]) == [0, 1, 2] and sorted(node for (node,) in placed[3:]) == [0, 1, 2]
    (large,) = nodes_of(Ledger(ledger.machine, build(PolicySpec(policy="spread"), ledger.machine)), "large", cores=3)
    assert len(large) == 1


def test_tasks_with_gpus_go_where_most_gpus_are_free() -> None:
    machine = [Node(0, "n0", NodeShape(8, 2)), Node(1, "n1", NodeShape(4, 4))]
    assert nodes_of(ledger_of(machine, policy="spread"), *range(3), gpu_shares=64) == [[1], [1], [0]]


# Packed.


def test_the_longest_task_is_started_first_and_the_rest_is_filled_exactly() -> None:
    ledger = ledger_of(nodes(1, cores=8), policy="packed")
    for name, cores, duration in (("short", 8, 10.0), ("long", 5, 100.0), ("misfit", 2, 100.0), ("match", 3, 90.0)):
        ledger.enqueue(GroupKey("executable", Request(cores=cores), 0, duration), name)
    assert [lane.tasks[0] for lane in ledger.schedule()] == ["long", "match"]


def test_a_bag_of_mixed_tasks_comes_near_the_lower_bound_and_nearer_than_first_come() -> None:
    nodes_there = 128
    _, generations, shortest_s, longest_s = packing.CASES[1]
    pieces = packing.bag(nodes_there, generations, shortest_s, longest_s, seed=1)
    bound = packing.lower_bound(pieces, nodes_there)
    packed = packing.makespan(pieces, nodes_there, PolicySpec(policy="packed"), declared=True)
    first = packing.makespan(pieces, nodes_there, PolicySpec(order="first_come"), declared=False)
    assert bound <= packed < bound / 0.97
    assert packed < first


# Orders and durations.


@pytest.mark.parametrize(("order", "started"), [("first_come", ["a"]), ("backfill", ["a", "b"]), ("priority", ["c", "a", "b"])])
def test_the_order_of_turns(order: str, started: list[str]) -> None:
    ledger = ledger_of(nodes(1, cores=4), order=order)
    ledger.enqueue(group(cores=2), "a")
    ledger.enqueue(group(cores=4), "large")
    ledger.enqueue(group(), "b")
    ledger.enqueue(group(priority=5), "c")
    if order == "backfill":
        started = [*started, "c"]
    assert [lane.tasks[0] for lane in ledger.schedule()] == started


def test_a_task_that_would_not_end_in_time_is_not_started() -> None:
    ledger = ledger_of(nodes(1), end=1000.0, margin_s=100.0)
    long, short = GroupKey("executable", Request(), 0, 500.0), GroupKey("executable", Request(), 0, 200.0)
    ledger.now = 450.0
    ledger.enqueue(long, "long")
    ledger.enqueue(short, "short")
    assert [lane.tasks[0] for lane in ledger.schedule()] == ["short"]
    ((stranded, reason),) = ledger.scheduler.stranded()
    assert stranded == ["long"]
    assert reason == (
        "it is declared to take 500 s, and tasks have to end within 450 s in this pilot; submit it to a pilot with more "
        "runtime, or declare a shorter duration_s if it takes less"
    )
    assert ledger.scheduler.why(task("long")) == f"cannot run any more: {reason}"


@given(st.floats(0.001, 1e7))
def test_a_rounded_duration_is_a_little_longer(duration_s: float) -> None:
    assert duration_s <= rounded_duration(duration_s) <= duration_s * (1 + 1 / 64)


# Bad specs.


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"policy": "torsu"}, "policy='torsu' is not one of"),
        ({"policy": "torsu"}, "did you mean 'torus'?"),
        ({"order": "fifo"}, "order='fifo' is not one of first_come, backfill, priority"),
        ({"policy": "torus"}, "needs the nodes along each dimension"),
        ({"policy": "torus", "torus": (3, 2)}, "3 x 2 are 6 nodes, and the pilot has 4"),
        ({"torus": (4,)}, "is for policy='torus', not for policy='continuous'"),
        ({"groups": {"fat": ("n7",)}}, "groups: 'fat' names 'n7', and no node is called that"),
        ({"groups": {"n1": ("n2",)}}, "'n1' is the name of a node"),
        ({"groups": {"fat": ()}}, "'fat' names no node"),
        ({"margin_s": -1.0}, "margin_s=-1.0: it must be 0 or more"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_policy(PolicySpec(**spec), nodes(4))
    assert words in str(caught.value)
