"""Services: watched while they run, told of when they are ready, started again as their policy says, stopped with the pilot."""

from __future__ import annotations

import pytest
from agent_builders import (
    EXECUTABLE,
    WITH_OUTPUT,
    again,
    cancelled,
    end,
    ended,
    executions,
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
from pilotage.core.agent.lanes import SERVICE, Pace, group_of
from pilotage.core.agent.services import STOPPED
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.states import FAILED

SPAWNER = RunnerId("spawner.0")


def ready(uid: str = "s", attempt: int = 1, info: str = "here:1", at: float = 2.0) -> events.ServiceReady:
    return events.ServiceReady(at, TaskUid(uid), Attempt(attempt), info)


def unwell(uid: str = "s", attempt: int = 1, message: str = "does not answer", at: float = 2.5) -> events.ServiceUnwell:
    return events.ServiceUnwell(at, TaskUid(uid), Attempt(attempt), message)


def serving_core(template=None, is_ready=True, **options):
    """A core with a service that runs."""
    core = ready_core(**options)
    core.handle(submitted(1, ["s"], template or service()))
    core.handle(started("spawner.0", "s"))
    if is_ready:
        core.handle(ready())
    return core


def ending_asked(step):
    return [(action.executions, action.ending) for action in told_by(step, actions.EndExecutions)]


def test_a_service_is_watched_from_its_start_to_its_end():
    core = ready_core(count=2, cores=1)
    core.handle(submitted(1, ["first"]))
    core.handle(submitted(2, ["s"], service()))
    step = core.handle(started("spawner.0", "s"))
    (watch,) = told_by(step, actions.WatchService)
    assert (watch.row.uid, watch.attempt, watch.node, watch.ready) == ("s", 1, 1, False)
    assert watch.service == service().service
    step = core.handle(ended("spawner.0", 1, end("s", ending=Ending.EXITED)))
    assert told_by(step, actions.UnwatchService) == [actions.UnwatchService("s")]
    assert outcomes_of(step) == [("s", Ending.EXITED)]


def test_a_service_that_is_ready_is_told_of():
    core = serving_core(is_ready=False)
    assert "not ready yet" in core.why("s")
    step = core.handle(ready())
    assert step.facts == [facts.ServiceReady(2.0, "s", 1, "here:1")]
    assert step.actions == [actions.TellService("s")]
    assert core.state.services == {"s": "here:1"}
    assert core.summary()["services"] == ["s"]
    assert core.why("s").endswith("and is ready: here:1")
    assert core.handle(ready()).facts == [], "told twice"
    assert core.handle(ready(info="there:2")).facts != [], "it says something else now"


def test_what_is_said_of_another_attempt_or_task_is_ignored():
    core = serving_core(is_ready=False)
    core.handle(submitted(2, ["a"]))
    for event in (ready(attempt=2), unwell(attempt=2), ready("a"), ready("ghost"), unwell("ghost")):
        step = core.handle(event)
        assert (step.facts, step.actions) == ([], [])
    assert core.stale == 5


def test_nothing_waits_in_the_lane_of_a_service():
    pace = Pace(group_of(service()))
    assert pace.group.lane_kind == SERVICE
    pace.note(0.0001, 10)
    assert pace.depth == 1


@pytest.mark.parametrize(("is_ready", "ending"), [(False, Ending.TIMED_OUT), (True, Ending.EXITED)])
def test_a_service_that_is_unwell_is_ended_and_watched_no_longer(is_ready, ending):
    core = serving_core(is_ready=is_ready)
    step = core.handle(unwell())
    assert ending_asked(step) == [(executions(("s", 1)), ending)]
    assert told_by(step, actions.UnwatchService) == [actions.UnwatchService("s")]
    assert outcomes_of(core.handle(ended("spawner.0", 1, end("s", ending=ending)))) == [("s", ending)]


def test_a_service_is_started_again_as_often_as_its_policy_says_and_watched_anew():
    core = serving_core(service("on_failure", retries=1))
    core.handle(unwell())
    step = core.handle(ended("spawner.0", 1, end("s", ending=Ending.EXITED)))
    assert launched_by(step) == [("s", 2)]
    assert core.state.services == {}, "the new attempt is not ready"
    (watch,) = told_by(core.handle(started("spawner.0", "s", 2)), actions.WatchService)
    assert (watch.attempt, watch.ready) == (2, False)
    assert told_by(core.handle(ready(attempt=2)), actions.TellService) == [actions.TellService("s")]
    step = core.handle(ended("spawner.0", 2, end("s", 2, Ending.SIGNALLED)))
    assert outcomes_of(step) == [("s", Ending.SIGNALLED)]


def test_a_service_that_ends_well_is_started_again_only_if_it_always_is():
    for restart, again_ in (("never", []), ("on_failure", []), ("always", [("s", 2)])):
        core = serving_core(service(restart))
        assert launched_by(core.handle(ended("spawner.0", 1, end("s")))) == again_, restart


def test_a_service_that_was_cancelled_is_not_started_again():
    core = serving_core(service("always"))
    step = core.handle(cancelled(2, "s"))
    assert told_by(step, actions.UnwatchService) == [actions.UnwatchService("s")]
    assert core.handle(unwell()).actions == []
    step = core.handle(ended("spawner.0", 1, end("s", ending=Ending.CANCELLED)))
    assert outcomes_of(step) == [("s", Ending.CANCELLED)]


def test_a_lost_runner_takes_its_services_along():
    core = serving_core(service("on_failure"))
    step = core.handle(events.RunnerLost(3.0, SPAWNER, "lost"))
    assert told_by(step, actions.UnwatchService) == [actions.UnwatchService("s")]
    assert core.state.tasks["s"].failures == 1
    assert core.state.services == {}


def test_a_draining_pilot_stops_its_services_when_nothing_else_is_left():
    core = serving_core(cores=2)
    core.handle(submitted(2, ["a"]))
    step = core.handle(events.EndRequested(3.0, 3, True, "enough"))
    assert step.actions == []
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert told_by(step, actions.EndExecutions) == [actions.EndExecutions(SPAWNER, executions(("s", 1)), Ending.DONE, STOPPED)]
    assert told_by(step, actions.UnwatchService) == [actions.UnwatchService("s")]
    step = core.handle(ended("spawner.0", 2, end("s", ending=Ending.DONE)))
    assert outcomes_of(step) == [("s", Ending.DONE)]
    assert core.finished


def test_a_draining_pilot_does_not_start_services_that_nothing_will_want():
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a"]))
    core.handle(submitted(2, ["s"], service()))
    core.handle(events.EndRequested(2.0, 3, True, "enough"))
    step = core.handle(ended("spawner.0", 1, end("a")))
    assert launched_by(step) == []
    assert outcomes_of(step) == [("a", Ending.DONE), ("s", Ending.CANCELLED)]
    assert core.finished


def test_a_service_that_is_stopped_is_not_started_again_and_has_its_output_staged():
    core = ready_core()
    core.handle(submitted(1, ["s"], service("always"), extra=WITH_OUTPUT))
    core.handle(started("spawner.0", "s"))
    core.handle(events.EndRequested(2.0, 2, True, "enough"))
    core.handle(ended("spawner.0", 1, end("s", ending=Ending.DONE)))
    assert not core.finished
    step = core.handle(staged("output", "s", attempt=1))
    assert outcomes_of(step) == [("s", Ending.DONE)]


@pytest.mark.parametrize(("is_ready", "ending"), [(True, Ending.DONE), (False, Ending.CANCELLED)])
def test_a_pilot_that_ends_at_once_stops_ready_services_and_cancels_others(is_ready, ending):
    core = serving_core(is_ready=is_ready)
    core.handle(submitted(2, ["a"]))
    step = core.handle(events.EndRequested(3.0, 3, False, "the pilot's runtime is over"))
    assert sorted(ending_asked(step)) == sorted([(executions(("s", 1)), ending), (executions(("a", 1)), Ending.CANCELLED)])


def test_a_pilot_whose_service_cannot_be_had_fails_and_says_why():
    core = ready_core()
    core.handle(submitted(1, ["a"]))
    core.handle(events.EndRequested(3.0, 2, False, "service 's' could not start", failed=True))
    core, _ = again(core)
    core.handle(ended("spawner.0", 1, end("a", ending=Ending.CANCELLED)))
    core.handle(events.LinkOpened(4.0))
    (farewell,) = told_by(core.handle(events.LinkOpened(4.0)), actions.SendPilotEnded)
    assert (farewell.state, farewell.reason) == (FAILED, "service 's' could not start")


def test_a_drain_that_becomes_an_end_at_once_leaves_stopped_services_done():
    core = serving_core()
    core.handle(events.EndRequested(3.0, 2, True, "enough"))
    assert core.handle(events.EndRequested(3.5, 3, False, "now")).actions == []
    assert outcomes_of(core.handle(ended("spawner.0", 1, end("s", ending=Ending.DONE)))) == [("s", Ending.DONE)]


@pytest.mark.parametrize("is_ready", [True, False])
def test_another_agent_watches_the_services_that_run(is_ready):
    core = serving_core(service("on_failure"), is_ready=is_ready)
    another, step = again(core)
    (watch,) = told_by(step, actions.WatchService)
    assert (watch.attempt, watch.ready) == (1, is_ready)
    core.handle(cancelled(2, "s"))
    _, step = again(core)
    assert told_by(step, actions.WatchService) == [], "it is being ended"
    assert ending_asked(another.handle(unwell(at=9.5))) == [
        (executions(("s", 1)), Ending.EXITED if is_ready else Ending.TIMED_OUT)
    ]


def test_a_service_may_have_a_time_limit_like_others():
    core = serving_core(service(timeout_s=10.0))
    step = core.handle(events.TimePassed(11.5))
    assert ending_asked(step) == [(executions(("s", 1)), Ending.TIMED_OUT)]


def test_who_waits_behind_services_is_told_so():
    core = serving_core(cores=1)
    core.handle(submitted(2, ["a"], with_(EXECUTABLE)))
    assert "nothing but services runs" in core.why("a")


def test_tasks_starve_when_nothing_runs_but_services():
    core = serving_core(cores=2)
    assert not core.starved, "nobody waits"
    core.handle(submitted(2, ["small"]))
    core.handle(submitted(3, ["large"], with_(EXECUTABLE, request=Request(cores=2))))
    assert not core.starved, "what runs will end"
    core.handle(ended("spawner.0", 1, end("small")))
    assert core.starved
    assert again(core)[0].starved, "another agent knows it, too"
    core.handle(events.StorageFilled(5.0, "full"))
    assert not core.starved, "that has another reason"
    core.handle(events.StorageFreed(6.0))
    assert launched_by(core.handle(ended("spawner.0", 2, end("s")))) == [("large", 1)]
    assert not core.starved
