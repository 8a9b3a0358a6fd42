"""Slots that the user has chosen: taken as they are, waited for, refused where they cannot be, and found again in recovery."""

from __future__ import annotations

import pytest
from scheduling_ledger import Ledger, group, nodes

from pilotage.core.scheduling import Scheduler
from pilotage.model.ranks import RankSlot, rank_slots
from pilotage.model.resources import NodeShare, Request, core_mask


def slot(node: int, *cores: int, gpus: tuple[tuple[int, int], ...] = (), memory: int = 0, disk: int = 0) -> NodeShare:
    return NodeShare(node, 1, core_mask(sum(1 << core for core in cores)), gpus, memory, disk)


def chosen(*slots: NodeShare, **amounts: int | str | bool) -> Request:
    cores = int.from_bytes(slots[0].cores, "little").bit_count()
    return Request(**{"ranks": len(slots), "cores": cores, "slots": slots, **amounts})  # type: ignore[arg-type]


def started(ledger: Ledger) -> list[str]:
    return [lane.tasks[0] for lane in ledger.schedule()]


def test_exactly_the_slots_are_taken_and_given_back() -> None:
    ledger = Ledger(nodes(2, cores=8, gpus=2, memory=10, disk=4))
    request = chosen(slot(1, 5, 6, gpus=((1, 64),), memory=3), slot(1, 0, 1, gpus=((0, 64),), memory=4, disk=4))
    ledger.enqueue(group(request), "task")
    (lane,) = ledger.schedule()
    assert lane.placement == request.slots
    free = ledger.scheduler.free()
    assert (free.cores, free.gpu_shares, free.memory, free.disk) == (12, 128, 13, 4)
    ledger.release("task")
    assert ledger.scheduler.free() == Scheduler(ledger.machine).free()


def test_ranks_are_numbered_in_the_order_of_the_slots_also_on_one_node() -> None:
    request = chosen(slot(0, 5, 6), slot(1, 0, 1), slot(0, 2, 3))
    assert rank_slots(request.slots, request) == [
        RankSlot(0, 0, (5, 6), ()),
        RankSlot(1, 0, (0, 1), ()),
        RankSlot(0, 1, (2, 3), ()),
    ]


def test_a_task_waits_while_its_slots_are_busy_and_others_pass_it() -> None:
    ledger = Ledger(nodes(1, cores=4))
    ledger.enqueue(group(chosen(slot(0, 0, 1))), "holds")
    assert started(ledger) == ["holds"]
    ledger.enqueue(group(chosen(slot(0, 1, 2))), "waits")
    ledger.enqueue(group(), "passes")
    assert started(ledger) == ["passes"]
    why = ledger.scheduler.why(group(chosen(slot(0, 1, 2))))
    assert "cores 1, 2 of node n0, of which 1, 2 are in use" in why, why
    ledger.release("passes")
    assert started(ledger) == []
    ledger.release("holds")
    assert started(ledger) == ["waits"]


def test_parts_of_a_gpu_and_memory_count_over_all_slots_of_a_node() -> None:
    ledger = Ledger(nodes(1, cores=8, gpus=1, memory=10))
    ledger.enqueue(group(cores=1, gpu_shares=32, memory=2), "other")
    ledger.schedule()
    both = chosen(slot(0, 4, gpus=((0, 32),), memory=4), slot(0, 5, gpus=((0, 32),), memory=4))
    ledger.enqueue(group(both), "both")
    assert started(ledger) == []
    assert "GPUs, memory or disk are in use" in ledger.scheduler.why(group(both))
    ledger.release("other")
    assert started(ledger) == ["both"]


def test_slots_that_small_tasks_keep_busy_are_reserved_in_the_end() -> None:
    ledger = Ledger(nodes(1, cores=2), overtake_limit=3)
    ledger.enqueue(group(), "s0", "s1")
    ledger.schedule()
    ledger.enqueue(group(chosen(slot(0, 0, 1))), "chosen")
    for number in range(20):
        ledger.enqueue(group(), f"t{number}")
        ledger.release(next(iter(ledger.running)))
        if "chosen" in started(ledger):
            return
    raise AssertionError(ledger.scheduler.why(group(chosen(slot(0, 0, 1)))))


def test_slots_on_a_node_that_is_reserved_for_another_task_are_not_taken() -> None:
    ledger = Ledger(nodes(1, cores=4), overtake_limit=1)
    ledger.enqueue(group(), "a", "b")
    ledger.schedule()
    ledger.enqueue(group(cores=4), "large")
    ledger.enqueue(group(), "c", "d")
    assert started(ledger) == ["c", "d"]
    ledger.release("a")
    assert started(ledger) == [], "the node is kept for the large task"
    ledger.enqueue(group(chosen(slot(0, 0))), "chosen")
    assert started(ledger) == []
    for name in ("b", "c", "d"):
        ledger.release(name)
    assert started(ledger) == ["large"]
    ledger.release("large")
    assert started(ledger) == ["chosen"]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (chosen(slot(2, 0)), ("node 2", "0 to 1")),
        (chosen(slot(0, 8)), ("core 8", "0 to 7")),
        (chosen(slot(0, 1, gpus=((1, 64),))), ("GPU 1", "0 to 0")),
        (chosen(slot(0, 1), slot(0, 1)), ("core 1", "twice")),
        (chosen(slot(0, 1, gpus=((0, 40),)), slot(0, 2, gpus=((0, 40),))), ("80/64", "GPU 0")),
        (chosen(slot(0, 1, memory=6), slot(0, 2, memory=6)), ("768 MiB of memory", "640 MiB")),
        (chosen(slot(0, 1, disk=6)), ("384 MiB of node-local disk", "320 MiB")),
        (chosen(slot(0, 1), ranks=2), ("1 ranks", "ranks=2")),
        (chosen(slot(0, 1, 2), cores=1), ("2 cores", "1 ranks of 1")),
        (Request(slots=(NodeShare(0, 0, b"\x00"),)), ("without ranks",)),
        (chosen(slot(0, 1), colocate="here"), ("colocate",)),
        (chosen(slot(0, 1), exclusive=True), ("exclusive",)),
        (chosen(slot(0, 1), ranks_per_node=1), ("ranks_per_node",)),
    ],
)
def test_slots_that_can_never_be_are_refused_with_the_reason(request_: Request, words: tuple[str, ...]) -> None:
    scheduler = Scheduler(nodes(2, cores=8, gpus=1, memory=10, disk=5))
    reason = scheduler.refusal(request_)
    assert reason is not None and all(word in reason for word in words), reason
    assert scheduler.refusal(chosen(slot(0, 7, gpus=((0, 64),), memory=10, disk=5))) is None


def test_slots_on_a_node_that_is_lost_strand_their_task() -> None:
    ledger = Ledger(nodes(2))
    ledger.enqueue(group(chosen(slot(1, 0))), "task")
    ledger.remove_node(1)
    ((uids, reason),) = ledger.scheduler.stranded()
    assert uids == ["task"] and "n1" in reason and "lost" in reason
    assert started(ledger) == []


def test_what_was_taken_is_occupied_again_after_a_restart() -> None:
    request = chosen(slot(1, 5, 6), slot(1, 0, 1))
    scheduler = Scheduler(nodes(2))
    scheduler.occupy(request.slots, request)
    assert scheduler.free().cores == 12
    scheduler.check([request.slots])
    scheduler.release(request.slots, request)
    assert scheduler.free().cores == 16
