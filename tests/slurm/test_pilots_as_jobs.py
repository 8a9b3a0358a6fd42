"""Pilots as jobs of a real Slurm, from a session's point of view."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster

from pilotage.batch.commands import BatchCommands, LocalRunner
from pilotage.batch.registry import batch_system
from pilotage.cli.main import run_command
from pilotage.client.batch_jobs import Patience
from pilotage.client.pilot import Pilot
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.errors import InvalidPilot


def submit(session: Session, **attributes: Any) -> Pilot:
    """Submit a pilot of one node, or as told."""
    size = {} if attributes.keys() & {"nodes", "cores", "gpus"} else {"nodes": 1}
    manager = PilotManager(session)
    pilot: Pilot = manager.submit_pilots(PilotDescription({"resource": "test.cluster", "runtime": 10, **size, **attributes}))
    return pilot


def wait_until(there: Callable[[], object], shown: Callable[[], object]) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.05)


def run(session: Session, pilot: Pilot, *lines: str, **attributes: Any) -> list[Task]:
    """Submit tasks that run lines of shell."""
    tasks = TaskManager(session)
    tasks.add_pilots(pilot)
    described = [TaskDescription(executable="/bin/sh", arguments=["-c", line], **attributes) for line in lines]
    handles: list[Task] = tasks.submit_tasks(described)
    return handles


def test_tasks_run_on_the_four_nodes_of_a_pilot(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    pilot = submit(session, nodes=4)
    # As many as there are cores, so that each has to be used.
    line = f"echo $PILOTAGE_NODE; until [ -e {tmp_path}/go ]; do sleep 0.05; done"
    tasks = run(session, pilot, *[line] * 16, cores_per_rank=2)
    wait_until(lambda: all(task.stdout for task in tasks), lambda: (pilot.state, pilot.reason, [task.state for task in tasks]))
    assert slurm.jobs() == {pilot.job: "RUNNING"}
    (tmp_path / "go").touch()

    assert [task.wait(timeout=PATIENCE_S) for task in tasks] == ["DONE"] * 16
    assert {task.stdout.strip() for task in tasks} == set(slurm.node_names)
    assert (pilot.state, pilot.reason, pilot.job_state) == ("PMGR_ACTIVE", "", "running")
    assert [node.shape.cores for node in pilot.nodes] == [8] * 4
    pilot.cancel()
    assert pilot.wait(timeout=PATIENCE_S) == "CANCELED"
    wait_until(lambda: pilot.job_outcome, lambda: pilot.job_state)
    assert (pilot.job_outcome, slurm.jobs()) == ("DONE", {})


def test_closing_the_session_waits_for_its_jobs(session: Session, slurm: SlurmCluster) -> None:
    active = submit(session, nodes=2)
    assert active.wait("PMGR_ACTIVE", timeout=PATIENCE_S) == "PMGR_ACTIVE", active.reason
    waiting = submit(session, nodes=4)
    wait_until(lambda: waiting.job, lambda: waiting.reason)

    session.close()

    assert slurm.jobs() == {}
    assert {active.state, waiting.state} == {"CANCELED"}


def test_a_pilot_that_waits_says_why_and_is_cancelled(session: Session, slurm: SlurmCluster) -> None:
    slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    pilot = submit(session, nodes=2)
    wait_until(lambda: "Resources" in pilot.reason or "Priority" in pilot.reason, lambda: (pilot.state, pilot.reason))
    assert pilot.reason.startswith(f"its job {pilot.job} is queued: ")
    assert (pilot.state, slurm.jobs()[pilot.job]) == ("PMGR_ACTIVE_PENDING", "PENDING")
    [task] = run(session, pilot, "true")

    pilot.cancel()

    assert (pilot.wait(timeout=PATIENCE_S), task.wait(timeout=PATIENCE_S)) == ("CANCELED", "CANCELED")
    assert pilot.job not in slurm.jobs()
    assert pilot.reason.startswith(f"its job {pilot.job} was cancelled")


def test_tasks_of_a_pilot_that_waits_are_cancelled_at_once(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    pilot = submit(session)
    left, cancelled, *others = run(session, pilot, "true", *[f"touch {tmp_path}/ran"] * 3)
    wait_until(lambda: pilot.job in slurm.jobs(), lambda: pilot.reason)

    cancelled.cancel()
    assert cancelled.wait(timeout=PATIENCE_S) == "CANCELED"
    assert cancelled.exception is not None and "cancelled before its pilot was active" in str(cancelled.exception)
    for task in others:
        task.cancel()
    assert [task.wait(timeout=PATIENCE_S) for task in others] == ["CANCELED"] * 2
    assert slurm.jobs()[pilot.job] == "PENDING"

    slurm.output("scancel", holding)
    assert left.wait(timeout=PATIENCE_S) == "DONE"
    assert not (tmp_path / "ran").exists()


def test_a_task_of_a_pilot_that_waits_says_so(
    session: Session,
    slurm: SlurmCluster,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    pilot = submit(session)
    [task] = run(session, pilot, "true")
    wait_until(lambda: "Resources" in pilot.reason or "Priority" in pilot.reason, lambda: pilot.reason)
    told = f"{task.uid} is sent to {pilot.uid} when that is active: its job {pilot.job} is queued: "

    def why() -> str:
        assert run_command(["task", "why", task.uid, "--session", session.uid]) == 0
        return capsys.readouterr().out

    wait_until(lambda: why().startswith(told), why)
    assert "pilotage session resume" not in why()
    session.close(terminate=False)
    assert why().rstrip().endswith(f", and no program has the session open; see: pilotage session resume {session.uid}")


def test_a_folder_may_have_what_the_batch_system_puts_numbers_in_for(
    session: Session, slurm: SlurmCluster, tmp_path: Path
) -> None:
    pilot = submit(session, sandbox=str(tmp_path / "100%j%%"))
    assert [task.wait(timeout=PATIENCE_S) for task in run(session, pilot, "true")] == ["DONE"], pilot.reason
    assert (Path(pilot.sandbox) / "job.out").exists()


def test_a_job_that_is_refused_fails_its_pilot_and_leaves_nothing(session: Session, slurm: SlurmCluster) -> None:
    pilot = submit(session, queue="nope")
    [task] = run(session, pilot, "true")
    assert (pilot.wait(timeout=PATIENCE_S), task.wait(timeout=PATIENCE_S)) == ("FAILED", "FAILED")
    assert "invalid partition specified: nope" in pilot.reason
    assert "give a queue, qos or reservation that is open to you" in pilot.reason
    assert slurm.jobs() == {}


@pytest.mark.parametrize(
    ("asked", "reason"), [({"nodes": 5}, "PartitionNodeLimit"), ({"dependency": "afterok:{}"}, "DependencyNeverSatisfied")]
)
def test_a_pilot_that_can_never_start_fails(session: Session, slurm: SlurmCluster, asked: dict[str, Any], reason: str) -> None:
    failed = slurm.submit("--wrap=exit 1")
    slurm.wait_for_job(failed, "FAILED")
    pilot = submit(session, **{name: value.format(failed) if name == "dependency" else value for name, value in asked.items()})
    assert pilot.wait(timeout=PATIENCE_S) == "FAILED"
    assert f"its job {pilot.job} can never begin: {reason}; change what the pilot asks for: " in pilot.reason
    assert f"nodes={asked.get('nodes', 1)}" in pilot.reason
    assert slurm.jobs() == {}


def test_no_batch_system_here_is_said_at_the_call(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(InvalidPilot, match="no batch system slurm here: there is no sbatch in PATH; work where it is"):
        submit(session)
    assert not session.state.pilots


def test_what_the_platform_lacks_or_forbids_is_refused_at_the_call(session: Session, slurm: SlurmCluster) -> None:
    with pytest.raises(InvalidPilot, match=r"filesystems=.*: slurm cannot say it; name what the site uses for them"):
        submit(session, filesystems="home")
    with pytest.raises(InvalidPilot, match=r"runtime=61 exceeds the 60 minutes of queue 'spare' on test.cluster"):
        submit(session, queue="spare", runtime=61)
    assert slurm.jobs() == {}


def test_a_job_that_is_cancelled_by_others_ends_its_pilot(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    pilot = submit(session)
    [task] = run(session, pilot, f"touch {tmp_path}/runs; exec sleep infinity")
    wait_until((tmp_path / "runs").exists, lambda: pilot.reason)

    slurm.output("scancel", pilot.job)

    pilot.wait(timeout=PATIENCE_S)
    task.wait(timeout=PATIENCE_S)
    assert task.state in ("FAILED", "CANCELED")
    wait_until(lambda: pilot.job_outcome, lambda: (pilot.state, pilot.reason, pilot.job_state))
    assert pilot.job_outcome == "CANCELLED"


@pytest.mark.parametrize("when", ["queued", "running"])
def test_a_job_is_watched_on_by_who_resumes_the_session(
    session: Session, slurm: SlurmCluster, tmp_path: Path, when: str
) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity") if when == "queued" else ""
    pilot = submit(session, nodes=4)
    run(session, pilot, "true", f"touch {tmp_path}/again")
    if when == "queued":
        wait_until(lambda: pilot.job, lambda: pilot.reason)
    else:
        assert pilot.wait("PMGR_ACTIVE", timeout=PATIENCE_S) == "PMGR_ACTIVE", pilot.reason
    session.close(terminate=False)
    assert pilot.job in slurm.jobs()
    if holding:
        slurm.output("scancel", holding)

    with Session.resume(session.uid, base=tmp_path / "sessions") as resumed:
        manager = resumed.get_pilot_managers(pilot.pmgr.uid)
        again = manager.get_pilots(pilot.uid)
        assert again.wait("PMGR_ACTIVE", timeout=PATIENCE_S) == "PMGR_ACTIVE", again.reason
        for tasks in resumed.get_task_managers():
            tasks.wait_tasks(timeout=PATIENCE_S)
            assert {task.state for task in tasks.get_tasks()} == {"DONE"}
        assert again.job == pilot.job
    assert slurm.jobs() == {}


def test_a_job_whose_node_is_lost_fails_its_pilot(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    pilot = submit(session, extra_options=["--nodelist=node4", "--no-requeue"])
    [task] = run(session, pilot, f"touch {tmp_path}/runs; exec sleep infinity")
    wait_until((tmp_path / "runs").exists, lambda: pilot.reason)
    try:
        slurm.set_node("node4", "down")
        assert pilot.wait(timeout=2 * PATIENCE_S) == "FAILED"
    finally:
        slurm.set_node("node4", "resume")
    assert (pilot.job_outcome, task.wait(timeout=PATIENCE_S)) == ("NODE_FAILED", "FAILED")
    assert f"its job {pilot.job} lost a node (NodeDown" in pilot.reason


def test_an_agent_that_its_batch_system_takes_for_lost_is_told_to_end(
    session: Session, slurm: SlurmCluster, tmp_path: Path
) -> None:
    pilot = submit(session, extra_options=["--nodelist=node4", "--no-requeue"])
    [done, cut_off] = run(session, pilot, "true", f"touch {tmp_path}/runs; exec sleep infinity")
    wait_until(lambda: (tmp_path / "runs").exists() and done.state == "DONE", lambda: pilot.reason)
    # Nobody on the node is there to end what the job runs.
    slurm.kill("node4")
    try:
        slurm.set_node("node4", "down")
        assert pilot.wait(timeout=2 * PATIENCE_S) == "FAILED"
    finally:
        slurm.start_node("node4")
        slurm.set_node("node4", "resume")
    # It was still heard, so what became of its tasks is known.
    assert cut_off.wait(timeout=PATIENCE_S) == "CANCELED"
    assert f"its job {pilot.job} lost a node" in pilot.reason
    slurm.wait_for_nodes("idle", "node4")


def test_the_script_is_the_users_alone_and_holds_no_secrets(
    session: Session, slurm: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "abc123secret")
    slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    pilot = submit(session, job_name="water")
    wait_until(lambda: pilot.job, lambda: pilot.reason)
    for path in Path(pilot.sandbox).iterdir():
        if path.is_file():
            assert path.stat().st_mode & 0o077 == 0, path
    assert "abc123secret" not in (Path(pilot.sandbox) / "job.sh").read_text()
    told = slurm.job(pilot.job)
    assert told["JobName"].startswith(f"water.{session.uid}.{pilot.uid}.")
    assert told["StdOut"] == f"{pilot.sandbox}/job.out"


def test_a_preempted_job_that_is_not_queued_again_says_so(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    pilot = submit(session, nodes=4, queue="spare", extra_options="--no-requeue")
    [task] = run(session, pilot, f"touch {tmp_path}/runs; exec sleep infinity")
    wait_until((tmp_path / "runs").exists, lambda: pilot.reason)

    slurm.submit("--nodes=4", "--wrap=true")

    pilot.wait(timeout=PATIENCE_S)
    task.wait(timeout=PATIENCE_S)
    wait_until(lambda: pilot.job_outcome, lambda: (pilot.state, pilot.reason, pilot.job_state))
    assert (pilot.job_outcome, task.state in ("FAILED", "CANCELED")) == ("PREEMPTED", True)
    assert f"its job {pilot.job} was preempted" in pilot.reason


def test_a_job_that_runs_out_of_time_says_so(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    pilot = submit(session)
    [task] = run(session, pilot, f"touch {tmp_path}/runs; exec sleep infinity")
    wait_until((tmp_path / "runs").exists, lambda: pilot.reason)
    slurm.output("scontrol", "update", f"JobId={pilot.job}", "EndTime=now+1")
    pilot.wait(timeout=2 * PATIENCE_S)
    task.wait(timeout=PATIENCE_S)
    wait_until(lambda: pilot.job_outcome, lambda: (pilot.state, pilot.reason, pilot.job_state))
    assert (pilot.job_outcome, task.state in ("FAILED", "CANCELED")) == ("TIMED_OUT", True)
    assert f"its job {pilot.job} ran out of time" in pilot.reason


def test_a_job_that_is_queued_again_goes_on_with_its_tasks(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    pilot = submit(session, nodes=4, queue="spare")
    line = f"echo x >>{tmp_path}/runs; [ -e {tmp_path}/urgent ] || exec sleep infinity"
    [cut_off] = run(session, pilot, line, restartable=True)
    wait_until((tmp_path / "runs").exists, lambda: pilot.reason)
    (tmp_path / "urgent").touch()

    slurm.submit("--nodes=4", "--wrap=true")

    assert cut_off.wait(timeout=2 * PATIENCE_S) == "DONE", (pilot.state, pilot.reason)
    assert (tmp_path / "runs").read_text() == "x\nx\n"
    assert slurm.job(pilot.job)["Restarts"] == "1"
    assert pilot.state == "PMGR_ACTIVE"


# ----- what is not told -----------------------------------------------------------------------------------------------


def impatient(session: Session, timeout_s: float = 60.0) -> None:
    """Have the session give up sooner what is not listed, and commands that do not answer."""
    jobs = session.engine.jobs
    jobs.patience = Patience(vanish_s=1.0, settle_s=1.0, again_s=0.1)
    jobs.commands_of = lambda name: BatchCommands(batch_system(name), LocalRunner(), timeout_s=timeout_s)


def replaced(program: str, script: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a program replaced by a script, in which ``$real`` is the program itself."""
    folder.mkdir()
    path = folder / program
    path.write_text(f"#!/bin/sh\nreal={shutil.which(program)}\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_job_whose_submission_was_not_answered_is_found(
    session: Session, slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced("sbatch", '"$real" "$@" >/dev/null; exec sleep infinity', tmp_path / "bin", monkeypatch)
    impatient(session, timeout_s=10.0)
    pilot = submit(session)
    [task] = run(session, pilot, "true")
    # The agent does not wait for the answer.
    assert task.wait(timeout=PATIENCE_S) == "DONE", pilot.reason
    wait_until(lambda: pilot.job, lambda: pilot.reason)
    assert slurm.jobs() == {pilot.job: "RUNNING"}


def test_a_job_that_nobody_lists_any_more_fails_its_pilot(
    session: Session, slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holding = slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    impatient(session)
    pilot = submit(session)
    wait_until(lambda: pilot.job_state == "queued", lambda: pilot.reason)
    # As after a server has lost its state.
    with monkeypatch.context() as lost:
        replaced("squeue", "exit 0", tmp_path / "bin", lost)
        assert pilot.wait(timeout=PATIENCE_S) == "FAILED"

    assert (
        f"its job {pilot.job} is gone (the batch system does not list it; it was queued when it was listed last)"
        in pilot.reason
    )
    # Should it begin nevertheless, it ends by itself.
    slurm.output("scancel", holding)
    slurm.wait_for_job(pilot.job, "FAILED")
    assert "was given up before this job began" in (Path(pilot.sandbox) / "job.out").read_text()


PROGRAM = """
import sys
from pilotage import PilotDescription, PilotManager, Session
session = Session("spring", base=sys.argv[1])
PilotManager(session).submit_pilots(PilotDescription(resource="test.cluster", nodes=1, runtime=10)).wait()
"""


def test_a_job_is_found_that_was_submitted_as_the_program_died(
    session: Session, slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced("sbatch", '"$real" "$@" && kill -KILL $PPID', tmp_path / "bin", monkeypatch)
    base = tmp_path / "sessions"
    died = subprocess.run([sys.executable, "-c", PROGRAM, base], cwd=tmp_path, timeout=PATIENCE_S)
    assert died.returncode == -signal.SIGKILL
    [job] = slurm.jobs()

    with Session.resume("spring", base=base) as resumed:
        [pilot] = resumed.get_pilot_managers()[0].get_pilots()
        assert pilot.wait("PMGR_ACTIVE", timeout=PATIENCE_S) == "PMGR_ACTIVE", pilot.reason
        assert (pilot.job, list(slurm.jobs())) == (job, [job])


SMALL = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))
from pilotage import PilotDescription, PilotManager, Session, TaskDescription, TaskManager
with Session(base=sys.argv[1]) as session:
    pilots = PilotManager(session).submit_pilots([PilotDescription(resource="test.cluster", nodes=1, runtime=10)] * 2)
    tasks = TaskManager(session)
    tasks.add_pilots(pilots)
    tasks.submit_tasks([TaskDescription(executable="/bin/true") for _ in range(200)])
    tasks.wait_tasks()
    print({task.state for task in tasks.get_tasks()}, len(os.listdir("/proc/self/task")))
"""


def test_a_client_on_a_login_node_needs_few_threads_and_little_memory(
    session: Session, slurm: SlurmCluster, tmp_path: Path
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", SMALL, tmp_path / "small"], cwd=tmp_path, timeout=2 * PATIENCE_S, capture_output=True, text=True
    )
    assert ran.stdout.startswith("{'DONE'} "), ran.stderr
    assert int(ran.stdout.split()[1]) <= 10


# ----- the command line -----------------------------------------------------------------------------------------------


def pilotage(*words: str) -> str:
    """Return what the command ``pilotage`` prints."""
    ran = subprocess.run([sys.executable, "-m", "pilotage.cli", *words], capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_command_line_shows_jobs_and_removes_sessions_with_them(
    session: Session, slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path))
    slurm.submit("--nodes=4", "--wrap=exec sleep infinity")
    pilot = submit(session)
    wait_until(lambda: "Resources" in pilot.reason, lambda: pilot.reason)
    [row] = json.loads(pilotage("session", "show", session.uid, "--format", "json"))["session"]["pilots"]
    assert (row["job"], row["job_state"], row["alive"]) == (pilot.job, "queued", True)
    assert row["reason"].startswith(f"its job {pilot.job} is queued: Resources")
    table = pilotage("session", "show", session.uid)
    assert "QUEUE" in table and pilot.job in table
    session.close(terminate=False)

    pilotage("session", "rm", session.uid, "--force")

    assert pilot.job not in slurm.jobs()
    assert not Path(pilot.sandbox).exists()
