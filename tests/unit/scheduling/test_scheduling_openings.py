"""What fits on what came free is placed at once: no task of one rank waits where there is room for it."""

from __future__ import annotations

import random

import pytest
from scheduling_ledger import group, task

from pilotage.core.scheduling import Scheduler
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.openings import Openings
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.releases import RELEASES_KEPT, Releases
from pilotage.model.resources import Node, NodeShape, Placement, Request

SHAPE = NodeShape(cores=8, gpus=2, memory=40)


def machine(nodes: int) -> list[Node]:
    return [Node(index, f"n{index}", SHAPE, domain=4) for index in range(nodes)]


def random_request(chance: random.Random) -> Request:
    return Request(
        cores=chance.choice((1, 1, 2, 3, 5)),
        memory=chance.choice((0, 0, 1, 7, 19, 33)),
        gpu_shares=chance.choice((0, 0, 0, 0, 64)),
    )


def left_waiting(scheduler: Scheduler, requests: list[Request]) -> list[tuple[Request, int]]:
    """Return which of ``requests`` wait although a node has room for them, with that node."""
    pool = scheduler._pool
    return [
        (request, node)
        for request in requests
        if scheduler.waiting_in(group(request))
        for node in range(len(pool.nodes))
        if not pool.state[node] and pool.capacity(Need(request), node)
    ]


@pytest.mark.parametrize("seed", range(30))
def test_nobody_waits_where_there_is_room(seed: int) -> None:
    chance = random.Random(seed)
    nodes = chance.choice((1, 3, 9))
    scheduler = Scheduler(machine(nodes), look_ahead=10_000, overtake_limit=1 << 40, retry_bound=chance.choice((1, 64)))
    requests = list({random_request(chance) for _ in range(chance.choice((2, 12)))})
    running: list[tuple[Placement, Request]] = []
    cut = 0
    for number in range(400):
        for _ in range(chance.randrange(4)):
            request = chance.choice(requests)
            scheduler.enqueue_many([task(f"{number}.{_}.{k}") for k in range(chance.randrange(4))], group(request), 0.0)
        for _ in range(min(len(running), chance.choice((0, 1, 1, 5, 20)))):
            scheduler.release(*running.pop(chance.randrange(len(running))))
        limit = chance.choice((1, 3, 1000, 1000))
        lanes = scheduler.schedule(0.0, limit)
        running += [(lane.placement, lane.group.request) for lane in lanes]
        if len(lanes) < limit:
            assert left_waiting(scheduler, requests) == []
        else:
            cut += 1
        scheduler.check([placement for placement, _ in running])
    assert cut


def test_all_are_looked_at_anew_when_more_was_released_than_is_noted() -> None:
    scheduler = Scheduler(machine(2), overtake_limit=1 << 40)
    tiny, large = Request(), Request(cores=5, memory=1)
    scheduler.enqueue_many([task(f"fill.{number}") for number in range(16)], group(tiny), 0.0)
    held = [lane.placement for lane in scheduler.schedule(0.0, 100)]
    scheduler.enqueue(task("large"), group(large), 0.0)
    assert scheduler.schedule(0.0, 100) == []
    on_first, on_second = held[:8], held[8:]
    assert {placement[0].node for placement in on_second} == {1}
    for placement in on_first[:5]:
        scheduler.release(placement, tiny)
    for number in range(2 * RELEASES_KEPT):
        # No more lanes are asked for than tasks of higher priority take, so that the large one is not looked at.
        scheduler.release(on_second.pop(), tiny)
        scheduler.enqueue(task(f"more.{number}"), group(tiny, priority=1), 0.0)
        (lane,) = scheduler.schedule(0.0, 1)
        on_second.append(lane.placement)
    assert [lane.tasks for lane in scheduler.schedule(0.0, 100)] == [[task("large")]]


@pytest.fixture
def pool() -> Pool:
    return Pool(machine(3))


def take(pool: Pool, node: int, cores: int, memory: int) -> None:
    pool.carve(Need(Request(cores=cores, memory=memory)), node, 1)


def test_the_tightest_node_is_found(pool: Pool) -> None:
    releases = Releases(pool, 64)
    openings = Openings(pool, releases)
    take(pool, 0, 2, 0)
    take(pool, 1, 4, 35)
    releases.extend([0, 1])
    openings.catch_up()
    assert openings.find(1, 0) == 1
    assert openings.find(1, 6) == 0
    assert openings.find(5, 0) == 0
    assert openings.find(7, 0) == -1
    assert openings.find(1, 41) == -1


def test_a_node_that_is_used_meanwhile_is_found_by_what_is_left(pool: Pool) -> None:
    releases = Releases(pool, 64)
    openings = Openings(pool, releases)
    releases.extend([0, 1, 2])
    openings.catch_up()
    # Those that were put in first are not those that are come upon first.
    take(pool, 0, 3, 0)
    take(pool, 1, 3, 20)
    take(pool, 2, 5, 35)
    assert openings.find(5, 0) in (0, 1)
    assert openings.find(4, 30) == 0
    assert openings.find(1, 0) == 2
    assert openings.find(6, 0) == -1
    openings.clear()
    assert openings.find(1, 0) == -1
