"""Gangs in the client's core: all members get one pilot, and one that ends before a pilot has it is the end of all."""

from __future__ import annotations

from collections.abc import Iterator

import client_builders
import pytest
from client_builders import MANAGER, WIDE, Session, nodes, raw

from pilotage.core.client import events, facts
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.states import FAILED
from pilotage.model.workload import Template

MEMBER, PAIR, DEEP, OTHER, TRIPLE = map(TemplateId, range(21, 26))
SCHEDULERS = pytest.mark.parametrize("scheduler", ["round_robin", "backfilling"])


@pytest.fixture(autouse=True)
def _gangs(monkeypatch: pytest.MonkeyPatch) -> None:
    for template, gang, size, cores in (
        (MEMBER, "g", 30, 1),
        (PAIR, "p", 2, 1),
        (DEEP, "p", 2, 8),
        (OTHER, "h", 2, 1),
        (TRIPLE, "t", 3, 1),
    ):
        request = Request(cores=cores, gang=gang, gang_size=size)
        monkeypatch.setitem(client_builders.TEMPLATES, template, Template(executable="/bin/true", request=request))


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    made: list[Session] = []
    yield made
    for session in made:
        session.check()


def homes(session: Session, *uids: str) -> set[str]:
    return {session.pilot_of(uid) for uid in uids}


@SCHEDULERS
def test_all_members_get_the_pilot_of_the_first_whatever_room_it_has(
    sessions: list[Session], scheduler: facts.TaskScheduler
) -> None:
    session = Session("p", "q", scheduler=scheduler)
    sessions.append(session)
    first, second = [f"a{number}" for number in range(20)], [f"b{number}" for number in range(10)]
    session.submit(*first, template=MEMBER)
    session.submit(*[f"x{number}" for number in range(3)])
    session.crash()
    assert homes(session, *first) == {""}, "those that wait for others take no room"
    session.submit(*second, template=MEMBER)
    assert len(homes(session, *first, *second)) == 1 and homes(session, *first) <= {"p", "q"}


@SCHEDULERS
def test_members_wait_for_their_pilot_alone_and_gangs_are_shared_out(
    sessions: list[Session], scheduler: facts.TaskScheduler
) -> None:
    session = Session("p", "q", scheduler=scheduler)
    sessions.append(session)
    session.submit("a", "b", template=PAIR)
    session.submit("c", "d", template=OTHER)
    assert len(homes(session, "a", "b")) == len(homes(session, "c", "d")) == 1
    assert homes(session, "a", "c") == {"p", "q"}


@SCHEDULERS
def test_they_get_a_pilot_that_can_hold_all_that_are_known(sessions: list[Session], scheduler: facts.TaskScheduler) -> None:
    session = Session(scheduler=scheduler)
    sessions.append(session)
    session.submit("a", template=PAIR)
    session.submit("b", template=DEEP)
    for uid, cores in (("small", 2), ("other", 2), ("large", 8)):
        session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", PilotUid(uid), raw({}), nodes(cores)))
    session.do(events.PilotsAttached(session.tick(), MANAGER, [PilotUid(uid) for uid in ("small", "other", "large")]))
    for uid in ("small", "other", "large"):
        session.greet(uid)
    session.submit("more")
    assert homes(session, "a", "b") == {"large"}


@SCHEDULERS
def test_those_that_did_not_begin_when_their_pilot_ended_go_on_together(
    sessions: list[Session], scheduler: facts.TaskScheduler
) -> None:
    session = Session("p", "q", "r", scheduler=scheduler)
    sessions.append(session)
    session.submit("a", "b", "c", template=TRIPLE)
    (home,) = homes(session, "a", "b", "c")
    session.goodbye(home, FAILED, "over")
    (other,) = homes(session, "a", "b", "c")
    assert other not in (home, "")


def test_one_that_waits_for_others_in_vain_ends_its_gang(sessions: list[Session]) -> None:
    session = Session("p")
    sessions.append(session)
    session.submit("before", template=WIDE)
    session.submit("a", template=PAIR)
    session.submit("b", template=PAIR, held={"b": facts.Held((TaskUid("before"),))})
    assert session.pilot_of("a") == "p"
    session.outcomes("p", client_builders.outcome("before", ending=Ending.EXITED))
    assert session.ending_of("b") is Ending.CANCELLED
    assert session.state.tasks[TaskUid("a")].cancelling


def test_one_that_is_cancelled_before_a_pilot_has_it_ends_those_that_wait(sessions: list[Session]) -> None:
    session = Session()
    sessions.append(session)
    session.submit("a", "b", template=PAIR)
    session.submit("c", template=OTHER)
    session.cancel("a")
    found = session.state.tasks[TaskUid("b")].outcome
    assert found is not None and found.ending is Ending.CANCELLED
    assert found.message == "its gang 'p' cannot begin, as task 'a' ended before: cancelled before it was bound to a pilot"
    assert session.state.tasks[TaskUid("c")].outcome is None


def test_those_whose_gang_began_without_them_end_with_their_pilot(sessions: list[Session]) -> None:
    session = Session("p", "q")
    sessions.append(session)
    session.submit("a", "b", template=PAIR)
    (home,) = homes(session, "a", "b")
    session.outcomes(home, client_builders.outcome("a"))
    session.goodbye(home, FAILED, "over")
    found = session.state.tasks[TaskUid("b")].outcome
    assert found is not None and found.ending is Ending.CANCELLED and "began, or ended, without it" in found.message


def test_one_that_is_cancelled_before_its_pilot_is_active_ends_its_gang(sessions: list[Session]) -> None:
    session = Session("p", active=False)
    sessions.append(session)
    session.submit("a", "b", template=PAIR)
    session.submit("c", template=OTHER)
    session.cancel("b")
    assert session.ending_of("a") is session.ending_of("b") is Ending.CANCELLED
    assert session.pilot_of("c") == "p" and session.state.tasks[TaskUid("c")].outcome is None
