"""When partitions are asked for tasks that wait there, and what becomes of those that they give back."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from metascheduler_builders import (
    again,
    arrived,
    cancelled,
    ended_by,
    leased_by,
    names,
    outcome,
    part,
    ready_head,
    sent_to,
    submitted,
    told,
)

from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.core import MetaschedulerCore, Step
from pilotage.core.metascheduler.recalls import LOOK_S, MOST_RECALLS, PAUSE_S, SETTLE_S, WAIT_S
from pilotage.core.metascheduler.state import QueuedRecall
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import Load
from pilotage.model.resources import Request
from pilotage.model.services import Service
from pilotage.model.workload import Template

SHORT = Template(executable="/bin/true", duration_s=1.0)
PLAN = (part("a", 1), part("b", 1))
BEGIN = 1.0


def recalls(step: Step) -> dict[str, list[str]]:
    """The tasks that a step asks for, by partition."""
    return {fact.partition: list(fact.tasks) for fact in step.facts if isinstance(fact, facts.TasksRecalled)}


def crowded(template: Template = SHORT, **rules: object) -> MetaschedulerCore:
    """Partition a has four tasks for two cores; b had as many, and they are over."""
    head = ready_head(part("a", 1), part("b", 1, **rules))
    leased = leased_by(head.handle(submitted(1, names("t", 8), template, at=BEGIN)))
    assert leased == {"a": ["t0", "t2", "t4", "t6"], "b": ["t1", "t3", "t5", "t7"]}
    head.handle(arrived("b", 1, *(outcome(uid) for uid in leased["b"]), at=BEGIN))
    head.handle(told("a", Load(waiting=2, running=2), at=BEGIN))
    head.handle(told("b", Load(idle_nodes=1), at=BEGIN))
    return head


def wait(head: MetaschedulerCore, until: float) -> Step:
    """Let time pass as the head wishes; return the step in which it asks for tasks, or the last one."""
    step = head.handle(events.TimePassed(BEGIN))
    while (due := head.next_deadline()) is not None and due <= until:
        step = head.handle(events.TimePassed(due))
        if recalls(step):
            return step
    return step


def given_back(
    head: MetaschedulerCore,
    uids: Iterable[str],
    number: int = 1,
    lease: int = 1,
    recall: int = 1,
    at: float = 8.0,
    attempt: int = 0,
) -> Step:
    """Partition a answers; ``attempt``: how many were made there, all of which failed."""
    tasks = [(TaskUid(uid), Binding(lease), Attempt(attempt), attempt) for uid in uids]
    return head.handle(events.TasksGivenBack(at, "a", number, recall, tasks))


def test_what_waits_goes_to_who_has_nothing_to_do() -> None:
    head = crowded()
    step = wait(head, 60.0)
    assert recalls(step) == {"a": ["t6", "t4"]}, "the last ones first, and as many as wait"
    assert BEGIN + WAIT_S <= step.facts[0].time <= BEGIN + WAIT_S + LOOK_S  # type: ignore[union-attr]
    assert step.actions == [actions.OfferMessages("a")]
    asked = sent_to(head, "a")[-1]
    assert asked == QueuedRecall(1, [(TaskUid("t6"), Binding(1)), (TaskUid("t4"), Binding(1))])
    step = given_back(head, ["t6", "t4"])
    assert leased_by(step) == {"b": ["t6", "t4"]}
    assert {head.state.tasks[TaskUid(uid)].lease for uid in ("t4", "t6")} == {2}
    head.handle(arrived("b", 2, outcome("t6", lease=2), outcome("t4", lease=2)))
    assert {each.task for each in head.state.unsent} >= {"t4", "t6"}


def test_what_the_partition_has_begun_meanwhile_stays() -> None:
    head = crowded()
    wait(head, 60.0)
    assert leased_by(given_back(head, ["t6"])) == {"b": ["t6"]}
    assert head.state.tasks[TaskUid("t4")].partition == "a"
    head.handle(arrived("a", 2, *(outcome(uid) for uid in ("t0", "t2", "t4"))))
    assert head.state.partitions["a"].leased == 0


@pytest.mark.parametrize(
    ("template", "rules"),
    [
        (Template(executable="/bin/true", duration_s=1.0, request=Request(colocate="x")), {}),
        (SHORT, {"life": "paused"}),
        (SHORT, {"life": "waits"}),
        (SHORT, {"life": "ends"}),
    ],
)
def test_nobody_is_asked_if_nobody_could_run_it(template: Template, rules: dict[str, str]) -> None:
    if template is not SHORT:
        head = ready_head(*PLAN)
        head.handle(submitted(1, names("t", 8), template, at=BEGIN))
        head.handle(told("a", Load(waiting=6, running=2), at=BEGIN))
        head.handle(told("b", Load(idle_nodes=1), at=BEGIN))
    else:
        head = crowded()
    if rules.get("life") == "paused":
        head.handle(told("b", Load(idle_nodes=1, paused=True), at=BEGIN))
    elif rules.get("life") == "waits":
        head.handle(told("b", Load(waiting=1), at=BEGIN))
    elif rules.get("life") == "ends":
        head.handle(events.RetirementAsked(BEGIN, 0, "b"))
    assert not recalls(wait(head, 60.0))


def test_tasks_that_do_not_fit_elsewhere_and_services_are_not_asked_for() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    wide = Template(executable="/bin/true", request=Request(ranks=2, cores=2))
    head.handle(submitted(1, names("w", 2), wide, at=BEGIN))
    head.handle(submitted(2, ["s"], Template(executable="/bin/true", service=Service()), at=BEGIN))
    assert head.state.tasks[TaskUid("w1")].partition == "a"
    head.handle(told("a", Load(waiting=1, running=1), at=BEGIN))
    head.handle(told("b", Load(running=1), at=BEGIN))
    assert not recalls(wait(head, 60.0))


def test_what_is_known_to_run_is_not_asked_for() -> None:
    head = crowded()
    running = [(TaskUid(uid), Binding(1), Attempt(1), BEGIN) for uid in ("t0", "t6")]
    head.handle(events.ProgressTold(BEGIN, "a", started=running))
    assert recalls(wait(head, 60.0)) == {"a": ["t4", "t2"]}


def test_no_more_is_asked_for_than_there_is_room() -> None:
    head = crowded()
    head.handle(submitted(2, ["new"], SHORT, at=BEGIN))
    assert head.state.tasks[TaskUid("new")].partition == "b"
    assert recalls(wait(head, 60.0)) == {"a": ["t6"]}


def test_a_partition_has_one_request_at_a_time_and_one_taker_is_promised_once() -> None:
    head = crowded()
    assert recalls(wait(head, 60.0))
    head.handle(told("a", Load(waiting=2, running=3), at=20.0))
    assert not recalls(wait(head, 90.0)), "it has not answered"


def test_a_partition_that_gives_back_little_is_asked_later_and_later() -> None:
    head = crowded()
    asked: list[float] = []
    for number in range(1, 5):
        step = wait(head, 500.0)
        (fact,) = [each for each in step.facts if isinstance(each, facts.TasksRecalled)]
        asked.append(fact.time)
        given_back(head, [], number=number, recall=number, at=fact.time)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[0] >= PAUSE_S and all(2 * first <= then + LOOK_S for first, then in pairwise(pauses))


def test_no_task_goes_to_and_fro_for_ever() -> None:
    head = crowded()
    head.handle(events.RetirementAsked(BEGIN, 0, "b"))
    head.handle(events.PartitionEndArrived(BEGIN, "b", 2, "DONE", ""))
    # Only a is left: what it gives back comes to it again.
    moved = 0
    for number in range(1, MOST_RECALLS + 3):
        task = head.state.tasks[TaskUid("t6")]
        if task.recalls < MOST_RECALLS:
            head.state.partitions["a"].recalls[number] = 1
            given_back(head, ["t6"], number=number, lease=task.lease, recall=number)
            moved += 1
    assert moved == MOST_RECALLS
    head.handle(events.PartitionAsked(9.0, 0, part("c", 1)))
    head.handle(events.PartitionGreeted(9.0, "c", 1, 0))
    head.handle(told("c", Load(idle_nodes=1), at=9.0))
    step = wait(head, 60.0)
    assert "t6" not in recalls(step).get("a", []) and recalls(step)


def test_a_task_that_is_cancelled_while_it_comes_back_ends() -> None:
    head = crowded()
    wait(head, 60.0)
    head.handle(cancelled(2, "t6", at=7.0))
    step = given_back(head, ["t6", "t4"])
    assert ended_by(step)["t6"][0] is Ending.CANCELLED
    assert leased_by(step) == {"b": ["t4"]}


def test_answers_about_leases_that_are_over_do_not_count() -> None:
    head = crowded()
    wait(head, 60.0)
    step = given_back(head, ["t6"], lease=2)
    assert not leased_by(step) and head.state.tasks[TaskUid("t6")].partition == "a" and head.stale == 1
    assert not given_back(head, ["t4"], number=1, recall=2).facts, "the message is known"


def test_attempts_that_were_made_there_count() -> None:
    head = crowded(Template(executable="/bin/true", duration_s=1.0, retries=1))
    wait(head, 60.0)
    given_back(head, ["t6"], attempt=1)
    task = head.state.tasks[TaskUid("t6")]
    assert (task.partition, task.attempt, task.failures) == ("b", 1, 1)


def test_another_head_goes_on_where_the_first_one_was() -> None:
    head = crowded()
    wait(head, 60.0)
    another = again(head, *PLAN)
    assert another.state.partitions["a"].recalls == {1: 2}
    another.handle(told("b", Load(idle_nodes=1), at=10.0))
    assert leased_by(given_back(another, ["t6", "t4"], at=10.0)) == {"b": ["t6", "t4"]}
    assert again(another, *PLAN).state.tasks[TaskUid("t6")].recalls == 1


def test_a_partition_that_comes_later_helps_those_that_are_there() -> None:
    head = ready_head(part("a", 1), count=2)
    head.handle(submitted(1, names("t", 4), SHORT, at=BEGIN))
    head.handle(told("a", Load(waiting=2, running=2), at=BEGIN))
    assert head.next_deadline() is None or not recalls(wait(head, 30.0))
    head.handle(events.PartitionAsked(30.0, 0, part("late", 1)))
    head.handle(events.PartitionGreeted(31.0, "late", 1, 0))
    head.handle(told("late", Load(idle_nodes=1), at=31.0))
    step = wait(head, 60.0)
    assert recalls(step) == {"a": ["t3", "t2"]} and step.facts[0].time >= 31.0 + SETTLE_S  # type: ignore[union-attr]


def test_a_lost_partition_owes_no_answer() -> None:
    head = crowded()
    wait(head, 60.0)
    sent_to(head, "a")
    step = head.handle(events.PartitionLost(9.0, "a", "it is gone", not_begun=[(TaskUid("t6"), Binding(1))]))
    assert leased_by(step) == {"b": ["t6"]}
    assert not head.state.partitions["a"].recalls
    assert not given_back(head, ["t6"]).facts
