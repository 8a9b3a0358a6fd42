"""Random walks keep all promises; the same walk decides the same under every hash seed; planted faults are caught."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import scheduling_walk
from scheduling_walk import walk

from pilotage.core.scheduling import slots
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.pool import LOST, OPEN, Pool
from pilotage.core.scheduling.queue import WaitingQueue
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.reservation import Reservations
from pilotage.model.resources import NodeShare, Request

SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_walk_keeps_all_promises(seed: int) -> None:
    print(f"seed {seed}: python {scheduling_walk.__file__} {seed}")
    walk(seed)


def test_decisions_do_not_depend_on_the_hash_seed() -> None:
    digests = {
        subprocess.run(
            [sys.executable, scheduling_walk.__file__, "7"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(scheduling_walk.__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1", "12345")
    }
    assert digests == {scheduling_walk.digest(7) + "\n"}


Patch = Callable[[pytest.MonkeyPatch], None]


def instead(owner: Any, name: str) -> Callable[[Callable[..., Any]], Patch]:
    """Plant a fault: replace a method by one that is given the original first."""

    def planted(fault: Callable[..., Any]) -> Patch:
        original = getattr(owner, name)

        def patch(monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.setattr(owner, name, lambda *args, **options: fault(original, *args, **options))

        patch.__name__ = fault.__name__
        return patch

    return planted


@instead(Pool, "_give_back_more")
def release_forgets_a_gpu(original: Any, pool: Pool, share: NodeShare) -> None:
    original(pool, NodeShare(share.node, share.ranks, share.cores, share.gpus[1:], share.memory, share.disk))


@instead(Pool, "_give_back_more")
def release_forgets_the_disk(original: Any, pool: Pool, share: NodeShare) -> None:
    original(pool, NodeShare(share.node, share.ranks, share.cores, share.gpus, share.memory, 0))


@instead(Pool, "_touch")
def index_is_not_mended_on_every_third_node(original: Any, pool: Pool, node: int) -> None:
    if node % 3 != 2:
        original(pool, node)


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


@instead(Reservations, "end")
def a_reservation_is_kept_for_ever(original: Any, reservations: Reservations) -> None:
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


@pytest.mark.parametrize(
    "fault",
    [
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
        a_reservation_is_kept_for_ever,
        a_tag_does_not_bind_its_members,
        chosen_slots_are_moved_to_the_next_cores,
        only_the_cores_of_chosen_slots_have_to_be_free,
        chosen_slots_on_lost_nodes_are_waited_for,
    ],
    ids=lambda fault: fault.__name__,
)
def test_the_walk_catches_a_planted_fault(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)
    with pytest.raises((AssertionError, LookupError, ValueError)):
        for seed in SEEDS:
            walk(seed)
