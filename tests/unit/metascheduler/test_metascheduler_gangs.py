"""Gangs over partitions: all members go to one, and those that are not all in one yet end together."""

from __future__ import annotations

import msgspec
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


def test_all_members_go_to_one_partition_whatever_they_ask_for_and_whenever_they_come() -> None:
    head = ready_head(part("a", 2), part("b", 2))
    assert len(leased_by(head.handle(submitted(1, names("t", 2), member(5))))) == 1
    head.handle(submitted(2, names("u", 2), member(5, cores=2)))
    head.handle(submitted(3, ["v"], member(5)))
    assert len(homes(head, "t0", "t1", "u0", "u1", "v")) == 1


def test_the_last_members_follow_into_a_partition_that_is_full() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(submitted(1, ["t"], member(2)))
    (home,) = homes(head, "t")
    head.handle(submitted(2, names("x", 40)))
    assert "" in homes(head, *names("x", 40))
    head.handle(submitted(3, ["u"], member(2)))
    assert homes(head, "u") == {home}


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


def test_one_that_is_cancelled_here_ends_those_in_a_partition() -> None:
    head = ready_head(part("a", 1, longest_s=5.0), part("b", 1, longest_s=5.0))
    head.handle(submitted(1, ["t"], msgspec.structs.replace(member(2), duration_s=1.0)))
    (home,) = homes(head, "t")
    sent_to(head, home)
    step = head.handle(submitted(2, ["u"], member(2, cores=3)))
    assert ended_by(step)["u"][0] is Ending.INFEASIBLE
    (message,) = sent_to(head, home)
    assert isinstance(message, QueuedCancel) and [uid for uid, _ in message.tasks] == ["t"]
    head.handle(arrived(home, 1, outcome("t", Ending.CANCELLED, attempt=0)))
    assert not head.state.tasks
    step = head.handle(submitted(3, ["v"], member(2)))
    assert ended_by(step)["v"][0] is Ending.CANCELLED and "'u'" in ended_by(step)["v"][1]


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
    head.handle(events.EndRequested(3.0, 3, True, "enough"))
    cancels = [uid for message in sent_to(head, "a") if isinstance(message, QueuedCancel) for uid, _ in message.tasks]
    assert cancels == ["t"]
    step = head.handle(arrived("a", 2, outcome("t", Ending.CANCELLED, attempt=0)))
    assert ended_by(step)["t"][0] is Ending.INFEASIBLE and "1 of its 2 tasks had not come" in ended_by(step)["t"][1]


def test_a_gang_whose_partition_is_to_end_goes_elsewhere_as_a_whole() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(submitted(1, ["t", "u"], member(3)))
    (home,) = homes(head, "t", "u")
    (other,) = {"a", "b"} - {home}
    head.handle(events.RetirementAsked(3.0, 2, home, True))
    head.handle(arrived(home, 1, *(outcome(uid, Ending.INFEASIBLE, attempt=0) for uid in "tu")))
    assert homes(head, "t", "u") == {other}
    assert leased_by(head.handle(submitted(3, ["v"], member(3)))) == {other: ["v"]}


def test_cancelling_one_that_waits_here_is_the_end_of_all() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, ["t", "u"], member(3)))
    head.handle(cancelled(2, "t"))
    head.handle(arrived("a", 1, outcome("t", Ending.CANCELLED, attempt=0), outcome("u", Ending.CANCELLED, attempt=0)))
    assert not head.state.tasks
