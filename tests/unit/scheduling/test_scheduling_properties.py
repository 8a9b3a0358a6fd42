"""What holds for every machine and every request: nothing is held twice, all comes back, replays are exact, nobody starves."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_ledger import Ledger, group
from scheduling_walk import drain, drop_stranded

from pilotage.core.scheduling import GroupKey, Scheduler
from pilotage.core.scheduling.index import NodeIndex, class_floor, lowest_run, memory_class
from pilotage.core.scheduling.policies import ORDERS, POLICIES, build
from pilotage.model.partitions import Order, PolicyName, PolicySpec
from pilotage.model.resources import Node, NodeShape, Request

FREE_FOR_ALL = [policy for policy in POLICIES if policy != "homogeneous"]
"""Policies that take requests of any kind."""

policies = st.sampled_from(FREE_FOR_ALL)
orders = st.sampled_from(ORDERS)
shapes = st.builds(
    NodeShape,
    cores=st.sampled_from([1, 3, 8, 70]),
    gpus=st.integers(0, 3),
    memory=st.sampled_from([0, 9, 100]),
    disk=st.integers(0, 4),
)
machines = st.lists(shapes, min_size=1, max_size=6).map(
    lambda found: [Node(index, f"n{index}", shape, domain=index % 3) for index, shape in enumerate(found)]
)
requests = st.builds(
    Request,
    ranks=st.integers(1, 9),
    cores=st.integers(1, 4),
    gpu_shares=st.sampled_from([0, 0, 20, 32, 64, 128]),
    memory=st.integers(0, 12),
    disk=st.integers(0, 2),
    ranks_per_node=st.integers(0, 3),
    colocate=st.sampled_from(["", "", "tag"]),
    exclusive=st.booleans(),
    pinned=st.sampled_from([(), (), (), ("n0",), ("some",)]),
)
keys = st.builds(
    GroupKey,
    lane_kind=st.just("executable"),
    request=requests,
    priority=st.integers(0, 2),
    duration_s=st.sampled_from([0.0, 0.0, 2.0, 30.0]),
)


def ledger_of(
    policy: PolicyName,
    order: Order,
    machine: list[Node],
    *,
    latest: float = math.inf,
    absent: tuple[int, ...] = (),
    **bounds: Any,
) -> Ledger:
    """Return a ledger over such a policy; every other node is in the group "some", and the torus is a ring."""
    some = tuple(node.name for node in machine[::2])
    spec = PolicySpec(policy=policy, order=order, groups={"some": some}, torus=(len(machine),) if policy == "torus" else ())
    present = [node.index for node in machine if node.index not in absent]
    ledger = Ledger(machine, build(spec, machine, order=order, groups=spec.groups, present=present, latest=latest, **bounds))
    ledger.groups = {"some": {node.index for node in machine[::2]}}
    ledger.absent = set(absent)
    ledger.latest = latest
    ledger.priorities = order == "priority"
    ledger.overtake = 0 if order == "first_come" else ledger.overtake
    return ledger


def accepted(ledger: Ledger, wanted: list[Request]) -> list[Request]:
    return [request for request in wanted if ledger.scheduler.refusal(request) is None]


@settings(max_examples=250, deadline=None)
@given(policies, orders, machines, requests)
def test_a_request_is_refused_exactly_when_the_idle_machine_cannot_place_it(
    policy: PolicyName, order: Order, machine: list[Node], request: Request
) -> None:
    ledger = ledger_of(policy, order, machine, search_bound=1)
    ledger.enqueue(group(request), "it")
    placed = ledger.schedule()
    assert bool(placed) == (ledger.scheduler.refusal(request) is None)


@settings(max_examples=250, deadline=None)
@given(policies, orders, machines, st.lists(keys, max_size=12))
def test_whatever_was_placed_comes_back_and_everything_runs_in_the_end(
    policy: PolicyName, order: Order, machine: list[Node], wanted: list[GroupKey]
) -> None:
    ledger = ledger_of(policy, order, machine, overtake_limit=3)
    before = ledger.scheduler.free()
    for number, key in enumerate(wanted):
        if ledger.scheduler.refusal(key.request) is None:
            ledger.enqueue(key, number)
    drain(ledger)
    assert ledger.scheduler.free() == before


@settings(max_examples=150, deadline=None)
@given(policies, machines, st.lists(requests, max_size=12))
def test_occupying_what_another_placed_gives_the_same_books(
    policy: PolicyName, machine: list[Node], wanted: list[Request]
) -> None:
    ledger = ledger_of(policy, "priority", machine)
    for number, request in enumerate(accepted(ledger, wanted)):
        ledger.enqueue(group(request), number)
    lanes = ledger.schedule()
    replayed = ledger_of(policy, "priority", machine).scheduler
    for lane in reversed(lanes):
        replayed.occupy(lane.placement, lane.group.request)
    assert replayed.free() == ledger.scheduler.free()
    replayed.check(lane.placement for lane in lanes)
    for lane in lanes:
        replayed.release(lane.placement, lane.group.request)
    assert replayed.free() == Scheduler(machine).free()


@settings(max_examples=120, deadline=None)
@given(policies, orders, machines, requests, st.integers(0, 30))
def test_no_task_starves_under_an_endless_stream_of_small_ones(
    policy: PolicyName, order: Order, machine: list[Node], large: Request, limit: int
) -> None:
    ledger = ledger_of(policy, order, machine, overtake_limit=limit)
    if ledger.scheduler.refusal(large) is not None:
        return
    cores = sum(node.shape.cores for node in machine)
    ledger.enqueue(group(), *(f"fill{number}" for number in range(cores)))
    ledger.schedule()
    ledger.enqueue(group(large), "large")
    for step in range(limit + 3 * cores + 5):
        ledger.enqueue(group(), f"small{step}")
        ledger.schedule()
        if "large" in ledger.running:
            return
        ledger.release(next(iter(ledger.running)))
    raise AssertionError(ledger.scheduler.why(group(large)))


# ------------------------------------------------------------------------------------- all that can be asked, in any order

Step = tuple[str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["enqueue"] * 4
            + ["beside"]
            + ["schedule"] * 3
            + ["release"] * 3
            + ["withdraw", "draw", "lose", "close", "add", "suspend", "resume", "wait"]
        ),
        st.integers(0, 1000),
    ),
    max_size=60,
)


def take(ledger: Ledger, wanted: list[GroupKey], told: list[Step]) -> None:
    """Ask a policy all this. A number says which of the tasks, nodes or kinds of tasks, or how long."""
    number = losses = 0
    machine = ledger.machine
    for verb, which in told:
        running = list(ledger.running)
        match verb:
            case "enqueue" if wanted:
                key = wanted[which % len(wanted)]
                if ledger.scheduler.refusal(key.request) is None:
                    ledger.enqueue(key, *range(number, number + 1 + which % 3))
                    number += 1 + which % 3
            case "beside" if number and wanted:
                key = group(Request(beside=str(which % number)))
                if ledger.scheduler.refusal(key.request) is None:
                    ledger.enqueue(key, number)
                    number += 1
            case "schedule":
                ledger.schedule(1 + which % 9)
            case "release" if running:
                ledger.release(running[which % len(running)])
            case "withdraw" if number:
                ledger.withdraw(which % number)
            case "draw" if running:
                ledger.draw(running[which % len(running)], 1 + which % 5)
            case "lose" if losses < len(machine) - 1:
                losses += 1
                ledger.remove_node(which % len(machine))
            case "close" if len(machine) > 1:
                ledger.close_node(which % len(machine))
            case "add":
                ledger.add_node(which % len(machine))
            case "suspend":
                ledger.suspend_node(which % len(machine))
            case "resume":
                ledger.resume_node(which % len(machine))
            case "wait":
                ledger.now += which / 10
        ledger.check()


def settle(ledger: Ledger) -> None:
    """Who is too late is so for good; all others run in the end, on what nodes there are."""
    for node in ledger.machine:
        ledger.add_node(node.index)
        ledger.resume_node(node.index)
    for uids, reason in ledger.scheduler.too_late(ledger.now):
        for uid in uids:
            key = ledger.waiting[uid][1]
            assert ledger.now + key.duration_s > ledger.latest, reason
            ledger.withdraw(uid)
    due = [
        key.duration_s + ledger.now > ledger.latest
        for _, key in ledger.waiting.values()
        if key.duration_s and not math.isinf(ledger.latest)
    ]
    assert not any(due), "nobody is too late who was not told so"
    drop_stranded(ledger)
    drain(ledger)


@pytest.mark.parametrize("policy", FREE_FOR_ALL)
@settings(max_examples=120, deadline=None)
@given(orders, machines, st.lists(keys, min_size=1, max_size=5), steps, st.sampled_from([math.inf, 60.0]), st.booleans())
def test_whatever_is_asked_in_whatever_order_all_promises_are_kept(
    policy: PolicyName, order: Order, machine: list[Node], wanted: list[GroupKey], told: list[Step], latest: float, lacks: bool
) -> None:
    absent = (len(machine) - 1,) if lacks and len(machine) > 1 else ()
    ledger = ledger_of(policy, order, machine, latest=latest, absent=absent, overtake_limit=3, patience_s=20.0, look_ahead=8)
    take(ledger, wanted, told)
    settle(ledger)


@settings(max_examples=150, deadline=None)
@given(
    orders, machines, requests, st.lists(st.integers(0, 2), min_size=1, max_size=3), steps, st.sampled_from([math.inf, 60.0])
)
def test_equal_slots_are_given_out_once_whatever_is_asked(
    order: Order, machine: list[Node], request: Request, priorities: list[int], told: list[Step], latest: float
) -> None:
    ledger = ledger_of("homogeneous", order, machine, latest=latest)
    wanted = [GroupKey("executable", request, priority, 10.0 * priority) for priority in priorities]
    take(ledger, wanted, [step for step in told if step[0] != "beside"])
    settle(ledger)


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_size_classes_ascend_with_memory(one: int, other: int) -> None:
    assert (one <= other) <= (memory_class(one) <= memory_class(other))
    assert class_floor(memory_class(one)) <= one < class_floor(memory_class(one) + 1)


@given(st.integers(0, 2**40), st.integers(1, 8))
def test_the_lowest_run_of_bits_is_found(mask: int, length: int) -> None:
    wanted = (1 << length) - 1
    assert lowest_run(mask, length) == next((place for place in range(41) if mask >> place & wanted == wanted), -1)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 8)), max_size=40))
def test_the_index_finds_a_node_exactly_when_one_has_enough_cores(moves: list[tuple[int, int]]) -> None:
    index = NodeIndex([NodeShape(8)] * 5)
    free = dict.fromkeys(range(5), 8)
    for node, count in moves:
        free[node] = count
        index.move(node, index.base(0, 0) + count if count else -1)
        for wanted in range(1, 9):
            fitting = [found for found in free.values() if found >= wanted]
            found = index.first(wanted, -1)
            assert (free[found] if found >= 0 else None) == min(fitting, default=None)
    assert index.faults() == []
