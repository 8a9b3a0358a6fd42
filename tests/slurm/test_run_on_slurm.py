"""``pilotage run`` on a real Slurm: options of its job, why it waits, and what is left when its terminal is closed."""

from __future__ import annotations

import json
import os
import pty
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster
from slurm_shell import Shell

from pilotage.batch.slurm import SLURM

RUN = ("run", "--session", "queued", "--platform", "test.cluster", "--nodes", "1", "--runtime", "5m")


@pytest.fixture
def full(slurm: SlurmCluster) -> str:
    """A job that has all nodes."""
    job = slurm.submit("--nodes=4", "--exclusive", "--wrap=exec sleep infinity")
    slurm.wait_for_job(job, "RUNNING")
    return job


def script_of(shell: Shell) -> str:
    return (shell.home / "home/sessions/queued/pilot.0000/job.sh").read_text()


def test_options_of_the_job_are_those_of_the_shell(shell: Shell, slurm: SlurmCluster) -> None:
    words = ("--queue", "shared", "--exclusive", "--extra-options", "--comment=mine", "--extra-options=--nice=7")
    told = shell.run(*RUN, *words, "-n", "2", "--show-output", "--", "/bin/echo", "{i}")
    assert "2 tasks: 2 done" in told
    script = script_of(shell).splitlines()
    for line in ("--partition=shared", "--exclusive", "--comment=mine", "--nice=7"):
        assert f"#SBATCH {line}" in script, script


def test_it_says_why_the_job_waits(shell: Shell, slurm: SlurmCluster, full: str) -> None:
    running = shell.start(*RUN, "-n", "2", "--", "/bin/echo", "{i}")
    assert running.stderr is not None
    line = running.stderr.readline()
    assert line.startswith("pilotage: its job ") and " is queued: " in line, line
    slurm.output("scancel", full)
    output, errors = running.communicate(timeout=PATIENCE_S)
    assert (running.returncode, "2 tasks: 2 done" in errors) == (0, True), output + errors


def in_terminal(shell: Shell, *words: str, prefix: str = "") -> tuple[int, int]:
    """Start a command line on a terminal of its own; return its pid and the terminal."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.chdir(shell.home)
            line = f'{prefix} exec "$@"'
            command = ["/bin/sh", "-c", line, "sh", sys.executable, "-m", "pilotage.cli", *words]
            os.execve("/bin/sh", command, {**shell.environment, "TERM": "xterm", "COLUMNS": "160"})
        finally:
            os._exit(127)
    return pid, terminal


@pytest.fixture
def closed() -> Iterator[list[int]]:
    """Processes that must not outlive a test."""
    started: list[int] = []
    yield started
    for pid in started:
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def printed_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        seen += os.read(terminal, 65536)
    return seen


def test_a_terminal_that_is_closed_takes_the_job_out_of_the_queue(shell: Shell, slurm: SlurmCluster, full: str) -> None:
    pid, terminal = in_terminal(shell, *RUN, "-n", "2", "--", "/bin/echo", "{i}")
    printed_until(terminal, b" is queued: ")
    assert len(slurm.jobs()) == 2
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 128 + signal.SIGHUP
    assert list(slurm.jobs()) == [full]
    shown = json.loads(shell.run("session", "show", "queued", "--format", "json"))["session"]
    assert (shown["state"], shown["canceled"], shown["living_pilots"]) == ("closed", 2, 0)


def test_who_said_nohup_keeps_it(shell: Shell, slurm: SlurmCluster, full: str, closed: list[int]) -> None:
    log = shell.home / "nohup.log"
    pid, terminal = in_terminal(shell, *RUN, "-n", "2", "--", "/bin/echo", "{i}", prefix=f"trap '' HUP; exec 2>{log};")
    closed.append(pid)
    slurm.wait_until(lambda: len(slurm.jobs()) == 2, "its job is in the queue")
    os.close(terminal)
    slurm.output("scancel", full)
    assert os.waitstatus_to_exitcode(os.waitpid(closed.pop(), 0)[1]) == 0
    assert "2 tasks: 2 done" in log.read_text()


def test_a_session_that_nobody_has_open_is_shown_with_what_the_queue_says_now(
    shell: Shell, slurm: SlurmCluster, full: str, tmp_path: Path
) -> None:
    running = shell.start(*RUN, "-n", "2", "--", "/bin/echo", "{i}")
    slurm.wait_until(lambda: len(slurm.jobs()) == 2, "its job is in the queue")
    [job] = slurm.jobs().keys() - {full}

    def shown(*variables: str) -> tuple[str, str, str, bool]:
        document = json.loads(shell.run("session", "show", "queued", "--format", "json"))["session"]
        [pilot] = document["pilots"]
        return document["state"], pilot["job"], pilot["job_state"], pilot["alive"]

    slurm.wait_until(lambda: shown() == ("open", job, "queued", True), "the job is noted")
    assert f"process {running.pid} on " in shell.run("session", "show", "queued")
    running.kill()
    running.communicate()
    assert shown() == ("crashed", job, "queued", True)
    assert f"none has it open, the last one (process {running.pid} on " in shell.run("session", "show", "queued")

    slurm.output("scancel", job)
    slurm.wait_until(lambda: shown() == ("crashed", job, "cancelled", False), "the queue's word counts")

    shell.environment["PATH"] = os.path.dirname(sys.executable)
    told = shell.run("session", "show", "queued")
    assert "slurm was asked for 1 job: no batch system slurm here" in told
    assert SLURM.facts.commands[0] in told
