"""The metascheduler's core, event by event: what it takes as true, and what it wants done."""

from __future__ import annotations

import msgspec
import pytest
from metascheduler_builders import (
    EXECUTABLE,
    FUNCTION,
    SPEC,
    again,
    arrived,
    cancelled,
    ended_by,
    fresh_head,
    greeted,
    leased_by,
    names,
    outcome,
    part,
    ready_head,
    sent_to,
    submitted,
)

from pilotage.core.agent import actions as agent_actions
from pilotage.core.client.state import QueuedCancel, QueuedEnd, QueuedEnvironment, QueuedTasks
from pilotage.core.metascheduler import actions, events, facts
from pilotage.errors import InvalidPilot
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import LOST_NODES
from pilotage.model.resources import Request
from pilotage.model.services import Service
from pilotage.model.workload import Batch, Extra, Template


def test_a_plan_is_divided_and_its_partitions_are_started() -> None:
    head = fresh_head(part("a", 2), part("b", 0), part("c", 0), count=7)
    step = head.start(1.0)
    added = [(fact.partition, fact.nodes) for fact in step.facts if isinstance(fact, facts.PartitionAdded)]
    assert added == [("a", [0, 1]), ("b", [2, 3, 4]), ("c", [5, 6])]
    assert step.actions == [actions.StartPartition(name) for name in "abc"]


def test_tasks_wait_until_a_partition_is_active() -> None:
    head = fresh_head(part("a"))
    head.start(0.0)
    step = head.handle(submitted(1, ["t"]))
    assert [type(fact) for fact in step.facts] == [facts.TasksAccepted]
    assert head.why(TaskUid("t")) == "waits for its turn in partition 'a' (starting)"
    step = head.handle(greeted("a", at=2.0))
    assert step.facts == [facts.PartitionActivated(2.0, "a", 1), facts.TasksLeased(2.0, "a", 1, [TaskUid("t")])]
    assert step.actions == [actions.OfferMessages("a"), actions.OfferMessages("a")]
    (message,) = sent_to(head, "a")
    assert isinstance(message, QueuedTasks) and message.binding == 1
    batch = msgspec.msgpack.decode(message.batch, type=Batch)
    assert [row.uid for row in batch.rows] == ["t"] and batch.templates == {1: EXECUTABLE}
    assert head.doing(TaskUid("t")) == "leased"


def test_a_template_goes_to_a_partition_once() -> None:
    head = ready_head(part("a", 4))
    head.handle(submitted(1, ["t"]))
    head.handle(msgspec.structs.replace(submitted(1, ["u"]), number=2, batch=Batch({}, submitted(1, ["u"]).batch.rows)))
    batches = [msgspec.msgpack.decode(message.batch, type=Batch) for message in sent_to(head, "a")]  # type: ignore[union-attr]
    assert [list(batch.templates) for batch in batches] == [[1], []]


def test_outcomes_go_to_the_client_under_its_own_binding() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, ["t"], binding=7))
    step = head.handle(arrived("a", 1, outcome("t")))
    assert step.facts[0] == facts.OutcomesTaken(2.0, "a", 1, arrived("a", 1, outcome("t")).encoded, [])
    step = head.handle(events.LinkOpened(3.0))
    assert step.facts == [facts.OutcomesNumbered(1, 1)]
    assert step.actions == [agent_actions.SendOutcomes(1, [msgspec.structs.replace(outcome("t"), binding=Binding(7))])]
    assert head.handle(events.OutcomesReceived(4.0, 1)).facts == [facts.OutcomesDelivered(1)]
    assert not head.state.tasks and not head.state.undelivered


def test_a_message_that_came_before_is_of_no_use() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, ["t"]))
    head.handle(arrived("a", 1, outcome("t")))
    assert head.handle(arrived("a", 1, outcome("t"))).facts == []
    assert head.handle(submitted(1, ["t"])).facts == []
    assert head.stale == 2


def test_a_task_that_its_client_forgot_goes_by_its_new_binding() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, ["t"]))
    step = head.handle(submitted(2, ["t"], binding=2))
    assert facts.Rebound(1.0, Binding(2), [TaskUid("t")]) in step.facts and not leased_by(step)
    head.handle(arrived("a", 1, outcome("t")))
    assert [each.binding for each in head.state.unsent] == [2]


# -------------------------------------------------------------------------------------------------------------- cancelling


def test_a_task_that_waits_is_cancelled_here_and_one_that_is_leased_there() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, names("t", 6)))
    leased = [uid for uid, task in head.state.tasks.items() if task.partition]
    waiting = [uid for uid, task in head.state.tasks.items() if not task.partition]
    assert leased and waiting
    sent_to(head, "a")
    step = head.handle(cancelled(2, leased[0], waiting[-1], "unknown"))
    assert step.facts[0] == facts.EndAsked(1.5, 2, [leased[0], waiting[-1]], Ending.CANCELLED, "cancelled by the user")
    assert ended_by(step) == {waiting[-1]: (Ending.CANCELLED, "cancelled by the user")}
    assert sent_to(head, "a") == [QueuedCancel([(leased[0], Binding(1))])]


def test_a_cancelled_task_that_a_lost_partition_never_began_is_not_leased_again() -> None:
    head = ready_head(part("a"), part("b"))
    head.handle(submitted(1, ["t"], Template(executable="/bin/true", partition="a", retries=3)))
    head.handle(cancelled(2, "t"))
    step = head.handle(lost("a", not_begun=("t",)))
    assert ended_by(step)["t"][0] is Ending.CANCELLED and not leased_by(step)


# ------------------------------------------------------------------------------------------------------- lost partitions


def lost(
    partition: str,
    *,
    received: int | None = 9,
    not_begun: tuple[str, ...] = (),
    tries: dict[str, tuple[int, int]] | None = None,
) -> events.PartitionLost:
    return events.PartitionLost(
        5.0,
        partition,
        "its node is gone",
        received,
        not_begun=[(TaskUid(uid), Binding(1)) for uid in not_begun],
        tries={TaskUid(uid): (Attempt(attempt), failures) for uid, (attempt, failures) in (tries or {}).items()},
    )


def test_what_never_began_goes_on_elsewhere_as_it_was() -> None:
    head = ready_head(part("a", 2), part("b", 2))
    head.handle(submitted(1, ["t"]))
    sent_to(head, "a")
    step = head.handle(lost("a", not_begun=("t",), tries={"t": (2, 1)}))
    assert facts.TasksReleased(5.0, [(TaskUid("t"), Attempt(2), 1)]) in step.facts
    assert facts.TasksLeased(5.0, "b", 2, [TaskUid("t")]) in step.facts
    over = facts.PartitionOver(5.0, 0, "a", "lost", "its node is gone", [], 5.0)
    assert over in step.facts and actions.DisconnectPartition("a") in step.actions
    (message,) = sent_to(head, "b")
    assert isinstance(message, QueuedTasks) and message.binding == 2
    (row,) = msgspec.msgpack.decode(message.batch, type=Batch).rows
    assert row.extra == Extra(attempts=2, failures=1)


def test_what_was_never_sent_or_never_arrived_never_began() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["t"]))
    assert leased_by(head.handle(lost("a", received=0))) == {"b": ["t"]}
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["t"]))
    sent_to(head, "a")
    assert leased_by(head.handle(lost("a", received=0))) == {"b": ["t"]}


@pytest.mark.parametrize(
    ("template", "failures", "goes_on"),
    [
        (EXECUTABLE, 0, False),
        (Template(executable="/bin/true", retries=1), 0, True),
        (Template(executable="/bin/true", retries=1), 1, False),
        (Template(executable="/bin/true", retries=1, retry_on=("lost",)), 0, True),
        (Template(executable="/bin/true", retries=1, retry_on=("exit",)), 0, False),
        (Template(executable="/bin/true", restartable=True), 7, True),
    ],
)
def test_what_may_have_run_runs_again_if_it_may(template: Template, failures: int, goes_on: bool) -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["t"], template))
    sent_to(head, "a")
    step = head.handle(lost("a", tries={"t": (failures + 1, failures)}))
    if goes_on:
        assert facts.TasksReleased(5.0, [(TaskUid("t"), Attempt(failures + 1), failures + 1)]) in step.facts
        assert leased_by(step) == {"b": ["t"]}
    else:
        ending, message = ended_by(step)["t"]
        assert ending is Ending.LOST
        assert message.startswith("partition 'a' was lost: its node is gone; it may have run.")


def test_without_its_log_what_was_sent_may_have_run() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["t"]))
    sent_to(head, "a")
    assert ended_by(head.handle(lost("a", received=None)))["t"][0] is Ending.LOST


def test_outcomes_of_a_lost_partition_count() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["t"]))
    sent_to(head, "a")
    found = [outcome("t")]
    step = head.handle(msgspec.structs.replace(lost("a"), outcomes=found, encoded=arrived("a", 1, *found).encoded))
    assert not ended_by(step) and [each.ending for each in head.state.unsent] == [Ending.DONE]


def test_two_of_sixteen_partitions_are_lost_and_the_work_is_done() -> None:
    plan = [part(f"p{number}") for number in range(16)]
    head = ready_head(*plan)
    uids = names("t", 40)
    leased = leased_by(head.handle(submitted(1, uids, Template(executable="/bin/true", restartable=True))))
    assert sorted(leased) == sorted(spec.name for spec in plan)
    for name in ("p3", "p7"):
        sent_to(head, name)
        head.handle(lost(name))
    for name, before in leased.items():
        now = [uid for uid, task in head.state.tasks.items() if task.partition == name]
        assert set(before) <= set(now) if name not in ("p3", "p7") else not now, f"{name} had {before} and has {now}"
    numbers = dict.fromkeys((spec.name for spec in plan), 0)
    while head.state.tasks:
        held = {task.partition: (uid, task) for uid, task in head.state.tasks.items() if task.partition}
        assert held and "p3" not in held and "p7" not in held
        for name, (uid, task) in held.items():
            numbers[name] += 1
            head.handle(arrived(name, numbers[name], outcome(uid, attempt=task.attempt + 1, lease=task.lease)))
    assert {each.ending for each in head.state.unsent} == {Ending.DONE} and len(head.state.unsent) == 40


def test_a_partition_that_gives_up_by_itself_gives_its_tasks_back() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    again_and_again = Template(executable="/bin/true", retries=1)
    head.handle(submitted(1, ["t", "u"], again_and_again))
    step = head.handle(arrived("a", 1, outcome("t", Ending.CANCELLED, attempt=0), outcome("u", Ending.CANCELLED)))
    assert facts.TasksReleased(2.0, [(TaskUid("t"), Attempt(0), 0), (TaskUid("u"), Attempt(1), 1)]) in step.facts
    assert not head.state.unsent


def test_a_stale_outcome_does_not_count() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["t"]))
    head.handle(arrived("a", 1, outcome("t", lease=2)))
    assert not head.state.unsent and head.stale == 1 and head.state.partitions["a"].received == 1


def test_when_all_partitions_are_lost_the_pilot_fails() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, ["t"], Template(executable="/bin/true", restartable=True)))
    step = head.handle(lost("a"))
    assert not ended_by(step) and list(head.state.late) == ["t"], "another pilot may have it"
    head.handle(events.TimePassed(6.0))
    assert head.state.ending is not None and head.state.ending.state == "FAILED"
    assert head.state.ending.reason == "no partition is left; lost were a (its node is gone)"


def test_what_a_pilot_without_partitions_has_goes_back_to_its_client() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, ["t"], Template(executable="/bin/true", retries=1)))
    head.handle(submitted(2, ["gone", "cancelled", *names("w", 9)]))
    sent_to(head, "a")
    head.handle(cancelled(3, "cancelled"))
    not_begun = [(TaskUid(uid), Binding(1)) for uid in ("cancelled", "w0")]
    head.handle(events.PartitionLost(3.0, "a", "its node is gone", not_begun=not_begun))
    assert {each.task: each.ending for each in head.state.unsent} == {"gone": Ending.LOST, "cancelled": Ending.CANCELLED}
    assert head.state.late.keys() == {"t", *names("w", 9)} and head.state.begun_tasks == ["t"]
    head.handle(submitted(4, ["too late"], at=4.0))
    assert "too late" in head.state.late
    said = []
    while head.has_news:
        said += head.handle(events.LinkOpened(5.0)).actions
    (goodbye,) = [action for action in said if isinstance(action, agent_actions.SendPilotEnded)]
    assert (goodbye.state, goodbye.begun) == ("FAILED", ["t"])
    assert again(head, part("a", 1)).state.late == head.state.late


def test_what_a_pilot_without_nodes_has_goes_back_to_its_client() -> None:
    head = ready_head(part("a", 1))
    head.handle(submitted(1, names("t", 3)))
    head.handle(events.NodesReturned(2.0, "a", 1, LOST_NODES, [0]))
    assert head.state.ending is not None and head.state.ending.reason == "no node is left; all were lost"
    # What the partition says of tasks that it has come to nobody's end: it found no node for them, or was told to end.
    head.handle(arrived("a", 2, outcome("t0", Ending.INFEASIBLE, attempt=0), outcome("t1", Ending.CANCELLED, attempt=0)))
    head.handle(events.PartitionEndArrived(4.0, "a", 3, "DONE", ""))
    assert head.state.late.keys() == set(names("t", 3)) and not head.state.unsent and not head.state.begun_tasks
    assert head.finished


def test_a_pilot_that_may_have_another_partition_goes_on() -> None:
    head = ready_head(part("a", 1), part("b", 1, idle_timeout_s=5.0))
    head.handle(events.TimePassed(6.0))
    head.handle(events.PartitionEndArrived(6.5, "b", 1, "DONE", ""))
    head.handle(lost("a"))
    assert head.state.ending is None, "b may come again"
    head.handle(submitted(1, ["t"], at=8.0))
    assert head.state.partitions["b.2"].life == "starting"


# -------------------------------------------------------------------------------------------------- environments, services


def test_an_environment_is_told_to_all_partitions_and_to_later_ones() -> None:
    head = ready_head(part("a", 1), count=2)
    head.handle(submitted(1, ["t"], Template(executable="/bin/true", named_env="conda")))
    assert head.doing(TaskUid("t")) == "awaiting environment"
    step = head.handle(events.EnvironmentAsked(2.0, 2, "conda", SPEC))
    assert leased_by(step) == {"a": ["t"]}
    assert [type(message) for message in sent_to(head, "a")] == [QueuedEnvironment, QueuedTasks]
    head.handle(events.PartitionAsked(3.0, 0, part("b", 1)))
    assert sent_to(head, "b") == [QueuedEnvironment("conda", SPEC)]


def test_a_task_waits_for_its_service_and_is_told_where_it_is() -> None:
    head = ready_head(part("a", 2), part("b", 1))
    head.handle(submitted(1, ["s"], Template(executable="/bin/server", service=Service())))
    needy = submitted(2, ["t"])
    row = msgspec.structs.replace(needy.batch.rows[0], extra=Extra(services={"ADDRESS": TaskUid("s")}))
    step = head.handle(msgspec.structs.replace(needy, batch=Batch(needy.batch.templates, [row])))
    assert not leased_by(step) and head.why(TaskUid("t")) == "waits for the service 's' to be ready"
    ready = events.ProgressTold(3.0, "a", services=[(TaskUid("s"), Binding(1), Attempt(1), "here:80")])
    step = head.handle(ready)
    assert agent_actions.TellService(TaskUid("s")) in step.actions
    (name,) = leased_by(step)
    (message,) = [each for each in sent_to(head, name) if isinstance(each, QueuedTasks)][-1:]
    (told,) = msgspec.msgpack.decode(message.batch, type=Batch).rows
    assert told.extra is not None and told.extra.variables == {"ADDRESS": "here:80"}
    assert head.handle(ready).facts == []


def test_a_task_whose_service_is_over_ends() -> None:
    head = ready_head(part("a", 2))
    head.handle(submitted(1, ["s"], Template(executable="/bin/server", service=Service())))
    needy = submitted(2, ["t"])
    row = msgspec.structs.replace(needy.batch.rows[0], extra=Extra(services={"ADDRESS": TaskUid("s")}))
    head.handle(msgspec.structs.replace(needy, batch=Batch(needy.batch.templates, [row])))
    step = head.handle(arrived("a", 1, outcome("s", Ending.EXITED)))
    assert ended_by(step) == {"t": (Ending.CANCELLED, "cancelled: service 's', which it needs, ended: exited")}


# ----------------------------------------------------------------------------------------------------------------- the end


def test_a_pilot_that_drains_ends_its_partitions_when_no_tasks_are_left() -> None:
    head = ready_head(part("a"), part("b"))
    head.handle(submitted(1, ["t"]))
    step = head.handle(events.EndRequested(2.0, 2, True, "ended by the user"))
    assert [type(fact) for fact in step.facts] == [facts.PilotEnding]
    step = head.handle(arrived("a", 1, outcome("t")))
    assert [fact.partition for fact in step.facts if isinstance(fact, facts.PartitionEnding)] == ["a", "b"]
    assert sent_to(head, "b") == [QueuedEnd(True)] and not head.finished
    for name, number in (("a", 2), ("b", 1)):
        head.handle(events.PartitionEndArrived(3.0, name, number, "DONE", ""))
    assert head.finished
    head.handle(events.LinkOpened(4.0))
    step = head.handle(events.LinkOpened(4.0))
    assert step.actions == [agent_actions.SendPilotEnded(2, "DONE", "ended by the user")]
    head.handle(events.OutcomesReceived(5.0, 2))
    assert head.told


def test_a_pilot_that_ends_now_ends_all_partitions_and_what_waits() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, names("t", 9)))
    waiting = [uid for uid, task in head.state.tasks.items() if not task.partition]
    step = head.handle(events.EndRequested(2.0, 2, False, "ended by the user"))
    assert ended_by(step) == dict.fromkeys(waiting, (Ending.CANCELLED, "ended by the user"))
    assert sent_to(head, "a")[-1] == QueuedEnd(False)
    held = [uid for uid, task in head.state.tasks.items()]
    step = head.handle(arrived("a", 1, *(outcome(uid, Ending.CANCELLED, attempt=0) for uid in held)))
    assert not head.state.tasks, "what its partitions cancel for that is final"


def test_a_pilot_whose_time_is_over_ends_before_it_believes_its_partitions() -> None:
    head = ready_head(part("a"), part("b"), deadline=100.0)
    head.handle(submitted(1, ["t"]))
    assert head.next_deadline() == 100.0
    head.handle(arrived("a", 1, outcome("t", Ending.CANCELLED, attempt=0), at=100.0))
    assert head.state.ending is not None and (head.state.ending.state, head.state.ending.out_of_time) == ("DONE", True)
    assert head.state.late.keys() == {"t"} and not head.state.unsent, "nobody wanted it cancelled: it is the client's again"


def test_what_partitions_give_back_as_their_time_is_over_is_the_clients_again() -> None:
    head = ready_head(part("a"), part("b"), deadline=100.0)
    head.handle(submitted(1, names("t", 4)))
    in_a, in_b = ([uid for uid, task in head.state.tasks.items() if task.partition == name] for name in "ab")
    assert in_a and in_b
    tries = {in_a[0]: (Attempt(2), 1)}
    head.handle(events.PartitionEndArrived(81.0, "a", 1, "DONE", "its time is over", tries, True))
    assert head.state.ending is None, "the other partition still runs"
    head.handle(events.PartitionEndArrived(82.0, "b", 1, "DONE", "its time is over", {}, True))
    assert head.state.ending is not None and (head.state.ending.state, head.state.ending.out_of_time) == ("DONE", True)
    assert head.state.late.keys() == {*in_a, *in_b} and head.finished
    step = head.handle(events.LinkOpened(83.0))
    (goodbye,) = (action for action in step.actions if isinstance(action, agent_actions.SendPilotEnded))
    assert (goodbye.begun, goodbye.tries, goodbye.out_of_time) == ([in_a[0]], tries, True)


def test_a_pilot_that_has_nothing_left_to_do_ends() -> None:
    head = ready_head(part("a"), idle_timeout_s=60.0)
    assert head.next_deadline() == 60.0
    head.handle(submitted(1, ["t"], at=10.0))
    head.handle(arrived("a", 1, outcome("t"), at=20.0))
    assert head.next_deadline() == 80.0
    head.handle(events.TimePassed(80.0))
    assert head.state.ending is not None and head.state.ending.idle
    assert sent_to(head, "a")[-1] == QueuedEnd(True)
    head.handle(submitted(2, ["late"], at=81.0))
    assert head.state.late == {"late": 1} and not head.state.tasks


def test_blamed_tasks_end_as_lost_wherever_they_are() -> None:
    head = ready_head(part("a"))
    head.handle(submitted(1, names("t", 6)))
    another = again(head, part("a"))
    leased = next(uid for uid, task in another.state.tasks.items() if task.partition)
    waiting = next(uid for uid, task in another.state.tasks.items() if not task.partition)
    another.quarantine(9.0, [leased, waiting, TaskUid("unknown")], "two heads died of it")
    step = another.handle(arrived("a", 1, outcome(leased, Ending.CANCELLED)))
    assert {uid: ending for uid, (ending, _) in ended_by(step).items()} == {leased: Ending.LOST, waiting: Ending.LOST}


# ---------------------------------------------------------------------------------------------------------------- the log


def test_the_facts_alone_rebuild_the_state_and_another_head_goes_on() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    head.handle(submitted(1, names("t", 9)))
    another = again(head, part("a", 1), part("b", 1))
    assert another.state == head.state
    held = [uid for uid, task in another.state.tasks.items() if task.partition == "a"]
    step = another.handle(arrived("a", 1, *(outcome(uid) for uid in held)))
    assert leased_by(step)["a"], "what waited is leased"


def test_functions_and_executables_go_where_they_are_taken() -> None:
    head = ready_head(part("calls", 1, kinds=("function",)), part("programs", 1, kinds=("executable",)))
    assert list(leased_by(head.handle(submitted(1, ["f"], FUNCTION)))) == ["calls"]
    assert list(leased_by(head.handle(submitted(2, ["e"])))) == ["programs"]
    step = head.handle(submitted(3, ["s"], Template(executable="/bin/server", service=Service())))
    assert ended_by(step)["s"] == (
        Ending.INFEASIBLE,
        "no partition can run it. partition 'calls': it takes no task of kind 'service', only 'function'; "
        "partition 'programs': it takes no task of kind 'service', only 'executable'",
    )


def test_a_core_is_refused_a_plan_that_cannot_be() -> None:
    with pytest.raises(InvalidPilot, match="the partitions ask for 3 nodes"):
        fresh_head(part("a", 1), part("b", 2), count=2)


def test_companions_stay_together() -> None:
    head = ready_head(part("a", 1), part("b", 1))
    together = Template(executable="/bin/true", request=Request(colocate="x"))
    assert len(leased_by(head.handle(submitted(1, names("t", 3), together)))) == 1
    assert leased_by(head.handle(submitted(2, ["u"], together))).keys() <= {head.state.anchors["x"]}
    where = head.state.tasks[TaskUid("t0")].partition
    beside = Template(executable="/bin/true", request=Request(beside="t0"))
    assert list(leased_by(head.handle(submitted(3, ["v"], beside)))) in ([where], [])
    nowhere = Template(executable="/bin/true", request=Request(beside="unknown"))
    assert ended_by(head.handle(submitted(4, ["w"], nowhere)))["w"][0] is Ending.INFEASIBLE
