"""Gangs over partitions: all members go to one, and those that are not all in one yet end together."""

from __future__ import annotations

import msgspec
import pytest
from metascheduler_builders import (
    EXECUTABLE,
    again,
    arrived,
    cancelled,
    ended_by,
    greeted,
    leased_by,
    names,
    outcome,
    part,
    ready_head,
    sent_to,
    submitted,
)
from metascheduler_world_gangs import gang_walk

from pilotage.core.client.state import QueuedCancel
from pilotage.core.metascheduler import events
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import Template


def member(size: int, cores: int = 1, gang: str = "g") -> Template:
    return msgspec.structs.replace(EXECUTABLE, request=Request(cores=cores, gang=gang, gang_size=size))


def homes(head: MetaschedulerCore, *uids: str) -> set[str]:
    return {head.state.tasks[TaskUid(uid)].partition for uid in uids}


def test_members_wait_here_until_all_have_come_and_go_to_one_partition_whatever_they_ask_for() -> None:
    head = ready_head(part("a", 4), part("b", 4))
    head.handle(submitted(1, names("t", 2), member(5)))
    head.handle(submitted(2, names("u", 2), member(5, cores=2)))
    assert homes(head, "t0", "t1", "u0", "u1") == {""}
    assert head.why(TaskUid("t0")) == "starts together with the other tasks of gang 'g': 4 of 5 have come, 1 is missing"
    head.handle(submitted(3, ["v"], member(5)))
    assert len(homes(head, "t0", "t1", "u0", "u1", "v")) == 1 and "" not in homes(head, "v")


def test_members_that_wait_for_others_take_no_room_from_those_that_need_not() -> None:
    head = ready_head(part("a", 1))
    for number in range(40):
        head.handle(submitted(number + 1, [f"t{number}"], member(2, gang=f"g{number}")))
    assert leased_by(head.handle(submitted(41, ["x"]))) == {"a": ["x"]}


def test_they_go_where_all_of_them_can_run() -> None:
    for number in range(4):
        head = ready_head(part("small", 1, longest_s=5.0), part("any", 1))
        long = msgspec.structs.replace(member(2, gang=f"g{number}"), duration_s=50.0)
        short = msgspec.structs.replace(member(2, gang=f"g{number}"), duration_s=1.0)
        step = submitted(1, ["short"], short)
        batch = msgspec.structs.replace(step.batch, templates={**step.batch.templates, 2: long})
        rows = [*batch.rows, msgspec.structs.replace(batch.rows[0], uid=TaskUid("long"), template=2)]
        head.handle(msgspec.structs.replace(step, batch=msgspec.structs.replace(batch, rows=rows)))
        assert homes(head, "short", "long") == {"any"}


def test_what_ends_with_its_gang_in_a_partition_goes_nowhere_else() -> None:
    head = ready_head(part("a", 2), part("b", 2))
    head.handle(submitted(1, ["t", "u"], member(2)))
    (home,) = homes(head, "t", "u")
    failed = outcome("t", Ending.STAGING_FAILED, attempt=0)
    step = head.handle(arrived(home, 1, failed, outcome("u", Ending.CANCELLED, attempt=0)))
    assert leased_by(step) == {} and not head.state.tasks


def test_one_that_is_refused_here_ends_all_also_those_that_come_after_a_restart() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, ["t"], member(3)))
    step = head.handle(submitted(2, ["u"], member(3, cores=3)))
    assert (ended_by(step)["u"][0], ended_by(step)["t"][0]) == (Ending.INFEASIBLE, Ending.CANCELLED)
    head = again(head, part("a", 1))
    step = head.handle(submitted(3, ["v"], member(3)))
    assert ended_by(step)["v"][0] is Ending.CANCELLED and "'u'" in ended_by(step)["v"][1]


def test_one_that_is_ended_in_a_partition_ends_the_others_there() -> None:
    head = ready_head(part("a", 2))
    head.handle(submitted(1, ["t", "u"], member(2)))
    sent_to(head, "a")
    head.handle(arrived("a", 1, outcome("t", Ending.STAGING_FAILED, attempt=0)))
    (message,) = sent_to(head, "a")
    assert isinstance(message, QueuedCancel) and [uid for uid, _ in message.tasks] == ["u"]


def test_those_whose_gang_began_without_them_end_with_their_partition() -> None:
    head = ready_head(part("a", 2), part("b", 2))
    head.handle(submitted(1, ["t", "u"], member(2)))
    (home,) = homes(head, "t", "u")
    head.handle(arrived(home, 1, outcome("t", Ending.DONE)))
    head.handle(events.RetirementAsked(3.0, 2, home, True))
    step = head.handle(arrived(home, 2, outcome("u", Ending.CANCELLED, attempt=0)))
    assert ended_by(step)["u"][0] is Ending.CANCELLED and "began, or ended, without it" in ended_by(step)["u"][1]


def test_members_that_ran_end_alone() -> None:
    head = ready_head(part("a", 2))
    head.handle(submitted(1, ["t", "u"], member(2)))
    sent_to(head, "a")
    head.handle(arrived("a", 1, outcome("t", Ending.EXITED)))
    assert homes(head, "u") == {"a"} and sent_to(head, "a") == []


def test_a_pilot_that_is_to_end_waits_for_no_members_that_cannot_come() -> None:
    head = ready_head(part("a", 2))
    head.handle(submitted(1, ["t"], member(2)))
    head.handle(submitted(2, ["u", "v"], member(2, gang="whole")))
    sent_to(head, "a")
    head.handle(arrived("a", 1, outcome("u")))
    head = again(head, part("a", 2))
    head.handle(greeted("a", durable=head.state.partitions["a"].delivered, at=9.0))
    step = head.handle(events.EndRequested(3.0, 3, True, "enough"))
    assert list(ended_by(step)) == ["t"]
    assert ended_by(step)["t"][0] is Ending.INFEASIBLE and "1 of its 2 tasks had not come" in ended_by(step)["t"][1]


def test_a_gang_whose_partition_is_to_end_goes_elsewhere_as_a_whole() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(submitted(1, ["t", "u"], member(2)))
    (home,) = homes(head, "t", "u")
    (other,) = {"a", "b"} - {home}
    head.handle(events.RetirementAsked(3.0, 2, home, True))
    head.handle(arrived(home, 1, *(outcome(uid, Ending.CANCELLED, attempt=0) for uid in "tu")))
    assert homes(head, "t", "u") == {other}


def test_cancelling_one_that_waits_here_is_the_end_of_all() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, ["t", "u"], member(3)))
    assert ended_by(head.handle(cancelled(2, "t"))).keys() == {"t", "u"}


@pytest.mark.parametrize("seeds", [range(start, start + 20) for start in (0, 20)], ids=str)
def test_gangs_over_partitions_begin_as_a_whole_or_not_at_all_whatever_dies(seeds: range) -> None:
    worlds = [gang_walk(seed) for seed in seeds]
    begun = sum(bool(world.begins.get(uid)) for world in worlds for uids in world.client.gangs.values() for uid in uids)
    assert begun > 50
