"""What was submitted to run in a job: found again by its name, a process of this machine where there is no batch system."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from pilotage.batch.commands import BatchCommands
from pilotage.batch.job import JobState, JobStatus
from pilotage.cli.inside_job import command_of, environment_of
from pilotage.cli.lookup import find_session, session_folders, session_row
from pilotage.cli.session import remove_session
from pilotage.cli.submitted import SubmittedProgram, end_program, find_program, start_here, write_program
from pilotage.errors import InvalidRequest, SessionInUse
from pilotage.model.ids import SessionUid


def submitted(system: str = "slurm", **more: object) -> SubmittedProgram:
    return SubmittedProgram(
        uid=SessionUid("water"),
        program="/p.py",
        arguments=["x"],
        python="/python",
        working_folder="/",
        environment={"A": "b"},
        platform="lab.blue",
        system=system,
        job_name="pilotage.water.p.1234",
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> dict[str, JobState]:
    """The jobs of a batch system, by their numbers; the one named as ours is 12."""
    jobs: dict[str, JobState] = {}

    def statuses(self: BatchCommands, wanted: Sequence[str]) -> dict[str, JobStatus]:
        return {job: JobStatus(jobs.get(job, JobState.UNKNOWN)) for job in wanted}

    def cancel(self: BatchCommands, job: str) -> None:
        jobs[job] = JobState.CANCELLED

    monkeypatch.setattr(BatchCommands, "statuses", statuses)
    monkeypatch.setattr(BatchCommands, "cancel", cancel)
    monkeypatch.setattr(BatchCommands, "find", lambda self, name: ["12"] if "12" in jobs else [])
    return jobs


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    folder = tmp_path / "sessions" / "water"
    folder.mkdir(parents=True)
    return folder


def test_a_job_whose_number_was_not_noted_is_found_by_its_name(queue: dict[str, JobState]) -> None:
    ours = submitted()
    assert ours.now().state is JobState.UNKNOWN
    queue["12"] = JobState.QUEUED
    assert (ours.now().state, ours.job) == (JobState.QUEUED, "12")


def test_what_waits_in_the_queue_is_a_session_that_cannot_be_looked_into(folder: Path, queue: dict[str, JobState]) -> None:
    queue["12"] = JobState.QUEUED
    write_program(folder, submitted(job="12", campaign="/c.toml", tasks=7))
    assert session_folders() == []
    assert session_folders(waiting=True) == [folder]
    assert find_program("wat") == folder
    row = session_row(folder)
    assert (row["state"], row["job"], row["tasks"], row["unfinished"]) == ("queued", "12", 7, 7)
    with pytest.raises(InvalidRequest, match="there are no sessions"):
        find_session("")
    with pytest.raises(InvalidRequest, match="is not there before its job begins; see: pilotage status water"):
        find_session("water")


def test_it_is_removed_when_its_job_is_over_or_by_force(folder: Path, queue: dict[str, JobState]) -> None:
    queue["12"] = JobState.QUEUED
    write_program(folder, submitted(job="12"))
    with pytest.raises(SessionInUse, match="job 12 is queued; end it first with: pilotage cancel water"):
        remove_session(folder, force=False)
    remove_session(folder, force=True)
    assert (queue, folder.exists()) == ({"12": JobState.CANCELLED}, False)


def test_without_a_batch_system_it_is_a_process(folder: Path) -> None:
    ours = submitted("local")
    assert ours.now().state is JobState.DONE
    command = (sys.executable, "-c", "import time; print('up', flush=True); time.sleep(1000)")
    ours.job = start_here(command, folder / "out")
    pid = int(ours.job.split()[0])
    assert os.getsid(pid) == pid, "its user's terminal may be closed"
    assert (ours.now().state, ours.shown_job) == (JobState.RUNNING, f"process {pid}")
    ours.cancel()
    os.waitpid(pid, 0)
    assert end_program(folder, ours)
    assert ours.now().state is JobState.DONE


def test_what_runs_in_the_job_is_the_program_or_the_campaigns_client(folder: Path) -> None:
    assert command_of(submitted(), folder) == ["/python", "/p.py", "x"]
    command = command_of(submitted(campaign="/c.toml"), folder)
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, "campaign.msgpack" in ran.stderr) == (1, True), ran.stderr
    assert environment_of(submitted("local"), {"SLURM_JOB_ID": "1"}) == {"A": "b"}
