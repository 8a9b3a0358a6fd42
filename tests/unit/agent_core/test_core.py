"""The life of tasks in the agent's core, event by event."""

from __future__ import annotations

import msgspec
from agent_builders import (
    EXECUTABLE,
    FUNCTION,
    cancelled,
    connected,
    end,
    ended,
    executions,
    fresh_core,
    launched_by,
    nodes,
    outcomes_of,
    ready_core,
    submitted,
    with_,
)

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape, Request


def test_a_fresh_pilot_starts_its_spawners():
    step = fresh_core(spawners=2).start(0.0)
    assert step.actions == [
        actions.StartRunner(RunnerId("spawner.0"), None, {}),
        actions.StartRunner(RunnerId("spawner.1"), None, {}),
    ]


def test_tasks_are_accepted_then_launched_in_order_as_far_as_cores_reach():
    core = ready_core(cores=2)
    step = core.handle(submitted(1, ["a", "b", "c"]))
    assert [type(fact).__name__ for fact in step.facts] == ["TasksAccepted", "LaunchRequested"]
    assert launched_by(step) == [("a", 1), ("b", 1)]


def test_the_end_of_a_task_lets_the_next_one_start_and_is_an_outcome():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a", "b"]))
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert outcomes_of(step) == [("a", Ending.DONE)]
    assert launched_by(step) == [("b", 1)]
    assert actions.ReleaseRunner(RunnerId("spawner.0"), 1) in step.actions


def test_a_message_told_twice_is_taken_once():
    core = ready_core()
    core.handle(submitted(1, ["a"]))
    assert core.handle(submitted(1, ["a"])).facts == []
    core.handle(ended("spawner.0", 1, end("a")))
    again = core.handle(ended("spawner.0", 1, end("a")))
    assert again.facts == []
    assert again.actions == [actions.ReleaseRunner(RunnerId("spawner.0"), 1)]
    assert core.stale == 2


def test_an_end_of_an_attempt_that_is_not_the_present_one_is_ignored():
    core = ready_core()
    core.handle(submitted(1, ["a"]))
    step = core.handle(ended("spawner.0", 1, end("a", attempt=2)))
    assert outcomes_of(step) == []
    assert "a" in core.state.tasks


def test_what_no_node_can_hold_is_refused_at_once_with_the_reason():
    core = ready_core(cores=2)
    step = core.handle(submitted(1, ["big"], with_(EXECUTABLE, request=Request(cores=3))))
    assert outcomes_of(step) == [("big", Ending.INFEASIBLE)]
    (outcome,) = core.state.unsent
    assert "3" in outcome.message and "2" in outcome.message


def test_a_waiting_task_is_cancelled_at_once_and_a_running_one_through_its_runner():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["runs", "waits"]))
    step = core.handle(cancelled(2, "runs", "waits", "never-heard-of"))
    assert outcomes_of(step) == [("waits", Ending.CANCELLED)]
    assert step.actions == [
        actions.EndExecutions(RunnerId("spawner.0"), executions(("runs", 1)), Ending.CANCELLED, "cancelled by the user")
    ]
    step = core.handle(ended("spawner.0", 1, end("runs", ending=Ending.CANCELLED)))
    assert outcomes_of(step) == [("runs", Ending.CANCELLED)]


def test_a_cancel_of_an_older_binding_is_passed_over():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"]))
    assert core.handle(cancelled(2, "a", binding=7)).actions == []


def test_a_task_that_ended_by_itself_before_the_cancel_reached_it_is_done():
    core = ready_core()
    core.handle(submitted(1, ["a"]))
    core.handle(cancelled(2, "a"))
    assert outcomes_of(core.handle(ended("spawner.0", 1, end("a")))) == [("a", Ending.DONE)]


def test_a_failed_attempt_is_repeated_as_often_as_retries_say_and_no_more():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, retries=1)))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED)))
    assert outcomes_of(step) == []
    assert launched_by(step) == [("a", 2)]
    step = core.handle(ended("spawner.0", 2, end("a", 2, Ending.EXITED)))
    assert outcomes_of(step) == [("a", Ending.EXITED)]


def test_cancel_beats_retry():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, retries=5)))
    core.handle(cancelled(2, "a"))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED)))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]


def test_a_task_out_of_time_is_ended_by_its_runner():
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(EXECUTABLE, timeout_s=10.0)))
    core.handle(events.TasksStarted(5.0, RunnerId("spawner.0"), [(*executions(("a", 1))[0], 5.0)]))
    assert core.next_deadline() == 15.0
    step = core.handle(events.TimePassed(15.0))
    message = "ran longer than its timeout of 10 s"
    assert step.actions == [actions.EndExecutions(RunnerId("spawner.0"), executions(("a", 1)), Ending.TIMED_OUT, message)]


def test_short_tasks_are_handed_over_ahead_of_time_and_long_ones_are_not():
    core = ready_core(cores=1)
    core.handle(submitted(1, [f"s{i}" for i in range(100)]))
    step = core.handle(ended("spawner.0", 1, end("s0", seconds=0.0001)))
    assert len(launched_by(step)) > 1, "short tasks"
    core = ready_core(cores=1)
    core.handle(submitted(1, [f"l{i}" for i in range(100)]))
    step = core.handle(ended("spawner.0", 1, end("l0", seconds=10.0)))
    assert len(launched_by(step)) == 1, "long tasks"


def test_what_waits_behind_a_task_that_turns_out_long_is_recalled():
    core = ready_core(cores=1)
    core.handle(submitted(1, [f"t{i}" for i in range(9)]))
    step = core.handle(ended("spawner.0", 1, end("t0", seconds=0.01)))
    first, *behind = launched_by(step)
    assert behind
    core.handle(events.TasksStarted(3.0, RunnerId("spawner.0"), [(*executions(first)[0], 3.0)]))
    step = core.handle(events.TimePassed(core.next_deadline()))
    assert step.actions == [actions.RecallTasks(RunnerId("spawner.0"), executions(*behind))]
    step = core.handle(events.TasksReturned(4.0, RunnerId("spawner.0"), executions(*behind)))
    assert facts.Returned(4.0, [uid for uid, _ in behind]) in step.facts


def test_a_lost_spawner_loses_what_it_held_and_another_is_started():
    core = ready_core(cores=2)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(events.TasksStarted(2.0, RunnerId("spawner.0"), [(*executions(("a", 1))[0], 2.0)]))
    step = core.handle(events.RunnerLost(3.0, RunnerId("spawner.0"), "the spawner was killed", -9))
    assert sorted(outcomes_of(step)) == [("a", Ending.NODE_FAILED), ("b", Ending.LOST)]
    step = core.handle(events.TimePassed(core.next_deadline()))
    assert [type(action).__name__ for action in step.actions] == ["StartRunner"]


def test_only_what_may_run_twice_runs_again_after_a_loss():
    core = ready_core(cores=2)
    core.handle(submitted(1, ["once"]))
    core.handle(submitted(2, ["again"], with_(EXECUTABLE, restartable=True)))
    step = core.handle(events.RunnerLost(3.0, RunnerId("spawner.0"), "lost"))
    assert outcomes_of(step) == [("once", Ending.LOST)]
    assert core.state.tasks["again"].failures == 1


def test_a_killed_worker_loses_its_running_call_and_gives_back_those_not_begun():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["f0", "f1", "f2", "f3", "f4", "f5"], FUNCTION))
    core.handle(connected("worker.1", 200))
    step = core.handle(ended("worker.1", 1, end("f0", seconds=1e-5)))
    running, *rest = launched_by(step)
    assert rest
    step = core.handle(
        events.RunnerLost(3.0, RunnerId("worker.1"), "killed by signal 9", -9, executions(running)[0], executions(*rest))
    )
    assert outcomes_of(step) == [(running[0], Ending.SIGNALLED)]
    assert launched_by(step)
    assert all(attempt == 2 for uid, attempt in launched_by(step) if uid in dict(rest))


def test_what_never_reached_a_runner_before_the_agents_death_is_launched_again():
    core = ready_core(cores=2)
    core.handle(submitted(1, ["a", "b"]))
    step = core.handle(events.RunnerReconciled(2.0, RunnerId("spawner.0"), executions(("a", 1))))
    assert launched_by(step) == [("b", 2)]


def test_a_runner_that_nobody_knows_is_told_to_stop():
    core = ready_core()
    assert core.handle(connected("spawner.9")).actions == [actions.StopRunner(RunnerId("spawner.9"))]


def test_outcomes_are_numbered_only_when_the_link_has_room_and_forgotten_when_delivered():
    core = ready_core()
    core.handle(submitted(1, ["a", "b"]))
    core.handle(ended("spawner.0", 1, end("a"), end("b")))
    assert core.has_news
    step = core.handle(events.LinkOpened(3.0))
    assert step.facts == [facts.OutcomesNumbered(1, 2)]
    assert [outcome.task for outcome in step.actions[0].outcomes] == ["a", "b"]
    assert not core.has_news
    core.handle(events.OutcomesReceived(4.0, 1))
    assert core.state.undelivered == {}


def test_ending_at_once_cancels_all_and_says_so_last():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["runs", "waits"]))
    step = core.handle(events.EndRequested(2.0, 2, False, "ended by the user"))
    assert outcomes_of(step) == [("waits", Ending.CANCELLED)]
    assert not core.finished
    core.handle(ended("spawner.0", 1, end("runs", ending=Ending.CANCELLED)))
    assert core.finished
    core.handle(events.LinkOpened(3.0))
    step = core.handle(events.LinkOpened(3.0))
    assert step.actions == [actions.SendPilotEnded(2, "CANCELED", "ended by the user")]
    core.handle(events.OutcomesReceived(4.0, 2))
    assert core.told


def test_draining_finishes_what_is_there_and_refuses_what_comes():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(events.EndRequested(2.0, 2, True, "enough"))
    assert outcomes_of(core.handle(submitted(3, ["late"]))) == [("late", Ending.CANCELLED)]
    assert launched_by(core.handle(ended("spawner.0", 1, end("a")))) == [("b", 1)]
    core.handle(ended("spawner.0", 2, end("b")))
    assert core.finished


def test_the_pilot_ends_itself_when_its_runtime_is_over():
    core = ready_core(deadline=60.0)
    core.handle(submitted(1, ["a"]))
    assert core.next_deadline() == 60.0
    step = core.handle(events.TimePassed(60.0))
    assert any(isinstance(fact, facts.PilotEnding) and fact.state == "DONE" for fact in step.facts)
    assert any(isinstance(action, actions.EndExecutions) for action in step.actions)


def test_a_function_worker_is_kept_for_the_next_function_and_let_go_when_idle():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["f"], FUNCTION))
    core.handle(connected("worker.1", 200))
    core.handle(ended("worker.1", 1, end("f")))
    step = core.handle(submitted(2, ["g"], FUNCTION, at=3.0))
    assert [type(action).__name__ for action in step.actions] == ["LaunchTasks"]
    core.handle(ended("worker.1", 2, end("g"), at=4.0))
    step = core.handle(events.TimePassed(core.next_deadline()))
    assert actions.StopRunner(RunnerId("worker.1")) in step.actions


def test_the_facts_alone_rebuild_the_state_and_the_recovered_core_goes_on():
    core = ready_core(cores=2)
    log: list[facts.Fact] = []
    log += fresh_core(spawners=1).start(0.0).facts
    for event in (
        connected("spawner.0"),
        submitted(1, ["a", "b", "c", "d"]),
        ended("spawner.0", 1, end("a")),
        cancelled(2, "b"),
        events.LinkOpened(3.0),
    ):
        log += core.handle(event).facts
    state = AgentState()
    for fact in msgspec.msgpack.decode(msgspec.msgpack.encode(log), type=list[facts.Fact]):
        apply(state, fact)
    assert msgspec.msgpack.encode(state.tasks) == msgspec.msgpack.encode(core.state.tasks)
    again = fresh_core(state=state)
    again.recover(5.0)
    again.start(5.0)
    again.handle(connected("spawner.0", at=5.0))
    step = again.handle(events.RunnerReconciled(5.0, RunnerId("spawner.0"), executions(("b", 1), ("c", 1))))
    assert step.actions == [
        actions.EndExecutions(RunnerId("spawner.0"), executions(("b", 1)), Ending.CANCELLED, "cancelled by the user")
    ]
    assert launched_by(again.handle(ended("spawner.0", 2, end("c"), at=6.0))) == [("d", 1)]


def test_a_timed_out_attempt_is_a_failure_that_may_be_repeated_but_not_once_it_was_cancelled():
    for cancel, expected in ((False, []), (True, [("a", Ending.TIMED_OUT)])):
        core = ready_core()
        core.handle(submitted(1, ["a"], with_(EXECUTABLE, timeout_s=10.0, retries=1)))
        core.handle(events.TasksStarted(5.0, RunnerId("spawner.0"), [(*executions(("a", 1))[0], 5.0)]))
        core.handle(events.TimePassed(15.0))
        if cancel:
            core.handle(cancelled(2, "a"))
        step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.TIMED_OUT)))
        assert outcomes_of(step) == expected
        assert launched_by(step) == ([] if cancel else [("a", 2)])


def test_what_is_heard_of_a_runner_does_not_concern_what_is_only_about_to_be_launched():
    core = AgentCore(Scheduler(nodes(cores=2)), spawners=1)
    core.start(0.0)
    assert launched_by(core.handle(submitted(1, ["a"]))) == [("a", 1)]
    core.handle(connected("spawner.0"))
    assert launched_by(core.handle(events.RunnerReconciled(1.0, RunnerId("spawner.0"), []))) == []
    core.performed()
    assert launched_by(core.handle(events.RunnerReconciled(2.0, RunnerId("spawner.0"), []))) == [("a", 2)]
    step = core.handle(events.RunnerLost(3.0, RunnerId("spawner.0"), "lost"))
    assert facts.Returned(3.0, ["a"]) in step.facts, "attempt 2 was not handed over either"


def test_a_runner_that_never_said_hello_was_handed_nothing():
    core = fresh_core()
    core.start(0.0)
    core.handle(submitted(1, ["a"]))
    step = core.handle(events.RunnerLost(3.0, RunnerId("spawner.0"), "did not come up"))
    assert facts.Returned(3.0, ["a"]) in step.facts


def test_an_execution_that_a_runner_holds_and_nobody_knows_is_ended():
    core = ready_core()
    step = core.handle(events.RunnerReconciled(2.0, RunnerId("spawner.0"), executions(("ghost", 3))))
    assert [(action.executions, action.ending) for action in step.actions] == [(executions(("ghost", 3)), Ending.CANCELLED)]


def test_a_spawner_that_gives_back_what_nobody_asked_for_gets_nothing_more():
    core = ready_core(cores=1, spawners=2)
    (launch,) = core.handle(submitted(1, ["a"])).actions
    assert launch.runner == "spawner.0"
    step = core.handle(events.TasksReturned(2.0, launch.runner, executions(("a", 1))))
    assert [action.runner for action in step.actions] == ["spawner.1"]
    step = core.handle(events.TimePassed(core.next_deadline()))
    assert [type(action).__name__ for action in step.actions] == ["StartRunner"]


def test_functions_fail_when_no_worker_comes_up_instead_of_waiting_for_ever():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["f"], FUNCTION))
    for number in range(1, 5):
        step = core.handle(events.RunnerLost(2.0, RunnerId(f"worker.{number}"), "no python there"))
        assert outcomes_of(step) == []
        assert launched_by(step) == [("f", number + 1)]
    step = core.handle(events.RunnerLost(2.0, RunnerId("worker.5"), "no python there"))
    assert outcomes_of(step) == [("f", Ending.LAUNCH_FAILED)]


def test_the_end_of_an_ending_pilot_is_noted_and_its_deadline_ends_a_drain():
    core = ready_core(deadline=60.0)
    core.handle(submitted(1, ["a"]))
    core.handle(events.EndRequested(2.0, 2, True, "enough"))
    core.handle(events.EndRequested(2.0, 3, True, "enough"))
    assert core.state.received == 3
    assert core.next_deadline() == 60.0
    step = core.handle(events.TimePassed(60.0))
    assert any(isinstance(action, actions.EndExecutions) for action in step.actions)


def test_an_ended_pilot_without_spawners_has_nothing_to_wake_up_for():
    core = ready_core()
    core.handle(events.EndRequested(2.0, 1, False, "over"))
    core.handle(events.RunnerLost(3.0, RunnerId("spawner.0"), "lost"))
    assert core.next_deadline() is None


def test_alarms_of_tasks_that_ended_in_time_do_not_pile_up():
    core = ready_core(cores=1)
    template = with_(EXECUTABLE, timeout_s=86400.0)
    core.handle(submitted(1, [f"t{number}" for number in range(4000)], template))
    for number in range(4000):
        name = executions((f"t{number}", 1))[0]
        core.handle(events.TasksStarted(2.0, RunnerId("spawner.0"), [(*name, 2.0)]))
        core.handle(ended("spawner.0", number + 1, end(f"t{number}", seconds=10.0)))
    assert not core.state.tasks
    assert len(core._alarms) < 1500


def test_a_task_whose_tag_names_a_node_that_is_too_small_does_not_wait_for_ever():
    small, large = Node(0, "small", NodeShape(1)), Node(1, "large", NodeShape(4))
    core = AgentCore(Scheduler([small, large]), spawners=1)
    core.start(0.0)
    core.handle(connected("spawner.0"))
    core.handle(submitted(1, ["blocks"], with_(EXECUTABLE, request=Request(cores=4))))
    core.handle(submitted(2, ["first"], with_(EXECUTABLE, request=Request(colocate="here"))))
    core.handle(submitted(3, ["second"], with_(EXECUTABLE, request=Request(cores=4, colocate="here"))))
    core.handle(ended("spawner.0", 1, end("blocks")))
    core.handle(ended("spawner.0", 2, end("first")))
    outcomes = {outcome.task: outcome for outcome in core.state.unsent}
    assert outcomes["second"].ending is Ending.INFEASIBLE
    assert "here" in outcomes["second"].message


def test_lanes_opened_together_are_spread_over_the_spawners():
    core = ready_core(cores=4, spawners=2)
    core.handle(submitted(1, ["a", "b", "c", "d"]))
    held = [lane.runner for lane in core.state.lanes.values()]
    assert sorted(held) == ["spawner.0", "spawner.0", "spawner.1", "spawner.1"]
