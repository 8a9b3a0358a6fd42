"""How managers deal tasks to several pilots, by their schedulers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from client_builders import BESIDE_A, MANAGER, ON_GPU, RESTARTABLE, WIDE, Session, kinds, outcome, raw

from pilotage.core.client import events, facts
from pilotage.core.client.binding import Capacity, weight
from pilotage.core.client.core import ClientCore
from pilotage.core.client.state import ClientState
from pilotage.model.ids import Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import GPU_SHARES, Request
from pilotage.model.states import DONE

Make = Callable[..., Session]


@pytest.fixture
def make() -> Iterator[Make]:
    """Make sessions that must be consistent and recoverable at the test's end."""
    made: list[Session] = []

    def one(*pilots: str, **how: Any) -> Session:
        made.append(Session(*pilots, **how))
        return made[-1]

    yield one
    for session in made:
        session.check()


def numbered(count: int, first: int = 0) -> list[str]:
    return [f"t{number:03d}" for number in range(first, first + count)]


def where(session: Session, uids: list[str]) -> list[str]:
    return [session.pilot_of(uid) for uid in uids]


def shared(session: Session) -> Counter[str]:
    return Counter(record.pilot for record in session.state.tasks.values())


# round robin


def test_round_robin_binds_in_turn_before_any_pilot_is_active(make: Make) -> None:
    session = make("p", "q", "r", active=False, scheduler="round_robin")
    session.submit(*numbered(7))
    assert where(session, numbered(7)) == ["p", "q", "r", "p", "q", "r", "p"]
    session.submit(*numbered(2, 7))
    assert where(session, numbered(2, 7)) == ["q", "r"]


def test_the_turn_goes_on_after_a_crash(make: Make) -> None:
    session = make("p", "q", "r", scheduler="round_robin")
    session.submit("a")
    session.crash()
    session.submit("b", "c")
    assert where(session, ["a", "b", "c"]) == ["p", "q", "r"]
    assert session.state.managers[MANAGER].scheduler == "round_robin"


def test_round_robin_passes_over_pilots_that_can_never_hold_the_task_and_is_fair_in_the_rest(make: Make) -> None:
    session = make("small", "other", scheduler="round_robin")
    session.add("large", cores=8)
    session.add("huge", cores=16)
    for number in range(20):
        session.submit(f"wide{number}", template=WIDE)
        session.submit(f"plain{number}", f"more{number}")
    assert {session.pilot_of(f"wide{number}") for number in range(20)} == {"large", "huge"}
    # Each has as many of all: who got wide ones is passed over in turn.
    assert shared(session) == {"small": 15, "other": 15, "large": 15, "huge": 15}


def test_what_fits_nowhere_goes_round_and_is_refused_there(make: Make) -> None:
    session = make("p", "q", scheduler="round_robin")
    session.submit("a", "b", template=WIDE)
    assert where(session, ["a", "b"]) == ["p", "q"]


@pytest.mark.parametrize("scheduler", ["round_robin", "backfilling"])
def test_who_runs_beside_another_task_goes_to_its_pilot(make: Make, scheduler: facts.TaskScheduler) -> None:
    session = make("p", "q", scheduler=scheduler)
    session.submit("a")
    session.submit(*numbered(3), template=BESIDE_A)
    assert set(where(session, numbered(3))) == {session.pilot_of("a")}


def test_a_pilot_that_comes_later_gets_its_turn_and_no_more(make: Make) -> None:
    session = make("p", "q", scheduler="round_robin")
    session.submit(*numbered(10))
    session.add("late")
    session.submit(*numbered(6, 10))
    assert Counter(where(session, numbered(6, 10))) == {"p": 2, "q": 2, "late": 2}


def test_tasks_without_a_pilot_are_dealt_to_all_that_are_added_together(make: Make) -> None:
    session = make(scheduler="round_robin")
    session.submit(*numbered(6))
    for uid in ("p", "q", "r"):
        session.do(events.PilotSubmitted(session.tick(), "pmgr.0000", PilotUid(uid), raw({}), []))
    session.do(events.PilotsAttached(session.tick(), MANAGER, [PilotUid("p"), PilotUid("q"), PilotUid("r")]))
    assert shared(session) == {"p": 2, "q": 2, "r": 2}


def test_pinned_tasks_take_nobodys_turn(make: Make) -> None:
    session = make("p", "q", scheduler="round_robin")
    session.submit("a", "b", "c", pinned="q")
    session.submit("d", "e")
    assert where(session, ["d", "e"]) == ["p", "q"]


def test_a_pilot_whose_services_are_not_ready_is_passed_over(make: Make) -> None:
    session = make("p", scheduler="round_robin")
    session.add("serving", services=("s",))
    session.submit("s", pinned="serving")
    session.submit("a", "b")
    assert where(session, ["a", "b"]) == ["p", "p"]
    session.greet("serving")
    session.ready("serving", s="here")
    session.submit("c")
    assert session.pilot_of("c") == "serving"


def test_tasks_wait_while_the_services_of_all_pilots_are_awaited(make: Make) -> None:
    session = make(scheduler="round_robin")
    session.add("serving", services=("s",))
    session.submit("s", pinned="serving")
    session.submit("a")
    assert session.pilot_of("a") == ""
    session.greet("serving")
    session.ready("serving", s="here")
    assert session.pilot_of("a") == "serving"


def test_a_pilot_that_never_becomes_active_gives_its_tasks_to_the_others_in_turn(make: Make) -> None:
    session = make("p", "q", "r", active=False, scheduler="round_robin")
    session.submit(*numbered(12))
    session.greet("p")
    session.lose("q")
    assert shared(session) == {"p": 6, "r": 6}
    assert all(record.outcome is None for record in session.state.tasks.values())
    moved = [record.binding for record in session.state.tasks.values() if record.binding == 2]
    assert len(moved) == 4


def test_a_dead_pilot_gives_back_what_it_never_had_and_what_may_run_twice(make: Make) -> None:
    session = make("p", "q", "r", scheduler="round_robin")
    session.submit("a", "b", "c")
    session.submit("d", "e", "f", template=RESTARTABLE)
    session.number_all("p")
    session.submit("g", "h", "i")
    assert [uid for uid in "abcdefghi" if session.pilot_of(uid) == "p"] == ["a", "d", "g"]
    session.lose("p")
    assert session.ending_of("a") is Ending.LOST
    assert {session.pilot_of("d"), session.pilot_of("g")} == {"q", "r"}


def test_a_lone_pilot_takes_all_in_the_fact_that_accepts_them(make: Make) -> None:
    session = make("p", scheduler="round_robin")
    assert kinds(session.submit("a", "b")) == ["TasksAccepted"]
    session.add("q")
    session.submit("c")
    assert session.state.managers[MANAGER].dealt == {"p": 3, "q": 2}


# backfilling


def test_backfilling_waits_for_an_active_pilot_and_keeps_to_its_window_even_if_it_is_the_only_one(make: Make) -> None:
    session = make("p", active=False, scheduler="backfilling")
    session.submit(*numbered(9))
    assert shared(session) == {"": 9}
    session.greet("p")
    assert shared(session) == {"p": 4, "": 5}
    session.outcomes("p", *(outcome(uid) for uid in numbered(3)))
    assert session.state.pilots[PilotUid("p")].load == 4


@pytest.mark.parametrize("scheduler", ["", "backfilling"])
def test_a_wide_task_counts_by_its_cores(make: Make, scheduler: facts.TaskScheduler) -> None:
    session = make(scheduler=scheduler)
    for pilot in ("p", "q"):
        session.add(pilot, cores=16)
        session.greet(pilot)
    session.submit(*numbered(20), template=WIDE)
    # Two tasks of 8 cores fill a pilot of 16, and as many again wait there.
    assert shared(session) == {"p": 4, "q": 4, "": 12}
    session.outcomes("p", *(outcome(uid) for uid in numbered(20) if session.pilot_of(uid) == "p"))
    assert session.state.pilots[PilotUid("p")].wide == {WIDE: 4}


def test_tasks_on_gpus_count_by_the_part_of_the_gpus(make: Make) -> None:
    session = make(scheduler="backfilling")
    session.add("p", cores=56, gpus=8)
    session.greet("p")
    session.submit(*numbered(50), template=ON_GPU)
    assert shared(session) == {"p": 16, "": 34}


def test_narrow_tasks_go_beside_wide_ones_to_where_there_is_more_room(make: Make) -> None:
    session = make(scheduler="backfilling")
    for pilot in ("p", "q"):
        session.add(pilot, cores=16)
        session.greet(pilot)
    session.submit("w", template=WIDE, pinned="p")
    session.submit(*numbered(56))
    assert shared(session) == {"p": 1 + 24, "q": 32}


def test_a_task_wider_than_the_window_that_is_left_is_dealt_all_the_same(make: Make) -> None:
    session = make(scheduler="backfilling")
    session.add("p", cores=8)
    session.greet("p")
    session.submit(*numbered(9))
    session.submit("wide", "wider", template=WIDE)
    # 7 of 16 are left: the first one is dealt, as it will be next; the second one is not.
    assert where(session, ["wide", "wider"]) == ["p", ""]


@pytest.mark.parametrize(
    ("request_", "cores"),
    [
        (Request(), 1),
        (Request(ranks=4, cores=2), 8),
        (Request(gpu_shares=GPU_SHARES), 7),
        (Request(ranks=2, gpu_shares=GPU_SHARES // 2), 7),
        (Request(memory=50), 28),
        (Request(disk=10), 1),
        (Request(exclusive=True), 28),
        (Request(exclusive=True, ranks=4, ranks_per_node=2), 56),
    ],
)
def test_what_a_task_counts_as(request_: Request, cores: int) -> None:
    two_nodes = Capacity(nodes=2, cores=56, gpu_shares=8 * GPU_SHARES, memory=100, disk=0)
    assert weight(request_, two_nodes) == cores


def test_sums_of_a_pilot_follow_its_nodes(make: Make) -> None:
    session = make(scheduler="backfilling")
    session.add("p", cores=2)
    session.greet("p")
    session.submit(*numbered(20))
    assert shared(session)["p"] == 4
    more = [msgspec.structs.replace(node, shape=msgspec.structs.replace(node.shape, cores=4)) for node in session.nodes_of("p")]
    session.do(events.AgentGreeted(session.tick(), PilotUid("p"), 2, 0, more))
    assert shared(session)["p"] == 8


# logs


def test_logs_and_snapshots_of_before_are_read() -> None:
    old = msgspec.msgpack.encode([3, 1.0, "tmgr.0000", "tasks"])
    assert msgspec.msgpack.decode(old, type=facts.Fact) == facts.ManagerAdded(1.0, "tmgr.0000", "tasks", "")
    session = Session("p")
    session.submit("a", template=WIDE)
    plain = msgspec.msgpack.decode(msgspec.msgpack.encode(session.state), strict=False)
    for manager in plain["managers"].values():
        del manager["scheduler"], manager["dealt"]
    del plain["pilots"]["p"]["wide"]
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=ClientState)
    session.core = ClientCore(again)
    session.outcomes("p", outcome("a"))
    assert (again.pilots[PilotUid("p")].load, again.managers[MANAGER].scheduler) == (0, "")


def test_a_pilot_gets_as_many_tasks_as_it_waits_for(make: Make) -> None:
    session = make(scheduler="backfilling")
    session.add("p", cores=2, barrier=30)
    session.greet("p")
    session.submit(*numbered(20))
    assert shared(session) == {"p": 20}
    session.submit(*numbered(20, 20))
    assert shared(session) == {"p": 30, "": 10}


def test_a_pilot_that_ended_in_good_order_while_its_client_was_away_did_not_fail(make: Make) -> None:
    session = make("p", "q", scheduler="round_robin")
    session.submit("a", "b")
    session.number_all("p")
    not_begun = [(TaskUid("a"), Binding(1))]
    session.do(events.PilotLost(session.tick(), PilotUid("p"), "idle", 1, [], raw([]), not_begun, DONE))
    assert (session.state.pilots[PilotUid("p")].state, session.state.pilots[PilotUid("p")].reason) == (DONE, "idle")
    assert session.pilot_of("a") == "q"
