"""A client inside a job: which session it is, and that one pilot at a time takes the nodes that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.client.inside import check_inside, is_inside, session_name, without_submission
from pilotage.errors import InvalidPilot


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job of three nodes, as a file tells."""
    monkeypatch.setenv("PILOTAGE_ALLOCATION_OF", "lab.blue")
    (tmp_path / "nodes").write_text("n1\nn2\nn3\n")
    monkeypatch.setenv("PILOTAGE_NODE_FILE", str(tmp_path / "nodes"))


@pytest.mark.usefixtures("job")
def test_pilots_of_the_platform_take_the_nodes_of_the_job_and_others_do_not() -> None:
    assert (is_inside("lab.blue"), is_inside("lab.red"), is_inside("")) == (True, False, False)
    assert check_inside("pilot", "lab.blue", 2, []) == "pilot takes the nodes of this job, 3 of them, and is no job of its own"


def test_outside_of_jobs_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOTAGE_ALLOCATION_OF", raising=False)
    assert not is_inside("lab.blue")


@pytest.mark.usefixtures("job")
@pytest.mark.parametrize(
    ("nodes", "others", "said"),
    [
        (4, [], "pilot: 4 nodes exceed the 3 of this job; submit the program with --nodes 4"),
        (1, ["a"], "pilot: the nodes of this job are those of pilot 'a', which has not ended; use that one"),
    ],
)
def test_what_the_job_cannot_give_is_refused(nodes: int, others: list[str], said: str) -> None:
    with pytest.raises(InvalidPilot) as error:
        check_inside("pilot", "lab.blue", nodes, others)
    assert str(error.value).startswith(said)


def test_where_there_is_no_job_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "PILOTAGE_NODE_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidPilot, match=r"PILOTAGE_ALLOCATION_OF=lab\.blue, and this process is in no job; unset it"):
        check_inside("pilot", "lab.blue", 1, [])


def test_the_first_session_has_the_name_of_the_submission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PILOTAGE_SESSION", raising=False)
    assert session_name(tmp_path, "client") == ""
    monkeypatch.setenv("PILOTAGE_SESSION", "water")
    assert session_name(tmp_path, "client") == "water"
    (tmp_path / "water" / "client").mkdir(parents=True)
    assert session_name(tmp_path, "client") == ""


def test_tasks_are_told_nothing_of_it() -> None:
    told = {"PILOTAGE_SESSION": "water", "PILOTAGE_ALLOCATION_OF": "lab.blue", "HOME": "/h"}
    assert without_submission(told) == {"HOME": "/h"}
