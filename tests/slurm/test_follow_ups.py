"""Campaigns on a real Slurm that take several jobs, with nobody there: each job has the next one submitted."""

from __future__ import annotations

import os
import re
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster
from slurm_shell import Shell

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.system.processes import is_alive
from pilotage.wire.keys import read_connection

STARTS = 3


@pytest.fixture(autouse=True)
def _own_session(shell: Shell) -> None:
    shell.session = "lake"


LINE = "echo $PILOTAGE_ATTEMPT $PILOTAGE_PILOT_ID >>starts; [ $(wc -l <starts) -ge {starts} ] || exec sleep infinity"


def submit_long(shell: Shell, starts: int, pilots: int = 1) -> str:
    """Submit a campaign of 3 tasks that go on until they have begun so often; return what was said."""
    text = (shell.home / shell.campaign(LINE.format(starts=starts))).read_text()
    text = text.replace("runtime = 10", 'runtime = 0.3\nsuccessors = "until_done"')
    head, pilot, tasks = re.split(r"(?=\[pilot\]|\[\[tasks\]\])", text)
    text = head + pilots * pilot.replace("[pilot]", "[[pilots]]") + tasks
    (shell.home / "campaign.toml").write_text(text.replace("count = 20", 'count = 3\nrestart = "continue"'))
    return shell.run("submit", "campaign.toml")


def _has_pilots(shell: Shell, count: int) -> bool:
    return len(shell.status()["pilots"]) >= count


def told_by_follow_ups(shell: Shell) -> str:
    files = sorted((shell.home / "home").glob("sessions/lake/pilot.*/follow_up.*"))
    return "\n".join(f"{path}: {path.read_text()}" for path in files)


def test_a_campaign_of_several_jobs_runs_to_its_end_with_nobody_there(shell: Shell, slurm: SlurmCluster) -> None:
    said = submit_long(shell, STARTS)
    assert "a follow-up" not in said

    for number in range(2, STARTS + 1):
        pilots = partial(_has_pilots, shell, number)
        slurm.wait_until(pilots, lambda: told_by_follow_ups(shell))
    slurm.wait_until(lambda: shell.status()["states"] == {"DONE": 3}, lambda: told_by_follow_ups(shell))

    for path in (shell.home / "home").glob("sessions/lake/pilot.*/tasks/**/starts"):
        numbers, pilots = zip(*(line.split() for line in path.read_text().splitlines()), strict=True)
        assert [int(number) for number in numbers] == list(range(1, STARTS + 1))
        assert len(set(pilots)) == STARTS
    slurm.wait_until(lambda: not slurm.jobs(), "nothing is queued or runs")
    assert shell.status()["states"] == {"DONE": 3}
    folders = list((shell.home / "home").glob("sessions/lake/pilot.*/follow_up.err"))
    assert len(folders) >= STARTS
    assert {path.stat().st_mode & 0o777 for path in folders} == {0o600}
    assert "3 tasks: 3 done" in shell.run("wait", "lake")


@pytest.mark.slow
def test_several_pilots_whose_time_is_over_together_are_all_followed(shell: Shell, slurm: SlurmCluster) -> None:
    submit_long(shell, 2, pilots=2)
    slurm.wait_until(partial(_has_pilots, shell, 3), lambda: told_by_follow_ups(shell))
    slurm.wait_until(lambda: shell.status()["states"] == {"DONE": 3}, lambda: told_by_follow_ups(shell))
    slurm.wait_until(lambda: not slurm.jobs(), "nothing is queued or runs")


@pytest.mark.slow
def test_a_pilot_that_ended_while_the_session_was_in_use_is_followed_when_it_is_free(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    submit_long(shell, 2)
    waiting = shell.start("wait", "lake")
    slurm.wait_until(lambda: shell.status()["state"] == "open", "the one that waits has the session")
    # It keeps the session, and hears nothing more.
    waiting.send_signal(signal.SIGSTOP)
    slurm.output("scancel", holding)
    pilot = shell.home / "home" / "sessions" / "lake" / "pilot.0000"
    slurm.wait_until((pilot / CONNECTION_FILE).exists, "its agent is up")
    agent = read_connection(pilot / CONNECTION_FILE)

    slurm.wait_until(lambda: not is_alive(agent.pid, agent.started_ticks, agent.boot_id), "its agent has ended")
    waiting.kill()
    waiting.communicate()

    slurm.wait_until(lambda: shell.status()["states"] == {"DONE": 3}, lambda: told_by_follow_ups(shell))
    assert "pilot 'pilot.0000.2' follows it" in (pilot / "follow_up.err").read_text()
    slurm.wait_until(lambda: not slurm.jobs(), "nothing is queued or runs")


@pytest.fixture
def refusing(shell: Shell) -> Path:
    """A file; while it is there, ``sbatch`` refuses whatever it is given, as on a node that may not submit."""
    sbatch = shutil.which("sbatch", path=shell.environment["PATH"])
    folder, refuses = shell.home / "bin", shell.home / "refuses"
    folder.mkdir()
    refused = "echo 'sbatch: error: Batch job submission failed: Access/permission denied' >&2; exit 1"
    (folder / "sbatch").write_text(f'#!/bin/sh\n[ ! -e {refuses} ] || {{ {refused}; }}\nexec {sbatch} "$@"\n')
    (folder / "sbatch").chmod(0o700)
    shell.environment["PATH"] = f"{folder}{os.pathsep}{shell.environment['PATH']}"
    return refuses


def test_where_jobs_may_not_submit_it_is_told_and_who_waits_submits(shell: Shell, slurm: SlurmCluster, refusing: Path) -> None:
    submit_long(shell, 2)
    [job] = slurm.jobs()
    refusing.touch()

    slurm.wait_for_job(job, "COMPLETED")

    assert slurm.jobs() == {}
    found = shell.status()
    assert found["states"] == {"TO BE CONTINUED": 3}, told_by_follow_ups(shell)
    [pilot] = found["pilots"]
    assert pilot["reason"].startswith("a follow-up could not be submitted from the job: slurm: "), pilot
    assert "Access/permission denied; pilotage wait lake submits it" in pilot["reason"]
    refusing.unlink()

    told = shell.run("wait", "lake")

    assert "pilot 'pilot.0000.2' follows it" in told
    assert "3 tasks: 3 done" in told
