"""Steps that start hosts: how they begin and end, and what is told of it."""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pilotage.errors import BackendError
from pilotage.executors import host_step
from pilotage.executors.host_step import HostStep, earlier_steps
from pilotage.executors.hosts import HostsEnded
from pilotage.executors.lobby import HostLobby
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.installed import Installed

PATIENCE_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (folder := tmp_path / "pilot").mkdir(mode=0o700)
    return folder


@pytest.fixture
def temporary() -> Iterator[str]:
    """The temporary folder of hosts: sockets want short paths."""
    with tempfile.TemporaryDirectory(prefix="pt-", dir="/tmp") as folder:
        yield folder


@pytest.fixture
def start_step(folder: Path, tmp_path: Path, temporary: str) -> Iterator[Callable[..., HostStep]]:
    """Make starters, whose launchers find ``tmp_path/bin`` in PATH; what they leave is killed after the test."""
    (tmp_path / "bin").mkdir()
    made: list[HostStep] = []

    def make(method: str, installed: Installed, job: str = "") -> HostStep:
        own = {b"PATH": os.fsencode(f"{tmp_path}/bin:{os.environ['PATH']}"), b"TMPDIR": os.fsencode(temporary)}
        made.append(HostStep(folder, method, installed, job=job, environment={**os.environb, **own}))
        return made[-1]

    yield make
    for pid in pids_of(folder):
        os.kill(pid, signal.SIGKILL)
    for step in made:
        step.leave()


def pids_of(folder: Path) -> list[int]:
    """Return the processes that have the folder among their arguments."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                arguments = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(folder) in arguments:
                found.append(int(entry))
    return found


def program(path: Path, text: str) -> Installed:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Installed(str(path))


def await_end(step: HostStep) -> HostsEnded:
    """Return what is told of the next step that is over, once the starter's descriptor says so."""
    ready, _, _ = select.select([step], [], [], PATIENCE_S)
    until = time.monotonic() + PATIENCE_S
    while (ended := step.ended()) is None:
        assert ready and time.monotonic() < until
        ready, _, _ = select.select([step], [], [], PATIENCE_S)
    return ended


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_hosts_come_by_the_names_of_their_nodes_and_end_with_their_step(
    folder: Path, start_step: Callable[..., HostStep]
) -> None:
    lobby = HostLobby.open(folder, SessionUid("s"), PilotUid("p"), ["n1", "n2"], ["127.0.0.1"])
    step = start_step("fork", Installed("/bin/sh"))
    step.start(["n1", "n2"])
    found = lobby.gather(["n1", "n2"], PATIENCE_S, lambda: False)
    assert {name: told.name for name, told in found.items()} == {"n1": "n1", "n2": "n2"}
    assert step.ended() is None
    step.end()
    wait_until(lambda: not pids_of(folder))
    lobby.close()


def test_the_end_of_a_step_is_told_once_with_what_it_printed(tmp_path: Path, start_step: Callable[..., HostStep]) -> None:
    step = start_step("srun", program(tmp_path / "bin" / "srun", "echo 'no such partition' >&2; exit 3"))
    step.start(["n1", "n2"])
    assert await_end(step) == HostsEnded(("n1", "n2"), 3, "no such partition")
    step.start(["n2"])
    assert await_end(step) == HostsEnded(("n2",), 3, "no such partition")
    assert step.ended() is None


def test_steps_have_names_and_files_of_their_own(folder: Path, tmp_path: Path, start_step: Callable[..., HostStep]) -> None:
    launcher = program(
        tmp_path / "bin" / "srun", f'for each; do case $each in --job-name=*) echo "$each" >>{tmp_path}/names;; esac; done'
    )
    for _ in range(2):
        step = start_step("srun", launcher)
        step.start(["n1"])
        await_end(step)
    assert (tmp_path / "names").read_text().splitlines() == [f"--job-name=pilotage-hosts:pilot.{number}" for number in range(2)]
    assert sorted(path.name for path in folder.glob("hosts.*.err")) == ["hosts.0.err", "hosts.1.err"]


def test_a_launcher_that_is_not_there_is_an_error(start_step: Callable[..., HostStep]) -> None:
    step = start_step("srun", Installed("/no/such/srun"))
    with pytest.raises(BackendError, match=r"hosts on 2 nodes could not be started by srun \(/no/such/srun\): No such file"):
        step.start(["n1", "n2"])


def test_the_step_of_a_killed_launcher_is_cancelled_before_its_end_is_told(
    tmp_path: Path, start_step: Callable[..., HostStep]
) -> None:
    listed = tmp_path / "listed"
    listed.write_text("7.0 pilotage-hosts:pilot.0\n7.1 pilotage:task.000001:1\n")
    program(tmp_path / "bin" / "squeue", f"cat {listed}")
    program(
        tmp_path / "bin" / "scancel",
        f"echo $1 >>{tmp_path}/cancelled; grep -v ^$1 {listed} >{listed}.new; mv {listed}.new {listed}",
    )
    step = start_step("srun", program(tmp_path / "bin" / "srun", "echo $$ >$0.pid; exec sleep 1000"), job="7")
    step.start(["n1"])
    pid_file = tmp_path / "bin" / "srun.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    os.kill(int(pid_file.read_text()), signal.SIGKILL)
    assert await_end(step) == HostsEnded(("n1",), -signal.SIGKILL, "")
    assert (tmp_path / "cancelled").read_text().split() == ["7.0"]
    assert listed.read_text() == "7.1 pilotage:task.000001:1\n"


def test_a_step_that_does_not_heed_its_end_is_killed_and_cancelled(
    tmp_path: Path, start_step: Callable[..., HostStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_step, "END_S", 0.2)
    program(tmp_path / "bin" / "squeue", "echo 7.0 pilotage-hosts:pilot.0")
    program(tmp_path / "bin" / "scancel", f"echo $1 >>{tmp_path}/cancelled")
    step = start_step(
        "srun", program(tmp_path / "bin" / "srun", "trap '' TERM; echo $$ >$0.pid; while :; do sleep 0.1; done"), job="7"
    )
    step.start(["n1"])
    pid_file = tmp_path / "bin" / "srun.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    step.end()
    assert (tmp_path / "cancelled").read_text().split() == ["7.0"]
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()


def test_steps_of_an_earlier_agent_are_found_and_ended(
    folder: Path, tmp_path: Path, start_step: Callable[..., HostStep], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert earlier_steps(folder) == []
    launcher = program(tmp_path / "bin" / "srun", "echo $$ >$0.pid; exec sleep 1000")
    before = start_step("srun", launcher)
    before.start(["n1"])
    pid_file = tmp_path / "bin" / "srun.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    pid = int(pid_file.read_text())
    before.leave()
    # What was an agent's child is, after its death, a child of the bootstrap, which is the parent of the next one.
    monkeypatch.setattr(os, "getppid", os.getpid)
    assert earlier_steps(folder) == [pid]
    assert earlier_steps(tmp_path) == []
    step = start_step("srun", launcher)
    step.end()
    assert earlier_steps(folder) == []
    os.waitpid(pid, 0)


def test_the_steps_of_another_partition_are_not_ended(tmp_path: Path, start_step: Callable[..., HostStep]) -> None:
    program(tmp_path / "bin" / "scancel", f"echo $1 >>{tmp_path}/cancelled")
    program(tmp_path / "bin" / "squeue", "echo 7.0 pilotage-hosts:pilot.1; echo 7.1 pilotage-hosts:pilot.2.0")
    launcher = program(tmp_path / "bin" / "srun", "echo $$ >$0.pid; trap '' TERM; while :; do sleep 0.1; done")
    before = start_step("srun", launcher, job="7")
    before.start(["n1"])
    pid_file = tmp_path / "bin" / "srun.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip())
    before.leave()
    # Not known by a name of its own, it is found as a process, killed, and looked for in the list of steps.
    start_step("srun", launcher, job="7").end()
    assert (tmp_path / "cancelled").read_text().split() == ["7.0"]
