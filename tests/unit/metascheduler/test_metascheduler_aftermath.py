"""What the client learns from the logs of a head and its partitions when all of the pilot is gone."""

from __future__ import annotations

from metascheduler_builders import arrived, leased_by, names, outcome, part, ready_head, sent_to, submitted

from pilotage.core.agent.aftermath import Aftermath
from pilotage.core.metascheduler.aftermath import aftermath_of_all
from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Outcome

LEASE = Binding(1)


def pairs(uids: list[str], binding: int = 7) -> list[tuple[TaskUid, Binding]]:
    return [(TaskUid(uid), Binding(binding)) for uid in uids]


def partition_log(
    received: int | None = 1,
    outcomes: list[Outcome] | None = None,
    not_begun: tuple[str, ...] = (),
    begun: tuple[str, ...] = (),
) -> Aftermath:
    tries = {TaskUid(uid): (Attempt(1), 0) for uid in begun}
    return Aftermath(received, outcomes or [], pairs(list(not_begun), LEASE), pairs(list(begun), LEASE), tries)


def head_with_leases() -> tuple[MetaschedulerCore, list[str], list[str]]:
    """A head that has given tasks to the partitions a and b, and keeps some itself; they are bound to it as the seventh."""
    head = ready_head(part("a"), part("b"))
    leased = leased_by(head.handle(submitted(1, names("t", 20), binding=7)))
    sent_to(head, "a")
    sent_to(head, "b")
    assert len(leased["a"]) >= 2 and len(leased["b"]) >= 2 and len(leased["a"]) + len(leased["b"]) < 20
    return head, leased["a"], leased["b"]


def test_what_the_head_has_not_given_away_did_not_begin() -> None:
    head, of_a, of_b = head_with_leases()
    waiting = [uid for uid in names("t", 20) if uid not in (*of_a, *of_b)]
    logs = {"a": partition_log(begun=tuple(of_a)), "b": partition_log(not_begun=tuple(of_b))}
    found = aftermath_of_all(head.state, logs, 0)
    assert found.received == 1 and found.outcomes == []
    assert sorted(found.not_begun) == sorted(pairs([*waiting, *of_b]))
    assert sorted(found.may_have_run) == sorted(pairs(of_a))
    assert found.tries == {TaskUid(uid): (1, 0) for uid in of_a}


def test_outcomes_that_the_head_did_not_hear_of_count_under_the_clients_binding() -> None:
    head, of_a, of_b = head_with_leases()
    logs = {"a": partition_log(outcomes=[outcome(of_a[0])], begun=tuple(of_a[1:])), "b": partition_log(begun=tuple(of_b))}
    found = aftermath_of_all(head.state, logs, 0)
    assert [(each.task, each.binding) for each in found.outcomes] == pairs(of_a[:1])
    assert of_a[0] not in {uid for uid, _ in (*found.not_begun, *found.may_have_run)}


def test_outcomes_of_leases_that_are_over_do_not_count() -> None:
    head, of_a, of_b = head_with_leases()
    stale = outcome(of_b[0])
    logs = {"a": partition_log(outcomes=[stale], begun=tuple(of_a)), "b": partition_log(begun=tuple(of_b))}
    found = aftermath_of_all(head.state, logs, 0)
    assert found.outcomes == []
    assert pairs([of_b[0]])[0] in found.may_have_run


def test_outcomes_come_once_those_that_the_client_has_not_at_all() -> None:
    head, of_a, of_b = head_with_leases()
    head.handle(arrived("a", 1, outcome(of_a[0]), outcome(of_a[1])))
    logs = {"a": partition_log(begun=tuple(of_a[2:])), "b": partition_log(begun=tuple(of_b))}
    found = aftermath_of_all(head.state, logs, 0)
    assert [(each.task, each.binding) for each in found.outcomes] == pairs(of_a[:2])


def test_messages_that_never_reached_a_partition_began_nothing_there() -> None:
    head, of_a, of_b = head_with_leases()
    logs = {"a": partition_log(received=0), "b": partition_log(begun=tuple(of_b))}
    found = aftermath_of_all(head.state, logs, 0)
    assert set(pairs(of_a)) <= set(found.not_begun)


def test_of_a_partition_whose_log_cannot_be_read_nothing_is_known() -> None:
    head, of_a, of_b = head_with_leases()
    found = aftermath_of_all(head.state, {"b": partition_log(not_begun=tuple(of_b))}, 0)
    assert sorted(found.may_have_run) == sorted(pairs(of_a))


def test_a_lost_node_may_have_lost_the_end_of_the_heads_log() -> None:
    head, of_a, of_b = head_with_leases()
    logs = {"a": partition_log(not_begun=tuple(of_a)), "b": partition_log(not_begun=tuple(of_b))}
    found = aftermath_of_all(head.state, logs, 0, complete=False)
    assert found.received is None and found.not_begun == [] and len(found.may_have_run) == 20
