"""A trace that contradicts itself is found out; those that the cores write do not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from invented_runs import PILOT, InventedRun
from trace_builders import random_run

from pilotage.analytics import Session
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Ending


def broken_rules(session: Session) -> dict[str, tuple[int, str]]:
    return {rule: (count, example) for rule, count, example in session.consistency().iter_rows() if count}


@pytest.mark.parametrize("seed", range(30))
def test_what_the_cores_write_is_consistent(session_folder: Path, seed: int) -> None:
    random_run(session_folder, seed)
    assert broken_rules(Session.read(session_folder)) == {}


def late_end(made: InventedRun) -> None:
    made.run.tasks.collected[0] = 101.0


def done_without_end(made: InventedRun) -> None:
    made.run.tasks.started[0] = made.run.tasks.ended[0] = 0.0


def ends_before_it_starts(made: InventedRun) -> None:
    made.run.pilots[PilotUid(PILOT)].attempts.ended[0] = 90.0


def starts_before_its_launch(made: InventedRun) -> None:
    made.run.pilots[PilotUid(PILOT)].attempts.launched[0] = 101.0


def runs_twice(made: InventedRun) -> None:
    attempts = made.run.pilots[PilotUid(PILOT)].attempts
    again = attempts.add(0, 1, 105.0)
    attempts.started[again], attempts.ended[again] = 105.0, 107.0


def takes_too_much(made: InventedRun) -> None:
    made.add(100.0, 110.0, cores=2, core=1)


@pytest.mark.parametrize(
    ("fault", "rule", "example"),
    [
        (late_end, "stations are passed in order", "task.0000"),
        (done_without_end, "a task that is DONE has started and ended", "task.0000"),
        (ends_before_it_starts, "an attempt ends after it started", "task.0000"),
        (starts_before_its_launch, "an attempt starts after it was launched", "task.0000"),
        (runs_twice, "the attempts of a task do not overlap", "task.0000"),
        (takes_too_much, "no pilot gives away more than it has", f"{PILOT}: 4 of 3 cores"),
    ],
)
def test_each_rule_bites(fault: Callable[[InventedRun], None], rule: str, example: str) -> None:
    made = InventedRun(cores=3)
    made.add(100.0, 110.0)
    made.add(100.0, 110.0, core=1)
    assert broken_rules(made.session()) == {}
    fault(made)
    assert broken_rules(made.session())[rule] == (1, example)


def test_times_that_differ_by_less_than_the_grain_of_records_are_equal() -> None:
    made = InventedRun()
    made.add(100.0, 110.0, accepted=100.004, ending=Ending.DONE)
    assert broken_rules(made.session()) == {}
