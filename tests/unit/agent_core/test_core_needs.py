"""Tasks that need services of the same pilot: they begin with the address that holds then, wait for it, or end without it."""

from __future__ import annotations

import pytest
from agent_builders import (
    EXECUTABLE,
    again,
    cancelled,
    connected,
    end,
    ended,
    executions,
    launched_by,
    outcomes_of,
    ready_core,
    service,
    started,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Node, NodeShape, NodeShare, Request
from pilotage.model.workload import Extra

SPAWNER = RunnerId("spawner.0")
NEEDS_S = Extra(variables={"ADDRESS": "here:1", "OTHER": "x"}, services={"ADDRESS": TaskUid("s")})


def ready(attempt: int, info: str, uid: str = "s") -> events.ServiceReady:
    return events.ServiceReady(2.0, TaskUid(uid), Attempt(attempt), info)


def crashed(number: int, attempt: int = 1, uid: str = "s", ending: Ending = Ending.SIGNALLED) -> events.TasksEnded:
    return ended("spawner.0", number, end(uid, attempt, ending))


def serving(cores: int = 2, retries: int = 5) -> AgentCore:
    """A core whose service, that is started again when it fails, is ready at ``here:1``."""
    core = ready_core(cores=cores)
    core.handle(submitted(1, ["s"], service("on_failure" if retries else "never", retries=retries)))
    core.handle(started("spawner.0", "s"))
    core.handle(ready(1, "here:1"))
    return core


def busy(*uids: str, retries: int = 5) -> AgentCore:
    """The same, where these wait for the one core that another task has."""
    core = serving(retries=retries)
    core.handle(submitted(2, ["before"]))
    core.handle(started("spawner.0", "before"))
    core.handle(submitted(3, list(uids), EXECUTABLE, extra=NEEDS_S))
    assert all(core.doing(TaskUid(uid)) == "waiting" for uid in uids)
    return core


def told_at_launch(step: Step) -> dict[str, dict[str, str]]:
    """The variables that tasks are handed over with."""
    return {
        row.uid: {} if row.extra is None else row.extra.variables
        for action in told_by(step, actions.LaunchTasks)
        for lane in action.lanes  # type: ignore[union-attr]
        for _, row in lane.tasks
    }


def test_a_task_that_waits_for_cores_while_its_service_moves_begins_with_the_new_address() -> None:
    core = busy("a")
    core.handle(crashed(1))
    core.handle(started("spawner.0", "s", 2))
    core.handle(ready(2, "there:2"))
    step = core.handle(ended("spawner.0", 2, end("before")))
    assert told_at_launch(step) == {"a": {"ADDRESS": "there:2", "OTHER": "x"}}


def test_it_waits_while_its_service_is_started_again() -> None:
    core = busy("a", "b")
    core.handle(crashed(1))
    assert core.doing(TaskUid("a")) == "awaiting service"
    assert core.why(TaskUid("a")) == "waits for service 's', which it needs, to be ready again"
    assert core.summary()["awaiting service"] == 2
    assert launched_by(core.handle(ended("spawner.0", 2, end("before")))) == []
    core.handle(started("spawner.0", "s", 2))
    assert told_at_launch(core.handle(ready(2, "there:2"))) == {"a": {"ADDRESS": "there:2", "OTHER": "x"}}
    assert core.summary()["awaiting service"] == 0


def test_it_waits_from_the_moment_that_its_service_is_found_unwell() -> None:
    core = busy("a")
    core.handle(events.ServiceUnwell(3.0, TaskUid("s"), Attempt(1), "does not answer"))
    assert core.doing(TaskUid("a")) == "awaiting service"
    core.handle(crashed(1))
    core.handle(ended("spawner.0", 2, end("before")))
    core.handle(started("spawner.0", "s", 2))
    assert launched_by(core.handle(ready(2, "there:2"))) == [("a", 1)]


def test_one_that_arrives_while_its_service_is_started_again_waits_too() -> None:
    core = serving(cores=4)
    core.handle(crashed(1))
    core.handle(submitted(2, ["a"], EXECUTABLE, extra=NEEDS_S))
    assert core.doing(TaskUid("a")) == "awaiting service"


def test_one_that_was_handed_over_and_has_not_begun_is_taken_back() -> None:
    core = serving()
    step = core.handle(submitted(2, ["a"], EXECUTABLE, extra=NEEDS_S))
    assert told_at_launch(step) == {"a": NEEDS_S.variables}
    step = core.handle(crashed(1))
    assert told_by(step, actions.RecallTasks) == [actions.RecallTasks(SPAWNER, executions(("a", 1)))]
    core.handle(events.TasksReturned(3.0, SPAWNER, executions(("a", 1))))
    assert core.doing(TaskUid("a")) == "awaiting service"
    core.handle(started("spawner.0", "s", 2))
    assert told_at_launch(core.handle(ready(2, "there:2")))["a"]["ADDRESS"] == "there:2"


def test_one_that_runs_is_left_alone() -> None:
    core = serving()
    core.handle(submitted(2, ["a"], EXECUTABLE, extra=NEEDS_S))
    core.handle(started("spawner.0", "a"))
    step = core.handle(crashed(1))
    assert told_by(step, actions.RecallTasks, actions.EndExecutions) == []
    assert core.doing(TaskUid("a")) == "running"


def test_what_a_service_says_anew_reaches_those_that_wait() -> None:
    core = busy("a")
    core.handle(ready(1, "there:2"))
    step = core.handle(ended("spawner.0", 1, end("before")))
    assert told_at_launch(step)["a"]["ADDRESS"] == "there:2"


def test_another_attempt_of_a_task_is_told_what_holds_then() -> None:
    core = serving()
    core.handle(submitted(2, ["a"], with_(EXECUTABLE, retries=1), extra=NEEDS_S))
    core.handle(started("spawner.0", "a"))
    core.handle(ready(1, "there:2"))
    step = core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED)))
    assert told_at_launch(step)["a"]["ADDRESS"] == "there:2"


def test_a_service_that_is_over_ends_those_that_wait_for_it_and_says_why() -> None:
    core = busy("a", "b", retries=0)
    step = core.handle(crashed(1))
    assert outcomes_of(step) == [("s", Ending.SIGNALLED), ("a", Ending.CANCELLED), ("b", Ending.CANCELLED)]
    messages = {outcome.task: outcome.message for outcome in core.state.unsent}
    assert messages["a"] == "cancelled: service 's', which it needs, ended: signalled"


def test_a_service_that_ends_while_others_wait_for_its_next_life_ends_them_too() -> None:
    core = busy("a", retries=1)
    core.handle(crashed(1))
    core.handle(started("spawner.0", "s", 2))
    assert ("a", Ending.CANCELLED) in outcomes_of(core.handle(crashed(2, 2)))


def test_one_that_arrives_or_comes_back_after_its_service_is_over_ends() -> None:
    core = serving(retries=0)
    core.handle(submitted(2, ["a"], EXECUTABLE, extra=NEEDS_S))
    core.handle(crashed(1))
    step = core.handle(events.TasksReturned(3.0, SPAWNER, executions(("a", 1))))
    assert outcomes_of(step) == [("a", Ending.CANCELLED)]
    core, _ = again(core)
    step = core.handle(submitted(3, ["b"], EXECUTABLE, extra=NEEDS_S))
    assert outcomes_of(step) == [("b", Ending.CANCELLED)]


def test_who_needs_two_services_begins_when_both_are_ready_and_ends_with_either() -> None:
    both = Extra(variables={}, services={"S": TaskUid("s"), "T": TaskUid("t")})
    core = serving(cores=4)
    core.handle(submitted(2, ["t"], service("never")))
    core.handle(started("spawner.0", "t"))
    core.handle(submitted(3, ["a", "b"], EXECUTABLE, extra=both))
    assert core.doing(TaskUid("a")) == "awaiting service"
    assert told_at_launch(core.handle(ready(1, "tt", "t")))["a"] == {"S": "here:1", "T": "tt"}
    core.handle(submitted(4, ["c"], EXECUTABLE, extra=both))
    core.handle(crashed(1))
    core.handle(events.TasksReturned(3.0, SPAWNER, executions(("a", 1))))
    step = core.handle(crashed(2, uid="t"))
    assert ("a", Ending.CANCELLED) in outcomes_of(step), "though it waits for the other one"


def test_a_service_of_another_pilot_is_what_the_client_says() -> None:
    core = serving(cores=4)
    elsewhere = Extra(variables={"DB": "far:1"}, services={"DB": TaskUid("far")})
    assert told_at_launch(core.handle(submitted(2, ["a"], EXECUTABLE, extra=elsewhere))) == {"a": {"DB": "far:1"}}


def test_one_that_waits_for_a_service_can_be_cancelled() -> None:
    core = busy("a")
    core.handle(crashed(1))
    assert outcomes_of(core.handle(cancelled(4, "a"))) == [("a", Ending.CANCELLED)]
    core.handle(started("spawner.0", "s", 2))
    core.handle(ended("spawner.0", 2, end("before")))
    assert launched_by(core.handle(ready(2, "there:2"))) == []


def test_a_draining_pilot_starts_a_service_again_for_those_that_need_it() -> None:
    core = busy("a")
    core.handle(events.EndRequested(2.0, 4, True, "enough"))
    assert launched_by(core.handle(crashed(1))) == [("s", 2)]
    core.handle(ended("spawner.0", 2, end("before")))
    core.handle(started("spawner.0", "s", 2))
    core.handle(ready(2, "there:2"))
    core.handle(ended("spawner.0", 3, end("a")))
    core.handle(ended("spawner.0", 4, end("s", 2)))
    assert core.finished


@pytest.mark.parametrize("is_ready", [True, False])
def test_another_agent_lets_them_wait_and_tells_them_the_same(is_ready: bool) -> None:
    core = busy("a")
    core.handle(crashed(1))
    core.handle(started("spawner.0", "s", 2))
    if is_ready:
        core.handle(ready(2, "there:2"))
    another, _ = again(core)
    assert another.doing(TaskUid("a")) == ("waiting" if is_ready else "awaiting service")
    step = another.handle(ended("spawner.0", 2, end("before")))
    if not is_ready:
        step = another.handle(ready(2, "there:2"))
    assert told_at_launch(step)["a"]["ADDRESS"] == "there:2"


def test_another_agent_takes_back_what_was_handed_over_with_an_address_that_may_be_old() -> None:
    core = serving()
    core.handle(submitted(2, ["a"], EXECUTABLE, extra=NEEDS_S))
    core.handle(crashed(1))
    another, _ = again(core)
    another.handle(events.RunnerConnected(9.5, SPAWNER, 100, 7, "boot"))
    step = another.handle(events.RunnerReconciled(9.5, SPAWNER, executions(("a", 1), ("s", 2))))
    assert executions(("a", 1)) in [action.executions for action in told_by(step, actions.RecallTasks)]  # type: ignore[union-attr]


def test_a_service_that_can_never_be_placed_takes_those_along_that_need_it_and_cannot_be_either() -> None:
    policy = Scheduler([Node(0, "small", NodeShape(2, 0, 64, 64)), Node(1, "large", NodeShape(4, 0, 64, 64))])
    policy.occupy((NodeShare(0, 1, b"\1"),), Request(colocate="home"))
    core = AgentCore(policy, spawners=1)
    core.start(0.0)
    core.handle(connected("spawner.0"))
    core.handle(submitted(1, ["long"], with_(EXECUTABLE, request=Request(cores=3))))
    too_large = Request(cores=3, colocate="home")
    core.handle(submitted(2, ["other"], service(request=too_large)))
    # It was bound when its service was in another pilot, which is over: the service comes after it.
    core.handle(submitted(3, ["a"], with_(EXECUTABLE, request=too_large), extra=NEEDS_S))
    core.handle(submitted(4, ["s"], service(request=too_large)))
    step = core.handle(ended("spawner.0", 1, end("long")))
    assert sorted(outcomes_of(step)) == [
        ("a", Ending.CANCELLED), ("long", Ending.DONE), ("other", Ending.INFEASIBLE), ("s", Ending.INFEASIBLE),
    ]  # fmt: skip


def test_services_that_are_lost_together_take_back_what_needs_any_of_them() -> None:
    core = ready_core(cores=3)
    core.handle(submitted(1, ["s", "r"], service("on_failure", retries=5)))
    for uid in ("s", "r"):
        core.handle(started("spawner.0", uid))
        core.handle(ready(1, "here:1", uid))
    core.handle(submitted(2, ["before"]))
    needs_r = Extra(variables={"R": "here:1"}, services={"R": TaskUid("r")})
    core.handle(submitted(3, ["a"], EXECUTABLE, extra=NEEDS_S))
    core.handle(submitted(4, ["b"], EXECUTABLE, extra=needs_r))
    core.handle(ended("spawner.0", 1, end("s", ending=Ending.SIGNALLED), end("r", ending=Ending.SIGNALLED)))
    assert [core.doing(TaskUid(uid)) for uid in "ab"] == ["awaiting service"] * 2
    for uid in ("s", "r"):
        core.handle(started("spawner.0", uid, 2))
        core.handle(ready(2, "there:2", uid))
    assert [core.doing(TaskUid(uid)) for uid in "ab"] == ["waiting"] * 2
