"""Tasks that wait for others: who is freed, who can never run, and what they are told of services."""

from __future__ import annotations

import msgspec
import pytest
from client_builders import MANAGER, Session, kinds, nodes, outcome, raw, told

from pilotage.core.client import actions, events
from pilotage.core.client.core import ClientCore
from pilotage.core.client.facts import AfterPolicy, Held
from pilotage.core.client.holding import waiting_for
from pilotage.core.client.state import ClientState, QueuedEnvironment
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.outcome import Ending


def bound(session: Session, uid: str) -> bool:
    return session.state.tasks[TaskUid(uid)].binding > 0


def test_a_task_is_bound_when_the_last_of_those_before_it_is_done() -> None:
    session = Session("pilot.0000")
    session.submit("a", "b")
    session.submit_after("c", "a", "b")
    session.outcomes("pilot.0000", outcome("a"))
    assert not bound(session, "c")
    assert told(session.outcomes("pilot.0000", outcome("b"))) == ["b", "c"]
    assert bound(session, "c")
    session.check()


def test_a_task_after_one_that_ended_before_is_bound_at_once() -> None:
    session = Session("pilot.0000")
    session.submit("a")
    session.outcomes("pilot.0000", outcome("a"))
    session.submit_after("b", "a")
    assert bound(session, "b")


@pytest.mark.parametrize(
    ("policy", "first", "second", "runs"),
    [
        ("ok", Ending.DONE, Ending.DONE, True),
        ("ok", Ending.DONE, Ending.EXITED, False),
        ("any", Ending.EXITED, Ending.LOST, True),
        ("notok", Ending.DONE, Ending.DONE, False),
        ("notok", Ending.DONE, Ending.EXITED, True),
    ],
)
def test_policies(policy: AfterPolicy, first: Ending, second: Ending, runs: bool) -> None:
    session = Session("pilot.0000")
    session.submit("a", "b")
    session.submit_after("c", "a", "b", policy=policy)
    session.outcomes("pilot.0000", outcome("a", ending=first))
    session.outcomes("pilot.0000", outcome("b", ending=second))
    assert bound(session, "c") is runs
    if not runs:
        assert session.ending_of("c") is Ending.CANCELLED
    session.check()


def test_what_was_asked_stays_when_the_task_waits_no_more_and_costs_nothing_for_others() -> None:
    session = Session("pilot.0000")
    session.submit("a", "s")
    session.submit_after("b", "a", policy="any", services=("s",))
    said = {"b": Held((TaskUid("a"),), "any", (TaskUid("s"),))}
    assert session.state.held == session.state.asked == said
    session.ready("pilot.0000", s="here:1")
    session.outcomes("pilot.0000", outcome("a"))
    assert bound(session, "b") and not session.state.held
    assert session.state.asked == session.recovered().asked == said
    session.check()


def test_a_snapshot_of_before_tells_of_those_that_still_wait() -> None:
    session = Session("pilot.0000")
    session.submit("a", "b")
    session.submit_after("c", "a", policy="any")
    snapshot = msgspec.msgpack.decode(msgspec.msgpack.encode(session.state))
    del snapshot["asked"]
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=ClientState)
    assert state.asked == {"c": Held((TaskUid("a"),), "any")}
    core = ClientCore(state)
    core.handle(events.CancelRequested(99.0, [TaskUid("c")]))
    assert (state.held, [*state.asked]) == ({}, ["c"])


def test_a_failure_ends_the_whole_chain_at_once_and_says_of_whom() -> None:
    session = Session("pilot.0000")
    session.submit("a", "z")
    session.submit_after("b", "a", "z")
    session.submit_after("c", "b")
    session.submit_after("d", "c", policy="any")
    decision = session.outcomes("pilot.0000", outcome("a", ending=Ending.EXITED))
    assert told(decision) == ["a", "b", "c", "d"]
    assert session.ending_of("b") is session.ending_of("c") is Ending.CANCELLED
    assert bound(session, "d")
    ended = session.state.tasks[TaskUid("b")].outcome
    assert ended is not None and "'a'" in ended.message
    session.check()


def test_all_of_a_chain_are_told_of_the_task_with_which_it_began() -> None:
    session = Session("pilot.0000")
    session.submit("a")
    session.submit_after("b", "a")
    session.submit_after("c", "b")
    session.submit_after("d", "c")
    session.outcomes("pilot.0000", outcome("a", ending=Ending.EXITED))
    ended = [session.state.tasks[TaskUid(uid)].outcome for uid in "bcd"]
    assert {told.message for told in ended if told is not None} == {
        "cancelled: it was to run after 'a' is done, which ended: exited"
    }


def test_tasks_of_one_submission_may_wait_for_each_other() -> None:
    session = Session("pilot.0000")
    held = {"b": Held((TaskUid("a"),)), "c": Held((TaskUid("b"),))}
    session.submit("a", "b", "c", held=held)
    assert [bound(session, uid) for uid in "abc"] == [True, False, False]
    session.outcomes("pilot.0000", outcome("a"))
    session.outcomes("pilot.0000", outcome("b"))
    assert bound(session, "c")


def test_cancelling_a_held_task_ends_it_and_those_after_it() -> None:
    session = Session("pilot.0000")
    session.submit("a")
    session.submit_after("b", "a")
    session.submit_after("c", "b")
    session.cancel("b")
    assert session.ending_of("b") is session.ending_of("c") is Ending.CANCELLED
    session.outcomes("pilot.0000", outcome("a"))
    session.check()


def test_a_task_that_needs_a_service_is_told_its_information() -> None:
    session = Session("pilot.0000")
    session.submit("db-1")
    session.submit_after("b", services=("db-1",))
    assert not bound(session, "b")
    session.ready("pilot.0000", **{"db-1": "node:5432"})
    assert bound(session, "b")
    extra = session.state.tasks[TaskUid("b")].row.extra
    assert extra is not None
    assert extra.variables == {"PILOTAGE_SERVICE_DB_1": "node:5432", "RP_INFO_DB_1": "node:5432"}
    session.check()


def test_a_service_that_ends_takes_those_that_wait_for_it_along() -> None:
    session = Session("pilot.0000")
    session.submit("db", "a")
    session.submit_after("b", "a", services=("db",))
    session.ready("pilot.0000", db="x")
    session.outcomes("pilot.0000", outcome("db", ending=Ending.TIMED_OUT))
    assert session.ending_of("b") is Ending.CANCELLED
    session.check()


def test_a_service_that_has_to_find_another_pilot_is_waited_for_again() -> None:
    session = Session("pilot.0000")
    session.submit("db")
    session.add("pilot.0001")
    session.greet("pilot.0001")
    session.submit("a", pinned="pilot.0001")
    session.submit_after("b", "a", services=("db",))
    session.ready("pilot.0000", db="old:1")
    session.goodbye("pilot.0000", "DONE")
    session.check()
    session.outcomes("pilot.0001", outcome("a"))
    assert not bound(session, "b")
    session.ready("pilot.0001", db="new:1")
    extra = session.state.tasks[TaskUid("b")].row.extra
    assert extra is not None and extra.variables["PILOTAGE_SERVICE_DB"] == "new:1"


def test_what_a_held_task_waits_for_can_be_told() -> None:
    session = Session("pilot.0000")
    session.submit("a", "db")
    session.submit_after("b", "a", services=("db",))
    words = waiting_for(session.state.held[TaskUid("b")], session.state)
    assert words == "waits for 1 of 1 tasks before it to end, such as 'a' and for service 'db' to be ready"


def test_a_pinned_task_goes_to_its_pilot_when_it_is_freed() -> None:
    session = Session("pilot.0000", "pilot.0001")
    session.submit("a", pinned="pilot.0000")
    session.submit("b", pinned="pilot.0001", held={"b": Held((TaskUid("a"),))})
    session.outcomes("pilot.0000", outcome("a"))
    assert session.pilot_of("b") == "pilot.0001"


def test_the_end_of_the_last_pilot_ends_held_tasks_too() -> None:
    session = Session("pilot.0000")
    session.submit("a")
    session.submit_after("b", "a", policy="any")
    session.goodbye("pilot.0000", "DONE")
    assert session.ending_of("b") is Ending.LAUNCH_FAILED
    session.check()


def test_closing_the_session_ends_held_tasks() -> None:
    session = Session()
    session.submit("a")
    session.submit_after("b", "a")
    session.do(events.SessionClosing(session.tick()))
    assert session.ending_of("b") is Ending.CANCELLED


def test_held_tasks_are_found_again_after_a_crash() -> None:
    session = Session("pilot.0000")
    session.submit("a")
    session.submit_after("b", "a")
    session.crash()
    session.check()
    session.outcomes("pilot.0000", outcome("a"))
    assert bound(session, "b")


def test_a_pilot_with_services_takes_tasks_once_they_are_ready() -> None:
    session = Session()
    pilot, service = PilotUid("pilot.0000"), TaskUid("db")
    session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", pilot, raw({}), nodes(), (service,)))
    session.do(events.PilotsAttached(session.tick(), MANAGER, [pilot]))
    session.submit("db", pinned="pilot.0000")
    session.greet("pilot.0000")
    session.submit("a")
    assert bound(session, "db") and not bound(session, "a")
    session.ready("pilot.0000", db="node:1")
    assert bound(session, "a")
    session.check()


def test_a_pilot_whose_service_cannot_be_had_ends_and_says_so() -> None:
    session = Session()
    pilot = PilotUid("pilot.0000")
    session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", pilot, raw({}), nodes(), (TaskUid("db"),)))
    session.do(events.PilotsAttached(session.tick(), MANAGER, [pilot]))
    session.submit("db", pinned="pilot.0000")
    session.greet("pilot.0000")
    decision = session.outcomes("pilot.0000", outcome("db", ending=Ending.LAUNCH_FAILED))
    assert "PilotEndAsked" in kinds(decision)
    assert any(isinstance(action, actions.Warn) and "'db'" in action.message for action in decision.actions)


def test_an_environment_is_asked_for_in_a_numbered_message() -> None:
    session = Session("pilot.0000")
    session.do(events.EnvironmentAsked(session.tick(), PilotUid("pilot.0000"), "ml", raw({"kind": "venv"})))
    session.number_all("pilot.0000")
    (message,) = session.state.pilots[PilotUid("pilot.0000")].unacknowledged.values()
    assert isinstance(message, QueuedEnvironment) and message.name == "ml"
    session.check()
