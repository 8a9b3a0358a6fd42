"""Where tasks are placed: cores, GPUs and their shares, memory and disk, ranks over nodes, tags, NUMA domains."""

from __future__ import annotations

import random

import pytest
from scheduling_ledger import Ledger, group, nodes, task

from pilotage.core.scheduling import Scheduler
from pilotage.core.scheduling.search import tightest
from pilotage.errors import InvariantViolated
from pilotage.model.resources import Node, NodeShape, NodeShare, Request, core_indices, core_mask


def place(ledger: Ledger, *names: str | int, **amounts: int | str | bool) -> list[tuple[NodeShare, ...]]:
    """Enqueue tasks that ask for ``amounts``, schedule, and return the placements made, in order."""
    ledger.enqueue(group(**amounts), *names)
    return [lane.placement for lane in ledger.schedule()]


def test_single_cores_fill_a_node_before_the_next_is_started() -> None:
    placements = place(Ledger(nodes(2, cores=3)), 1, 2, 3, 4)
    assert [(share.node, core_indices(share.cores)) for (share,) in placements] == [(0, [0]), (0, [1]), (0, [2]), (1, [0])]


def test_what_is_released_is_used_again() -> None:
    ledger = Ledger(nodes(1, cores=2))
    place(ledger, 1, 2)
    ledger.enqueue(group(), 3)
    assert ledger.schedule() == []
    ledger.release(1)
    (lane,) = ledger.schedule()
    assert core_indices(lane.placement[0].cores) == [0]


def test_two_ranks_that_ask_for_half_a_gpu_share_one() -> None:
    placements = place(Ledger(nodes(1, gpus=4)), 1, 2, 3, gpu_shares=32)
    assert [share.gpus for (share,) in placements] == [((0, 32),), ((0, 32),), ((1, 32),)]


def test_shares_fill_the_tightest_gpu_that_has_room() -> None:
    ledger = Ledger(nodes(1, gpus=3))
    place(ledger, "small", gpu_shares=16)
    place(ledger, "large", gpu_shares=56)
    assert place(ledger, "next", gpu_shares=8) == [(NodeShare(0, 1, core_mask(0b100), ((1, 8),)),)]
    assert place(ledger, "whole", gpu_shares=64)[0][0].gpus == ((2, 64),)


def test_a_share_goes_to_a_started_gpu_on_another_node_rather_than_to_a_fresh_one() -> None:
    ledger = Ledger(nodes(2, cores=2, gpus=1))
    place(ledger, "first", gpu_shares=32)
    place(ledger, "beside", cores=2)
    assert place(ledger, "second", gpu_shares=32)[0][0].node == 0


def test_a_share_of_a_gpu_is_never_spread_over_two() -> None:
    ledger = Ledger(nodes(1, gpus=2))
    place(ledger, 1, 2, gpu_shares=40)
    assert place(ledger, 3, gpu_shares=40) == []


def test_ranks_that_ask_for_whole_gpus_get_one_each() -> None:
    ((share,),) = place(Ledger(nodes(1, gpus=4)), 1, ranks=4, gpu_shares=64)
    assert share.gpus == ((0, 64), (1, 64), (2, 64), (3, 64))


def test_more_than_one_gpu_is_rounded_up_to_whole_ones() -> None:
    ((share,),) = place(Ledger(nodes(1, gpus=4)), 1, ranks=2, gpu_shares=96)
    assert share.gpus == ((0, 64), (1, 64), (2, 64), (3, 64))


def test_memory_and_disk_bound_what_a_node_holds() -> None:
    ledger = Ledger(nodes(1, cores=8, memory=10, disk=7))
    assert len(place(ledger, 1, 2, 3, memory=4)) == 2
    assert len(place(ledger, 4, 5, disk=4)) == 1


def test_a_task_that_asks_for_no_gpu_leaves_the_node_with_gpus_free() -> None:
    machine = [Node(0, "gpu", NodeShape(8, gpus=4)), Node(1, "cpu", NodeShape(8))]
    assert place(Ledger(machine), 1)[0][0].node == 1


def test_ranks_fill_neighbouring_idle_nodes() -> None:
    ledger = Ledger(nodes(5, cores=4))
    place(ledger, "in the way", cores=1)
    (placement,) = place(ledger, "wide", ranks=10)
    assert [(share.node, share.ranks) for share in placement] == [(1, 4), (2, 4), (3, 2)]


def test_ranks_take_the_nearest_nodes_when_no_idle_ones_are_side_by_side() -> None:
    ledger = Ledger(nodes(6, cores=2))
    for node, mask in ((0, 1), (1, 3), (3, 1), (4, 3), (5, 1)):
        ledger.scheduler.occupy((NodeShare(node, 1, core_mask(mask)),), Request())
    lanes = ledger.scheduler
    lanes.enqueue(task("wide"), group(ranks=3), 0.0)
    (lane,) = lanes.schedule(0.0, 1)
    assert [(share.node, share.ranks) for share in lane.placement] == [(2, 2), (3, 1)]


def test_ranks_per_node_is_kept_on_each_node_save_the_last() -> None:
    (placement,) = place(Ledger(nodes(4, cores=8)), 1, ranks=5, ranks_per_node=2)
    assert [(share.node, share.ranks) for share in placement] == [(0, 2), (1, 2), (2, 1)]


def test_the_last_of_even_ranks_may_lie_on_a_smaller_node() -> None:
    machine = [Node(0, "small", NodeShape(1)), Node(1, "a", NodeShape(2)), Node(2, "b", NodeShape(2))]
    (placement,) = place(Ledger(machine), 1, ranks=5, ranks_per_node=2)
    assert [(share.node, share.ranks) for share in placement] == [(1, 2), (2, 2), (0, 1)]


def test_a_rank_with_several_cores_stays_inside_a_numa_domain() -> None:
    ledger = Ledger(nodes(1, cores=8, domain=4))
    place(ledger, "first", cores=2)
    ((share,),) = place(ledger, "second", cores=3)
    assert core_indices(share.cores) == [4, 5, 6]
    ((share,),) = place(ledger, "third", cores=3)
    assert core_indices(share.cores) == [2, 3, 7]


def test_an_exclusive_task_takes_idle_nodes_whole() -> None:
    ledger = Ledger(nodes(2, cores=4, gpus=2, memory=6, disk=5))
    place(ledger, "other")
    ((share,),) = place(ledger, "alone", cores=2, gpu_shares=32, exclusive=True)
    assert share == NodeShare(1, 1, core_mask(0b1111), ((0, 32), (0, 32), (1, 64)), 6, 5)
    assert len(place(ledger, 1, 2, 3, 4)) == 3


def test_later_members_of_a_tag_wait_for_the_node_of_the_first() -> None:
    ledger = Ledger(nodes(2, cores=2))
    ((first,),) = place(ledger, "first", colocate="pair")
    place(ledger, "other", cores=1)
    assert place(ledger, "second", colocate="pair", cores=2) == []
    ledger.release("first")
    ledger.release("other")
    (lane,) = ledger.schedule()
    assert lane.placement[0].node == first.node


def test_a_tag_chooses_anew_when_its_node_is_lost() -> None:
    ledger = Ledger(nodes(2, cores=2))
    ((first,),) = place(ledger, "first", colocate="pair")
    ledger.remove_node(first.node)
    ((second,),) = place(ledger, "second", colocate="pair")
    assert second.node == 1 - first.node


def test_a_member_too_large_for_the_node_of_its_tag_is_stranded_with_the_reason() -> None:
    ledger = Ledger([Node(0, "small", NodeShape(2)), Node(1, "large", NodeShape(8))])
    ledger.scheduler.occupy((NodeShare(0, 1, b"\1"),), Request(colocate="pair"))
    ledger.scheduler.enqueue(task("big"), group(cores=4, colocate="pair"), 0.0)
    assert ledger.scheduler.schedule(0.0, 1) == []
    ((uids, reason),) = ledger.scheduler.stranded()
    assert uids == ["big"]
    assert reason == "colocate='pair' keeps it on node small, which is too small for 4 cores on one node"


def test_nothing_is_placed_on_a_lost_node_and_what_returns_from_it_is_dropped() -> None:
    ledger = Ledger(nodes(2, cores=2))
    place(ledger, 1, 2)
    ledger.remove_node(0)
    ledger.release(1)
    assert [share.node for (share,) in place(ledger, 3, 4, 5)] == [1, 1]


def test_tasks_that_no_remaining_node_can_run_are_stranded() -> None:
    ledger = Ledger([Node(0, "large", NodeShape(8)), Node(1, "small", NodeShape(2))])
    ledger.enqueue(group(cores=4), "big")
    ledger.remove_node(0)
    assert ledger.schedule() == []
    ((uids, reason),) = ledger.scheduler.stranded()
    assert uids == ["big"]
    assert reason.startswith("4 cores per rank exceed the 2 cores of a node")
    assert len(place(ledger, 1)) == 1


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request(cores=64), "64 cores per rank exceed the 56 cores of a node; ask for at most 56 or use more ranks"),
        (Request(gpu_shares=9 * 64), "9 GPUs per rank exceed the 8 GPUs of a node; ask for at most 8 or use more ranks"),
        (
            Request(memory=101),
            "6464 MiB of memory per rank exceed the 6400 MiB of a node; ask for at most 6400 MiB or use more ranks",
        ),
        (
            Request(disk=1),
            "64 MiB of node-local disk per rank exceed the 0 MiB of a node; ask for at most 0 MiB or use more ranks",
        ),
        (
            Request(ranks=113),
            "113 ranks of 1 core exceed the 112 that all 2 nodes hold; ask for at most 112 ranks or a larger pilot",
        ),
        (
            Request(ranks=3, ranks_per_node=1),
            "3 ranks with 1 on each node need 3 nodes, more than the 2 nodes that can hold them; "
            "ask for fewer ranks or more ranks per node",
        ),
        (
            Request(ranks=20, cores=7, ranks_per_node=10),
            "ranks_per_node=10 exceeds the 8 ranks of 7 cores that a node holds; ask for at most 8",
        ),
        (
            Request(ranks=57, colocate="t"),
            "57 ranks exceed the 56 ranks of 1 core that one node holds, and colocate='t' keeps them on one node; "
            "ask for at most 56 ranks or leave the tag out",
        ),
        (
            Request(ranks=4, ranks_per_node=2, colocate="t"),
            "ranks_per_node=2 spreads 4 ranks over nodes, but colocate='t' keeps them on one node; leave one of the two out",
        ),
        (Request(ranks=112), None),
        (Request(ranks=16, cores=7, gpu_shares=64, memory=12), None),
    ],
)
def test_what_can_never_run_is_refused_with_value_limit_and_remedy(request_: Request, reason: str | None) -> None:
    assert Scheduler(nodes(2, cores=56, gpus=8, memory=100)).refusal(request_) == reason


def test_amounts_that_no_node_has_together_are_refused() -> None:
    machine = [Node(0, "fat", NodeShape(2, memory=100)), Node(1, "wide", NodeShape(64, memory=10))]
    assert Scheduler(machine).refusal(Request(cores=8, memory=50)) == (
        "no node offers 8 cores and 3200 MiB of memory together; ask for less of one of them"
    )


def test_occupying_what_is_taken_is_a_violation_that_takes_nothing() -> None:
    scheduler = Scheduler(nodes(2, cores=2))
    scheduler.occupy((NodeShare(1, 1, b"\1"),), Request())
    with pytest.raises(InvariantViolated, match="node 1"):
        scheduler.occupy((NodeShare(0, 1, b"\1"), NodeShare(1, 1, b"\1")), Request(ranks=2))
    assert scheduler.free().cores == 3
    scheduler.check()


def test_releasing_twice_is_a_violation() -> None:
    scheduler = Scheduler(nodes(1))
    scheduler.enqueue(task(1), group(), 0.0)
    (lane,) = scheduler.schedule(0.0, 1)
    scheduler.release(lane.placement, Request())
    with pytest.raises(InvariantViolated, match="are released"):
        scheduler.release(lane.placement, Request())


@pytest.mark.parametrize("seed", range(40))
def test_the_tightest_slice_costs_least_and_is_the_first_of_equals_whether_rooms_are_alike_or_not(seed: int) -> None:
    chance = random.Random(seed)
    rooms = [2] * chance.randrange(1, 12) if seed % 2 else [chance.randrange(1, 4) for _ in range(chance.randrange(1, 12))]
    begins = sorted(chance.randrange(30) for _ in rooms)
    ends = [begin + chance.randrange(5) for begin in begins]
    for wanted in range(1, sum(rooms) + 2):
        enough = [
            (ends[last] - begins[first], first, last + 1)
            for last in range(len(rooms))
            for first in range(last + 1)
            if sum(rooms[first : last + 1]) >= wanted > sum(rooms[first + 1 : last + 1])
        ]
        assert tightest(rooms, wanted, begins, ends) == (min(enough)[1:] if enough else None)
