"""Pilots that have fewer nodes than their plan was made for, from the beginning or as nodes are lost."""

from __future__ import annotations

import pytest
from metascheduler_builders import (
    EXECUTABLE,
    again,
    arrived,
    ended_by,
    fresh_head,
    greeted,
    leased_by,
    nodes,
    outcome,
    part,
    ready_head,
    sent_to,
    submitted,
)

from pilotage.core.client.state import QueuedEnd
from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.core.metascheduler.plan import check_plan, divide
from pilotage.errors import InvalidPilot
from pilotage.model.outcome import Ending
from pilotage.model.partitions import LOST_NODES, PartitionSpec
from pilotage.model.resources import Request
from pilotage.model.workload import Template

NAMES_B = Template(executable="/bin/true", partition="b")
LARGE = Template(executable="/bin/true", request=Request(ranks=2, cores=2))


def sizes(count: int, *plan: PartitionSpec) -> list[int]:
    return [len(share) for share in divide(plan, nodes(count))]


def loses(head: MetaschedulerCore, partition: str, *lost: int, number: int = 1, at: float = 5.0) -> Step:
    return head.handle(events.NodesReturned(at, partition, number, LOST_NODES, list(lost)))


# ----- that never came --------------------------------------------------------------------------------------------------


def test_who_has_the_most_gives_first_and_each_keeps_a_node_as_long_as_there_are_enough() -> None:
    plan = (part("a", 4), part("b", 2), part("c", 1))
    assert [sizes(count, *plan) for count in range(8, 3, -1)] == [[4, 2, 1], [4, 2, 1], [3, 2, 1], [2, 2, 1], [2, 1, 1]]
    assert [sizes(count, *plan) for count in range(3, 0, -1)] == [[1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert sizes(3, part("a", 2), part("rest", 0)) == [2, 1] and sizes(2, part("a", 2), part("rest", 0)) == [1, 1]


def test_who_takes_all_that_names_nobody_is_kept_before_others() -> None:
    plan = (part("gpu", 1, tags=("gpu",)), part("functions", 1, kinds=("function",)), part("all", 1))
    assert [sizes(count, *plan) for count in (2, 1)] == [[1, 0, 1], [0, 0, 1]]


def test_a_plan_is_judged_by_the_nodes_that_the_pilot_was_to_have() -> None:
    plan = [part("a", 3), part("b", 1)]
    check_plan(plan, nodes(2), missing=2)
    with pytest.raises(InvalidPilot, match="the partitions ask for 4 nodes"):
        check_plan(plan, nodes(2), missing=1)


def test_a_pilot_begins_with_what_has_come_and_says_so() -> None:
    head = fresh_head(part("a", 3), part("b", 2), count=3, missing=2)
    step = head.start(0.0)
    assert {name: len(record.nodes) for name, record in head.state.partitions.items()} == {"a": 2, "b": 1}
    assert [action.message for action in step.actions if isinstance(action, actions.TellUser)] == [
        "partition 'a' begins with 2 of 3 nodes: 2 of the pilot's 5 nodes did not come",
        "partition 'b' begins with 1 of 2 nodes: 2 of the pilot's 5 nodes did not come",
    ]


def test_a_partition_without_a_node_is_lost_and_who_names_it_is_told_so() -> None:
    plan = (part("a", 1), part("b", 1))
    head = fresh_head(*plan, count=1, missing=1)
    step = head.start(0.0)
    assert [action.partition for action in step.actions if isinstance(action, actions.StartPartition)] == ["a"]
    assert head.state.partitions["b"].life == "lost" and not head.state.is_bereft
    head.handle(greeted("a"))
    ended = ended_by(head.handle(submitted(1, ["x"], NAMES_B)))
    reason = "no node is left for it: 1 of the pilot's 2 nodes did not come"
    assert ended == {
        "x": (Ending.INFEASIBLE, f"partition 'b', which the task names, was lost: {reason}; name one of a, or none")
    }
    assert leased_by(head.handle(submitted(2, ["y"]))) == {"a": ["y"]}
    later = again(head, *plan, count=1, missing=1)
    assert {name: record.life for name, record in later.state.partitions.items()} == {"a": "active", "b": "lost"}


# ----- that are lost ----------------------------------------------------------------------------------------------------


def test_a_partition_that_loses_a_node_goes_on_with_fewer_and_what_is_too_large_for_all_is_refused() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["large"], LARGE))
    loses(head, "a", 1)
    assert head.state.partitions["a"].life == "active"
    ended = ended_by(head.handle(submitted(2, ["too large"], LARGE)))
    assert ended["too large"][0] is Ending.INFEASIBLE and "no partition can run it" in ended["too large"][1]
    head.handle(arrived("a", 2, outcome("large")))
    assert leased_by(head.handle(submitted(3, ["x"], Template(executable="/bin/true", partition="a")))) == {"a": ["x"]}


@pytest.mark.parametrize("template", [EXECUTABLE, NAMES_B])
def test_a_partition_that_loses_its_last_node_is_lost(template: Template) -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(submitted(1, ["x"], NAMES_B))
    step = loses(head, "b", 1)
    assert head.state.partitions["b"].life == "retiring" and actions.OfferMessages("b") in step.actions
    assert QueuedEnd(True) in sent_to(head, "b")
    later = head.handle(submitted(2, ["y"], template))
    if template is NAMES_B:
        assert ended_by(later)["y"][1].startswith("partition 'b', which the task names, was lost: its last node was lost")
    else:
        assert leased_by(later) == {"a": ["y"]}
    step = head.handle(events.PartitionEndArrived(6.0, "b", 2, "DONE", "the head wants it"))
    assert head.state.partitions["b"].life == "lost" and head.state.partitions["b"].reason == "its last node was lost"
    assert list(head.state.lost_nodes) == [1] and head.state.free_nodes == {}
    assert ended_by(step)["x"][0] is Ending.INFEASIBLE, "nobody else has that name"


def test_a_partition_that_may_be_given_nodes_waits_for_one() -> None:
    head = ready_head(part("a", 2, least_nodes=1, most_nodes=2), part("b", 1, most_nodes=2))
    head.handle(submitted(1, ["x"], NAMES_B))
    loses(head, "b", 2)
    assert head.state.partitions["b"].life == "active"
    assert reclaimed(head.handle(events.TimePassed(30.0))) == [], "the partition has its task, and says what becomes of it"
    step = head.handle(submitted(2, ["y"], NAMES_B, at=40.0))
    assert reclaimed(step) == ["a"] and ended_by(step) == {}


def reclaimed(step: Step) -> list[str]:
    return [fact.partition for fact in step.facts if isinstance(fact, facts.NodesReclaimed)]


def test_a_pilot_that_loses_all_nodes_ends() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    loses(head, "a", 0)
    assert head.state.ending is None
    loses(head, "b", 1)
    assert head.state.ending is not None and "no node is left" in head.state.ending.reason


def test_what_fits_nowhere_and_was_left_waiting_as_a_job_ended_is_refused_in_its_later_run() -> None:
    plan = (part("a", 2), part("b", 1))
    head = ready_head(*plan, drain_s=20.0)
    head.handle(submitted(1, ["x", "y", "z"], LARGE))
    head.handle(events.JobEnding(4.0, "TERM"))
    loses(head, "a", 1)
    given_back = events.TasksGivenBack(6.0, "a", 2, 0, [(uid, task.lease, 0, 0) for uid, task in head.state.tasks.items()])  # type: ignore[arg-type]
    assert ended_by(head.handle(given_back)) == {}
    later = again(head, *plan)
    assert not later.state.tasks and later.state.unsent
