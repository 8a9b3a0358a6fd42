"""The pure parts: places of ranks, variables, counts of memory kills, and what is told when."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import msgspec
import pytest

from pilotage.model.execution import AttemptEnd
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.ranks import RankSlot, rank_slots
from pilotage.model.resources import NodeShare, Request, core_mask
from pilotage.spawner.environment import parse_environment, rank_variables
from pilotage.spawner.forest import children_by_parent
from pilotage.spawner.memory import MemoryKills, find_events_file, parse_kills
from pilotage.spawner.outbox import HOLD_S, Outbox
from pilotage.spawner.timers import Timers
from pilotage.wire.runner_messages import FromRunner, TasksEnded, TasksReturned, TasksStarted


def test_ranks_take_cores_in_order_and_gpus_as_the_share_names_them() -> None:
    placement = (
        NodeShare(4, 2, core_mask(0b1101_0100), ((3, 64), (1, 64), (0, 64), (2, 64))),
        NodeShare(7, 1, core_mask(0b11), ((0, 64), (1, 64))),
    )

    assert rank_slots(placement, Request(ranks=3, cores=2, gpu_shares=128)) == [
        RankSlot(4, 0, (2, 4), (3, 1)),
        RankSlot(4, 1, (6, 7), (0, 2)),
        RankSlot(7, 0, (0, 1), (0, 1)),
    ]


def test_ranks_share_a_gpu() -> None:
    placement = (NodeShare(0, 3, core_mask(0b111), ((0, 32), (0, 32), (1, 32))),)

    assert [slot.gpus for slot in rank_slots(placement, Request(ranks=3, gpu_shares=32))] == [(0,), (0,), (1,)]


@pytest.mark.parametrize(
    ("gpu_type", "name"),
    [
        ("", b"CUDA_VISIBLE_DEVICES"),
        ("CUDA", b"CUDA_VISIBLE_DEVICES"),
        ("ROCm", b"ROCR_VISIBLE_DEVICES"),
        ("Intel", b"ZE_AFFINITY_MASK"),
    ],
)
def test_visible_gpus_are_named_by_their_kind(gpu_type: str, name: bytes) -> None:
    assert rank_variables(RankSlot(0, 0, (0,), (2, 3)), 0, "node0", gpu_type, ["2", "0.1"])[name] == b"2,0.1"


def test_no_gpu_leaves_the_users_setting() -> None:
    assert rank_variables(RankSlot(0, 1, (0,), ()), 5, "node0", "CUDA", []) == {
        b"PILOTAGE_RANK": b"5",
        b"RP_RANK": b"5",
        b"PILOTAGE_LOCAL_RANK": b"1",
        b"PILOTAGE_NODE": b"node0",
    }


def test_an_environment_is_read_whatever_it_holds() -> None:
    assert parse_environment(b"A=1\0B=x=y\0broken\0C=\xff\0") == {b"A": b"1", b"B": b"x=y", b"C": b"\xff"}


def test_kills_are_read_from_both_kinds_of_cgroup(tmp_path: Path) -> None:
    old = tmp_path / "memory" / "job" / "memory.oom_control"
    old.parent.mkdir(parents=True)
    old.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
    new = tmp_path / "job" / "memory.events"
    new.parent.mkdir()
    new.write_text("low 0\noom 1\noom_kill 1\noom_group_kill 0\n")

    assert find_events_file("5:cpu:/\n4:memory:/job\n0::/other\n", tmp_path) == old
    assert find_events_file("0::/job\n", tmp_path) == new
    assert find_events_file("0::/\n", tmp_path) is None
    assert (parse_kills(old.read_text()), parse_kills(new.read_text())) == (7, 1)


def test_a_kill_is_credited_once_and_an_old_one_not_at_all(tmp_path: Path) -> None:
    events = tmp_path / "memory.events"
    events.write_text("oom_kill 3\n")
    kills = MemoryKills()
    kills.open(events)
    assert not kills.credit()

    events.write_text("oom_kill 4\n")
    assert [kills.credit(), kills.credit()] == [True, False]

    events.write_text("oom_kill 5\n")
    kills.refresh(now=100.0)
    assert not kills.credit()


def test_where_kills_are_not_counted_none_is_claimed() -> None:
    kills = MemoryKills()
    kills.open(None)
    assert not kills.credit()


def test_children_are_found_without_the_kernels_lists() -> None:
    with subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE) as child:
        assert child.pid in children_by_parent()[os.getpid()]


def test_timers_are_called_in_order_of_time() -> None:
    timers, called = Timers(), list[str]()
    for when, name in ((3.0, "late"), (1.0, "early"), (1.0, "early too"), (9.0, "not yet")):
        timers.at(when, lambda name=name: called.append(name))  # type: ignore[misc]

    timers.run(3.0)

    assert called == ["early", "early too", "late"]
    assert timers.next() == 9.0


def finished(task: str) -> AttemptEnd:
    return AttemptEnd(TaskUid(task), Attempt(1), Ending.DONE)


def opened(frames: list[bytes]) -> list[FromRunner]:
    return [msgspec.msgpack.decode(frame, type=FromRunner) for frame in frames]


def test_news_are_told_at_once_when_idle_and_held_for_a_moment_when_busy() -> None:
    outbox = Outbox()
    assert outbox.due(busy=False) is None

    outbox.add_end(finished("task.1"), now=10.0)
    outbox.add_end(finished("task.2"), now=10.01)

    assert outbox.due(busy=False) == 0.0
    assert outbox.due(busy=True) == 10.0 + HOLD_S
    outbox.take(100.0)
    assert outbox.due(busy=True) is None


def test_a_task_that_ends_before_its_start_was_told_is_told_once() -> None:
    outbox = Outbox()
    outbox.add_start((TaskUid("task.1"), Attempt(1)), 11, 1.0, now=1.0)
    outbox.add_start((TaskUid("task.2"), Attempt(1)), 12, 1.5, now=1.5)
    outbox.add_end(finished("task.1"), now=2.0)
    outbox.add_returned([(TaskUid("task.3"), Attempt(2))], now=2.0)

    assert opened(outbox.take(100.0)) == [
        TasksReturned([(TaskUid("task.3"), Attempt(2))]),
        TasksStarted([(TaskUid("task.2"), Attempt(1), 12, 1.5)], 100.0),
        TasksEnded(1, [finished("task.1")]),
    ]
    assert outbox.take(100.0) == []


def test_endings_are_kept_until_released() -> None:
    outbox = Outbox()
    for task in ("task.1", "task.2", "task.3"):
        outbox.add_end(finished(task), now=0.0)
        outbox.take(100.0)

    assert outbox.release(2) == [("task.1", 1), ("task.2", 1)]
    assert opened(outbox.unreleased()) == [TasksEnded(3, [finished("task.3")])]
    assert outbox.release(2) == []
    assert outbox.sent == 3


def test_many_endings_are_split_into_messages() -> None:
    outbox = Outbox()
    for number in range(2500):
        outbox.add_end(finished(f"task.{number}"), now=0.0)

    messages = opened(outbox.take(100.0))

    assert [(message.number, len(message.ends)) for message in messages if isinstance(message, TasksEnded)] == [
        (1, 1024),
        (2, 1024),
        (3, 452),
    ]
