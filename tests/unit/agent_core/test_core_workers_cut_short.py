"""Function workers that others end in a job: what becomes of their calls, and who gets no more of them."""

from __future__ import annotations

import pytest
from agent_builders import (
    FUNCTION,
    connected,
    end,
    ended,
    executions,
    launched_by,
    outcomes_of,
    ready_core,
    submitted,
    told_by,
    with_,
)

from pilotage.core.agent import actions, events
from pilotage.core.agent.core import AgentCore, Step
from pilotage.core.agent.job_end import DOUBT_S
from pilotage.model.ids import RunnerId
from pilotage.model.outcome import Ending

WORKER, NEXT = RunnerId("worker.1"), RunnerId("worker.2")


def runners_of(step: Step) -> list[RunnerId]:
    return [action.runner for action in step.actions if isinstance(action, actions.LaunchTasks)]


@pytest.fixture
def core() -> AgentCore:
    """A core in a job whose worker has two calls, of which one may run again."""
    core = ready_core(cores=1, in_job=True)
    core.handle(submitted(1, ["again"], with_(FUNCTION, restartable=True)))
    core.handle(connected(WORKER))
    core.handle(events.RunnerReconciled(1.0, WORKER, executions(("again", 1))))
    return core


def test_a_call_that_was_cut_short_runs_again_in_another_worker_though_its_own_lives_on(core: AgentCore) -> None:
    step = core.handle(ended(WORKER, 1, end("again", ending=Ending.CANCELLED), at=2.0))
    assert outcomes_of(step) == []
    step = core.handle(events.TimePassed(2.0 + DOUBT_S))
    assert told_by(step, actions.StartRunner)[0].runner == NEXT
    assert (launched_by(step), runners_of(step)) == ([("again", 2)], [NEXT])
    core.handle(events.RunnerLost(6.0, WORKER, "ended by signal 9 (SIGKILL)"))
    core.handle(connected(NEXT, at=7.0))
    step = core.handle(ended(NEXT, 1, end("again", 2), at=8.0))
    assert outcomes_of(step) == [("again", Ending.DONE)]


def test_an_idle_worker_that_is_gone_gets_nothing_while_that_is_in_doubt(core: AgentCore) -> None:
    core.handle(ended(WORKER, 1, end("again"), at=2.0))
    core.handle(events.RunnerLost(3.0, WORKER, "ended by signal 15 (SIGTERM)"))
    step = core.handle(submitted(2, ["next"], FUNCTION, at=3.5))
    assert runners_of(step) == [NEXT]


def test_a_call_that_may_run_only_once_is_lost(core: AgentCore) -> None:
    core.handle(ended(WORKER, 1, end("again"), at=2.0))
    core.handle(submitted(2, ["once"], FUNCTION, at=2.5))
    core.handle(ended(WORKER, 2, end("once", ending=Ending.CANCELLED), at=3.0))
    step = core.handle(events.TimePassed(3.0 + DOUBT_S))
    assert outcomes_of(step) == [("once", Ending.LOST)]
