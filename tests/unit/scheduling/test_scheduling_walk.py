"""Random walks keep all promises; the same walk decides the same under every hash seed; planted faults are caught."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import scheduling_walk
from scheduling_walk import walk

from pilotage.core.scheduling import Scheduler, slots
from pilotage.core.scheduling.homogeneous import Homogeneous, SlotPlacing
from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.limits import Limits
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.openings import Openings
from pilotage.core.scheduling.packed import Packed
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.policies import POLICIES
from pilotage.core.scheduling.pool import LOST, OPEN, Pool
from pilotage.core.scheduling.queue import WaitingQueue
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.reservation import Reservations
from pilotage.core.scheduling.services import ServiceHoldings
from pilotage.core.scheduling.tagged import TaggedSearch
from pilotage.core.scheduling.tags import Places, Territories
from pilotage.core.scheduling.torus import Torus
from pilotage.model.partitions import PolicyName
from pilotage.model.resources import NodeShare, Request
from planted_faults import Patch, instead, require_noticed

SEEDS = range(60)
NOTICED_BY = (AssertionError, LookupError, ValueError)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_walk_keeps_all_promises(seed: int) -> None:
    print(f"seed {seed}: python {scheduling_walk.__file__} {seed} continuous")
    walk(seed)


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "continuous"])
@pytest.mark.parametrize("seeds", [range(start, start + 10) for start in (0, 10)], ids=str)
def test_a_random_walk_with_another_policy_keeps_all_promises(seeds: range, policy: PolicyName) -> None:
    for seed in seeds:
        print(f"seed {seed}: python {scheduling_walk.__file__} {seed} {policy}")
        walk(seed, policy)


@pytest.mark.parametrize("policy", ["continuous", "packed", "tagged"])
def test_decisions_do_not_depend_on_the_hash_seed(policy: PolicyName) -> None:
    digests = {
        subprocess.run(
            [sys.executable, scheduling_walk.__file__, "7", policy],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(scheduling_walk.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1", "12345")
    }
    assert digests == {scheduling_walk.digest(7, policy) + "\n"}


@instead(Pool, "_give_back_more")
def release_forgets_a_gpu(original: Any, pool: Pool, share: NodeShare) -> None:
    original(pool, NodeShare(share.node, share.ranks, share.cores, share.gpus[1:], share.memory, share.disk))


@instead(Pool, "_give_back_more")
def release_forgets_the_disk(original: Any, pool: Pool, share: NodeShare) -> None:
    original(pool, NodeShare(share.node, share.ranks, share.cores, share.gpus, share.memory, 0))


@instead(NodeIndex, "move_all")
def index_is_not_mended_on_every_third_node(original: Any, index: NodeIndex, nodes: Any, buckets: Any) -> None:
    moves = [(node, bucket) for node, bucket in zip(nodes, buckets, strict=True) if node % 3 != 2]
    original(index, [node for node, _ in moves], [bucket for _, bucket in moves])


@instead(Pool, "refresh")
def index_is_read_without_being_mended(original: Any, pool: Pool) -> None:
    if sys._getframe(2).f_code.co_name == "faults":
        original(pool)


@instead(Pool, "capacity")
def memory_is_not_looked_at(original: Any, pool: Pool, need: Any, node: int) -> int:
    memory, need.memory = need.memory, 0
    try:
        return int(original(pool, need, node))
    finally:
        need.memory = memory


@instead(Pool, "set_state")
def lost_nodes_are_used_again(original: Any, pool: Pool, node: int, state: int) -> None:
    if state != LOST:
        original(pool, node, state)


@instead(WaitingQueue, "oldest_other")
def draw_ignores_the_others(original: Any, queue: WaitingQueue, group: Any) -> None:
    return None


@instead(WaitingQueue, "withdraw")
def cancelled_while_queued_runs_all_the_same(original: Any, queue: WaitingQueue, task: Any) -> bool:
    return queue.group_of(task) is not None


@instead(WaitingQueue, "_skip_gaps")
def gaps_in_the_queue_stay(original: Any, queue: WaitingQueue, group: Any) -> None:
    pass


@instead(Releases, "may_help")
def the_refused_are_forgotten(original: Any, releases: Releases, group: Any) -> bool:
    return False


@instead(Openings, "find")
def what_came_free_is_not_found(original: Any, openings: Openings, cores: int, memory: int) -> int:
    return -1


@instead(Openings, "catch_up")
def what_came_free_is_not_taken_in(original: Any, openings: Openings) -> None:
    pass


@instead(Reservations, "end")
def a_reservation_is_kept_for_ever(original: Any, reservations: Reservations) -> None:
    pass


@instead(ServiceHoldings, "note")
def what_services_hold_is_waited_for(original: Any, services: ServiceHoldings, placement: Any) -> None:
    pass


@instead(Placing, "place_on")
def a_tag_does_not_bind_its_members(original: Any, placing: Placing, *rest: Any) -> None:
    original(placing, *rest)
    placing.node_of_tag.clear()


@instead(Placing, "place_chosen")
def chosen_slots_are_moved_to_the_next_cores(original: Any, placing: Placing, group: Any, *rest: Any) -> int:
    placed = int(original(placing, group, *rest))
    if placed:
        for share in group.key.request.slots:
            placing._pool.give_back(share)
        out = rest[-1]
        out[-1].placement = tuple(
            placing._pool.carve(Need(Request(cores=group.need.cores)), share.node, 1) for share in out[-1].placement
        )
    return placed


@instead(Pool, "has")
def only_the_cores_of_chosen_slots_have_to_be_free(original: Any, pool: Pool, share: NodeShare) -> bool:
    return not int.from_bytes(share.cores, "little") & ~pool.cores[share.node]


@instead(slots, "refusal")
def chosen_slots_on_lost_nodes_are_waited_for(original: Any, request: Request, nodes: Any, states: Any) -> str | None:
    reason: str | None = original(request, nodes, [OPEN] * len(nodes))
    return reason


@instead(Scheduler, "close_node")
def a_closed_node_is_said_to_be_gone_while_it_is_in_use(original: Any, scheduler: Scheduler, index: int) -> bool:
    original(scheduler, index)
    return True


@instead(Scheduler, "closed_idle")
def a_closed_node_that_came_free_is_not_told(original: Any, scheduler: Scheduler) -> list[int]:
    return []


@instead(Scheduler, "add_nodes")
def a_node_that_came_back_is_not_used(original: Any, scheduler: Scheduler, indices: Any) -> None:
    pass


@instead(Scheduler, "suspend_nodes")
def suspended_nodes_are_used(original: Any, scheduler: Scheduler, indices: Any) -> None:
    pass


@instead(Releases, "extend")
def nodes_that_are_resumed_are_not_looked_at(original: Any, releases: Releases, nodes: Any) -> None:
    if sys._getframe(2).f_code.co_name != "resume_nodes":
        original(releases, nodes)


@instead(Limits, "too_late")
def too_late_is_forgotten(original: Any, limits: Limits, group: Any, now: float) -> None:
    group.latest = math.inf


@instead(Territories, "nodes")
def a_pin_leads_one_node_too_far(original: Any, territories: Territories, names: Any) -> set[int]:
    found: set[int] = original(territories, names)
    return found | {max(found, default=0) + 1} if max(found, default=0) + 1 < len(territories._pool.nodes) else found


@instead(Places, "node_of")
def beside_is_the_next_node(original: Any, places: Places, task: Any) -> int | None:
    node: int | None = original(places, task)
    return 0 if node else node


@instead(Scheduler, "_end_awaiting")
def who_waits_for_the_node_of_another_waits_for_ever(original: Any, scheduler: Scheduler, tasks: Any) -> None:
    pass


OF_OTHER_POLICIES: list[tuple[PolicyName, Patch]] = []


def of(policy: PolicyName) -> Callable[[Patch], Patch]:
    def noted(fault: Patch) -> Patch:
        OF_OTHER_POLICIES.append((policy, fault))
        return fault

    return noted


@of("packed")
@instead(Packed, "_is_compact")
def a_pinned_task_is_filled_in_anywhere(original: Any, policy: Packed, need: Need) -> bool:
    return bool(original(policy, Need(msgspec.structs.replace(need.request, pinned=()))))


@of("packed")
@instead(Packed, "_note_released")
def what_came_free_is_not_filled(original: Any, policy: Packed) -> None:
    pass


@of("homogeneous")
@instead(SlotPlacing, "_cut")
def slots_are_cut_twice_out_of_one_node(original: Any, placing: SlotPlacing, need: Any) -> Any:
    slots = original(placing, need)
    return [*slots, *slots[:1]]


@of("homogeneous")
@instead(Homogeneous, "release")
def a_slot_is_not_put_back(original: Any, policy: Homogeneous, placement: Any, request: Any) -> None:
    Scheduler.release(policy, placement, request)


@of("homogeneous")
@instead(Homogeneous, "resume_nodes")
def no_slots_are_cut_of_nodes_that_are_resumed(original: Any, policy: Homogeneous, indices: Any) -> None:
    Scheduler.resume_nodes(policy, indices)


@of("torus")
@instead(Torus, "_places")
def a_block_is_taken_though_it_is_in_use(original: Any, torus: Torus, idle: int, box: Any, count: int) -> int:
    return int(original(torus, (1 << torus.size) - 1, box, count))


@of("spread")
@instead(NodeIndex, "last")
def the_least_loaded_node_is_one_with_too_little(original: Any, index: NodeIndex, cores: int, mask: int) -> int:
    return int(original(index, 1, mask))


@of("tagged")
@instead(TaggedSearch, "node")
def a_pin_is_not_looked_at(original: Any, search: TaggedSearch, need: Any, view: Any = None) -> int:
    return int(original(search, need))


@pytest.mark.parametrize(("policy", "fault"), OF_OTHER_POLICIES, ids=[fault.__name__ for _, fault in OF_OTHER_POLICIES])
def test_the_walk_catches_a_fault_planted_in_a_policy(
    policy: PolicyName, fault: Patch, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_noticed(fault, monkeypatch, lambda seed: walk(seed, policy), len(SEEDS), NOTICED_BY)


@pytest.mark.parametrize(
    "fault",
    [
        a_closed_node_is_said_to_be_gone_while_it_is_in_use,
        a_closed_node_that_came_free_is_not_told,
        a_node_that_came_back_is_not_used,
        suspended_nodes_are_used,
        nodes_that_are_resumed_are_not_looked_at,
        too_late_is_forgotten,
        a_pin_leads_one_node_too_far,
        beside_is_the_next_node,
        who_waits_for_the_node_of_another_waits_for_ever,
        release_forgets_a_gpu,
        release_forgets_the_disk,
        index_is_not_mended_on_every_third_node,
        index_is_read_without_being_mended,
        memory_is_not_looked_at,
        lost_nodes_are_used_again,
        draw_ignores_the_others,
        cancelled_while_queued_runs_all_the_same,
        gaps_in_the_queue_stay,
        the_refused_are_forgotten,
        what_came_free_is_not_found,
        what_came_free_is_not_taken_in,
        a_reservation_is_kept_for_ever,
        what_services_hold_is_waited_for,
        a_tag_does_not_bind_its_members,
        chosen_slots_are_moved_to_the_next_cores,
        only_the_cores_of_chosen_slots_have_to_be_free,
        chosen_slots_on_lost_nodes_are_waited_for,
    ],
    ids=lambda fault: fault.__name__,
)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, len(SEEDS), NOTICED_BY)
