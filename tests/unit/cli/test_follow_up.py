"""The client of a pilot's last minutes: what it starts from, what it asks the batch system first, when there is none."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pilotage.agent import bootstrap
from pilotage.agent.settings import SETTINGS_FILE, PilotSettings
from pilotage.cli.follow_up import PROBLEM_FILE, problem_of, refusal
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.platforms.allocations.variables import client_in_job


def settings_of(folder: Path, environment: dict[str, str] | None = None) -> PilotSettings:
    return PilotSettings(
        session=SessionUid("lake"),
        pilot=PilotUid("pilot.0000"),
        session_folder=os.fspath(folder),
        pilot_folder=os.fspath(folder / "pilot.0000"),
        blob_folder=os.fspath(folder / "blobs"),
        nodes=[],
        batch="slurm",
        environment=environment or {},
    )


def test_it_has_the_users_environment_and_nothing_that_tells_of_a_job(tmp_path: Path) -> None:
    users = {"PATH": "/mine:/bin", "PILOTAGE_HOME": "/home/me/runs", "SLURM_CONF": "/etc/slurm.conf", "SLURM_NTASKS": "3"}
    job = {"PATH": "/slurm/bin:/bin", "SLURM_JOB_ID": "7", "SBATCH_TIMELIMIT": "1", "HOSTNAME": "node1"}
    assert client_in_job(settings_of(tmp_path, users).environment, job) == {
        "PATH": "/mine:/bin:/slurm/bin",
        "PILOTAGE_HOME": "/home/me/runs",
        "SLURM_CONF": "/etc/slurm.conf",
    }


def fake_sbatch(folder: Path, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sbatch").write_text(f"#!/bin/sh\n{line}\n")
    (folder / "sbatch").chmod(0o700)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_CONF", raising=False)


def test_a_node_without_the_commands_cannot_submit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert refusal(settings_of(tmp_path)) == "there is no sbatch on this node"


def test_the_batch_system_is_asked_whether_it_takes_the_pilots_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f'echo "$@" >{tmp_path}/asked; echo "sbatch: Job 7 to start at 1700000000 using 1 processors on nodes n1" >&2'
    fake_sbatch(tmp_path, line, monkeypatch)
    assert refusal(settings_of(tmp_path)) == ""
    assert (tmp_path / "asked").read_text() == f"--test-only {tmp_path}/pilot.0000/job.sh\n"


def test_what_it_refuses_for_good_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_sbatch(tmp_path, "printf 'sbatch: error: Access/permission\\ndenied\\n' >&2; exit 1", monkeypatch)
    told = refusal(settings_of(tmp_path))
    assert "sbatch: error: Access/permission denied" in told


def test_what_may_be_otherwise_in_a_moment_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "echo 'sbatch: error: Unable to contact slurm controller (connect failure)' >&2; exit 1"
    fake_sbatch(tmp_path, line, monkeypatch)
    assert refusal(settings_of(tmp_path)) == ""


def test_a_problem_is_told_where_there_is_one(tmp_path: Path) -> None:
    assert problem_of(tmp_path) == ""
    (tmp_path / PROBLEM_FILE).write_text("no")
    assert problem_of(tmp_path) == "no"


@pytest.mark.parametrize("settings", [None, {}, {"followed": False}])
def test_none_is_started_for_a_pilot_that_nobody_follows(tmp_path: Path, settings: dict[str, bool] | None) -> None:
    if settings is not None:
        (tmp_path / SETTINGS_FILE).write_text(json.dumps(settings))
    assert bootstrap._start_follow_up(os.fspath(tmp_path)) == 0
    assert not (tmp_path / "follow_up.err").exists()


def test_one_is_started_for_a_pilot_that_another_may_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def start(module: str, output: str, *arguments: str) -> int:
        started.append((module, output, *arguments))
        return 4711

    monkeypatch.setattr(bootstrap, "_start", start)
    (tmp_path / SETTINGS_FILE).write_text('{"followed": true}')
    assert bootstrap._start_follow_up(os.fspath(tmp_path)) == 4711
    assert started == [("pilotage.cli.follow_up", os.fspath(tmp_path / "follow_up.err"), os.fspath(tmp_path))]
