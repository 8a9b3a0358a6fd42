"""Campaigns and programs that are handed over to a real Slurm: nobody stays, and all is there for who comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster
from slurm_shell import Gate, Shell


@pytest.fixture(autouse=True)
def _own_session(shell: Shell) -> None:
    shell.session = "pond"


def outputs(shell: Shell) -> set[str]:
    return {path.read_text().strip() for path in (shell.home / "home").glob("sessions/pond/*/tasks/**/*.out")}


def test_a_campaign_runs_to_its_end_with_nobody_there(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    told = shell.run("submit", shell.campaign("echo ran {i}"))
    [job] = slurm.jobs().keys() - {holding}
    assert f"pilot.0000: job {job} on test.cluster, 2 nodes, 10 min" in told
    assert "pilotage wait pond" in told
    queued = shell.status()
    assert (queued["state"], queued["tasks"]) == ("closed", 20)
    [pilot] = queued["pilots"]
    assert (pilot["job_state"], pilot["unfinished"]) == ("queued", 20)
    assert pilot["reason"] in ("Resources", "Priority")

    slurm.output("scancel", holding)
    # It gives its nodes back by itself.
    slurm.wait_for_job(job, "COMPLETED")

    assert outputs(shell) == {f"ran {number}" for number in range(20)}
    assert shell.status()["states"] == {"DONE": 20}
    assert "20 tasks: 20 done" in shell.run("wait", "pond")
    assert "20 tasks: 20 done" in shell.run("session", "resume", "pond")


def test_a_campaign_whose_job_begins_at_once_is_handed_over_just_so(shell: Shell, slurm: SlurmCluster) -> None:
    job = json.loads(shell.run("submit", shell.campaign("echo ran {i}"), "--format", "json"))["submission"]["jobs"][0]
    slurm.wait_for_job(job, "COMPLETED")
    assert outputs(shell) == {f"ran {number}" for number in range(20)}
    assert "20 tasks: 20 done" in shell.run("attach", "pond")


def test_who_waits_may_leave_and_come_back_and_is_told_how_it_went(shell: Shell, slurm: SlurmCluster) -> None:
    gate = Gate(shell.home / "gate")
    shell.run("submit", shell.campaign(f"{gate.wait}; [ {{i}} != 3 ]"))
    waiting = shell.start("wait")
    slurm.wait_until(lambda: shell.status()["state"] == "open", "the one that waits has the session")
    refused = shell.run("cancel", "pond", code=1)
    assert "cancel tasks: pilotage task cancel -s pond" in refused
    watching = shell.start("attach", "pond")
    assert watching.stdout is not None
    assert watching.stdout.readline(), "it watches"
    waiting.send_signal(signal.SIGINT)
    output, errors = waiting.communicate(timeout=PATIENCE_S)
    assert waiting.returncode == 130, output + errors
    assert "leaving 20 tasks" in errors
    assert "come back with: pilotage wait pond" in errors
    # Who only watched is the session's client now.
    slurm.wait_until(lambda: shell.status()["state"] == "open", "the other one goes on")

    gate.open()

    output, errors = watching.communicate(timeout=2 * PATIENCE_S)
    assert (watching.returncode, "20 tasks: 19 done, 1 failed" in errors) == (1, True), output + errors
    assert "20 tasks: 19 done, 1 failed" in shell.run("wait", "pond", code=1)
    slurm.wait_until(lambda: not slurm.jobs(), "its job is over")


def test_cancelling_takes_a_job_that_waits_out_of_the_queue(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    shell.run("submit", shell.campaign("true"))
    told = shell.run("cancel", "pond")
    assert list(slurm.jobs()) == [holding]
    assert "0 of 20 tasks were done" in told
    assert shell.status()["states"] == {"CANCELED": 20}
    assert "20 tasks: 20 canceled" in shell.run("wait", code=1)
    assert "nothing was to be cancelled" in shell.run("cancel")


def test_cancelling_ends_a_pilot_that_runs_with_its_tasks(shell: Shell, slurm: SlurmCluster) -> None:
    runs = shell.home / "runs"
    shell.run("submit", shell.campaign(f"[ {{i}} -lt 10 ] || {{ echo >>{runs}; exec sleep infinity; }}"))
    slurm.wait_until(lambda: runs.exists() and len(runs.read_text()) == 10, "the second half runs")
    told = shell.run("cancel", "pond")
    assert "pilot.0000 CANCELED" in told
    assert "10 of 20 tasks were done" in told
    assert slurm.jobs() == {}
    assert shell.status()["states"] == {"DONE": 10, "CANCELED": 10}


def test_a_job_that_is_refused_leaves_no_session_behind(shell: Shell, slurm: SlurmCluster) -> None:
    text = (shell.home / shell.campaign("true")).read_text().replace("nodes = 2", 'nodes = 2\nqueue = "nope"')
    (shell.home / "campaign.toml").write_text(text)
    told = shell.run("submit", "campaign.toml", code=1)
    assert "invalid partition specified: nope" in told
    assert (slurm.jobs(), list((shell.home / "home" / "sessions").iterdir())) == ({}, [])


def test_a_dry_run_prints_what_it_would_come_to_and_submits_nothing(shell: Shell, slurm: SlurmCluster) -> None:
    told = shell.run("submit", shell.campaign("true"), "--dry-run")
    assert "#SBATCH --nodes=2" in told
    assert "2 nodes for up to 0.1833 h on test.cluster: 0.3667 node-hours at most" in told
    assert "would start at " in told
    (shell.home / "program.py").write_text("")
    told = shell.run("submit", "program.py", "--resource", "test.cluster", "--nodes", "3", "--runtime", "5m", "--dry-run")
    assert "#SBATCH --nodes=3" in told
    assert "3 nodes for up to 0.1 h" in told
    assert (slurm.jobs(), (shell.home / "home").exists()) == ({}, False)


def test_who_is_there_submits_the_follow_up_of_a_pilot_whose_time_is_over(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    go = shell.home / "go"
    text = (shell.home / shell.campaign(f"[ -e {go} ] || exec sleep infinity")).read_text()
    text = text.replace("runtime = 10", "runtime = 0.2\nsuccessors = 9").replace("count = 20", "count = 3\nrestartable = true")
    (shell.home / "campaign.toml").write_text(text)
    shell.run("submit", "campaign.toml")
    waiting = shell.start("wait", "pond")
    slurm.wait_until(lambda: shell.status()["state"] == "open", "the one that waits has the session")
    slurm.output("scancel", holding)
    slurm.wait_until(lambda: len(shell.status()["pilots"]) > 1, "another pilot follows")
    go.touch()

    output, errors = waiting.communicate(timeout=2 * PATIENCE_S)

    assert waiting.returncode == 0, output + errors
    assert "pilot 'pilot.0000.2' follows it" in errors
    assert "3 tasks: 3 done" in errors
    [said] = (shell.home / "home").glob("sessions/pond/pilot.0000/follow_up.*")
    assert said.read_text() == "", "the client in the job has left it to who was there"


def test_a_submission_that_is_killed_can_be_gone_on_with(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    text = (shell.home / shell.campaign("true")).read_text()
    # More than fit into one message.
    (shell.home / "campaign.toml").write_text(text.replace("count = 20", "count = 2001"))
    code = KILLED.format(words=["submit", "campaign.toml"])
    killed = subprocess.run([sys.executable, "-c", code], cwd=shell.home, env=shell.environment, timeout=PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL
    [job] = slurm.jobs().keys() - {holding}
    waiting = shell.start("wait", "pond")
    slurm.wait_until(lambda: shell.status()["state"] == "open", "the one that waits has the session")

    slurm.output("scancel", holding)

    output, errors = waiting.communicate(timeout=2 * PATIENCE_S)
    assert (waiting.returncode, "2,001 tasks: 2,001 done" in errors) == (0, True), output + errors
    slurm.wait_for_job(job, "COMPLETED")


def test_what_a_submission_was_killed_over_is_told_by_who_comes_too_late(shell: Shell, slurm: SlurmCluster) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    text = (shell.home / shell.campaign("true")).read_text()
    (shell.home / "campaign.toml").write_text(text.replace("count = 20", "count = 2001"))
    code = KILLED.format(words=["submit", "campaign.toml"])
    killed = subprocess.run([sys.executable, "-c", code], cwd=shell.home, env=shell.environment, timeout=PATIENCE_S)
    assert killed.returncode == -signal.SIGKILL
    [job] = slurm.jobs().keys() - {holding}
    slurm.output("scancel", holding)
    # What had arrived is done, and the nodes are given back.
    slurm.wait_for_job(job, "COMPLETED")
    assert "2,001 tasks: 2,000 done, 1 failed" in shell.run("wait", "pond", code=1)


KILLED = """
import os, signal
from pilotage.agent import inbox
from pilotage.cli.main import run_command

write = inbox._write

def die(folder, number, frame):
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    write(folder, number, frame)

inbox._write = die
run_command({words!r})
"""

# ----- programs -------------------------------------------------------------------------------------------------------

PROGRAM = """
import sys
import pilotage as rp

with rp.Session() as session:
    pilots = rp.PilotManager(session)
    pilot = pilots.submit_pilots(rp.PilotDescription({"resource": "test.cluster", "nodes": 2, "runtime": 5}))
    try:
        pilots.submit_pilots(rp.PilotDescription({"resource": "test.cluster", "nodes": 1, "runtime": 5}))
    except rp.InvalidPilot as error:
        print(error)
    tasks = rp.TaskManager(session)
    tasks.add_pilots(pilot)
    # As many as there are cores, so that each has to be used.
    line = "echo $PILOTAGE_NODE, not ${PILOTAGE_SESSION:-submitted}; sleep 1"
    ran = tasks.submit_tasks([rp.TaskDescription(executable="/bin/sh", arguments=["-c", line]) for _ in range(16)])
    tasks.wait_tasks()
    print(*sorted({task.stdout.strip() for task in ran}), sep="; ")
    print("arguments", *sys.argv[1:], "in", session.uid)
sys.exit(3)
"""


def test_a_program_runs_inside_its_job_and_its_pilot_takes_the_nodes_of_that(shell: Shell, slurm: SlurmCluster) -> None:
    (shell.home / "program.py").write_text(PROGRAM)
    words = ("--resource", "test.cluster", "--nodes", "2", "--runtime", "10m", "--session", "pond", "--", "one", "two")
    shell.run("submit", "program.py", *words)
    [job] = slurm.jobs()

    told = shell.run("wait", "pond", code=3)

    assert "the program ended with exit code 3" in told
    assert "16 tasks: 16 done" in told
    found = shell.status()
    assert (found["job"], found["exit_code"], found["states"]) == (job, 3, {"DONE": 16})
    printed = Path(found["output"]).read_text()
    nodes = "; ".join(f"node{number}, not submitted" for number in (1, 2))
    assert printed.splitlines()[1:] == [nodes, "arguments one two in pond"], printed
    assert "the nodes of this job are those of pilot 'pilot.0000', which has not ended" in printed
    assert f"takes the nodes of this job {job}, 2 of them, and is no job of its own" in Path(found["errors"]).read_text()
    slurm.wait_until(lambda: not slurm.jobs(), "there was but one job")


def test_a_program_in_an_allocation_of_ones_own_takes_its_nodes(shell: Shell, slurm: SlurmCluster) -> None:
    (shell.home / "program.py").write_text(PROGRAM)
    environment = {**shell.environment, "PILOTAGE_ALLOCATION_OF": "test.cluster"}
    command = ["salloc", "--quiet", "--nodes=2", sys.executable, "program.py"]
    ran = subprocess.run(
        command, cwd=shell.home, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE_S, check=False
    )
    assert ran.returncode == 3, ran.stderr
    assert "node1, not submitted; node2, not submitted" in ran.stdout, ran.stdout + ran.stderr
    assert "2 of them, and is no job of its own" in ran.stderr
    slurm.wait_until(lambda: not slurm.jobs(), "there was but the allocation")


def test_cancelling_a_program_ends_its_job_and_all_in_it(shell: Shell, slurm: SlurmCluster) -> None:
    runs = shell.home / "runs"
    line = f"echo $$ >{runs}; exec sleep infinity"
    (shell.home / "program.py").write_text(PROGRAM.replace("echo $PILOTAGE_NODE, not ${PILOTAGE_SESSION:-submitted}", line))
    shell.run("submit", "program.py", "--platform", "test.cluster", "--nodes", "2", "--runtime", "10m")
    slurm.wait_until(lambda: runs.exists() and runs.read_text().strip(), "its tasks run")
    pid = int(runs.read_text())
    told = shell.run("cancel")
    assert "was running and is cancelled" in told
    assert slurm.jobs() == {}
    slurm.wait_until(lambda: not Path(f"/proc/{pid}").exists(), "its tasks are gone")
    assert "the program ended with exit code -15" in shell.run("wait", code=128 + signal.SIGTERM)
