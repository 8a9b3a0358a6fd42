"""Gangs: tasks that start together or not at all, whatever policy places them; planted faults are caught."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import scheduling_walk
from scheduling_ledger import Ledger, group, nodes, task
from scheduling_walk import walk

from pilotage.core.scheduling import GroupKey, Scheduler, gangs, make_policy
from pilotage.core.scheduling.gangs import Gang, Gangs
from pilotage.core.scheduling.policies import build
from pilotage.core.scheduling.policy import SERVICE
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.reservation import Reservations
from pilotage.model.partitions import PolicyName, PolicySpec
from pilotage.model.resources import Request
from planted_faults import Patch, require_noticed

SHARED: tuple[PolicyName, ...] = ("continuous", "torus", "tagged", "packed", "spread")


def member(size: int, gang: str = "g", priority: int = 0, **amounts: Any) -> GroupKey:
    return group(Request(gang=gang, gang_size=size, **amounts), priority)


def names(opened: list[Any]) -> list[str]:
    return sorted(lane.tasks[0] for lane in opened)


def ledger_of(policy: PolicyName, count: int = 4, cores: int = 8, **options: Any) -> Ledger:
    spec = PolicySpec(policy=policy, torus=(count,) if policy == "torus" else ())
    machine = nodes(count, cores, gpus=2)
    return Ledger(machine, build(spec, machine, **options))


@pytest.mark.parametrize("policy", SHARED)
def test_members_of_any_shapes_start_together(policy: PolicyName) -> None:
    ledger = ledger_of(policy)
    ledger.enqueue(member(4, ranks=10), "wide")
    ledger.enqueue(member(4, cores=8), "deep")
    ledger.enqueue(member(4, gpu_shares=64), "gpu")
    assert ledger.schedule() == []
    ledger.enqueue(group(), "other")
    assert names(ledger.schedule()) == ["other"]
    ledger.enqueue(member(4, exclusive=True), "alone")
    ledger.release("other")
    assert names(ledger.schedule(limit=1)) == ["alone", "deep", "gpu", "wide"]


@pytest.mark.parametrize("policy", SHARED)
def test_none_starts_until_there_is_room_for_all(policy: PolicyName) -> None:
    ledger = ledger_of(policy, count=2)
    ledger.enqueue(group(cores=8), "before")
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a", "b")
    for _ in range(3):
        assert ledger.schedule() == []
    assert "all 2 tasks of gang 'g' are here, and start together" in ledger.scheduler.why(task("b"))
    assert ledger.scheduler.free().cores == 8, "nothing is held for a part of a gang"
    ledger.release("before")
    assert names(ledger.schedule()) == ["a", "b"]


@pytest.mark.parametrize("policy", SHARED)
@pytest.mark.parametrize("shape", [{"cores": 8}, {"ranks": 24}, {"cores": 5, "gpu_shares": 64}])
def test_a_gang_is_not_starved_by_small_tasks(policy: PolicyName, shape: dict[str, int]) -> None:
    """Small tasks come all the time, so that all nodes are never free together unless they are kept."""
    ledger = ledger_of(policy, patience_s=20.0, overtake_limit=100)
    number = 0

    def come(count: int) -> None:
        nonlocal number
        ledger.enqueue(group(), *range(number, number + count))
        number += count

    come(32)
    ledger.schedule()
    ledger.enqueue(member(2 if "ranks" not in shape else 1, **shape), *(("a", "b") if "ranks" not in shape else ("a",)))
    for _ in range(200):
        come(4)
        ledger.now += 1.0
        for uid in [uid for uid in ledger.running if uid not in ("a", "b")][:4]:
            ledger.release(uid)
        ledger.schedule()
        if task("a") in ledger.running:
            return
    raise AssertionError(ledger.scheduler.why(task("a")))


def test_the_nodes_that_are_kept_are_those_of_the_plan() -> None:
    ledger = Ledger(nodes(4), patience_s=5.0)
    ledger.enqueue(group(), *range(32))
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a", "b")
    ledger.schedule()
    ledger.now += 6.0
    ledger.schedule()
    assert "a reservation for it holds 2 nodes" in ledger.scheduler.why(task("a"))
    ledger.enqueue(group(), "more")
    for uid in range(24, 32):
        ledger.release(uid)
    assert names(ledger.schedule()) == ["more"], "others go on elsewhere"
    for uid in range(16):
        ledger.release(uid)
    assert names(ledger.schedule()) == ["a", "b"]


def test_a_member_that_leaves_ends_the_reservation() -> None:
    ledger = Ledger(nodes(2), patience_s=5.0)
    ledger.enqueue(group(), *range(16))
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a", "b")
    ledger.schedule()
    ledger.now += 6.0
    ledger.schedule()
    ledger.withdraw("b")
    ledger.enqueue(group(), "more")
    ledger.release(0)
    assert names(ledger.schedule()) == ["more"]
    ledger.scheduler.check()


def test_a_gang_that_cannot_be_is_told_of_once_and_at_once() -> None:
    ledger = Ledger(nodes(2))
    ledger.enqueue(group(), "runs")
    ledger.schedule()
    ledger.enqueue(member(3, cores=5), "a", "b", "c")
    assert ledger.scheduler.too_late_from() <= ledger.now
    ((uids, reason),) = ledger.scheduler.too_late(ledger.now)
    assert uids == ["a", "b", "c"]
    assert reason.startswith("the 3 tasks of gang 'g' start together, and do not fit on the nodes of this pilot at once")
    assert ledger.scheduler.too_late(ledger.now) == [] and ledger.scheduler.too_late_from() > ledger.now


def test_only_the_end_of_a_service_can_make_room() -> None:
    """Nothing is kept for such a gang: others go on."""
    ledger = Ledger(nodes(2), patience_s=5.0)
    ledger.enqueue(GroupKey(SERVICE, Request(cores=8)), "service")
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a", "b")
    ledger.schedule()
    ledger.now += 6.0
    ledger.enqueue(group(cores=8), "other")
    assert names(ledger.schedule()) == ["other"]
    assert "only the end of a service can make room" in ledger.scheduler.why(task("a"))
    ledger.release("other")
    ledger.release("service")
    assert names(ledger.schedule()) == ["a", "b"]


def test_it_keeps_clear_of_what_services_hold() -> None:
    ledger = Ledger(nodes(3), patience_s=5.0)
    ledger.enqueue(GroupKey(SERVICE, Request()), "service")
    ledger.enqueue(group(), *range(23))
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a", "b")
    ledger.schedule()
    ledger.now += 6.0
    ledger.schedule()
    for uid in [uid for uid in ledger.running if uid != "service"]:
        ledger.release(uid)
    assert names(ledger.schedule()) == ["a", "b"]


def test_no_member_alone_is_filled_in_on_nodes_that_are_kept_for_others() -> None:
    ledger = Ledger(nodes(2), patience_s=5.0)
    ledger.enqueue(GroupKey("executable", Request(cores=8), 0, 100.0), "runs")
    ledger.enqueue(GroupKey("executable", Request(cores=7), 0, 100.0), "beside")
    ledger.schedule()
    ledger.enqueue(group(ranks=16), "large")
    ledger.schedule()
    ledger.now += 6.0
    ledger.schedule()
    for name in ("a", "b"):
        ledger.enqueue(GroupKey("executable", Request(gang="g", gang_size=2), 0, 10.0), name)
    ledger.enqueue(GroupKey("executable", Request(), 0, 20.0), "short")
    assert names(ledger.schedule()) == ["short"]


def test_members_are_never_drawn() -> None:
    ledger = Ledger(nodes(1, cores=2))
    ledger.enqueue(member(1), "a", "b", "c")
    assert names(ledger.schedule()) == ["a", "b"]
    assert ledger.draw("a", 5) == []
    ledger.release("a")
    assert names(ledger.schedule()) == ["c"]


def test_more_of_a_name_wait_for_as_many_again() -> None:
    ledger = Ledger(nodes(2))
    ledger.enqueue(member(2), "a", "b", "c")
    assert names(ledger.schedule()) == ["a", "b"]
    assert "1 of 2 wait here, 1 is missing" in ledger.scheduler.why(task("c"))
    ledger.enqueue(member(2), "d")
    assert names(ledger.schedule()) == ["c", "d"]


def test_higher_priorities_come_first_and_older_ones_of_the_same() -> None:
    ledger = Ledger(nodes(1))
    ledger.enqueue(group(cores=8), "first")
    ledger.schedule()
    ledger.enqueue(member(2, "old", cores=4), "a", "b")
    ledger.enqueue(group(cores=8), "plain")
    ledger.enqueue(member(2, "new", priority=1, cores=4), "c", "d")
    ledger.release("first")
    assert names(ledger.schedule()) == ["c", "d"]
    ledger.release("c")
    ledger.release("d")
    assert names(ledger.schedule()) == ["a", "b"]


def test_in_the_order_first_come_nobody_overtakes_a_gang_that_is_complete() -> None:
    machine = nodes(2)
    ledger = Ledger(machine, build(PolicySpec(), machine, order="first_come"))
    ledger.overtake, ledger.priorities = 0, False
    ledger.enqueue(group(cores=8), "first")
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a")
    ledger.enqueue(group(), "before the gang is complete")
    assert names(ledger.schedule()) == ["before the gang is complete"]
    ledger.enqueue(member(2, cores=8), "b")
    ledger.enqueue(group(), "after")
    ledger.release("before the gang is complete")
    assert ledger.schedule() == []
    ledger.release("first")
    assert names(ledger.schedule()) == ["a", "b"]


def test_nodes_that_go_and_come_are_counted() -> None:
    ledger = Ledger(nodes(2))
    ledger.enqueue(group(cores=8), "runs")
    ledger.schedule()
    ledger.enqueue(member(2, cores=8), "a", "b")
    ledger.close_node(1)
    assert [uids for uids, reason in ledger.scheduler.stranded() if "do not fit" in reason] == [["a", "b"]]
    ledger.add_node(1)
    assert ledger.scheduler.stranded() == []
    ledger.release("runs")
    assert names(ledger.schedule()) == ["a", "b"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(gang="g"), "gang='g' has gang_size=0; say how many tasks it has"),
        (Request(gang="g", gang_size=2, colocate="x"), "its tag colocate makes it wait for a node of its own"),
        (Request(gang="g", gang_size=2, beside="x"), "its tag task makes it wait for a node of its own"),
    ],
)
def test_what_a_gang_cannot_ask_for_is_refused(request_: Request, words: str) -> None:
    assert words in str(Scheduler(nodes(2)).refusal(request_))


def test_homogeneous_refuses_gangs() -> None:
    reason = make_policy(PolicySpec(policy="homogeneous"), nodes(2)).refusal(Request(gang="g", gang_size=2))
    assert reason is not None and "leave gang out, or use scheduler='continuous'" in reason


# -------------------------------------------------------------------------------------------------------------- random walks


@pytest.mark.parametrize("policy", SHARED)
@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in (0, 10)], ids=str)
def test_a_random_walk_with_gangs_keeps_all_promises(seeds: range, policy: PolicyName) -> None:
    begun = 0
    for seed in seeds:
        print(f"seed {seed}: walk({seed}, {policy!r}, gangs=True) of {scheduling_walk.__file__}")
        begun += sum(str(uid).startswith("gang") for uid, *_ in walk(seed, policy, gangs=True).story)
    assert begun > 50


def a_part_of_a_gang_starts(patch: pytest.MonkeyPatch) -> None:
    original = Gang.members
    patch.setattr(Gang, "members", lambda self: original(self)[:1])


def what_was_taken_for_a_part_is_kept(patch: pytest.MonkeyPatch) -> None:
    original = Gangs._lay_out

    def lay_out(self: Gangs, pool: Pool, *rest: Any) -> Any:
        if pool is self._pool:
            patch.setattr(gangs, "_give_back", lambda pool, shares: None)
        try:
            return original(self, pool, *rest)
        finally:
            patch.setattr(gangs, "_give_back", give_back)

    give_back = gangs._give_back
    patch.setattr(Gangs, "_lay_out", lay_out)


def a_gang_is_placed_before_all_are_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gang, "waiting", property(lambda self: self.size))


def nothing_is_kept_for_a_gang(patch: pytest.MonkeyPatch) -> None:
    original = Reservations.make
    patch.setattr(Reservations, "make", lambda self, group: not group.need.gang and original(self, group))


def the_plan_is_not_followed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Gangs, "_follow", lambda self, plan, state: None)


def lost_nodes_are_planned_with(patch: pytest.MonkeyPatch) -> None:

    def settle_anew(self: Gangs) -> None:
        for gang in list(self._gangs.values()):
            self.settle(gang)

    patch.setattr(Gangs, "settle_anew", settle_anew)


def what_services_hold_is_planned_with(patch: pytest.MonkeyPatch) -> None:
    original = Gangs.nodes_for
    patch.setattr(Gangs, "nodes_for", lambda self, group, held: original(self, group, ()))


FAULTS: list[Patch] = [
    a_part_of_a_gang_starts,
    what_was_taken_for_a_part_is_kept,
    a_gang_is_placed_before_all_are_there,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault.__name__))
def test_the_walks_catch(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    # In whatever way it is seen.
    require_noticed(fault, monkeypatch, lambda seed: walk(seed, gangs=True), 60, by=Exception)


@pytest.mark.parametrize(
    ("fault", "test"),
    [
        (nothing_is_kept_for_a_gang, lambda: test_a_gang_is_not_starved_by_small_tasks("continuous", {"cores": 8})),
        (the_plan_is_not_followed, lambda: test_the_nodes_that_are_kept_are_those_of_the_plan()),
        (lost_nodes_are_planned_with, test_nodes_that_go_and_come_are_counted),
        (what_services_hold_is_planned_with, test_only_the_end_of_a_service_can_make_room),
    ],
    ids=lambda given: str(getattr(given, "__name__", "")),
)
def test_the_cases_catch(fault: Patch, test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        test()
