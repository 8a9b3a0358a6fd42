"""Failures are grouped by what they have in common, and each group shows its first."""

from __future__ import annotations

import pytest
from invented_runs import InventedRun

from pilotage.analytics.failures import MEANINGS, failures, normalise
from pilotage.model.outcome import Ending, state_of
from pilotage.model.states import FAILED


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cannot open /data/in17.dat", "cannot open /scratch/run.4/in18.dat"),
        ("ValueError: bad value 3.25e-7 at 0x7f3a", "ValueError: bad value -12 at 0x0001"),
        ("task.000123 is lost", "task.000124 is lost"),
        ("blob 9f86d081884c7d65 is missing", "blob 60303ae22b998861 is missing"),
        ("needs 3, 4 and 5 of 6", "needs 1, 2 and 3 of 6"),
        ("nodes [1, 2, 3] failed", "nodes [7] failed"),
    ],
)
def test_what_differs_in_numbers_paths_and_uids_is_one_cause(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cannot open /data/input.dat", "cannot open /data/output.dat"),
        ("KeyError: 'mass'", "KeyError: 'charge'"),
        ("no such file", "permission denied"),
    ],
)
def test_what_differs_in_words_is_not(one: str, other: str) -> None:
    assert normalise(one) != normalise(other)


def run_with_failures() -> InventedRun:
    made = InventedRun(nodes=2, cores=2)
    made.add(100.0, 101.0)
    for number, start in enumerate((130.0, 110.0, 120.0)):
        said = {"message": "exited with code 3", "error_line": f"cannot open /data/in{number}.dat"}
        made.add(start, start + 2.0, name=f"md {number}", ending=Ending.EXITED, exit_code=3, node=number % 2, cores=2, **said)
    made.add(
        140.0, 141.0, ending=Ending.EXITED, exit_code=4, message="exited with code 4", error_line="cannot open /data/in7.dat"
    )
    made.add(142.0, 143.0, ending=Ending.RAISED, message="ValueError: 5", error_line="ValueError: 5", kind="function")
    made.add(144.0, 145.0, ending=Ending.CANCELLED, message="cancelled")
    made.add(ending=Ending.INFEASIBLE, message="no pilot has 900 cores", submitted=100.0, final=105.0)
    return made


def test_each_cause_has_its_count_its_first_message_and_one_task_to_look_at() -> None:
    found = list(failures(run_with_failures().session().tasks).iter_rows(named=True))
    assert [(row["count"], row["ending"], row["exit_code"]) for row in found] == [
        (3, "EXITED", 3), (1, "INFEASIBLE", None), (1, "EXITED", 4), (1, "RAISED", None),
    ]  # fmt: skip
    first = found[0]
    # The first by time, not by number: the one that failed at 112.
    assert (first["task"], first["first"], first["message"]) == ("task.0002", 112.0, "exited with code 3")
    assert first["error_line"] == "cannot open /data/in1.dat"
    assert first["cause"] == "exited with code #: cannot open in#.dat"
    assert (first["share"], first["group"], first["groups"], first["nodes"], first["node"]) == (0.5, "md #", 1, 2, 0)
    assert first["core_s"] == 12.0
    assert found[3]["cause"] == "ValueError: #"
    assert (found[1]["first"], found[1]["nodes"], found[1]["core_s"]) == (105.0, 0, 0.0)


def test_all_failures_are_accounted_for_and_nothing_else() -> None:
    session = run_with_failures().session()
    found = session.failures()
    assert found["count"].sum() == session.figures().failed == 6
    assert found["share"].sum() == pytest.approx(1.0)
    assert session.filter(state="DONE").failures().is_empty()


def test_a_thousand_different_messages_may_be_one_cause() -> None:
    made = InventedRun()
    for number in range(1000):
        said = f"cannot open /data/{number}/in{number}.dat: error -{number}"
        made.add(100.0, 101.0, ending=Ending.EXITED, exit_code=1, message=said, lane=0 if number else None)
    session = made.session()
    assert session.tasks["message"].n_unique() == 1000
    assert session.failures()["count"].to_list() == [1000]


def test_all_endings_that_are_failures_have_words() -> None:
    assert {ending.name for ending in Ending if state_of(ending) == FAILED} == MEANINGS.keys()
