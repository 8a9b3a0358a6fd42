"""Faults of the storage, end to end: full disks, damaged logs, torn and lost ends of logs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pilotage.client.recovery import recover_state

from .jobs import Job, Plan
from .stage import Stage
from .witness import Harm

ARMED = "tests.faults.planted"
PILOT: dict[str, str | int | float] = {"resource": "local.localhost", "cores": 2, "runtime": 10}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Take all the room there is, and return the file that has it."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path


def gate_and_calls(session: str, kind: str = "gate_call", **pilot: str) -> Plan:
    jobs = [Job("gate", kind), *(Job(f"call.{number}", "call") for number in range(8))]
    return Plan(session, jobs, {**PILOT, **pilot})


def log_of(folder: Path) -> Path:
    """Return the segment of a log that is written."""
    return max(folder.glob("*.log"), key=lambda path: path.stat().st_mtime)


def until_only_the_gate_runs(stage: Stage) -> None:
    stage.until_witnessed(2 * len(stage.plan.jobs) - 1)


def flip(path: Path, offset: int) -> None:
    """Flip the bits of one byte."""
    with open(path, "r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0xFF]))


def kill_agent_while_its_log_is_changed(stage: Stage, change: Path, what: bytes | int) -> None:
    """Kill the agent, append bytes to the file or flip the byte at an offset, and let the next agent come."""
    (bootstrap,) = stage.pids("bootstrap")
    with stage.stopped(bootstrap):
        stage.kill("agent")
        if isinstance(what, bytes):
            with open(change, "ab") as file:
                file.write(what)
        else:
            flip(change, what)


def test_an_agent_whose_disk_is_full_stands_still_until_there_is_room(small_disk: Path) -> None:
    environment = {"FAULTS_PLANTED": "agent.1:pause:before:1:note"}
    # Enough outcomes for several pages: a record that fits into the last one needs no room.
    jobs = [Job("gate.0", "gate_call"), Job("gate.1", "gate_call"), *(Job(f"call.{number}", "call") for number in range(300))]
    plan = Plan("full", jobs, {**PILOT, "sandbox": str(small_disk)}, batch=400)
    with Stage(plan, program=ARMED, environment=environment) as stage:
        stage.start_client()
        stage.until_witnessed(2)
        stage.until(lambda: (stage.folder / "submitted").read_text(), "all tasks were submitted")
        filler = fill(small_disk)
        stage.open_gate()
        stage.until_passed("agent.1:pause:before:1:note")
        assert stage.pids("client")
        filler.unlink()
        stage.finish()
        stage.check()


def test_a_task_that_fills_its_disk_fails_and_the_others_do_not(small_disk: Path) -> None:
    full = Job("chatty", "chatty", sandbox=str(small_disk / "sandbox"))
    plan = Plan("chatty", [full, *(Job(f"null.{number}", "null") for number in range(6))], PILOT)
    with Stage(plan) as stage:
        stage.start_client()
        stage.finish()
        endings = {report.uid: report.ending for report in stage.reports()}
        assert endings.pop("chatty") == "EXITED"
        assert set(endings.values()) == {"DONE"}
        stage.check_nothing_left()


def test_a_flipped_byte_in_the_log_of_the_client_stops_recovery_with_a_clear_error() -> None:
    with Stage(gate_and_calls("flipped")) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        stage.kill("client")
        log = log_of(stage.pilot_folder().parent / "client")
        flip(log, log.stat().st_size // 2)
        stage.start_client()
        stage.until(lambda: not stage.pids("client"), "the client gave up")
        assert stage.client is not None
        assert stage.client.returncode == 1
        told = (stage.folder / "client.err").read_text().splitlines()[-1]
        assert told.startswith("pilotage.errors.LogCorrupted")
        assert str(log) in told
        assert "Restore the file from a copy" in told
        # Mended, it goes on as if nothing had been.
        flip(log, log.stat().st_size // 2)
        stage.open_gate()
        stage.start_client()
        stage.finish()
        stage.check()


def test_a_flipped_byte_in_the_log_of_the_agent_ends_the_pilot_with_a_clear_error() -> None:
    with Stage(gate_and_calls("flipped", kind="gate")) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        log = log_of(stage.pilot_folder() / "log")
        kill_agent_while_its_log_is_changed(stage, log, log.stat().st_size // 2)
        stage.finish()
        gate = next(report for report in stage.reports() if report.uid == "gate")
        assert gate.ending == "LOST"
        assert "does not check" in gate.message
        stage.check_nothing_left()


@pytest.mark.parametrize("torn", [b"\x40", b"\x40\x00\x00\x00torn", bytes(100)], ids=("a-byte", "a-frame", "zeros"))
def test_a_torn_record_at_the_end_of_the_log_of_the_agent_is_cut(torn: bytes) -> None:
    with Stage(gate_and_calls("torn", kind="gate")) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        kill_agent_while_its_log_is_changed(stage, log_of(stage.pilot_folder() / "log"), torn)
        stage.open_gate()
        stage.finish()
        stage.check()


def test_a_torn_record_at_the_end_of_the_log_of_the_client_is_cut() -> None:
    with Stage(gate_and_calls("torn")) as stage:
        stage.start_client()
        until_only_the_gate_runs(stage)
        stage.kill("client")
        with open(log_of(stage.pilot_folder().parent / "client"), "ab") as file:
            file.write(b"\x40\x00\x00\x00torn")
        stage.open_gate()
        stage.start_client()
        stage.finish()
        stage.check()


@pytest.mark.parametrize("number", [1, 2])
def test_a_lost_node_takes_the_ends_of_logs_that_were_not_synced(number: int) -> None:
    """Everything dies at once and what was not synced is gone; the same session is resumed after the boot."""
    environment = {"FAULTS_PLANTED": f"agent.1:sync:before:{number}:client"}
    jobs = [Job(f"null.{index}", "null") for index in range(10)] + [Job(f"call.{index}", "call") for index in range(10)]
    jobs += [Job("again", "sleep", seconds=0.1, restartable=True), Job("gate", "gate")]
    with Stage(Plan("node", jobs, PILOT, batch=8), program=ARMED, environment=environment) as stage:
        stage.start_client()
        stage.until(lambda: not stage.pids("client"), "the node was lost")
        stage.clear()
        for synced in stage.folder.glob("synced.*"):
            size, _, path = synced.read_text().partition(" ")
            os.truncate(path, int(size))
        if not (stage.folder / "synced.agent").exists():
            log = log_of(stage.pilot_folder() / "log")
            os.truncate(log, 0)
        connection = stage.pilot_folder() / "connection.json"
        text = connection.read_text()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert boot in text
        connection.write_text(text.replace(boot, "0" * 8 + boot[8:]))
        known = (stage.folder / "submitted").read_text().split()
        (stage.folder / "submitted").write_text("")
        # What a callback heard of within the last second may be forgotten with the node, and end in another way.
        kept = {
            uid for uid, task in recover_state(stage.pilot_folder().parent / "client").tasks.items() if task.outcome is not None
        }
        heard = (stage.folder / "callbacks").read_text().splitlines(keepends=True)
        (stage.folder / "callbacks").write_text("".join(line for line in heard if line.split()[0] in kept))
        stage.open_gate()
        stage.environment["FAULTS_PLANTED"] = ""
        stage.start_client()
        stage.finish()
        assert set(known) <= {report.uid for report in stage.reports()}
        stage.check(Harm(pilot=True))
