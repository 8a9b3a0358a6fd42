"""Whose turn it is: arrival, priority, backfill, reservations, drawing onto held lanes, cancelling."""

from __future__ import annotations

import pytest
from scheduling_ledger import Ledger, group, nodes, task

from pilotage.core.scheduling import OVERTAKE, GroupKey
from pilotage.core.scheduling.policy import SERVICE
from pilotage.errors import InvariantViolated
from pilotage.model.resources import NodeShare, Request

SMALL = group()
LARGE = group(cores=4)


def started(ledger: Ledger, limit: int = 1000) -> list[str]:
    return [lane.tasks[0] for lane in ledger.schedule(limit)]


def test_tasks_start_in_the_order_of_arrival_across_groups() -> None:
    ledger = Ledger(nodes(2))
    ledger.enqueue(SMALL, "a", "b")
    ledger.enqueue(LARGE, "c")
    ledger.enqueue(SMALL, "d")
    assert started(ledger, 3) == ["a", "b", "c"]
    assert started(ledger) == ["d"]


def test_higher_priority_goes_first() -> None:
    ledger = Ledger(nodes(1))
    ledger.enqueue(SMALL, "low")
    ledger.enqueue(group(priority=3), "high")
    assert started(ledger) == ["high", "low"]


def test_what_fits_may_pass_what_does_not() -> None:
    ledger = Ledger(nodes(1, cores=4))
    ledger.enqueue(SMALL, "first")
    ledger.enqueue(LARGE, "large")
    ledger.enqueue(SMALL, "later")
    assert started(ledger) == ["first", "later"]


def test_no_more_groups_are_passed_over_than_look_ahead_allows() -> None:
    ledger = Ledger(nodes(1, cores=4), look_ahead=1)
    ledger.enqueue(SMALL, "first")
    ledger.enqueue(LARGE, "large")
    ledger.enqueue(group(ranks=4), "wide")
    ledger.enqueue(SMALL, "later")
    assert started(ledger) == ["first"]


def stream_until(ledger: Ledger, large: str, steps: int) -> int:
    """Keep the machine busy with an endless stream of small tasks; return after how many steps ``large`` started."""
    for step in range(steps):
        ledger.enqueue(SMALL, f"small{step}", f"tiny{step}")
        if large in started(ledger):
            return step
        ledger.release(next(iter(ledger.running)))
        ledger.now += 1.0
    raise AssertionError(f"{large} starves: {ledger.scheduler.why(task(large))}")


def test_a_large_task_starts_after_a_bounded_number_of_smaller_ones() -> None:
    ledger = Ledger(nodes(2, cores=4), overtake_limit=10, patience_s=1e9)
    ledger.enqueue(SMALL, *range(8))
    ledger.schedule()
    ledger.enqueue(LARGE, "large")
    assert stream_until(ledger, "large", 100) > 10


def test_a_large_task_starts_after_a_bounded_time() -> None:
    ledger = Ledger(nodes(2, cores=4), overtake_limit=10**9, patience_s=20.0)
    ledger.enqueue(SMALL, *range(8))
    ledger.schedule()
    ledger.enqueue(LARGE, "large")
    assert stream_until(ledger, "large", 100) > 20


@pytest.mark.parametrize(
    "request_",
    [
        {"ranks": 8},
        {"ranks": 4, "ranks_per_node": 2},
        {"exclusive": True},
        {"ranks": 2, "cores": 4, "exclusive": True},
        {"cores": 4, "colocate": "tag"},
    ],
)
def test_nothing_large_starves(request_: dict[str, int | str | bool]) -> None:
    ledger = Ledger(nodes(3, cores=4), overtake_limit=10)
    ledger.enqueue(SMALL, *range(12))
    ledger.schedule()
    ledger.enqueue(group(**request_), "large")
    stream_until(ledger, "large", 200)


def test_a_reservation_leaves_the_other_nodes_in_use() -> None:
    ledger = Ledger(nodes(2, cores=4), overtake_limit=0)
    ledger.enqueue(SMALL, *range(8))
    ledger.schedule()
    ledger.enqueue(LARGE, "large")
    ledger.schedule()
    ledger.schedule()
    ledger.enqueue(SMALL, *range(8, 16))
    for name in (0, 4):
        ledger.release(name)
    (lane,) = ledger.schedule()
    assert lane.placement[0].node == 1
    assert "a reservation for it holds 1 node" in ledger.scheduler.why(task("large"))
    assert "a reservation for task large holds 1 node" in ledger.scheduler.why(SMALL)


def reserve(ledger: Ledger, name: str) -> None:
    ledger.enqueue(SMALL, *range(4))
    ledger.schedule()
    ledger.enqueue(LARGE, name)
    ledger.schedule()
    ledger.schedule()
    assert "a reservation for it" in ledger.scheduler.why(task(name))


def test_a_reservation_ends_when_its_task_is_withdrawn() -> None:
    ledger = Ledger(nodes(1, cores=4), overtake_limit=0)
    reserve(ledger, "large")
    ledger.release(0)
    ledger.enqueue(SMALL, "small")
    assert started(ledger) == []
    ledger.withdraw("large")
    assert started(ledger) == ["small"]


def test_a_reservation_gives_way_to_a_higher_priority() -> None:
    ledger = Ledger(nodes(1, cores=4), overtake_limit=0)
    reserve(ledger, "large")
    ledger.release(0)
    ledger.enqueue(group(priority=1), "urgent")
    assert started(ledger) == ["urgent"]


def test_a_reservation_ends_when_its_node_is_lost_and_another_is_made() -> None:
    ledger = Ledger(nodes(2, cores=4), overtake_limit=0)
    ledger.enqueue(SMALL, *range(8))
    ledger.schedule()
    ledger.enqueue(LARGE, "large")
    ledger.schedule()
    ledger.schedule()
    ledger.remove_node(0)
    for name in range(4, 8):
        ledger.release(name)
    assert started(ledger) == ["large"]


def lane_of(ledger: Ledger, name: str = "lane") -> None:
    ledger.enqueue(SMALL, name)
    assert name in started(ledger)


def serve(ledger: Ledger, request: Request, *names: str) -> None:
    ledger.enqueue(GroupKey(SERVICE, request), *names)
    assert started(ledger) == list(names)


@pytest.mark.parametrize(
    "request_",
    [
        Request(cores=8),
        Request(exclusive=True),
        Request(gpu_shares=128),
        Request(ranks=3, gpu_shares=40),
        Request(memory=7),
        Request(disk=7),
        Request(ranks=16),
        Request(ranks=3, cores=4),
        Request(ranks=4, cores=4, ranks_per_node=2),
        Request(cores=8, colocate="tag"),
        Request(cores=8, pinned=("n0",)),
        Request(slots=(NodeShare(0, 1, b"\1"),)),
        Request(slots=(NodeShare(0, 1, b"\2", ((0, 60),)),)),
        Request(slots=(NodeShare(0, 1, b"\2", (), 7),)),
    ],
    ids=repr,
)
def test_nothing_is_reserved_where_a_service_leaves_too_little(request_: Request) -> None:
    ledger = Ledger(nodes(2, gpus=2, memory=8, disk=8), overtake_limit=2)
    for name in ("n0", "n1"):
        serve(ledger, Request(gpu_shares=32, memory=2, disk=2, pinned=(name,)), name)
    ledger.enqueue(group(request_), "large")
    for number in range(20):
        ledger.enqueue(SMALL, number)
        assert started(ledger) == [str(number)]
        ledger.release(number)
    assert "only the end of a service can make room for it" in ledger.scheduler.why(task("large"))
    assert "a reservation" not in ledger.scheduler.why(task("large"))
    ledger.release("n0")
    ledger.release("n1")
    assert started(ledger) == ["large"]


def test_the_next_gets_its_reservation_while_the_first_waits_for_a_service() -> None:
    ledger = Ledger(nodes(1), overtake_limit=2, look_ahead=1)
    serve(ledger, Request(), "service")
    ledger.enqueue(group(cores=8), "impossible")
    ledger.enqueue(group(cores=8, priority=1), "impossible and urgent")
    ledger.enqueue(SMALL, *range(7))
    for _ in range(10):
        ledger.now += 100.0
        ledger.schedule()
    ledger.enqueue(group(cores=4), "large")
    number = 7
    while task("large") not in ledger.running:
        ledger.enqueue(SMALL, number)
        ledger.release(next(uid for uid in ledger.running if uid != "service"))
        ledger.schedule()
        number += 1
        assert number < 100, ledger.scheduler.why(task("large"))


def test_a_reservation_is_made_where_no_service_runs() -> None:
    ledger = Ledger(nodes(2), overtake_limit=0)
    serve(ledger, Request(), "service")
    ledger.enqueue(SMALL, *range(15))
    ledger.schedule()
    ledger.enqueue(group(cores=8), "large")
    ledger.schedule()
    ledger.schedule()
    assert "a reservation for it holds 1 node" in ledger.scheduler.why(task("large"))
    for name in range(7, 15):
        ledger.release(name)
    (lane,) = ledger.schedule()
    assert lane.tasks == ["large"] and lane.placement[0].node == 1


def test_a_reservation_is_made_once_the_service_has_ended() -> None:
    ledger = Ledger(nodes(1), overtake_limit=0)
    serve(ledger, Request(), "service")
    ledger.enqueue(SMALL, *range(7))
    ledger.schedule()
    ledger.enqueue(group(cores=8), "large")
    for _ in range(3):
        ledger.schedule()
    ledger.release("service")
    ledger.enqueue(SMALL, 7)
    for _ in range(2):
        ledger.schedule()
    assert "a reservation for it holds 1 node" in ledger.scheduler.why(task("large"))


def test_a_lane_draws_tasks_of_its_group_in_order() -> None:
    ledger = Ledger(nodes(1, cores=1))
    lane_of(ledger)
    ledger.enqueue(SMALL, *range(5))
    ledger.enqueue(LARGE_LATE := group(cores=1, memory=0, ranks_per_node=1), "other")
    assert ledger.scheduler.waiting_in(LARGE_LATE) == 1
    assert ledger.draw("lane", 3) == ["0", "1", "2"]
    assert ledger.scheduler.waiting_in(SMALL) == 2


def test_a_draw_does_not_pass_an_older_task_by_more_than_the_overtake() -> None:
    ledger = Ledger(nodes(1, cores=4))
    lane_of(ledger)
    ledger.enqueue(LARGE, "large")
    ledger.enqueue(SMALL, *range(2 * OVERTAKE))
    assert len(ledger.draw("lane", 10_000)) == OVERTAKE


def test_a_draw_gives_way_to_a_higher_priority_and_ignores_a_lower() -> None:
    ledger = Ledger(nodes(1, cores=1))
    lane_of(ledger)
    ledger.enqueue(group(priority=-1), "low")
    ledger.enqueue(SMALL, *range(2 * OVERTAKE))
    assert len(ledger.draw("lane", 10_000)) == 2 * OVERTAKE
    ledger.enqueue(group(priority=1), "high")
    ledger.enqueue(SMALL, "more")
    assert ledger.draw(2 * OVERTAKE - 1, 1) == []


def test_no_lane_draws_while_a_reservation_waits() -> None:
    ledger = Ledger(nodes(1, cores=4), overtake_limit=0)
    reserve(ledger, "large")
    ledger.enqueue(SMALL, "small")
    assert ledger.draw(0, 1) == []


def test_a_withdrawn_task_never_starts() -> None:
    ledger = Ledger(nodes(1))
    ledger.enqueue(SMALL, "a", "b", "c")
    assert ledger.withdraw("a")
    assert ledger.withdraw("b")
    assert not ledger.withdraw("b")
    assert started(ledger) == ["c"]
    assert not ledger.withdraw("c")


def test_a_withdrawn_task_may_be_enqueued_again_in_another_group() -> None:
    ledger = Ledger(nodes(1))
    ledger.enqueue(SMALL, "a", "b")
    ledger.withdraw("b")
    ledger.enqueue(LARGE, "b")
    assert started(ledger) == ["a", "b"]


def test_enqueuing_a_task_that_waits_is_a_violation() -> None:
    ledger = Ledger(nodes(1))
    ledger.enqueue(SMALL, "a")
    with pytest.raises(InvariantViolated, match="'a'"):
        ledger.scheduler.enqueue(task("a"), LARGE, 0.0)
    with pytest.raises(InvariantViolated, match="'b'"):
        ledger.scheduler.enqueue_many([task("b"), task("a")], LARGE, 0.0)


def test_why_tells_the_need_the_room_and_who_is_before() -> None:
    ledger = Ledger(nodes(2, cores=4))
    ledger.enqueue(SMALL, *range(2))
    ledger.schedule()
    ledger.enqueue(group(ranks=8), "wide")
    ledger.enqueue(group(cores=4, ranks=2), "next")
    ledger.schedule()
    assert ledger.scheduler.why(task("wide")) == (
        "needs 8 ranks of 1 core; 2 nodes have room for 6 ranks of it now; 0 tasks are before it"
    )
    assert ledger.scheduler.why(group(cores=4, ranks=2)) == (
        "needs 2 ranks of 4 cores; 1 node has room for 1 ranks of it now; 1 task is before it"
    )
    assert ledger.scheduler.why(task("unknown")) == "nothing waits here under this name"
