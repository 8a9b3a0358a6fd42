"""Nodes move to where tasks wait for them, and partitions that have nothing to do are let go and come back."""

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
    told,
)

from pilotage.core.client.state import QueuedEnd, QueuedTasks
from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.balance import KEEP_S, LOOK_S, PATIENCE_S, SETTLE_S
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.core.metascheduler.state import QueuedGrant, QueuedReclaim
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import LOST_NODES, Load, PartitionSpec
from pilotage.model.resources import Request
from pilotage.model.workload import Template

WIDE = Template(executable="/bin/true", request=Request(ranks=3, cores=2))
LONG = Template(executable="/bin/true", duration_s=100.0)
GROWS = part("grows", 1, most_nodes=4, kinds=("executable",))
GIVES = part("gives", 3, least_nodes=1, most_nodes=3, kinds=("function",))


def with_(template: Template, **changes: object) -> Template:
    return msgspec.structs.replace(template, **changes)


def moves(step: Step) -> list[facts.Fact]:
    return [fact for fact in step.facts if isinstance(fact, facts.NodesGranted | facts.NodesReclaimed | facts.NodesTaken)]


def passed(head: MetaschedulerCore, at: float) -> Step:
    return head.handle(events.TimePassed(at))


def test_a_task_that_needs_more_nodes_gets_those_that_are_free() -> None:
    head = ready_head(GROWS, count=4)
    step = head.handle(submitted(1, ["wide"], WIDE))
    assert moves(step) == [facts.NodesGranted(1.0, "grows", [1, 2])]
    assert leased_by(step) == {"grows": ["wide"]}
    messages = sent_to(head, "grows")
    assert messages[0] == QueuedGrant([1, 2]) and isinstance(messages[1], QueuedTasks), "the nodes come before the task"


def test_nodes_are_asked_of_a_partition_that_has_nothing_to_do_and_granted_when_they_are_back() -> None:
    head = ready_head(GROWS, GIVES)
    step = head.handle(submitted(1, ["wide"], WIDE))
    assert moves(step) == [facts.NodesReclaimed(1.0, "gives", 1, 2)] and not leased_by(step)
    assert head.why(TaskUid("wide")) == "waits for a partition that it fits to come, or to grow: 2 nodes more would do"
    assert sent_to(head, "gives") == [QueuedReclaim(1, 2)]
    step = head.handle(events.NodesReturned(2.0, "gives", 1, 1, [3, 2]))
    assert moves(step) == [facts.NodesTaken(2.0, "gives", 1, 1, [3, 2]), facts.NodesGranted(2.0, "grows", [2, 3])]
    assert leased_by(step) == {"grows": ["wide"]}


def test_nodes_that_did_not_come_are_asked_for_again() -> None:
    head = ready_head(GROWS, GIVES)
    head.handle(submitted(1, ["wide"], WIDE))
    assert not moves(passed(head, 1.5 + LOOK_S)), "an answer is awaited"
    step = head.handle(events.NodesReturned(3.0, "gives", 1, 1, [3]))
    assert moves(step) == [facts.NodesTaken(3.0, "gives", 1, 1, [3]), facts.NodesReclaimed(3.0, "gives", 2, 1)]


def test_a_partition_keeps_its_least_nodes_and_what_can_never_be_had_is_refused() -> None:
    head = ready_head(GROWS, GIVES)
    step = head.handle(submitted(1, ["wide"], Template(executable="/bin/true", request=Request(ranks=4, cores=2))))
    ending, message = ended_by(step)["wide"]
    assert ending is Ending.INFEASIBLE and "4 ranks of 2 cores exceed the 1 that all 1 nodes hold" in message


def test_while_nodes_are_asked_back_nothing_is_leased_that_may_need_them() -> None:
    head = ready_head(GROWS, part("gives", 3, least_nodes=1, most_nodes=3))
    head.handle(submitted(1, ["wide"], with_(WIDE, partition="grows")))
    assert head.state.partitions["gives"].reclaims == {1: 2}
    pair = with_(EXECUTABLE, request=Request(ranks=2, cores=2), partition="gives")
    step = head.handle(submitted(2, ["pair"], pair))
    assert not leased_by(step) and not ended_by(step), "two of its three nodes may go"
    step = head.handle(events.NodesReturned(2.0, "gives", 1, 1, []))
    assert leased_by(step) == {"gives": ["pair"]}


def test_a_partition_with_much_to_do_grows_by_nodes_that_are_idle_elsewhere_for_a_while() -> None:
    head = ready_head(part("grows", 1, most_nodes=3, kinds=("executable",)), GIVES)
    begin = KEEP_S + 1.0
    step = head.handle(submitted(1, names("t", 40), LONG, at=begin))
    assert moves(step) == [facts.NodesReclaimed(begin, "gives", 1, 2)]
    head.handle(events.NodesReturned(begin + 0.5 * LOOK_S, "gives", 1, 1, [3, 2]))
    step = passed(head, begin + LOOK_S)
    assert moves(step) == [facts.NodesGranted(begin + LOOK_S, "grows", [2, 3])]
    assert leased_by(step)["grows"], "there is room for more"


def test_nodes_do_not_swing() -> None:
    bounds = {"least_nodes": 1, "most_nodes": 3}
    head = ready_head(part("a", 2, kinds=("executable",), **bounds), part("b", 2, kinds=("function",), **bounds))
    assert not moves(head.handle(submitted(1, names("t", 40), LONG, at=1.0))), "b is idle, but for how long?"
    assert moves(passed(head, KEEP_S)) == [facts.NodesReclaimed(KEEP_S, "b", 1, 1)]
    head.handle(events.NodesReturned(KEEP_S, "b", 1, 1, [3]))
    passed(head, KEEP_S + LOOK_S)
    assert len(head.state.partitions["a"].nodes) == 3
    calls = Template(mode="function", function=b"f", duration_s=100.0)
    head.handle(submitted(2, names("f", 40), calls, at=12.0))
    uids = [uid for uid, task in head.state.tasks.items() if task.partition == "a"]
    head.handle(arrived("a", 1, *(outcome(uid) for uid in uids), at=12.5))
    rest = [uid for uid in head.state.tasks if uid.startswith("t")]
    head.handle(cancelled(3, *rest, at=12.6))
    uids = [uid for uid, task in head.state.tasks.items() if task.partition == "a"]
    head.handle(arrived("a", 2, *(outcome(uid, Ending.CANCELLED) for uid in uids), at=12.7))
    assert not moves(passed(head, 14.0 + SETTLE_S)), "what a got it keeps for a while"
    later = KEEP_S + LOOK_S + KEEP_S
    assert moves(passed(head, later + 1.0)) == [facts.NodesReclaimed(later + 1.0, "a", 2, 2)]


def test_tasks_that_nobody_can_run_do_not_wait_for_ever_for_idle_nodes() -> None:
    head = ready_head(GROWS, part("gives", 3, least_nodes=1, most_nodes=3))
    head.handle(told("gives", Load(), at=0.5))
    short = submitted(1, names("t", 60), Template(executable="/bin/true", partition="gives"))
    leased = leased_by(head.handle(short))["gives"]
    head.handle(submitted(2, ["wide"], with_(WIDE, partition="grows")))
    assert not moves(passed(head, 2.0)), "nobody has an idle node"
    passed(head, 3.0 + PATIENCE_S)
    step = head.handle(arrived("gives", 1, *(outcome(uid) for uid in leased), at=9.0))
    assert not leased_by(step), "it gets nothing for now"
    assert head.why(TaskUid("t59")).endswith("'gives' (held back so that nodes of it become idle)")
    assert moves(step) == [facts.NodesReclaimed(9.0, "gives", 1, 2)]
    step = head.handle(events.NodesReturned(10.5, "gives", 2, 1, [3, 2]))
    assert leased_by(step)["grows"] == ["wide"]
    assert leased_by(passed(head, 12.0)).keys() <= {"gives"} and not head._backlogs["gives"].held_back


def test_a_partition_that_is_idle_is_let_go_and_started_again_for_tasks_that_need_it() -> None:
    plan = (part("a", 2, kinds=("executable",)), part("calls", 1, kinds=("function",)))
    head = ready_head(*plan, release_idle_s=30.0)
    head.handle(submitted(1, ["f"], Template(mode="function", function=b"f", duration_s=1000.0)))
    assert head.next_deadline() == 30.0
    step = passed(head, 30.0)
    assert [fact for fact in step.facts if isinstance(fact, facts.PartitionEnding)] == [
        facts.PartitionEnding(30.0, 0, "a", True, "it was idle for 30 s", released=True)
    ]
    assert sent_to(head, "a") == [QueuedEnd(True)]
    head.handle(events.PartitionEndArrived(32.0, "a", 1, "DONE", ""))
    assert head.state.free_nodes == {0: 32.0, 1: 32.0} and head.state.idle_node_s == 2 * 32.0
    step = head.handle(submitted(2, ["t"], EXECUTABLE, at=50.0))
    added = [fact for fact in step.facts if isinstance(fact, facts.PartitionAdded)]
    assert [(fact.partition, fact.spec.name, fact.nodes) for fact in added] == [("a.2", "a", [0, 1])]
    assert actions.StartPartition("a.2") in step.actions and head.state.free_node_s == 2 * 18.0
    assert leased_by(head.handle(greeted("a.2", at=51.0))) == {"a.2": ["t"]}
    named = submitted(3, ["u"], Template(executable="/bin/true", partition="a"), at=52.0)
    assert leased_by(head.handle(named)) == {"a.2": ["u"]}, "tasks name its spec"


def test_a_partition_for_which_tasks_wait_is_not_let_go() -> None:
    head = ready_head(part("a", 1), release_idle_s=30.0)
    head.handle(told("a", Load(paused=True)))
    head.handle(submitted(1, ["t"]))
    assert not [fact for fact in passed(head, 60.0).facts if isinstance(fact, facts.PartitionEnding)]


def test_the_user_adds_a_partition_and_tasks_that_wait_go_there() -> None:
    head = ready_head(part("a", 1), count=2)
    head.handle(submitted(1, names("t", 9)))
    step = head.handle(events.PartitionAsked(2.0, 2, part("b", 1)))
    assert step.facts == [facts.PartitionAdded(2.0, 2, "b", part("b", 1), [1])]
    assert step.actions == [actions.StartPartition("b")]
    assert len(leased_by(head.handle(greeted("b", at=3.0)))["b"]) == 4
    step = head.handle(events.PartitionAsked(4.0, 3, PartitionSpec(name="c")))
    (refused,) = step.facts
    assert isinstance(refused, facts.PartitionRefused) and head.state.received == 3, "no node is free"
    assert step.actions == [actions.TellUser(f"partition 'c' was not added: {refused.reason}")]


def test_a_partition_that_is_retired_now_gives_its_tasks_back() -> None:
    head = ready_head(part("a", 2), part("b", 2))
    head.handle(submitted(1, ["t"]))
    assert head.state.tasks[TaskUid("t")].partition == "a"
    head.handle(events.RetirementAsked(2.0, 0, "a", drain=False))
    assert sent_to(head, "a")[-1] == QueuedEnd(False)
    step = head.handle(arrived("a", 1, outcome("t", Ending.CANCELLED, attempt=0)))
    assert leased_by(step) == {"b": ["t"]}
    head.handle(events.PartitionEndArrived(3.0, "a", 2, "CANCELED", ""))
    assert head.state.partitions["a"].life == "ended" and list(head.state.free_nodes) == [0, 1]


def test_nodes_that_are_lost_with_their_partition_are_used_no_more() -> None:
    head = ready_head(part("a", 2), part("b", 1, most_nodes=3))
    head.handle(events.PartitionLost(2.0, "a", "node0 is gone", received=0, lost_nodes=[0]))
    assert head.state.lost_nodes == {0: None} and list(head.state.free_nodes) == [1]
    step = head.handle(submitted(1, ["wide"], WIDE))
    assert ended_by(step)["wide"][0] is Ending.INFEASIBLE, "two nodes are left"


def test_nodes_that_a_partition_lost_are_granted_to_nobody() -> None:
    plan = (part("loses", 2, least_nodes=1, most_nodes=4), part("grows", 1, most_nodes=4), part("last", 1))
    head = ready_head(*plan)
    step = head.handle(events.NodesReturned(1.0, "loses", 1, LOST_NODES, [1]))
    assert moves(step) == [facts.NodesTaken(1.0, "loses", 1, LOST_NODES, [1])]
    assert head.state.lost_nodes == {1: None} and not head.state.free_nodes
    assert head.handle(events.NodesReturned(1.0, "loses", 1, LOST_NODES, [1])).facts == [], "it is told once"
    for one in (head, again(head, *plan)):
        four = with_(WIDE, request=Request(ranks=4, cores=2))
        step = one.handle(submitted(1, ["four"], four, at=12.0))
        assert ended_by(step)["four"][0] is Ending.INFEASIBLE, "three nodes are left"
        assert not any(isinstance(fact, facts.NodesGranted) for fact in step.facts)


def test_a_partition_that_lost_a_node_gets_no_task_that_needs_it() -> None:
    head = ready_head(part("a", 3), part("b", 3))
    head.handle(events.NodesReturned(1.0, "a", 1, LOST_NODES, [0]))
    assert leased_by(head.handle(submitted(1, ["wide"], WIDE))) == {"b": ["wide"]}
    narrow = with_(WIDE, request=Request(cores=2))
    assert leased_by(head.handle(submitted(2, ["t0", "t1", "t2"], narrow))) == {"a": ["t0", "t1"]}


def test_another_head_goes_on_with_what_the_first_asked_for() -> None:
    head = ready_head(GROWS, GIVES)
    head.handle(submitted(1, ["wide"], WIDE))
    another = again(head, GROWS, GIVES)
    assert not moves(passed(another, 20.0)), "an answer is awaited"
    step = another.handle(events.NodesReturned(21.0, "gives", 1, 1, [3, 2]))
    assert leased_by(step) == {"grows": ["wide"]}
