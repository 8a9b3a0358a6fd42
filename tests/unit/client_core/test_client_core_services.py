"""Services: a pilot fails if its own cannot be had; tasks are bound with the address that holds then."""

from __future__ import annotations

import pytest
from client_builders import MANAGER, PLAIN, Session, kinds, nodes, outcome, raw

from pilotage.core.client import actions, events
from pilotage.core.client.facts import Held
from pilotage.core.client.state import PilotRecord, QueuedEnd, queued_rows
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.states import CANCELED, DONE, FAILED
from pilotage.model.workload import Batch, Extra, Row

PILOT = PilotUid("pilot.0000")
FAILURE = "service 'db' of the pilot ended before it was ready: launch failed"


def broken() -> Session:
    """A session whose pilot has just heard that its service cannot be had."""
    session = Session()
    session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", PILOT, raw({}), nodes(), (TaskUid("db"),)))
    session.do(events.PilotsAttached(session.tick(), MANAGER, [PILOT]))
    session.submit("db", pinned=PILOT)
    session.greet(PILOT)
    session.submit("a")
    session.submit_after("b", services=("db",))
    session.outcomes(PILOT, outcome("db", ending=Ending.LAUNCH_FAILED))
    return session


def record(session: Session) -> PilotRecord:
    return session.state.pilots[PILOT]


def test_a_pilot_whose_service_cannot_be_had_is_told_to_end_and_why() -> None:
    session = broken()
    assert "PilotEndAsked" in kinds(session.last)
    assert record(session).outbox[-1] == QueuedEnd(False, FAILURE)
    assert actions.Warn(f"pilot {PILOT!r} ends: {FAILURE}") in session.last.actions


@pytest.mark.parametrize("said", [(FAILED, FAILURE), (DONE, "the pilot's runtime is over"), (CANCELED, ""), None])
@pytest.mark.parametrize("crash", [False, True])
def test_it_failed_for_this_reason_whatever_its_agent_lives_to_say(said: tuple[str, str] | None, crash: bool) -> None:
    session = broken()
    if crash:
        session.crash()
    session.end_pilot(PILOT)
    more = {FAILURE: "", "": ""}
    if said is None:
        session.lose(PILOT)
        expected = f"{FAILURE}; killed"
    else:
        session.goodbye(PILOT, *said)
        expected = FAILURE + more.get(said[1], f"; {said[1]}")
    assert (record(session).state, record(session).reason) == (FAILED, expected)
    session.check()


def test_tasks_that_wait_for_it_end_as_those_of_a_failed_pilot() -> None:
    session = broken()
    assert session.ending_of("b") is Ending.CANCELLED, "the service that it needs is over"
    session.goodbye(PILOT, FAILED, FAILURE)
    assert session.ending_of("a") is Ending.LAUNCH_FAILED
    found = session.state.tasks[TaskUid("a")].outcome
    assert found is not None and FAILURE in found.message
    assert found.message.endswith("submit the task again, with a pilot whose services can start")


def test_a_pilot_that_its_user_ends_does_not_fail_with_its_services() -> None:
    session = Session()
    session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", PILOT, raw({}), nodes(), (TaskUid("db"),)))
    session.submit("db", pinned=PILOT)
    session.greet(PILOT)
    session.end_pilot(PILOT)
    session.outcomes(PILOT, outcome("db", ending=Ending.CANCELLED))
    session.goodbye(PILOT, CANCELED, "the pilot was ended by the user")
    assert (record(session).state, record(session).reason) == (CANCELED, "the pilot was ended by the user")


def test_a_task_that_waits_for_a_pilot_while_its_service_moves_is_bound_with_the_new_address() -> None:
    session = Session(PILOT)
    session.submit("db")
    session.ready(PILOT, db="old:1")
    session.add("pilot.0001")
    session.submit("first", "second", "third", "fourth")
    needs = Extra(variables={"KEPT": "x"}, services={"DB": TaskUid("db")})
    batch = Batch({}, [Row(TaskUid("a"), PLAIN, extra=needs)])
    held = {TaskUid("a"): Held(services=(TaskUid("db"),))}
    session.do(events.TasksSubmitted(session.tick(), MANAGER, PilotUid(""), batch, raw(batch), held=held))
    assert not session.state.tasks[TaskUid("a")].pilot, "there is no room yet"
    session.ready(PILOT, db="new:2")
    session.greet("pilot.0001")
    (bound,) = [row for row in queued_rows(record_of(session, "a").outbox) if row.uid == "a"]
    assert bound.extra is not None and bound.extra.variables["DB"] == "new:2" and bound.extra.variables["KEPT"] == "x"
    session.check()


def record_of(session: Session, task: str) -> PilotRecord:
    return session.state.pilots[PilotUid(session.pilot_of(task))]
