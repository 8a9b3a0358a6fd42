"""Reserved nodes are filled with what ends before they are needed; the task that they are kept for is never held up by it."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_ledger import Ledger, nodes, task

from pilotage.core.scheduling import Assignment, GroupKey, Scheduler, rounded_duration
from pilotage.core.scheduling.backfill import Gaps
from pilotage.core.scheduling.ends import DeclaredEnds
from pilotage.core.scheduling.packed import Packed
from pilotage.core.scheduling.policy import SERVICE, shortest_duration
from pilotage.model.resources import Node, NodeShape, Request


def lasting(seconds: float, kind: str = "executable", **amounts: object) -> GroupKey:
    return GroupKey(kind, Request(**amounts), 0, seconds)  # type: ignore[arg-type]


def with_reservation(*running: float, kind: str = "executable") -> Ledger:
    """Two nodes of 4 cores; tasks of 1 core run that are declared to last so long (0.0: nobody knows); both are reserved.

    Patience is over at 1 s, so that is the time.
    """
    ledger = Ledger(nodes(2, cores=4), patience_s=1.0)
    for number, seconds in enumerate(running):
        ledger.enqueue(lasting(seconds, kind), f"run {number}")
    ledger.schedule()
    ledger.enqueue(lasting(50.0, ranks=8), "large")
    ledger.schedule()
    ledger.now = 1.0
    ledger.schedule()
    assert "a reservation for it holds 2 nodes" in ledger.scheduler.why(task("large"))
    return ledger


def placed(lanes: Sequence[Assignment]) -> list[str]:
    return [str(lane.tasks[0]) for lane in lanes]


@pytest.mark.parametrize("duration_s", [0.001, 0.5, 0.51, 1.0, 59.0, 600.0, 601.0, 12345.678])
def test_a_duration_is_between_its_bounds(duration_s: float) -> None:
    rounded = rounded_duration(duration_s)
    assert shortest_duration(rounded) < duration_s <= rounded
    assert rounded_duration(shortest_duration(rounded)) == shortest_duration(rounded)


def test_what_ends_in_time_is_filled_in_and_what_does_not_waits() -> None:
    ledger = with_reservation(20.0, 30.0)
    ledger.enqueue(lasting(28.0), "short")
    ledger.enqueue(lasting(29.0), "long")
    ledger.enqueue(lasting(0.0), "unknown")
    assert placed(ledger.schedule()) == ["short"]


def test_as_time_goes_by_less_is_filled_in() -> None:
    ledger = with_reservation(20.0, 30.0)
    ledger.now = 25.0
    ledger.enqueue(lasting(5.0), "long")
    ledger.enqueue(lasting(4.0), "short")
    assert placed(ledger.schedule()) == ["short"]
    ledger.now = 30.0
    ledger.enqueue(lasting(0.001), "shortest")
    assert placed(ledger.schedule()) == []


def test_where_the_end_of_something_is_not_known_nothing_is_filled_in() -> None:
    ledger = with_reservation(20.0, 0.0)
    ledger.enqueue(lasting(1.0), "short")
    assert placed(ledger.schedule()) == []
    ledger.release("run 1")
    assert placed(ledger.schedule()) == [], "when that could have been known the reservation was made already"


def test_a_service_is_not_filled_in() -> None:
    ledger = with_reservation(20.0, 30.0)
    ledger.enqueue(lasting(1.0, SERVICE), "service")
    assert placed(ledger.schedule()) == []


def test_the_task_for_which_nodes_are_kept_starts_when_it_would_have_to() -> None:
    ledger = with_reservation(20.0, 30.0)
    for number in range(9):
        ledger.enqueue(lasting(10.0), f"fill {number}")
    assert len(ledger.schedule()) == 6
    ledger.now = 11.0
    for number in range(6):
        ledger.release(f"fill {number}")
    assert placed(ledger.schedule()) == ["fill 6", "fill 7", "fill 8"]
    ledger.now = 30.0
    for name in ("run 0", "run 1", "fill 6", "fill 7", "fill 8"):
        ledger.release(name)
    assert placed(ledger.schedule()) == ["large"]


def test_it_is_known_when_a_part_of_the_nodes_is_enough() -> None:
    """Of a node of 4 cores 2 are free at 10 s, and all at 40 s; two cores are enough for who waits."""
    ledger = Ledger(nodes(1, cores=4), patience_s=1.0)
    ledger.enqueue(lasting(10.0, cores=2), "a")
    ledger.enqueue(lasting(40.0), "b")
    ledger.schedule()
    ledger.enqueue(lasting(5.0, cores=2), "two")
    ledger.schedule()
    ledger.now = 1.0
    ledger.schedule()
    ledger.enqueue(lasting(9.0), "too long")
    ledger.enqueue(lasting(8.0), "short")
    assert placed(ledger.schedule()) == ["short"]


def test_what_services_hold_is_not_waited_for() -> None:
    ledger = Ledger(nodes(1, cores=4), patience_s=1.0)
    ledger.enqueue(lasting(0.0, SERVICE), "service")
    ledger.enqueue(lasting(30.0), "run")
    ledger.schedule()
    ledger.enqueue(lasting(50.0, cores=3), "large")
    ledger.schedule()
    ledger.now = 1.0
    ledger.enqueue(lasting(20.0), "short")
    ledger.enqueue(lasting(40.0), "long")
    assert placed(ledger.schedule()) == ["short"]


def test_several_ranks_are_filled_in_together_and_on_the_nodes_that_are_named() -> None:
    ledger = with_reservation(30.0)
    ledger.enqueue(lasting(20.0, ranks=5), "wide")
    ledger.enqueue(lasting(20.0, ranks=5), "too wide by now")
    ledger.enqueue(lasting(20.0, pinned=("n1",)), "pinned")
    opened = ledger.schedule()
    assert placed(opened) == ["wide", "pinned"]
    assert opened[1].placement[0].node == 1


def test_after_a_node_is_lost_nothing_is_kept() -> None:
    ledger = with_reservation(20.0, 30.0)
    ledger.remove_node(1)
    ledger.enqueue(lasting(500.0), "long")
    assert placed(ledger.schedule()) == ["long"]


# ------------------------------------------------------------------------------------------------------------ whoever it is


class Job(msgspec.Struct, frozen=True):
    """A task that arrives at a time, and lasts as long as it is declared to: no more, and less by what is rounded up."""

    arrival: float
    request: Request
    duration_s: float
    shortened: float

    @property
    def key(self) -> GroupKey:
        return GroupKey("executable", self.request, 0, rounded_duration(self.duration_s))

    @property
    def lasts_s(self) -> float:
        longest = self.key.duration_s
        return longest - self.shortened * (longest - shortest_duration(longest))


class Idle(Scheduler):
    """Leaves reserved nodes to themselves."""

    def _backfill(self, now: float, limit: int, out: list[Assignment]) -> None:
        pass


class IdlePacked(Packed):
    """The same."""

    def _backfill(self, now: float, limit: int, out: list[Assignment]) -> None:
        pass


def starts_of(scheduler: Scheduler, machine: list[Node], jobs: Sequence[Job]) -> tuple[dict[str, float], str, int]:
    """Run all; return when each began, the first one for which nodes were reserved ("": none), and how many were filled in."""
    ledger = Ledger(machine, scheduler)
    coming = [(job.arrival, number, "arrives") for number, job in enumerate(jobs)]
    heapq.heapify(coming)
    starts: dict[str, float] = {}
    reserved = ""
    filled = 0
    while coming:
        ledger.now = coming[0][0]
        while coming and coming[0][0] == ledger.now:
            _, number, what = heapq.heappop(coming)
            if what == "arrives":
                ledger.enqueue(jobs[number].key, number)
            else:
                ledger.release(number)
        current = scheduler._reservations.current
        opened = ledger.schedule()
        for lane in opened:
            (uid,) = lane.tasks
            starts[uid] = ledger.now
            heapq.heappush(coming, (ledger.now + jobs[int(uid)].lasts_s, int(uid), "ends"))
            filled += current is scheduler._reservations.current is not None and lane.placement[0].node in current.nodes
        if not reserved and scheduler._reservations.current is not None:
            reserved = scheduler._reservations.current.group.tasks[0]
    assert len(starts) == len(jobs), [scheduler.why(uid) for uid in ledger.waiting]
    return starts, reserved, filled


machines = st.lists(st.sampled_from([2, 4, 8]), min_size=1, max_size=5).map(
    lambda sizes: [Node(index, f"n{index}", NodeShape(cores, 2, 8)) for index, cores in enumerate(sizes)]
)
requests = st.builds(
    Request,
    ranks=st.integers(1, 8),
    cores=st.integers(1, 4),
    gpu_shares=st.sampled_from([0, 0, 0, 32, 64]),
    memory=st.sampled_from([0, 0, 3]),
    ranks_per_node=st.sampled_from([0, 0, 1]),
    exclusive=st.sampled_from([False, False, False, True]),
    pinned=st.sampled_from([(), (), (), ("n0",)]),
)
jobs = st.builds(
    Job,
    arrival=st.integers(0, 30).map(float),
    request=requests,
    duration_s=st.floats(0.5, 40.0),
    shortened=st.sampled_from([0.0, 0.0, 0.5, 0.99]),
)


@settings(max_examples=150, deadline=None)
@given(machines, st.lists(jobs, min_size=2, max_size=25), st.booleans())
def test_who_nodes_are_kept_for_never_starts_later_for_it(machine: list[Node], wanted: list[Job], packed: bool) -> None:
    filling, idle = (Packed, IdlePacked) if packed else (Scheduler, Idle)
    possible = [job for job in wanted if Scheduler(machine).refusal(job.request) is None]
    bounds = {"overtake_limit": 2, "patience_s": 3.0}
    with_it, reserved, _ = starts_of(filling(machine, **bounds), machine, possible)  # type: ignore[arg-type]
    without, same, none = starts_of(idle(machine, **bounds), machine, possible)  # type: ignore[arg-type]
    assert (reserved, none) == (same, 0)
    if reserved:
        assert with_it[reserved] <= without[reserved]


def seeded(seed: int) -> tuple[list[Node], list[Job]]:
    chance = random.Random(seed)
    wide = [
        Job(float(chance.randint(0, 20)), Request(ranks=chance.choice((1, 1, 1, 2, 6, 16))), chance.uniform(1.0, 20.0), 0.0)
        for _ in range(30)
    ]
    return nodes(4, cores=4), wide


def compared(seed: int) -> tuple[float, float, int]:
    """Return how much sooner the reserved task begins as reserved nodes are filled, and all together; and how many were."""
    machine, wanted = seeded(seed)
    bounds = {"overtake_limit": 2, "patience_s": 3.0}
    with_it, reserved, filled = starts_of(Scheduler(machine, **bounds), machine, wanted)  # type: ignore[arg-type]
    without, _, _ = starts_of(Idle(machine, **bounds), machine, wanted)  # type: ignore[arg-type]
    sooner = without[reserved] - with_it[reserved] if reserved else 0.0
    return sooner, sum(without.values()) - sum(with_it.values()), filled


def test_the_property_is_not_an_empty_one() -> None:
    found = [compared(seed) for seed in range(60)]
    assert sum(filled for _, _, filled in found) > 100
    assert sum(together for _, together, _ in found) > 0.0
    assert min(sooner for sooner, _, _ in found) == 0.0


def ends_are_told_too_late(patch: pytest.MonkeyPatch) -> None:
    original = DeclaredEnds.earliest
    patch.setattr(DeclaredEnds, "earliest", lambda ends, *rest: original(ends, *rest) + 5.0)


def the_last_end_is_waited_for(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        DeclaredEnds,
        "earliest",
        lambda ends, *rest: max((end for held in ends._on for end, _ in held.values()), default=0.0),
    )


def durations_are_not_looked_at(patch: pytest.MonkeyPatch) -> None:
    original = Gaps.layout
    patch.setattr(Gaps, "layout", lambda gaps, group, now: original(gaps, group, -1000.0))


@pytest.mark.parametrize("plant", [ends_are_told_too_late, the_last_end_is_waited_for, durations_are_not_looked_at])
def test_a_planted_fault_holds_somebody_up(
    plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert any(compared(seed)[0] < 0.0 for seed in range(60))
