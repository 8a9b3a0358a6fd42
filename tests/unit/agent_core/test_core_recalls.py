"""An agent of a partition: tasks that its metascheduler has back as they only wait."""

from __future__ import annotations

import msgspec
from agent_builders import (
    FUNCTION,
    WITH_INPUT,
    cancelled,
    connected,
    end,
    ended,
    fresh_core,
    launched_by,
    outcomes_of,
    ready_core,
    service,
    staged,
    submitted,
    with_,
)

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.aftermath import aftermath
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import Attempt, Binding, RunnerId, TaskUid
from pilotage.model.outcome import Ending


def recalled(number: int, *uids: str, lease: int = 1, recall: int = 7) -> events.TasksRecalled:
    return events.TasksRecalled(3.0, number, recall, [(TaskUid(uid), Binding(lease)) for uid in uids])


def given(*uids: str, attempt: int = 0, failures: int = 0) -> list[facts.GivenBack]:
    return [(TaskUid(uid), Binding(1), Attempt(attempt), failures) for uid in uids]


def again(before: AgentCore) -> AgentCore:
    """Another agent, from what the log of this one says."""
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(before.state), type=AgentState)
    made = fresh_core(state=state)
    made.recover(9.0)
    made.start(9.0)
    return made


def test_what_waits_is_given_back_and_what_runs_stays() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a", "b", "c", "d"]))
    step = core.handle(recalled(2, "a", "b", "c", "unknown"))
    assert step.facts == [facts.TasksGivenBack(3.0, 2, 7, given("c"))]
    assert list(core.state.tasks) == ["a", "b", "d"]
    assert core.handle(events.LinkOpened(4.0)).actions == [actions.SendTasks(1, 7, given("c"))]
    assert core.handle(recalled(2, "d")).facts == [], "it is told once"
    step = core.handle(ended("spawner.0", 1, end("a"), end("b")))
    assert launched_by(step) == [("d", 1)]
    core.handle(events.OutcomesReceived(5.0, 1))
    assert not core.state.undelivered_tasks


def test_what_cannot_be_given_back_is_answered_too() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a", "b", "c"]))
    assert core.handle(recalled(2, "c", lease=2)).facts == [facts.TasksGivenBack(3.0, 2, 7, [])], "that lease it never had"
    core.handle(cancelled(3, "c"))
    assert core.handle(recalled(4, "a", "c")).facts == [facts.TasksGivenBack(3.0, 4, 7, [])]


def test_services_and_tasks_with_files_stay() -> None:
    core = ready_core(cores=1)
    core.handle(submitted(1, ["busy"]))
    core.handle(submitted(2, ["service"], service()))
    core.handle(submitted(3, ["file"], extra=WITH_INPUT))
    assert core.handle(recalled(4, "service", "file")).facts[0] == facts.TasksGivenBack(3.0, 4, 7, [])
    core.handle(staged("input", "file"))
    assert core.handle(recalled(5, "service", "file")).facts[0] == facts.TasksGivenBack(3.0, 5, 7, [])


def test_tasks_that_wait_for_an_environment_are_given_back() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a"], with_(FUNCTION, named_env="conda")))
    assert core.handle(recalled(2, "a")).facts[0] == facts.TasksGivenBack(3.0, 2, 7, given("a"))
    assert not core.state.tasks and core.summary()["waiting"] == 0


def test_a_task_that_failed_and_waits_for_its_next_attempt_takes_its_past_along() -> None:
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a", "b"], with_(submitted(1, []).batch.templates[1], retries=1)))
    core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED)))
    assert core.handle(recalled(2, "a")).facts[0] == facts.TasksGivenBack(3.0, 2, 7, given("a", attempt=1, failures=1))


def test_what_was_given_back_may_come_again() -> None:
    core = ready_core(cores=1)
    core.handle(submitted(1, ["a", "b"]))
    core.handle(recalled(2, "b"))
    core.handle(msgspec.structs.replace(submitted(3, ["b"]), binding=Binding(2)))
    assert core.handle(recalled(4, "b")).facts[0] == facts.TasksGivenBack(3.0, 4, 7, []), "the first lease is over"
    core.handle(ended("spawner.0", 1, end("a")))
    step = core.handle(ended("spawner.0", 2, end("b")))
    assert outcomes_of(step) == [("b", Ending.DONE)]


def test_another_agent_knows_what_was_given_back() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a", "b", "c", "d"]))
    core.handle(recalled(2, "c"))
    core.handle(events.LinkOpened(4.0))
    core.handle(recalled(3, "d", recall=8))
    another = again(core)
    assert list(another.state.tasks) == ["a", "b"]
    assert another.state.undelivered_tasks == {1: (7, given("c"))} and another.state.unsent_tasks == [(8, given("d"))]
    another.handle(connected("spawner.0"))
    held = [(uid, task.attempt) for uid, task in another.state.tasks.items()]
    another.handle(events.RunnerReconciled(9.0, RunnerId("spawner.0"), held))
    assert another.handle(events.LinkOpened(9.0)).actions == [actions.SendTasks(2, 8, given("d"))]


def test_the_goodbye_comes_behind_what_was_given_back() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a", "b", "c"]))
    core.handle(events.EndRequested(2.0, 2, True, "enough"))
    core.handle(recalled(3, "c"))
    core.handle(ended("spawner.0", 1, end("a"), end("b")))
    sent = []
    while core.has_news:
        sent += core.handle(events.LinkOpened(5.0)).actions
    kinds = (actions.SendTasks, actions.SendOutcomes, actions.SendPilotEnded)
    assert [type(action) for action in sent if isinstance(action, kinds)] == list(kinds)


def test_of_a_lost_partition_what_it_gave_back_never_began() -> None:
    core = ready_core()
    core.handle(submitted(1, ["a", "b", "c", "d"]))
    core.handle(recalled(2, "c"))
    core.handle(events.LinkOpened(4.0))
    core.handle(recalled(3, "d", recall=8))
    for complete in (True, False):
        found = aftermath(core.state, 0, complete=complete)
        assert dict(found.not_begun) == {"c": 1, "d": 1}
        assert dict(found.may_have_run) == {"a": 1, "b": 1}
        assert dict(aftermath(core.state, 1, complete=complete).not_begun) == {"d": 1}, "the first answer has arrived"
