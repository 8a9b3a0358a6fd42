"""The bootstrap's claim: of all bootstraps that were ever started for a pilot one has it, and who it is can be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pilotage.agent import bootstrap
from pilotage.agent.bootstrap import CLAIM_FILE, claim, claimed_run, job_here
from pilotage.client.launcher import claimed_by
from pilotage.system.processes import boot_id, is_alive, started_ticks


def test_nobody_has_a_pilot_that_was_not_started(tmp_path: Path) -> None:
    assert claimed_by(tmp_path) is None


def test_who_claims_first_has_the_pilot(tmp_path: Path) -> None:
    assert claim(os.fspath(tmp_path))
    assert claimed_by(tmp_path) == (os.getpid(), started_ticks(os.getpid()), boot_id())
    assert is_alive(*claimed_by(tmp_path) or (0, 0, ""))


def test_who_comes_later_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / CLAIM_FILE).write_text("1 2 another-boot\n")
    assert not claim(os.fspath(tmp_path))
    assert claimed_by(tmp_path) == (1, 2, "another-boot")
    assert os.listdir(tmp_path) == [CLAIM_FILE]


def end_of_claimant(folder: Path, job: tuple[str, str]) -> tuple[int, int, str]:
    """Have a process of its own claim the pilot for a job, and end."""
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from pilotage.agent.bootstrap import claim; claim({str(folder)!r}, {job!r})"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    claimed = claimed_by(folder)
    assert claimed is not None and not is_alive(*claimed)
    return claimed


def test_a_later_run_of_the_same_job_takes_the_pilot_over(tmp_path: Path) -> None:
    end_of_claimant(tmp_path, ("12", "0"))
    assert claimed_run(os.fspath(tmp_path)) == 0
    end_of_claimant(tmp_path, ("12", "1"))
    assert claimed_run(os.fspath(tmp_path)) == 1
    assert claim(os.fspath(tmp_path), ("12", "2"))
    assert claimed_run(os.fspath(tmp_path)) == 2
    assert claimed_by(tmp_path) == (os.getpid(), started_ticks(os.getpid()), boot_id())
    assert os.listdir(tmp_path) == [CLAIM_FILE]


def test_where_runs_are_not_counted_the_word_of_the_batch_system_stands(tmp_path: Path) -> None:
    end_of_claimant(tmp_path, ("12.server", "0"))
    assert claim(os.fspath(tmp_path), ("12.server", "0"))
    assert claimed_run(os.fspath(tmp_path)) == 1


@pytest.mark.parametrize("job", [("13", "1"), ("", "")])
def test_another_job_leaves_it_alone(tmp_path: Path, job: tuple[str, str]) -> None:
    before = end_of_claimant(tmp_path, ("12", "0"))
    assert not claim(os.fspath(tmp_path), job)
    assert claimed_by(tmp_path) == before
    assert os.listdir(tmp_path) == [CLAIM_FILE]


def test_a_run_whose_bootstrap_lives_is_not_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "_END_S", 0.1)
    assert claim(os.fspath(tmp_path), ("12", "0"))
    assert not claim(os.fspath(tmp_path), ("12", "1"))
    assert claimed_run(os.fspath(tmp_path)) == 0


def test_the_pilot_of_no_job_is_in_its_first_run(tmp_path: Path) -> None:
    assert claimed_run(os.fspath(tmp_path)) == 0
    assert claim(os.fspath(tmp_path))
    assert claimed_run(os.fspath(tmp_path)) == 0


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"SLURM_JOB_ID": "12"}, ("12", "0")),
        ({"SLURM_JOB_ID": "12", "SLURM_RESTART_COUNT": "3"}, ("12", "3")),
        ({"PBS_JOBID": "12.server"}, ("12.server", "0")),
        ({}, ("", "")),
    ],
)
def test_jobs_are_known_by_what_their_system_tells(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: tuple[str, str]
) -> None:
    monkeypatch.setattr(os, "environ", variables)
    assert job_here() == told
