"""A pilot that ends itself when nothing is left to do, and one that waits until all tasks have arrived."""

from __future__ import annotations

import msgspec
from agent_builders import (
    EXECUTABLE,
    WITH_INPUT,
    again,
    cancelled,
    end,
    ended,
    launched_by,
    outcomes_of,
    ready_core,
    service,
    staged,
    started,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import aftermath
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.idleness import FIRST_WORD_S
from pilotage.model.ids import Attempt, Binding, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.states import CANCELED, DONE

IDLE_S = 60.0
SPEC = msgspec.Raw(msgspec.msgpack.encode({"kind": "venv"}))


def time_passed(core: AgentCore, at: float) -> Step:
    return core.handle(events.TimePassed(at))


def idle_core() -> AgentCore:
    """A pilot that has done its only task at 2.0, which its client has on disk."""
    core = ready_core(idle_timeout_s=IDLE_S)
    core.handle(submitted(1, ["a"]))
    core.handle(ended("spawner.0", 1, end("a")))
    core.handle(events.LinkOpened(2.0))
    core.handle(events.OutcomesReceived(2.0, 1))
    return core


# idle


def test_a_pilot_ends_itself_when_it_had_nothing_to_do_for_so_long() -> None:
    core = idle_core()
    assert core.next_deadline() == 2.0 + IDLE_S
    assert time_passed(core, 61.9).facts == []
    step = time_passed(core, 62.0)
    assert step.facts == [
        facts.PilotEnding(62.0, 0, True, DONE, "nothing was left to do for 60 s, its idle_timeout_s", idle=True)
    ]
    assert core.finished
    told = core.handle(events.LinkOpened(62.0))
    assert told_by(told, actions.SendPilotEnded) == [
        actions.SendPilotEnded(2, DONE, "nothing was left to do for 60 s, its idle_timeout_s")
    ]
    assert core.next_deadline() is None


def test_one_without_a_timeout_stays() -> None:
    core = ready_core()
    assert core.next_deadline() is None
    assert time_passed(core, 1e6).facts == []


def test_a_pilot_that_was_told_nothing_yet_waits_for_what_its_client_hands_over() -> None:
    """Its job may have begun before its client came to that, which may be its last deed."""
    core = ready_core(idle_timeout_s=1.0)
    waits_until = core.next_deadline()
    assert waits_until is not None
    assert waits_until >= FIRST_WORD_S
    assert time_passed(core, waits_until - 0.1).facts == []
    [ending] = time_passed(core, waits_until).facts
    assert isinstance(ending, facts.PilotEnding)
    assert ending.reason == "nothing was handed over to it in 60 s, and its idle_timeout_s is 1 s"


def test_a_pilot_that_was_told_something_waits_no_longer_than_it_should() -> None:
    core = ready_core(idle_timeout_s=1.0)
    core.handle(submitted(1, ["a"], at=50.0))
    core.handle(ended("spawner.0", 1, end("a"), at=50.0))
    assert core.next_deadline() == 51.0


def test_a_task_that_comes_in_time_is_run_and_time_begins_anew() -> None:
    core = idle_core()
    step = core.handle(submitted(2, ["b"], at=61.0))
    assert launched_by(step) == [("b", 1)]
    assert core.next_deadline() is None
    time_passed(core, 500.0)
    core.handle(ended("spawner.0", 2, end("b"), at=500.0))
    assert core.next_deadline() == 560.0


def test_any_message_of_the_client_counts() -> None:
    core = idle_core()
    core.handle(cancelled(2, "unknown", at=50.0))
    assert core.next_deadline() == 50.0 + IDLE_S
    core.handle(events.OutcomesReceived(55.0, 1))
    assert core.next_deadline() == 50.0 + IDLE_S


def test_a_pilot_that_prepares_an_environment_is_busy() -> None:
    core = idle_core()
    core.handle(events.EnvironmentAsked(10.0, 2, "env", SPEC))
    assert core.next_deadline() is None
    core.handle(events.EnvironmentPrepared(30.0, "env"))
    assert core.next_deadline() == 30.0 + IDLE_S


def test_a_pilot_that_stages_is_busy() -> None:
    core = idle_core()
    core.handle(submitted(2, ["b"], at=3.0, extra=WITH_INPUT))
    assert time_passed(core, 500.0).facts == []
    assert launched_by(core.handle(staged("input", "b", at=501.0))) == [("b", 1)]


def test_services_that_are_ready_do_not_keep_a_pilot() -> None:
    core = idle_core()
    core.handle(submitted(2, ["s"], service(), at=3.0))
    core.handle(started("spawner.0", "s", at=4.0))
    assert core.next_deadline() is None
    core.handle(events.ServiceReady(5.0, TaskUid("s"), Attempt(1), "here"))
    assert core.next_deadline() == 5.0 + IDLE_S
    step = time_passed(core, 65.0)
    assert told_by(step, actions.EndExecutions)
    assert not core.finished
    core.handle(ended("spawner.0", 2, end("s"), at=66.0))
    assert core.finished


def test_what_arrives_when_the_pilot_has_begun_to_end_is_left_for_another_pilot() -> None:
    core = idle_core()
    time_passed(core, 62.0)
    step = core.handle(submitted(2, ["late", "later"], at=62.5))
    assert (launched_by(step), outcomes_of(step)) == ([], [])
    core.handle(cancelled(3, "late", at=62.6))
    assert core.finished
    assert core.state.received == 3
    core.handle(events.LinkOpened(62.7))
    assert core.state.ended == 2
    core.handle(submitted(4, ["last"], at=62.8))
    left = aftermath(core.state, 1)
    assert (left.received, left.outcomes, left.may_have_run) == (4, [], [])
    assert left.not_begun == [(TaskUid(uid), Binding(1)) for uid in ("late", "later", "last")]
    assert left.ending is not None and (left.ending.state, left.ending.idle) == (DONE, True)


def test_a_pilot_that_still_had_something_to_do_did_not_end_in_good_order() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a"]))
    core.handle(events.EndRequested(2.0, 0, True, "drained"))
    assert aftermath(core.state, 0).ending is None
    core.handle(ended("spawner.0", 1, end("a")))
    assert aftermath(core.state, 0).ending == core.state.ending


def test_another_agent_does_not_touch_it_either() -> None:
    core = idle_core()
    time_passed(core, 62.0)
    core.handle(submitted(2, ["late"], at=62.5, extra=WITH_INPUT))
    another, step = again(core, at=70.0, idle_timeout_s=IDLE_S)
    assert (launched_by(step), told_by(step, actions.StageTasks)) == ([], [])
    assert another.finished


def test_another_agent_begins_to_count_anew() -> None:
    core = idle_core()
    another, _ = again(core, at=50.0, idle_timeout_s=IDLE_S)
    assert another.next_deadline() == 50.0 + IDLE_S


def test_a_user_may_end_it_at_once_all_the_same() -> None:
    core = idle_core()
    time_passed(core, 62.0)
    core.handle(events.EndRequested(62.1, 2, False, "ended by the user"))
    assert core.state.ending is not None
    assert (core.state.ending.state, core.state.ending.idle) == (CANCELED, False)


def test_logs_of_before_are_read() -> None:
    old = msgspec.msgpack.encode([14, 1.0, 2, True, "DONE", "why"])
    assert msgspec.msgpack.decode(old, type=facts.Fact) == facts.PilotEnding(1.0, 2, True, "DONE", "why")


# barrier


def test_no_task_begins_before_so_many_have_arrived_and_then_they_begin_in_order() -> None:
    core = ready_core(cores=4, barrier=4)
    assert launched_by(core.handle(submitted(1, ["a", "b"]))) == []
    assert core.why(TaskUid("a")) == "waits until 4 tasks have arrived, as startup_barrier says; 2 have so far"
    assert core.doing(TaskUid("a")) == "waiting"
    assert core.summary()["behind the barrier"] == 2
    step = core.handle(submitted(2, ["c", "d", "e"]))
    assert sorted(launched_by(step)) == [("a", 1), ("b", 1), ("c", 1), ("d", 1)]
    assert core.doing(TaskUid("e")) == "waiting"
    assert "barrier" not in core.why(TaskUid("e"))


def test_what_was_cancelled_or_refused_has_arrived() -> None:
    core = ready_core(barrier=3)
    core.handle(submitted(1, ["a", "b"]))
    assert outcomes_of(core.handle(cancelled(2, "a"))) == [("a", Ending.CANCELLED)]
    assert launched_by(core.handle(submitted(3, ["c"]))) == [("b", 1), ("c", 1)]


def test_input_is_staged_before_the_barrier_is_gone() -> None:
    core = ready_core(barrier=2)
    assert told_by(core.handle(submitted(1, ["a"], extra=WITH_INPUT)), actions.StageTasks)
    assert launched_by(core.handle(staged("input", "a"))) == []
    assert launched_by(core.handle(submitted(2, ["b"]))) == [("a", 1), ("b", 1)]


def test_services_begin_all_the_same() -> None:
    core = ready_core(barrier=3)
    assert launched_by(core.handle(submitted(1, ["s"], service()))) == [("s", 1)]
    assert launched_by(core.handle(submitted(2, ["a"]))) == []


def test_a_pilot_that_drains_waits_for_no_more() -> None:
    core = ready_core(barrier=9)
    core.handle(submitted(1, ["a"]))
    assert launched_by(core.handle(events.EndRequested(2.0, 2, True, "drain"))) == [("a", 1)]


def test_the_barrier_stands_after_a_restart_and_is_gone_for_good_once_it_is() -> None:
    core = ready_core(barrier=3)
    core.handle(submitted(1, ["a", "b"]))
    another, step = again(core, barrier=3)
    assert launched_by(step) == []
    assert launched_by(another.handle(submitted(2, ["c"]))) == [("a", 1), ("b", 1)]
    another.handle(ended("spawner.0", 1, end("a"), end("b"), at=20.0))
    third, _ = again(another, barrier=3, at=30.0)
    assert third.summary()["behind the barrier"] == 0
    assert launched_by(third.handle(submitted(3, ["d"], at=31.0))) == [("d", 1)]


def test_a_task_that_is_repeated_waits_behind_no_barrier_again() -> None:
    core = ready_core(barrier=1)
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, retries=1)))
    assert launched_by(core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED)))) == [("a", 2)]
