"""What holds for every machine and every request: nothing is held twice, all comes back, replays are exact, nobody starves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_ledger import Ledger, group
from scheduling_walk import drain

from pilotage.core.scheduling import Scheduler
from pilotage.core.scheduling.index import NodeIndex, class_floor, lowest_run, memory_class
from pilotage.model.resources import Node, NodeShape, Request

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
)


def accepted(machine: list[Node], wanted: list[Request]) -> list[Request]:
    scheduler = Scheduler(machine)
    return [request for request in wanted if scheduler.refusal(request) is None]


@settings(max_examples=150, deadline=None)
@given(machines, requests)
def test_a_request_is_refused_exactly_when_the_idle_machine_cannot_place_it(machine: list[Node], request: Request) -> None:
    ledger = Ledger(machine, search_bound=1)
    ledger.enqueue(group(request), "it")
    placed = ledger.schedule()
    assert bool(placed) == (ledger.scheduler.refusal(request) is None)


@settings(max_examples=100, deadline=None)
@given(machines, st.lists(requests, max_size=12))
def test_whatever_was_placed_comes_back_and_everything_runs_in_the_end(machine: list[Node], wanted: list[Request]) -> None:
    ledger = Ledger(machine, overtake_limit=3)
    before = ledger.scheduler.free()
    for number, request in enumerate(accepted(machine, wanted)):
        ledger.enqueue(group(request, priority=number % 2), number)
    drain(ledger)
    assert ledger.scheduler.free() == before


@settings(max_examples=100, deadline=None)
@given(machines, st.lists(requests, max_size=12))
def test_occupying_what_another_placed_gives_the_same_books(machine: list[Node], wanted: list[Request]) -> None:
    ledger = Ledger(machine)
    for number, request in enumerate(accepted(machine, wanted)):
        ledger.enqueue(group(request), number)
    lanes = ledger.schedule()
    replayed = Scheduler(machine)
    for lane in reversed(lanes):
        replayed.occupy(lane.placement, lane.group.request)
    assert replayed.free() == ledger.scheduler.free()
    replayed.check(lane.placement for lane in lanes)
    for lane in lanes:
        replayed.release(lane.placement, lane.group.request)
    assert replayed.free() == Scheduler(machine).free()


@settings(max_examples=60, deadline=None)
@given(machines, requests, st.integers(0, 30))
def test_no_task_starves_under_an_endless_stream_of_small_ones(machine: list[Node], large: Request, limit: int) -> None:
    ledger = Ledger(machine, overtake_limit=limit)
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
