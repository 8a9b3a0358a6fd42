"""Campaigns that need a client, on a real Slurm: it runs inside the job, and its user notices nothing of that."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster
from slurm_shell import Gate, Shell

CAMPAIGN = """
session = "river"

[pilot]
resource = "test.cluster"
nodes = 2
runtime = 10

[[tasks]]
name = "mesh"
executable = "/bin/sh"
arguments = ["-c", "{mesh}"]
array = "0-5%2"

[[tasks]]
name = "solve"
executable = "/bin/sh"
arguments = ["-c", "{solve}"]
count = 6
after = ["mesh.{i}"]
services = ["db"]

[[tasks]]
name = "db"
mode = "task.service"
executable = "/bin/sh"
arguments = ["-c", "echo serving at here; exec sleep infinity"]
info_pattern = "stdout:serving at (.*)"

[[tasks]]
name = "report"
executable = "/bin/sh"
arguments = ["-c", "cat {seen} | wc -l"]
after = ["solve"]
"""


@pytest.fixture
def seen(shell: Shell) -> Path:
    return shell.home / "seen"


def written(shell: Shell, seen: Path, mesh: str = "true", solve: str = "") -> str:
    """Return the name of a campaign in which six tasks wait for six others and a service, and one for all."""
    solve = solve or f"echo $PILOTAGE_SERVICE_DB, not ${{PILOTAGE_SESSION:-submitted}} >>{seen}"
    text = CAMPAIGN.replace("{mesh}", mesh).replace("{solve}", solve).replace("{seen}", str(seen))
    (shell.home / "campaign.toml").write_text(text)
    return "campaign.toml"


def submitted(shell: Shell, name: str) -> str:
    """Submit a campaign, and return the id of its job."""
    [job] = json.loads(shell.run("submit", name, "--format", "json"))["submission"]["jobs"]
    return str(job)


def sessions(shell: Shell) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(shell.run("session", "list", "--format", "json"))["sessions"]
    return found


def test_it_runs_to_its_end_with_nobody_there(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    told = shell.run("submit", written(shell, seen))
    [job] = slurm.jobs().keys() - {holding}
    assert f"pilot.0000: job {job} on test.cluster, 2 nodes, 10 min" in told
    assert "pilotage wait river" in told
    queued = shell.status()
    assert (queued["state"], queued["tasks"], queued["states"]) == ("queued", 14, {"NOT SUBMITTED": 14})
    [pilot] = queued["pilots"]
    assert (pilot["job"], pilot["job_state"], pilot["unfinished"]) == (job, "queued", 14)
    # What changes now changes nothing any more.
    (shell.home / "campaign.toml").unlink()

    slurm.output("scancel", holding)
    slurm.wait_for_job(job, "COMPLETED")

    assert seen.read_text().splitlines() == ["here, not submitted"] * 6
    found = shell.status()
    assert (found["state"], found["states"], found["problem"]) == ("closed", {"DONE": 14}, "")
    assert (found["pilots"][0]["job"], found["pilots"][0]["state"]) == (job, "DONE")
    assert "14 tasks: 14 done" in shell.run("wait", "river")
    assert shell.run("task", "logs", "task.000013", "-s", "river").strip() == "6"
    assert "nothing was to be cancelled" in shell.run("cancel", "river")


def test_one_that_waits_in_the_queue_is_listed_and_can_be_cancelled_and_removed(
    shell: Shell, seen: Path, slurm: SlurmCluster
) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    job = submitted(shell, written(shell, seen))
    [row] = sessions(shell)
    assert (row["uid"], row["state"], row["job"], row["tasks"], row["unfinished"]) == ("river", "queued", job, 14, 14)
    assert f"job {job} is queued; end it first with: pilotage cancel river" in shell.run("session", "rm", "river", code=1)
    assert "is not there before its job begins; see: pilotage status river" in shell.run("task", "list", "-s", "river", code=2)
    told = shell.run("cancel", "river")
    assert f"job {job} was queued and is cancelled" in told
    assert "none of its 14 tasks was begun" in told
    assert list(slurm.jobs()) == [holding]
    assert shell.status()["state"] == "cancelled"
    assert "none of its 14 tasks was begun" in shell.run("wait", "river", code=1)
    shell.run("session", "rm", "river")
    assert sessions(shell) == []


def test_removing_by_force_cancels_its_job(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    submitted(shell, written(shell, seen))
    shell.run("session", "rm", "river", "--force")
    assert (list(slurm.jobs()), sessions(shell)) == ([holding], [])


def test_a_program_that_waits_in_the_queue_is_listed_too(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    (shell.home / "program.py").write_text("")
    words = ("--platform", "test.cluster", "--nodes", "1", "--runtime", "5m", "--session", "river")
    shell.run("submit", "program.py", *words)
    [job] = slurm.jobs().keys() - {holding}
    [row] = sessions(shell)
    assert (row["uid"], row["state"], row["job"]) == ("river", "queued", job)
    assert f"job {job} is queued" in shell.run("session", "rm", "river", code=1)


def test_who_attaches_may_leave_and_come_back(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    gate = Gate(shell.home / "gate")
    mesh = f"[ {{i}} = 0 ] || {gate.wait}; [ {{i}} != 3 ]"
    submitted(shell, written(shell, seen, mesh=mesh))
    attached = shell.start("attach")
    assert attached.stdout is not None
    assert attached.stdout.readline(), "it watches"
    slurm.wait_until(lambda: seen.exists(), "the first chain of tasks is through, beside the others")
    attached.send_signal(signal.SIGINT)
    output, errors = attached.communicate(timeout=PATIENCE_S)
    assert attached.returncode == 130, output + errors
    found = shell.status()
    assert found["state"] == "open"
    # Two at one time: the first has made room for a third.
    assert found["states"]["NOT SUBMITTED"] > 0
    attached = shell.start("attach", "river")

    gate.open()

    output, errors = attached.communicate(timeout=2 * PATIENCE_S)
    assert attached.returncode == 1, output + errors
    # Nothing is begun that waits for what has failed.
    assert "14 tasks: 11 done, 1 failed, 2 canceled" in errors, errors
    assert len(seen.read_text().splitlines()) == 5


def test_cancelling_ends_its_tasks_in_good_order(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    submitted(shell, written(shell, seen, mesh=f"[ {{i}} = 0 ] || {{ echo >>{seen}; exec sleep infinity; }}"))
    slurm.wait_until(lambda: seen.exists() and len(seen.read_text().splitlines()) == 3, "two run, and the first is through")
    told = shell.run("cancel", "river")
    assert "was running and is cancelled" in told
    assert slurm.jobs() == {}
    states = shell.status()["states"]
    assert states.keys() <= {"DONE", "CANCELED", "NOT SUBMITTED"}, states
    assert states["CANCELED"] >= 2
    assert "canceled" in shell.run("wait", "river", code=1)


def test_what_a_job_was_too_small_for_is_told_and_the_others_are_done(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    name = written(shell, seen)
    text = (shell.home / name).read_text().replace('name = "report"', 'name = "report"\nranks = 1000')
    (shell.home / name).write_text(text)
    submitted(shell, name)
    told = shell.run("wait", "river", code=1)
    assert "13 done" in told
    assert len(seen.read_text().splitlines()) == 6


def test_a_job_that_is_refused_leaves_nothing_behind(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    name = written(shell, seen)
    text = (shell.home / name).read_text().replace("nodes = 2", 'nodes = 2\nqueue = "nope"')
    (shell.home / name).write_text(text)
    assert "invalid partition specified: nope" in shell.run("submit", name, code=1)
    assert (slurm.jobs(), sessions(shell)) == ({}, [])


def test_a_dry_run_submits_nothing(shell: Shell, seen: Path, slurm: SlurmCluster) -> None:
    told = shell.run("submit", written(shell, seen), "--dry-run")
    assert "#SBATCH --nodes=2" in told
    assert "2 nodes for up to 0.1833 h on test.cluster: 0.3667 node-hours at most" in told
    assert (slurm.jobs(), (shell.home / "home").exists()) == ({}, False)
