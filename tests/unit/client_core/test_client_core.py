"""What the client's core decides: exact facts and actions for single events."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client_builders import (
    MANAGER,
    PLAIN,
    RESTARTABLE,
    RETRIED,
    RETRIED_IF_75,
    RETRIED_IF_LOST,
    WIDE,
    Session,
    kinds,
    outcome,
    raw,
    told,
)

from pilotage.core.client import actions, events, facts
from pilotage.core.client.binding import fits, infeasible
from pilotage.core.client.state import QueuedCancel, QueuedEnd, QueuedTasks, queued_rows
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape, Request
from pilotage.model.states import (
    AGENT_EXECUTING,
    AGENT_STAGING_OUTPUT,
    CANCELED,
    DONE,
    FAILED,
    PMGR_ACTIVE,
    PMGR_LAUNCHING_PENDING,
)
from pilotage.model.workload import Batch, Row

made: list[Session] = []


@pytest.fixture(autouse=True)
def consistent(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever a test did, its sessions must be consistent and recoverable at its end."""
    made.clear()
    begin = Session.__init__

    def begin_and_note(self: Session, *pilots: str, active: bool = True) -> None:
        begin(self, *pilots, active=active)
        made.append(self)

    monkeypatch.setattr(Session, "__init__", begin_and_note)
    yield
    for session in made:
        session.check()


def test_tasks_are_bound_to_the_only_pilot_in_the_fact_that_accepts_them() -> None:
    session = Session("p")
    decision = session.submit("a", "b")
    assert kinds(decision) == ["TasksAccepted"]
    assert isinstance(decision.facts[0], facts.TasksAccepted) and decision.facts[0].pilot == "p"
    assert told(decision) == ["a", "b"]
    assert decision.actions[-1] == actions.OfferMessages(PilotUid("p"))


def test_the_encoded_batch_travels_as_the_caller_encoded_it() -> None:
    session = Session("p")
    session.submit("a")
    fact = session.last.facts[0]
    (queued,) = session.state.pilots[PilotUid("p")].outbox
    assert isinstance(fact, facts.TasksAccepted) and isinstance(queued, QueuedTasks)
    assert queued.batch is fact.batch


def test_early_binding_to_a_pilot_that_is_not_active_yet() -> None:
    session = Session("p", active=False)
    session.submit("a")
    assert session.pilot_of("a") == "p"
    assert session.state.pilots[PilotUid("p")].state == PMGR_LAUNCHING_PENDING


def test_without_a_pilot_tasks_wait_and_the_user_is_told_once() -> None:
    session = Session()
    warnings = [action for action in session.submit("a").actions if isinstance(action, actions.Warn)]
    assert len(warnings) == 1 and "add_pilots" in warnings[0].message
    assert not [action for action in session.submit("b").actions if isinstance(action, actions.Warn)]
    session.add("p")
    assert session.pilot_of("a") == session.pilot_of("b") == "p"


def test_a_pilot_that_has_not_seen_a_template_gets_it() -> None:
    session = Session("p")
    session.submit("a")
    session.add("q")
    session.submit("b", pinned="q")
    (queued,) = session.state.pilots[PilotUid("q")].outbox
    assert isinstance(queued, QueuedTasks)
    import msgspec

    assert list(msgspec.msgpack.decode(queued.batch, type=Batch).templates) == [1]


def test_numbers_are_given_when_the_link_takes_a_message() -> None:
    session = Session("p")
    session.submit("a")
    pilot = session.state.pilots[PilotUid("p")]
    assert pilot.numbered == 0
    decision = session.do(events.LinkOpened(PilotUid("p"), 1))
    assert decision.facts == [facts.MessagesNumbered(PilotUid("p"), 1, 1)]
    assert decision.actions == [actions.SendMessage(PilotUid("p"), 1)]
    assert not pilot.outbox and [row.uid for row in queued_rows(pilot.unacknowledged.values())] == ["a"]
    assert session.do(events.LinkOpened(PilotUid("p"), 2)).facts == []


def test_numbers_that_the_agent_knows_and_the_client_lost_are_not_used_again() -> None:
    session = Session("p", active=False)
    session.greet("p", durable=7)
    assert session.state.pilots[PilotUid("p")].numbered == 7


def test_what_the_agent_has_durably_is_forgotten() -> None:
    session = Session("p")
    session.submit("a")
    session.number_all("p")
    decision = session.do(events.AgentAcknowledged(session.tick(), PilotUid("p"), 1))
    assert decision.facts == [facts.MessagesDelivered(PilotUid("p"), 1)]
    assert session.state.pilots[PilotUid("p")].unacknowledged == {}
    assert session.do(events.AgentAcknowledged(session.tick(), PilotUid("p"), 1)).facts == []


def test_the_first_outcome_counts_and_a_double_message_does_nothing() -> None:
    session = Session("p")
    session.submit("a")
    assert told(session.outcomes("p", outcome("a"))) == ["a"]
    assert session.outcomes("p", outcome("a"), number=1).facts == []
    assert told(session.outcomes("p", outcome("a", ending=Ending.RAISED))) == []
    assert session.state_of("a") == DONE
    assert session.state.stale_outcomes == 1


def test_a_message_that_came_too_early_is_not_taken() -> None:
    session = Session("p")
    session.submit("a")
    assert session.outcomes("p", outcome("a"), number=2).facts == []


def test_an_outcome_of_an_older_binding_is_counted_and_ignored() -> None:
    session = Session("p")
    session.submit("a")
    session.outcomes("p", outcome("a", binding=7), outcome("unknown"))
    assert session.state_of("a") == "AGENT_STAGING_INPUT_PENDING"
    assert session.state.stale_outcomes == 2


def test_running_is_seen_once_and_not_after_the_end() -> None:
    session = Session("p")
    session.submit("a")
    started = events.TasksSeenRunning(session.tick(), PilotUid("p"), [(TaskUid("a"), Binding(1), 1, 0.0)])  # type: ignore[list-item]
    assert told(session.do(started)) == ["a"]
    assert session.state_of("a") == AGENT_EXECUTING
    assert session.do(started).facts == []
    session.outcomes("p", outcome("a"))
    assert session.do(started).facts == []


def test_output_is_seen_staged_also_of_what_was_not_seen_running_and_an_attempt_may_follow() -> None:
    session = Session("p")
    session.submit("a")
    staged = events.OutputsSeenStaged(session.tick(), PilotUid("p"), [(TaskUid("a"), Binding(1), Attempt(1))])
    assert told(session.do(staged)) == ["a"]
    assert session.state_of("a") == session.recovered().tasks[TaskUid("a")].state == AGENT_STAGING_OUTPUT
    assert session.do(staged).facts == []
    session.do(events.TasksSeenRunning(session.tick(), PilotUid("p"), [(TaskUid("a"), Binding(1), Attempt(2), 0.0)]))
    assert session.state_of("a") == AGENT_EXECUTING
    session.outcomes("p", outcome("a"))
    assert session.do(staged).facts == []
    session.check()


def test_cancel_of_a_waiting_task_is_final_at_once() -> None:
    session = Session()
    session.submit("a")
    assert told(session.cancel("a")) == ["a"]
    assert session.ending_of("a") is Ending.CANCELLED
    assert session.cancel("a").facts == []


def test_cancel_of_a_bound_task_is_asked_for_once_and_the_pilots_answer_counts() -> None:
    session = Session("p")
    session.submit("a")
    session.number_all("p")
    decision = session.cancel("a", "a")
    assert decision.facts == [facts.CancelAsked(session.time, PilotUid("p"), [(TaskUid("a"), Binding(1))])]
    assert list(session.state.pilots[PilotUid("p")].outbox) == [QueuedCancel([(TaskUid("a"), Binding(1))])]
    assert session.cancel("a").facts == []
    session.outcomes("p", outcome("a"))
    assert session.state_of("a") == DONE


def test_cancel_of_a_task_whose_pilot_was_sent_nothing_is_final_at_once_and_the_task_is_not_sent() -> None:
    session = Session("p", active=False)
    session.submit("a", "b", "c")
    session.submit("d")
    decision = session.cancel("a", "d")
    assert told(decision) == ["a", "d"] and not session.pilot_of("a")
    assert session.ending_of("a") is session.ending_of("d") is Ending.CANCELLED
    session.crash()
    session.greet("p")
    session.number_all("p")
    pilot = session.state.pilots[PilotUid("p")]
    assert [row.uid for row in queued_rows(pilot.unacknowledged.values())] == ["b", "c"]
    # The one that is left without tasks still tells the pilot of templates.
    assert len(pilot.unacknowledged) == 2
    session.outcomes("p", outcome("b"))
    session.cancel("c")
    assert session.state.tasks[TaskUid("c")].cancelling and session.state_of("c") not in (CANCELED, DONE)


def test_a_pilot_with_a_barrier_is_asked_to_cancel_as_it_counts_what_comes() -> None:
    session = Session()
    session.add("p", barrier=2)
    session.submit("a", "b")
    session.cancel("a")
    session.greet("p")
    session.number_all("p")
    sent = session.state.pilots[PilotUid("p")].unacknowledged
    assert [row.uid for row in queued_rows(sent.values())] == ["a", "b"]
    assert sent[2] == QueuedCancel([(TaskUid("a"), Binding(1))])


def test_two_pilots_share_by_room_and_get_more_as_they_return_work() -> None:
    session = Session("p", "q")
    session.submit(*(f"t{number}" for number in range(20)))
    assert session.state.pilots[PilotUid("p")].load == session.state.pilots[PilotUid("q")].load == 4
    assert len(session.state.managers[MANAGER].waiting) == 12
    mine = [uid for uid, record in session.state.tasks.items() if record.pilot == "p"]
    session.outcomes("p", *(outcome(uid) for uid in mine[:3]))
    assert session.state.pilots[PilotUid("p")].load == 4


def test_only_active_pilots_get_tasks_when_there_are_several() -> None:
    session = Session("p", "q", active=False)
    session.submit("a", "b")
    assert session.pilot_of("a") == ""
    session.greet("q")
    assert session.pilot_of("a") == session.pilot_of("b") == "q"


def test_a_task_goes_to_the_pilot_that_is_wide_enough() -> None:
    session = Session("small")
    session.add("large", cores=16)
    session.greet("large")
    session.submit("a", "b", template=WIDE)
    assert session.pilot_of("a") == session.pilot_of("b") == "large"


def test_what_fits_nowhere_goes_to_a_pilot_that_says_so() -> None:
    session = Session("p", "q")
    session.submit("a", template=WIDE)
    assert session.pilot_of("a") in ("p", "q")


@pytest.mark.parametrize("state", [DONE, FAILED])
def test_the_last_pilots_goodbye_ends_what_it_did_not_answer_for(state: str) -> None:
    session = Session("p")
    session.submit("a")
    session.goodbye("p", state, "out of time")
    assert session.ending_of("a") is Ending.LAUNCH_FAILED
    found = session.state.tasks[TaskUid("a")].outcome
    assert found is not None and "out of time" in found.message


def test_what_a_pilot_had_begun_when_it_could_not_go_on_runs_again_only_if_it_may() -> None:
    session = Session("p")
    session.submit("once", "waited")
    session.submit("twice", template=RETRIED)
    session.goodbye("p", FAILED, "no partition is left", begun=["once", "twice"])
    assert session.ending_of("waited") is Ending.LAUNCH_FAILED, "there is no other pilot"
    assert session.ending_of("once") is session.ending_of("twice") is Ending.LOST
    found = session.state.tasks[TaskUid("waited")].outcome
    assert found is not None and "no partition is left" in found.message and "submit the task again" in found.message


def test_what_a_pilot_could_not_run_goes_to_another() -> None:
    session = Session("p")
    session.submit("once", "waited", "cancelled")
    session.submit("twice", template=RETRIED)
    session.cancel("cancelled")
    session.add("q")
    session.greet("q")
    session.goodbye("p", FAILED, "no partition is left", begun=["once", "twice"])
    assert session.pilot_of("waited") == session.pilot_of("twice") == "q"
    assert session.ending_of("once") is Ending.LOST and session.ending_of("cancelled") is Ending.CANCELLED


def test_tasks_of_a_cancelled_pilot_are_cancelled() -> None:
    session = Session("p")
    session.submit("a")
    session.end_pilot("p")
    assert list(session.state.pilots[PilotUid("p")].outbox)[-1] == QueuedEnd(False)
    session.goodbye("p", CANCELED)
    assert session.ending_of("a") is Ending.CANCELLED


def test_what_a_pilot_did_not_answer_for_goes_to_another_with_the_next_binding() -> None:
    session = Session("p")
    session.submit("a")
    session.number_all("p")
    session.add("q")
    session.greet("q")
    session.goodbye("p", DONE, "out of time")
    assert session.pilot_of("a") == "q"
    assert session.state.tasks[TaskUid("a")].binding == 2


def test_a_lost_pilot_leaves_lost_what_was_sent_and_returns_what_was_not() -> None:
    session = Session("p")
    session.submit("sent")
    session.number_all("p")
    session.submit("unsent")
    session.add("q")
    session.greet("q")
    session.lose("p")
    assert session.ending_of("sent") is Ending.LOST
    assert session.pilot_of("unsent") == "q"


def test_the_log_of_a_lost_pilot_tells_what_ended_what_did_not_begin_and_what_never_arrived() -> None:
    session = Session("p")
    session.submit("ended", "waited", "ran")
    session.number_all("p")
    session.submit("under way")
    session.number_all("p")
    session.add("q")
    session.greet("q")
    ended = [outcome("ended")]
    lost = events.PilotLost(
        session.tick(),
        PilotUid("p"),
        "killed",
        1,
        ended,
        raw(ended),
        [(TaskUid("waited"), Binding(1)), (TaskUid("ran"), Binding(7))],
        tries={TaskUid("ran"): (Attempt(3), 2)},
    )
    assert told(session.do(lost)) != []
    assert session.state_of("ended") == DONE
    assert session.pilot_of("waited") == session.pilot_of("under way") == "q"
    ran = session.core.state.tasks[TaskUid("ran")].outcome
    assert ran is not None
    assert (ran.ending, ran.attempt) == (Ending.LOST, 3)


@pytest.mark.parametrize("with_node", [False, True])
def test_what_was_not_sent_by_a_log_that_lost_its_end_may_have_run(with_node: bool) -> None:
    session = Session("p")
    session.submit("unsent")
    session.do(events.PilotLost(session.tick(), PilotUid("p"), "power cut", with_node=with_node))
    assert session.ending_of("unsent") is (Ending.LOST if with_node else Ending.LAUNCH_FAILED)


@pytest.mark.parametrize("received", [0, None])
def test_what_was_sent_to_a_pilot_that_never_came_up_did_not_begin(received: int | None) -> None:
    session = Session("p")
    session.submit("sent")
    session.number_all("p")
    session.do(events.PilotLost(session.tick(), PilotUid("p"), "no such queue", received))
    assert session.ending_of("sent") is (Ending.LOST if received is None else Ending.LAUNCH_FAILED)


@pytest.mark.parametrize("template", [RESTARTABLE, RETRIED, RETRIED_IF_LOST])
def test_tasks_that_may_run_twice_follow_to_another_pilot(template: int) -> None:
    session = Session("p")
    session.submit("a", template=template)  # type: ignore[arg-type]
    session.number_all("p")
    session.add("q")
    session.greet("q")
    session.lose("p")
    assert session.pilot_of("a") == "q"


def test_a_task_whose_retries_are_for_other_failures_does_not_run_twice() -> None:
    session = Session("p", "q")
    session.submit("a", template=RETRIED_IF_75, pinned="p")
    session.submit("unsent", template=RETRIED_IF_75)
    session.number_all("p")
    session.lose("p")
    assert session.ending_of("a") is Ending.LOST
    assert session.pilot_of("unsent") == "q"


def test_a_task_that_may_run_twice_is_lost_where_no_pilot_is_left_for_it() -> None:
    session = Session("p")
    session.submit("sent", template=RETRIED)
    session.number_all("p")
    session.submit("unsent", template=RETRIED)
    session.lose("p")
    assert session.ending_of("sent") is Ending.LOST
    assert session.ending_of("unsent") is Ending.LAUNCH_FAILED


@pytest.mark.parametrize(
    ("was_active", "remedy"), [(True, "with a pilot that lives longer"), (False, "with a pilot that starts")]
)
def test_a_task_that_its_pilot_never_began_is_told_what_to_do(was_active: bool, remedy: str) -> None:
    session = Session()
    session.add("p")
    if was_active:
        session.greet("p")
    session.submit("a")
    session.lose("p")
    found = session.state.tasks[TaskUid("a")].outcome
    assert found is not None and found.message.endswith(f"before the task began; submit the task again, {remedy}")


def test_retries_over_lost_pilots_are_bounded() -> None:
    session = Session("p")
    session.submit("a", template=RETRIED)
    session.number_all("p")
    for pilot, other in (("p", "q"), ("q", "r")):
        session.add(other)
        session.greet(other)
        session.lose(pilot)
        session.number_all(other)
    assert session.ending_of("a") is Ending.LOST


def test_a_pilot_that_never_answered_had_nothing() -> None:
    session = Session("p", active=False)
    session.submit("a")
    session.add("q")
    session.lose("p")
    assert session.pilot_of("a") == "q"


def test_a_cancelled_task_of_a_lost_pilot_is_cancelled_by_the_client() -> None:
    session = Session("p")
    session.submit("a")
    session.number_all("p")
    session.cancel("a")
    session.lose("p")
    assert session.ending_of("a") is Ending.CANCELLED


def test_waiting_tasks_end_with_the_last_pilot() -> None:
    session = Session("p", "q", active=False)
    session.submit("a")
    session.lose("p")
    assert session.pilot_of("a") == "q"
    session.lose("q")
    assert session.ending_of("a") is Ending.LAUNCH_FAILED


def test_a_pinned_task_goes_to_no_other_pilot() -> None:
    session = Session("p", "q")
    session.submit("a", pinned="p")
    assert session.pilot_of("a") == "p"
    session.goodbye("p", DONE)
    assert session.ending_of("a") is Ending.LAUNCH_FAILED
    session.submit("b", pinned="p")
    assert session.ending_of("b") is Ending.LAUNCH_FAILED


def test_nothing_counts_after_a_pilots_end() -> None:
    session = Session("p")
    session.submit("a")
    session.lose("p")
    assert session.outcomes("p", outcome("a")).facts == []
    assert session.greet("p").facts == []
    assert session.lose("p").facts == []


def test_a_restarted_agent_is_greeted_anew() -> None:
    session = Session("p")
    assert kinds(session.greet("p", incarnation=2)) == ["PilotActivated"]
    assert session.greet("p", incarnation=2).facts == []
    assert session.state.pilots[PilotUid("p")].state == PMGR_ACTIVE


def test_closing_cancels_what_waits_and_ends_all_pilots() -> None:
    session = Session("p", "q", active=False)
    session.submit("a")
    session.do(events.SessionClosing(session.tick()))
    assert session.ending_of("a") is Ending.CANCELLED
    for pilot in session.state.pilots.values():
        assert list(pilot.outbox) == [QueuedEnd(False)]
    assert session.do(events.SessionClosing(session.tick())).facts == []


def test_draining_can_become_ending_at_once() -> None:
    session = Session("p")
    session.end_pilot("p", drain=True)
    assert session.end_pilot("p", drain=True).facts == []
    assert kinds(session.end_pilot("p")) == ["PilotEndAsked"]


def test_marks_of_callbacks_survive() -> None:
    session = Session("p")
    session.submit("a")
    session.outcomes("p", outcome("a"))
    session.do(events.CallbacksReturned(session.tick(), [TaskUid("a")]))
    assert session.recovered().tasks[TaskUid("a")].marked


def test_a_snapshot_holds_everything() -> None:
    import msgspec

    from pilotage.core.client.state import ClientState

    session = Session("p", "q")
    session.submit("a", "b", "c")
    session.number_all("p")
    session.outcomes("p", *(outcome(uid) for uid, record in session.state.tasks.items() if record.pilot == "p"))
    session.cancel("b")
    encoded = msgspec.msgpack.encode(session.state)
    again = msgspec.msgpack.decode(encoded, type=ClientState)
    assert msgspec.msgpack.encode(again) == encoded


@pytest.mark.parametrize(
    ("request_", "shape", "count", "expected"),
    [
        (Request(ranks=4, cores=2), NodeShape(8), 1, True),
        (Request(ranks=5, cores=2), NodeShape(8), 1, False),
        (Request(ranks=5, cores=2), NodeShape(8), 2, True),
        (Request(cores=9), NodeShape(8), 10, False),
        (Request(gpu_shares=32, ranks=2), NodeShape(8, gpus=1), 1, True),
        (Request(gpu_shares=32, ranks=3), NodeShape(8, gpus=1), 1, False),
        (Request(gpu_shares=40, ranks=2), NodeShape(8, gpus=1), 1, False),
        (Request(gpu_shares=128), NodeShape(8, gpus=1), 4, False),
        (Request(memory=5), NodeShape(8, memory=4), 1, False),
        (Request(ranks=4, ranks_per_node=2), NodeShape(8), 1, False),
        (Request(ranks=4, ranks_per_node=2), NodeShape(8), 2, True),
    ],
)
def test_fits(request_: Request, shape: NodeShape, count: int, expected: bool) -> None:
    assert fits(request_, [Node(index, f"n{index}", shape) for index in range(count)]) is expected


SMALL, LARGE, UNKNOWN = {NodeShape(4): 2}, {NodeShape(16): 1}, {}


@pytest.mark.parametrize(
    ("pilots", "expected"),
    [
        ({}, ""),
        ({"p": SMALL}, "8 cores per rank exceed the 4 cores of a node; ask for at most 4 or use more ranks"),
        ({"p": SMALL, "q": LARGE}, ""),
        ({"p": SMALL, "q": UNKNOWN}, ""),
        ({"p": SMALL, "q": SMALL}, "8 cores per rank exceed the 4 cores of a node; ask for at most 4 or use more ranks"),
        (
            {"p": SMALL, "q": {NodeShape(2): 1}},
            "pilot 'p': 8 cores per rank exceed the 4 cores of a node; ask for at most 4 or use more ranks; "
            "pilot 'q': 8 cores per rank exceed the 2 cores of a node; ask for at most 2 or use more ranks",
        ),
    ],
)
def test_infeasible_is_what_every_known_pilot_refuses(pilots: dict[PilotUid, dict[NodeShape, int]], expected: str) -> None:
    assert infeasible(Request(cores=8), pilots) == expected


def test_metadata_is_kept_in_the_same_record_as_its_tasks() -> None:
    session = Session("p")
    batch = Batch({}, [Row(TaskUid("noted"), PLAIN), Row(TaskUid("bare"), PLAIN)])
    session.submit("first")
    metadata = {TaskUid("noted"): b"pickled"}
    session.do(events.TasksSubmitted(session.tick(), MANAGER, PilotUid(""), batch, raw(batch), metadata))
    assert kinds(session.last) == ["TasksAccepted", "MetadataKept"]
    assert session.state.metadata == metadata
