"""What the user wants changed of a plan while the pilot runs, partitions that end when they are idle, and the barrier."""

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
    submitted,
    told,
)

from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.balance import LOOK_S, PATIENCE_S
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import Load, PartitionSpec, PartitionStatus
from pilotage.model.workload import Service, Template

IN_B = msgspec.structs.replace(EXECUTABLE, partition="b")


def asked(head: MetaschedulerCore, number: int, spec: PartitionSpec, at: float = 2.0) -> Step:
    return head.handle(events.PartitionAsked(at, number, spec))


def retired(head: MetaschedulerCore, number: int, name: str, at: float = 2.0, drain: bool = True) -> Step:
    return head.handle(events.RetirementAsked(at, number, name, drain))


def ended(head: MetaschedulerCore, name: str, number: int, at: float) -> Step:
    return head.handle(events.PartitionEndArrived(at, name, number, "DONE", ""))


def status(head: MetaschedulerCore, name: str) -> PartitionStatus:
    return next(each for each in head.partitions() if each.name == name)


def goodbyes(step: Step) -> list[tuple[str, bool]]:
    return [(fact.partition, fact.drain) for fact in step.facts if isinstance(fact, facts.PartitionEnding)]


# ------------------------------------------------------------------------------------------------------------ additions


def test_a_partition_for_which_no_node_is_free_gets_those_of_one_that_is_retired() -> None:
    head = ready_head(part("a", 1), part("c", 1))
    assert "0 are free or can be spared" in head.against_addition(part("b", 1))
    retired(head, 1, "a")
    assert head.against_addition(part("b", 1)) == ""
    step = asked(head, 2, part("b", 1))
    assert step.facts == [facts.PartitionAwaited(2.0, 2, part("b", 1), 1)] and not step.actions
    assert status(head, "b") == PartitionStatus("b", "waiting", reason="waits for 1 nodes; 0 belong to nobody")
    step = ended(head, "a", 1, 3.0)
    assert facts.PartitionAdded(3.0, 0, "b", part("b", 1), [0]) in step.facts
    assert actions.StartPartition("b") in step.actions and status(head, "b").state == "starting"


def test_nodes_for_a_partition_that_is_added_are_asked_of_those_that_can_spare_some() -> None:
    elastic = part("a", 4, least_nodes=1, most_nodes=4)
    head = ready_head(elastic)
    step = asked(head, 1, part("b", 2))
    assert facts.NodesReclaimed(2.0, "a", 1, 2) in step.facts
    step = head.handle(events.NodesReturned(2.5, "a", 1, 1, [3, 2]))
    assert facts.PartitionAdded(2.5, 0, "b", part("b", 2), [2, 3]) in step.facts


def test_partitions_that_can_spare_nodes_run_dry_for_one_that_waits_for_long() -> None:
    head = ready_head(part("a", 2, least_nodes=1, most_nodes=2), part("c", 1))
    head.handle(submitted(1, names("t", 40)))
    head.handle(told("a", Load(nodes=2, idle_nodes=0, running=4)))
    asked(head, 2, part("b", 1))
    head.handle(events.TimePassed(2.0 + LOOK_S))
    head.handle(events.TimePassed(2.0 + PATIENCE_S + LOOK_S))
    busy = [outcome(uid) for uid in head.state.tasks if head.state.tasks[TaskUid(uid)].partition == "a"]
    step = head.handle(arrived("a", 1, *busy[:4], at=9.0))
    assert "a" not in leased_by(step)


def test_an_awaited_partition_outlives_the_head_and_tasks_wait_for_it() -> None:
    head = ready_head(part("a", 1), part("c", 1))
    retired(head, 1, "a")
    asked(head, 2, part("b", 1))
    step = head.handle(submitted(3, ["t"], IN_B))
    assert not ended_by(step)
    assert "waits for a partition that it fits to come" in head.why(TaskUid("t"))
    head = again(head, part("a", 1), part("c", 1))
    step = ended(head, "a", 1, 10.0)
    assert [fact.partition for fact in step.facts if isinstance(fact, facts.PartitionAdded)] == ["b"]
    assert leased_by(head.handle(greeted("b", at=11.0))) == {"b": ["t"]}


def test_what_cannot_be_added_is_refused_remembered_and_may_be_asked_for_again() -> None:
    head = ready_head(part("a", 1), part("c", 1))
    step = asked(head, 1, part("b", 1))
    reason = head.against_addition(part("b", 1))
    assert step.facts == [facts.PartitionRefused(2.0, 1, part("b", 1), reason)]
    assert step.actions == [actions.TellUser(f"partition 'b' was not added: {reason}")]
    assert status(head, "b") == PartitionStatus("b", "refused", reason=reason)
    assert not asked(head, 1, part("b", 1)).facts, "the same message again"
    retired(head, 2, "a")
    assert asked(head, 3, part("b", 1)).facts == [facts.PartitionAwaited(2.0, 3, part("b", 1), 1)]


def test_a_name_that_is_taken_is_refused_and_its_owner_stays_as_it_is() -> None:
    head = ready_head(part("a", 1), part("c", 1, tags=("gpu",)), count=4)
    assert "there is, or was, a partition 'a'" in head.against_addition(part("a", 1))
    assert "has that name for a tag" in head.against_addition(part("gpu", 1))
    asked(head, 1, part("a", 1))
    assert status(head, "a").state == "active"


def test_an_awaited_partition_for_which_nodes_are_lost_is_refused_in_the_end() -> None:
    head = ready_head(part("a", 2, least_nodes=1, most_nodes=2), part("c", 1))
    head.handle(submitted(1, names("t", 9)))
    asked(head, 2, part("b", 1))
    step = head.handle(events.NodesReturned(3.0, "a", 1, 0, [0]))
    (refused,) = [fact for fact in step.facts if isinstance(fact, facts.PartitionRefused)]
    assert refused.reason == "it waited for 1 nodes, and no more than 0 can be had any more"
    assert status(head, "b").state == "refused"


def test_a_pilot_that_ends_adds_nothing() -> None:
    head = ready_head(part("a", 1), count=2)
    head.handle(submitted(1, ["t"]))
    head.handle(events.EndRequested(2.0, 2, True, "enough"))
    assert head.against_addition(part("b", 1)) == "the pilot is ending (enough); submit another pilot"


# ---------------------------------------------------------------------------------------------------------- retirements


def test_a_partition_is_not_retired_while_tasks_wait_that_go_nowhere_else() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(submitted(1, names("t", 9), IN_B))
    reason = head.against_retirement("b", True)
    assert reason.startswith("partition 'b' cannot be retired: 5 tasks, such as 't4', have not ended, and no other partition")
    step = retired(head, 2, "b")
    assert not goodbyes(step) and head.state.received == 2 and step.actions == [actions.TellUser(reason)]
    assert "9 tasks, such as 't4'," in head.against_retirement("b", False), "those that it has would have to go, too"
    head.handle(cancelled(3, *names("t", 9)[4:]))
    assert "4 tasks, such as 't0'," in head.against_retirement("b", False)
    assert head.against_retirement("b", True) == "" and head.against_retirement("a", True) == ""
    assert goodbyes(retired(head, 4, "b")) == [("b", True)]
    assert "4 tasks, such as 't0'," in head.against_retirement("b", False), "also when it drains already"
    assert not goodbyes(retired(head, 5, "b", drain=False))


def test_the_last_partition_may_go_and_another_come() -> None:
    head = ready_head(part("a", 1))
    retired(head, 1, "a")
    ended(head, "a", 1, 3.0)
    assert head.state.ending is None
    step = head.handle(submitted(2, ["t"], at=4.0))
    ((ending, message),) = ended_by(step).values()
    assert ending is Ending.INFEASIBLE and "add one with Pilot.add_partition" in message
    assert [type(fact) for fact in asked(head, 3, part("b", 1), 5.0).facts] == [facts.PartitionAdded]


def test_what_ran_in_a_partition_that_is_retired_says_why_it_ended() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    leased = leased_by(head.handle(submitted(1, ["t", "u"])))
    assert leased == {"a": ["t"], "b": ["u"]}
    retired(head, 2, "a", drain=False)
    cut = msgspec.structs.replace(outcome("t", Ending.CANCELLED), message="the pilot was ended by the user")
    ending, message = ended_by(head.handle(arrived("a", 1, cut)))["t"]
    assert ending is Ending.LOST
    assert message.startswith("partition 'a' ended it: retired by the user; it may have run.")


def test_a_partition_is_retired_once_and_names_that_are_not_known_are_told() -> None:
    head = ready_head(part("fast", 1), part("slow", 1))
    assert head.against_retirement("fats", True).startswith("this pilot has no partition 'fats'; did you mean 'fast'?")
    retired(head, 1, "fast")
    assert head.against_retirement("fast", True) == "" and not goodbyes(retired(head, 9, "fast"))
    assert goodbyes(retired(head, 10, "fast", drain=False)) == [("fast", False)]
    ended(head, "fast", 1, 3.0)
    assert not goodbyes(retired(head, 11, "fast")) and head.state.received == 11


def test_a_partition_that_sleeps_or_is_awaited_is_retired_too() -> None:
    head = ready_head(part("a", 1, idle_timeout_s=3.0), part("c", 1))
    head.handle(events.TimePassed(4.0))
    ended(head, "a", 1, 5.0)
    assert status(head, "a").state == "dormant"
    asked(head, 1, part("b", 1), 5.0)
    retired(head, 2, "a")
    assert status(head, "a").state == "ended"
    asked(head, 3, part("d", 2), 6.0)
    retired(head, 4, "b", 6.0)
    asked(head, 5, part("d", 1), 6.0)
    assert status(head, "d").state == "waiting"
    retired(head, 6, "d", 7.0)
    assert "d" not in head.state.partitions and head.state.received == 6


# --------------------------------------------------------------------------------------------------------- idle partitions


def test_an_idle_partition_ends_after_its_own_time_and_comes_again_for_tasks() -> None:
    head = ready_head(part("a", 1), part("b", 1, idle_timeout_s=5.0))
    assert head.next_deadline() == 5.0
    assert not goodbyes(head.handle(events.TimePassed(4.9)))
    assert goodbyes(head.handle(events.TimePassed(6.0))) == [("b", True)]
    ended(head, "b", 1, 7.0)
    assert status(head, "b").reason == "it was idle for 6 s; it comes again when tasks need it"
    step = head.handle(submitted(1, ["t"], IN_B, at=8.0))
    assert [fact.partition for fact in step.facts if isinstance(fact, facts.PartitionAdded)] == ["b.2"]
    assert leased_by(head.handle(greeted("b.2", at=9.0))) == {"b.2": ["t"]}
    assert status(head, "b") == PartitionStatus("b", "ended", reason="it was idle for 6 s")


def test_a_partition_that_has_a_successor_does_not_come_again() -> None:
    head = ready_head(part("a", 1), part("b", 1, idle_timeout_s=5.0))
    head.handle(events.TimePassed(6.0))
    ended(head, "b", 1, 7.0)
    head.handle(submitted(1, ["t"], IN_B, at=8.0))
    head.handle(greeted("b.2", at=9.0))
    head.handle(arrived("b.2", 1, outcome("t"), at=10.0))
    retired(head, 2, "b", 11.0)
    ended(head, "b.2", 2, 12.0)
    assert [status(head, name).state for name in ("b", "b.2")] == ["ended", "ended"]
    head.handle(events.PartitionLost(13.0, "a", "its node is gone", 0))
    head.handle(events.TimePassed(14.0))
    assert head.state.ending is not None, "nobody is left to wait for"


def test_the_nodes_of_an_idle_partition_go_to_one_that_has_work() -> None:
    head = ready_head(part("busy", 1, most_nodes=3), part("idle", 2, kinds=("function",), idle_timeout_s=5.0))
    long = msgspec.structs.replace(EXECUTABLE, duration_s=100.0)
    head.handle(submitted(1, names("t", 20), long))
    head.handle(events.TimePassed(6.0))
    step = ended(head, "idle", 1, 7.5)
    assert facts.NodesGranted(7.5, "busy", [1, 2]) in [*step.facts, *head.handle(events.TimePassed(9.0)).facts]


# ------------------------------------------------------------------------------------------------- the pilot: idle, barrier


def test_the_pilot_ends_when_nothing_is_left_to_do_for_long() -> None:
    head = ready_head(part("a", 1), part("b", 1), idle_timeout_s=10.0)
    (where,) = leased_by(head.handle(submitted(1, ["t"], at=5.0)))
    assert head.next_deadline() is None
    head.handle(arrived(where, 1, outcome("t"), at=6.0))
    assert head.next_deadline() == 16.0
    step = head.handle(events.TimePassed(16.0))
    assert {name for name, _ in goodbyes(step)} == {"a", "b"}
    assert head.state.ending is not None and head.state.ending.idle


def test_tasks_are_dealt_when_so_many_are_there_as_the_barrier_says() -> None:
    head = ready_head(part("a", 1), part("b", 1), barrier=4)
    assert not leased_by(head.handle(submitted(1, names("t", 2))))
    assert head.why(TaskUid("t0")) == "waits until 4 tasks have arrived, as startup_barrier says; 2 have so far"
    head = again(head, part("a", 1), part("b", 1), barrier=4)
    head.handle(greeted("a", at=9.0))
    assert not leased_by(head.handle(greeted("b", at=9.0)))
    leased = leased_by(head.handle(submitted(2, names("u", 2), at=10.0)))
    assert sum(len(uids) for uids in leased.values()) == 4
    head.handle(arrived("a", 1, *[outcome(uid) for uid in leased["a"]], at=11.0))
    assert leased_by(head.handle(submitted(3, ["late"], at=12.0))), "once there, always there"


def test_services_pass_the_barrier_and_so_do_all_when_the_pilot_drains() -> None:
    head = ready_head(part("a", 1), barrier=9)
    service = Template(executable="/bin/true", service=Service())
    assert leased_by(head.handle(submitted(1, ["s"], service))) == {"a": ["s"]}
    assert not leased_by(head.handle(submitted(2, ["t"])))
    assert leased_by(head.handle(events.EndRequested(3.0, 3, True, "enough"))) == {"a": ["t"]}
