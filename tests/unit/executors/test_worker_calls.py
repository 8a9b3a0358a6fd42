"""Calls that a function worker holds, and which of them the agent may have back."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.executors.worker_calls import WorkerCalls
from pilotage.model.execution import Execution
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.workers.progress import REACHED, create_progress

WORKER = RunnerId("worker.0")


def executions(*names: str) -> list[Execution]:
    return [(TaskUid(name), Attempt(1)) for name in names]


@pytest.fixture
def reached(tmp_path: Path) -> memoryview:
    """The words of the worker, as it writes them."""
    return create_progress(tmp_path, WORKER)


def test_what_has_not_begun_is_had_back(tmp_path: Path, reached: memoryview) -> None:
    calls = WorkerCalls(tmp_path, WORKER, executions("a"))
    calls.launched(executions("b", "c", "d"))
    reached[REACHED] = 2

    assert calls.ask_back(executions("c", "d"))

    assert calls.taken_back() == executions("c", "d")
    assert len(calls) == 2
    calls.close()


def test_what_was_launched_after_the_question_is_not_had_back(tmp_path: Path, reached: memoryview) -> None:
    calls = WorkerCalls(tmp_path, WORKER, ())
    calls.launched(executions("long", "behind"))
    reached[REACHED] = 1
    assert calls.ask_back(executions("behind"))
    # The worker is done with the long one, has passed over the other and said so: it is given more, which it will begin.
    reached[REACHED] = 2
    calls.over(executions("long", "behind"))
    calls.launched(executions("next"))

    assert calls.taken_back() == []
    assert len(calls) == 1
    calls.close()


def test_a_later_question_reaches_what_was_launched_in_between(tmp_path: Path, reached: memoryview) -> None:
    calls = WorkerCalls(tmp_path, WORKER, ())
    calls.launched(executions("long", "behind"))
    reached[REACHED] = 1
    calls.ask_back(executions("behind"))
    calls.launched(executions("next"))
    calls.ask_back(executions("next"))

    assert calls.taken_back() == executions("behind", "next")
    calls.close()
