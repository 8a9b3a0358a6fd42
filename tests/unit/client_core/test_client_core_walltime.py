"""What becomes of the tasks of a pilot whose time was over: new attempts in others, and in pilots that follow it by themselves.

The last part walks at random through chains of pilots that live too short, in which every step may be the client's last.
"""

from __future__ import annotations

import random

import msgspec
import pytest
from client_builders import MANAGER, PLAIN, RESTARTABLE, RETRIED, TEMPLATES, Session, nodes, outcome, raw

from pilotage.core.client import actions, events, facts
from pilotage.core.client import journal as journal_module
from pilotage.core.client.applying import apply
from pilotage.core.client.facts import Held
from pilotage.core.client.pilots import Pilots
from pilotage.core.client.state import ClientState, JobRecord
from pilotage.core.client.successors import FRUITLESS, FRUITLESS_CONTINUING, Successors
from pilotage.model.ids import Attempt, PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.states import DONE, FAILED, PMGR_LAUNCHING_PENDING
from pilotage.model.workload import Extra, Template
from planted_faults import Patch, require_noticed

CONTINUES, FRESH = TemplateId(101), TemplateId(102)
OVER = "the pilot's runtime is over"
TEMPLATES[CONTINUES] = Template(executable="/bin/true", restart="continue")
TEMPLATES[FRESH] = Template(executable="/bin/true", restart="fresh")


class Succession(Session):
    """A session with a pilot that has successors."""

    def __init__(self, successors: int | str = 0) -> None:
        super().__init__()
        uid, description = PilotUid("p"), raw({"successors": successors})
        self.do(events.PilotSubmitted(self.tick(), "pmgr.0000", uid, description, nodes()))
        self.do(events.PilotsAttached(self.tick(), MANAGER, [uid]))
        self.greet(uid)

    def out_of_time(self, pilot: str, begun: tuple[str, ...] = (), **tries: tuple[int, int]) -> None:
        """The pilot says that its time was over; ``tries`` are of tasks that had attempts, ``begun`` were cut short."""
        record = self.state.pilots[PilotUid(pilot)]
        known = {TaskUid(uid): (Attempt(attempt), failures) for uid, (attempt, failures) in tries.items()}
        cut = [TaskUid(uid) for uid in begun]
        told = events.PilotEndArrived(self.tick(), record.uid, record.received + 1, DONE, OVER, cut, known, True, f"/s/{pilot}")
        self.do(told)

    def extra(self, uid: str) -> Extra:
        return self.state.tasks[TaskUid(uid)].row.extra or Extra()

    def warning(self) -> str:
        (action,) = (action for action in self.last.actions if isinstance(action, actions.Warn))
        return action.message

    def started(self) -> list[str]:
        return [action.pilot for action in self.last.actions if isinstance(action, actions.StartPilot)]


def test_what_was_cut_short_goes_on_in_another_pilot_where_it_was_or_anew() -> None:
    session = Succession()
    session.submit("a", template=CONTINUES)
    session.submit("b", template=FRESH)
    session.add("q")
    session.greet("q")
    session.out_of_time("p", ("a", "b"), a=(2, 1), b=(2, 1))
    for uid in ("a", "b"):
        assert session.pilot_of(uid) == "q"
        assert (session.extra(uid).attempts, session.extra(uid).failures) == (2, 1)
        assert session.extra(uid).sandbox == ("/s/p/tasks/a" if uid == "a" else "")


def test_a_sandbox_stays_where_the_first_pilot_had_it() -> None:
    session = Succession(5)
    session.submit("a", template=CONTINUES)
    session.out_of_time("p", ("a",), a=(1, 0))
    session.greet("p.2")
    session.out_of_time("p.2", ("a",), a=(2, 0))
    assert session.pilot_of("a") == "p.3" and session.extra("a").sandbox == "/s/p/tasks/a"
    assert session.extra("a").attempts == 2


def test_with_no_other_pilot_the_outcome_says_that_the_time_was_over() -> None:
    session = Succession()
    session.submit("waited")
    session.submit("cut", template=CONTINUES)
    session.submit_after("later", "waited")
    session.out_of_time("p", ("cut",), cut=(1, 0))
    assert {session.ending_of(uid) for uid in ("waited", "cut", "later")} <= {Ending.OUT_OF_WALLTIME, Ending.CANCELLED}
    assert session.ending_of("waited") is session.ending_of("cut") is Ending.OUT_OF_WALLTIME
    found = session.state.tasks[TaskUid("cut")].outcome
    assert found is not None and "there is no other pilot to go on in" in found.message
    assert session.state_of("cut") == FAILED


def test_bindings_that_ended_with_the_time_of_their_pilot_use_up_no_retries() -> None:
    session = Succession(9)
    session.submit("a", template=RETRIED)
    for pilot, successor in (("p", "p.2"), ("p.2", "p.3"), ("p.3", "p.4")):
        session.out_of_time(pilot)
        session.greet(successor)
    session.add("q")
    session.greet("q")
    session.number_all("p.4")
    session.lose("p.4")
    assert session.pilot_of("a") == "q", "it is its first loss"
    session.number_all("q")
    session.add("r")
    session.greet("r")
    session.lose("q")
    assert session.ending_of("a") is Ending.LOST


def test_a_pilot_whose_time_is_over_is_followed_by_one_that_takes_its_place() -> None:
    session = Succession(2)
    environment = raw({"kind": "venv"})
    session.do(events.EnvironmentAsked(session.tick(), PilotUid("p"), "conda", environment))
    session.submit("a")
    session.submit("named", pinned="p")
    session.out_of_time("p")
    assert session.started() == ["p.2"]
    assert session.warning() == "pilot 'p' is over, and tasks are left: pilot 'p.2' follows it, successor 1 of at most 2"
    record = session.state.pilots[PilotUid("p.2")]
    assert (record.state, record.manager, record.description) == (PMGR_LAUNCHING_PENDING, "pmgr.0000", raw({"successors": 2}))
    assert record.environments == {"conda": environment}
    session.greet("p.2")
    assert session.pilot_of("a") == session.pilot_of("named") == "p.2"
    session.crash()
    assert session.state.pilots[PilotUid("p.2")].generation == 1 and "p.2" in session.state.managers[MANAGER].pilots


def test_there_are_never_more_successors_than_asked_for() -> None:
    session = Succession(2)
    session.submit("a")
    for pilot, successor in (("p", "p.2"), ("p.2", "p.3")):
        session.out_of_time(pilot)
        assert session.started() == [successor]
        session.greet(successor)
    session.out_of_time("p.3")
    assert session.started() == [] and "it was the last of successors=2" in session.warning()
    assert session.ending_of("a") is Ending.OUT_OF_WALLTIME


def test_no_pilot_follows_when_nothing_is_left_or_somebody_wants_it_to_end() -> None:
    session = Succession("until_done")
    session.submit("a")
    session.outcomes("p", outcome("a"))
    session.out_of_time("p")
    assert session.started() == []
    ended = Succession("until_done")
    ended.submit("a")
    ended.end_pilot("p", drain=True)
    ended.out_of_time("p")
    assert ended.started() == []
    closed = Succession("until_done")
    closed.submit("a")
    closed.do(events.SessionClosing(closed.tick()))
    closed.out_of_time("p")
    assert closed.started() == []


def test_a_pilot_that_ends_for_another_reason_is_not_followed() -> None:
    session = Succession("until_done")
    session.submit("a")
    session.goodbye("p", FAILED, "its spawners do not come up")
    assert session.started() == [] and session.ending_of("a") is Ending.LAUNCH_FAILED


def test_tasks_that_wait_for_others_are_work_that_is_left() -> None:
    session = Succession(1)
    session.submit("a")
    session.submit("b", held={"b": Held((TaskUid("a"),))})
    session.outcomes("p", outcome("a"))
    session.out_of_time("p")
    assert session.started() == ["p.2"], "b is on its way"


@pytest.mark.parametrize(
    ("template", "pilots"), [(FRESH, FRUITLESS), (CONTINUES, FRUITLESS_CONTINUING)], ids=["fresh", "continue"]
)
def test_until_done_ends_with_work_that_does_not_advance(template: TemplateId, pilots: int) -> None:
    session = Succession("until_done")
    session.submit("endless", template=template)
    pilot = "p"
    for number in range(2, pilots + 1):
        session.out_of_time(pilot, ("endless",), endless=(number - 1, 0))
        pilot = f"p.{number}"
        assert session.started() == [pilot]
        session.greet(pilot)
    session.out_of_time(pilot, ("endless",), endless=(pilots, 0))
    assert session.started() == [] and f"no task came to its end in the last {pilots} of them" in session.warning()
    assert session.ending_of("endless") is Ending.OUT_OF_WALLTIME


def test_until_done_goes_on_as_long_as_tasks_come_to_their_end() -> None:
    session = Succession("until_done")
    session.submit("endless", *(f"t{number}" for number in range(20)), template=FRESH)
    pilot = "p"
    for number in range(20):
        session.outcomes(pilot, outcome(f"t{number}", session.state.tasks[TaskUid(f"t{number}")].binding))
        session.out_of_time(pilot, ("endless",), endless=(number + 1, 0))
        assert session.started() == [f"p.{number + 2}"]
        pilot = f"p.{number + 2}"
        session.greet(pilot)


@pytest.mark.parametrize(
    ("state", "ending"),
    [("timed_out", Ending.OUT_OF_WALLTIME), ("preempted", Ending.PREEMPTED), ("node_failed", Ending.NODE_FAILED)],
)
def test_a_pilot_whose_job_was_taken_from_it_is_followed_and_its_tasks_end_so(state: str, ending: Ending) -> None:
    session = Succession(1)
    session.submit("once")
    session.submit("again", template=RESTARTABLE)
    session.number_all("p")
    session.state.pilots[PilotUid("p")].job = JobRecord("slurm", "name", "12", state)
    session.lose("p")
    assert session.started() == ["p.2"]
    assert session.ending_of("once") is ending
    session.greet("p.2")
    assert session.pilot_of("again") == "p.2"


def test_a_job_that_failed_or_was_cancelled_is_not_followed() -> None:
    for state in ("failed", "cancelled", "out_of_memory", "done"):
        session = Succession(1)
        session.submit("again", template=RESTARTABLE)
        session.number_all("p")
        session.state.pilots[PilotUid("p")].job = JobRecord("slurm", "name", "12", state)
        session.lose("p")
        assert session.started() == [] and session.ending_of("again") is Ending.LOST


# ----------------------------------------------------------------------------------------------------------------- walks

WALKS = 150
BITES_WITHIN = 150


class Walk:
    """Chains of pilots that live for a few events; a model of what each task may still do."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.limit: int | str = self.chance.choice((0, 1, 3, "until_done"))
        self.session = Succession(self.limit)
        self.living = "p"
        self.count = 0
        self.pilots = 1
        self.fruitless = 0
        self.begun: dict[str, int] = {}
        """Attempts of each task that is known to have begun."""
        self.done: set[str] = set()

    def run(self) -> None:
        for _ in range(40):
            if not self.living:
                break
            draw = self.chance.random()
            if draw < 0.4:
                self.submit()
            elif draw < 0.6:
                self.finish()
            elif draw < 0.7:
                self.session.crash()
            else:
                self.end()
            self.check()
        self.check_end()

    def submit(self) -> None:
        template = self.chance.choice((PLAIN, RETRIED, FRESH, CONTINUES))
        for _ in range(self.chance.randint(1, 3)):
            self.session.submit(f"t{self.count}", template=template)
            self.count += 1

    def here(self) -> list[str]:
        return [
            uid for uid, record in self.session.state.tasks.items() if record.outcome is None and record.pilot == self.living
        ]

    def finish(self) -> None:
        here = self.here()
        if here:
            uid = self.chance.choice(here)
            self.session.outcomes(self.living, outcome(uid, self.session.state.tasks[TaskUid(uid)].binding))
            self.done.add(uid)

    def end(self) -> None:
        here = self.here()
        cut = [uid for uid in here if self.may_again(uid) and self.chance.random() < 0.5]
        for uid in cut:
            self.begun[uid] = self.begun.get(uid, 0) + 1
        record = self.session.state.pilots[PilotUid(self.living)]
        fruitful = record.outcomes > 0
        left = bool(here)
        self.session.out_of_time(self.living, tuple(cut), **{uid: (self.begun[uid], 0) for uid in cut})
        self.fruitless = 0 if fruitful else self.fruitless + 1
        bound = FRUITLESS_CONTINUING if any(self.template(uid) == CONTINUES for uid in cut) else FRUITLESS
        allowed = self.fruitless < bound if self.limit == "until_done" else self.pilots <= int(self.limit)
        started = self.session.started()
        assert started == ([f"p.{self.pilots + 1}"] if left and allowed else []), f"{started}, {left=}, {allowed=}"
        for uid in here:
            record_of = self.session.state.tasks[TaskUid(uid)]
            if not started:
                assert record_of.outcome is not None and record_of.outcome.ending is Ending.OUT_OF_WALLTIME
            elif uid in cut:
                extra = record_of.row.extra
                assert extra is not None and extra.attempts == self.begun[uid], f"{uid} does not count on"
                assert bool(extra.sandbox) == (self.template(uid) == CONTINUES), f"{uid} goes on in {extra.sandbox!r}"
        self.living = started[0] if started else ""
        if started:
            self.pilots += 1
            if self.chance.random() < 0.3:
                self.session.crash()
            self.session.greet(self.living)

    def may_again(self, uid: str) -> bool:
        return self.template(uid) in (RETRIED, FRESH, CONTINUES)

    def template(self, uid: str) -> TemplateId:
        return self.session.state.tasks[TaskUid(uid)].row.template

    def check(self) -> None:
        state = self.session.state
        assert msgspec.msgpack.encode(self.session.recovered()) == msgspec.msgpack.encode(state), "the log says something else"
        followers = [record for record in state.pilots.values() if record.first]
        assert len(followers) == self.pilots - 1
        if isinstance(self.limit, int):
            assert len(followers) <= self.limit
        for uid, record in state.tasks.items():
            assert record.outcome is not None or record.pilot == self.living, f"{uid} is with {record.pilot!r}, which is over"

    def check_end(self) -> None:
        for uid, record in self.session.state.tasks.items():
            if record.outcome is not None and record.outcome.ending is Ending.DONE:
                assert uid in self.done


def walk(seed: int) -> Walk:
    """Walk through one life; the error of a walk that fails names its seed."""
    here = Walk(seed)
    try:
        here.run()
    except Exception as error:
        raise AssertionError(f"the walk of seed {seed} failed: walk({seed}) replays it: {error!r}") from error
    return here


def test_chains_of_pilots_keep_their_tasks_and_their_limits() -> None:
    walks = [walk(seed) for seed in range(WALKS)]
    assert sum(each.pilots for each in walks) > 2 * WALKS
    assert sum(len(each.begun) for each in walks) > WALKS


def _forgets_how_many_there_were(patch: pytest.MonkeyPatch) -> None:
    def faulty(state: ClientState, fact: facts.Fact, **decoded: object) -> None:
        apply(state, fact, **decoded)  # type: ignore[arg-type]
        if isinstance(fact, facts.PilotSucceeded):
            state.pilots[fact.successor].generation = 0

    patch.setattr(journal_module, "apply", faulty)


def _follows_though_nothing_is_left(patch: pytest.MonkeyPatch) -> None:
    original = Successors.follow
    patch.setattr(Successors, "follow", lambda self, now, pilot, again, cut: original(self, now, pilot, [*again, "x"], cut))


def _goes_on_for_ever(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Successors, "_limit", lambda *arguments: "")


def _forgets_the_past(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Pilots, "_unbound", lambda self, event, tasks, *rest: facts.TasksUnbound(event.time, tasks))


def _continues_whatever_was_said(patch: pytest.MonkeyPatch) -> None:
    original = Pilots._unbound

    def unbound(self, event, tasks, *rest):  # type: ignore[no-untyped-def]
        fact = original(self, event, tasks, *rest)
        return msgspec.structs.replace(fact, sandboxes=dict.fromkeys(tasks, "/s"))

    patch.setattr(Pilots, "_unbound", unbound)


def _is_not_noted(patch: pytest.MonkeyPatch) -> None:
    original = journal_module.Journal.emit

    def emit(self, fact, **decoded):  # type: ignore[no-untyped-def]
        if isinstance(fact, facts.PilotSucceeded):
            apply(self.state, fact)
        else:
            original(self, fact, **decoded)

    patch.setattr(journal_module.Journal, "emit", emit)


FAULTS: list[Patch] = [
    _forgets_how_many_there_were,
    _follows_though_nothing_is_left,
    _goes_on_for_ever,
    _forgets_the_past,
    _continues_whatever_was_said,
    _is_not_noted,
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_walk_finds_planted_faults(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    require_noticed(fault, monkeypatch, walk, BITES_WITHIN)
