"""A file system without room: nothing is placed and no files are staged until there is room, and everybody is told."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, processes_of, shell

import pilotage as rp
from pilotage.cli.main import run_command

CONTENT = random.Random(7).randbytes(8 << 20)
"""More than what the file system is left with when it is full for such a file."""


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for 64 MiB, and for few files."""
    if os.geteuid():
        pytest.skip("mounting a small file system takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,nr_inodes=400,mode=0700", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(filler: Path) -> None:
    """Take all the files there are."""
    filler.mkdir()
    try:
        for number in range(10_000):
            (filler / str(number)).touch()
    except OSError:
        return
    raise AssertionError("this file system has no end")


def empty(filler: Path) -> None:
    for path in filler.glob("*"):
        path.unlink()


def test_tasks_wait_while_there_is_no_room_for_their_sandboxes(
    few_inodes: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.WARNING, "pilotage")
    monkeypatch.setattr(logging.getLogger("pilotage"), "propagate", True)
    monkeypatch.setenv("PILOTAGE_HOME", str(few_inodes))
    filler = few_inodes / "filler"
    campaign = Campaign(few_inodes / "sessions")
    try:
        campaign.start(cores=1)
        assert campaign.shell("echo before").state == rp.DONE
        fill(filler)
        tasks = campaign.tasks.submit_tasks([shell("echo after") for _ in range(20)])

        def why() -> str:
            assert run_command(["task", "why", tasks[0].uid, "--session", campaign.session.uid]) == 0
            return capsys.readouterr().out

        eventually(lambda: "nothing is started for now" in why(), "the pilot knows that there is no room")
        assert "No space left on device" in why()
        eventually(lambda: "storage is full" in caplog.text, "the user is told")
        assert not [task for task in tasks if task.state in rp.FINAL]
        empty(filler)
        campaign.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
        assert {task.state for task in tasks} == {rp.DONE}, "none failed for it"
        eventually(lambda: "there is room again" in caplog.text, "the user is told that it goes on")
    finally:
        empty(filler)
        campaign.session.close()


# ---------------------------------------------------------------------------------------------------------------- staging


def leave_room_for(disk: Path, size: int) -> Path:
    """Take all the space but ``size`` bytes, and return the file that has it."""
    filler = disk / "filler"
    status = os.statvfs(disk)
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - size)
    return filler


def temporaries(folder: Path) -> list[Path]:
    return list(folder.rglob(".pilotage-*"))


class Full:
    """A campaign on a file system that is nearly full, and what its user is told."""

    def __init__(self, disk: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
        self.disk = disk
        self._caplog = caplog
        self._capsys = capsys
        self.campaign = Campaign(disk / "sessions")
        self.pilot = self.campaign.start(cores=1)
        self._filler: Path | None = None

    def fill(self) -> None:
        """Leave room for what the session itself writes, and not for a file with ``CONTENT``."""
        self._filler = leave_room_for(self.disk, len(CONTENT) // 2)

    def free(self) -> None:
        if self._filler is not None:
            self._filler.unlink()
            self._filler = None

    def submit(self, **description: object) -> rp.Task:
        return self.campaign.tasks.submit_tasks(shell("exit 0", **description))

    def why(self, task: rp.Task) -> str:
        assert run_command(["task", "why", task.uid, "--session", self.campaign.session.uid]) == 0
        return self._capsys.readouterr().out

    def until_put_off(self, task: rp.Task) -> str:
        """Wait until the task waits for room, and return what ``task why`` says."""

        def why() -> str:
            # Between two tries it is being staged.
            words = self.why(task)
            return words if "not staged for now, as storage is full" in words else ""

        found = str(eventually(why, "the task waits for room"))
        eventually(lambda: "storage is full" in self._caplog.text, "the user is told")
        return found

    def close(self) -> None:
        self.free()
        self.campaign.session.close()


@pytest.fixture
def full(
    few_inodes: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Full]:
    caplog.set_level(logging.WARNING, "pilotage")
    monkeypatch.setattr(logging.getLogger("pilotage"), "propagate", True)
    monkeypatch.setenv("PILOTAGE_HOME", str(few_inodes))
    full = Full(few_inodes, caplog, capsys)
    try:
        yield full
    finally:
        full.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file on another file system than the full one."""
    path = tmp_path / "source"
    path.write_bytes(CONTENT)
    return path


def nothing(full: Full) -> None:
    pass


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def the_agent_dies(full: Full) -> None:
    def agents() -> set[int]:
        return {pid for pid in processes_of(full.disk) if b"pilotage.agent.main" in command_of(pid)}

    (agent,) = agents()
    os.kill(agent, signal.SIGKILL)
    eventually(lambda: agents() - {agent}, "another agent has come")


@pytest.mark.parametrize("happens", [nothing, the_agent_dies])
def test_input_waits_for_room(full: Full, source: Path, happens: Callable[[Full], None]) -> None:
    full.fill()
    waits = full.submit(input_staging=[{"source": str(source), "target": "task:///in", "action": rp.COPY}])
    given_up = full.submit(input_staging=[{"source": str(source), "target": "task:///in", "action": rp.COPY}])
    assert "No space left on device" in full.until_put_off(waits)
    full.until_put_off(given_up)
    given_up.cancel()
    eventually(lambda: given_up.state == rp.CANCELED, "a task that waits for room can be cancelled")
    happens(full)
    full.until_put_off(waits)
    assert waits.state not in rp.FINAL
    full.free()
    full.campaign.tasks.wait_tasks([waits.uid], timeout=PATIENCE_S)
    assert waits.state == rp.DONE, waits.exception
    assert (Path(waits.sandbox) / "in").read_bytes() == CONTENT
    assert not temporaries(full.disk)


@pytest.mark.parametrize("happens", [nothing, the_agent_dies])
def test_output_waits_for_room(full: Full, source: Path, tmp_path: Path, happens: Callable[[Full], None]) -> None:
    go = tmp_path / "go"
    copying = f"cp {source} out; while [ ! -e {go} ]; do sleep 0.02; done"
    output = [
        {"source": "task:///out", "target": f"file://{tmp_path}/elsewhere", "action": rp.COPY, "priority": 1},
        {"source": "task:///out", "target": "pilot:///kept", "action": rp.COPY},
    ]
    task = full.campaign.tasks.submit_tasks(shell(copying, output_staging=output, cleanup=True))
    eventually(lambda: task.state == rp.AGENT_EXECUTING, "the task runs")
    sandbox = Path(task.sandbox)
    eventually(lambda: (sandbox / "out").exists() and (sandbox / "out").stat().st_size == len(CONTENT), "it has its output")
    full.fill()
    go.touch()
    assert "attempt 1 is over (DONE)" in full.until_put_off(task)
    assert (tmp_path / "elsewhere").read_bytes() == CONTENT
    happens(full)
    full.until_put_off(task)
    assert task.state not in rp.FINAL and (sandbox / "out").exists()
    full.free()
    full.campaign.tasks.wait_tasks([task.uid], timeout=PATIENCE_S)
    assert task.state == rp.DONE, task.exception
    assert (sandbox.parent.parent / "kept").read_bytes() == CONTENT
    eventually(lambda: not sandbox.exists(), "its sandbox is removed")
    assert not temporaries(full.disk)


def test_a_pilot_ends_while_input_waits_for_room(full: Full, source: Path) -> None:
    full.fill()
    task = full.submit(input_staging=[{"source": str(source), "target": "task:///in", "action": rp.COPY}])
    full.until_put_off(task)
    full.pilot.cancel()
    eventually(lambda: full.pilot.state in rp.FINAL, "the pilot ends")
    eventually(lambda: task.state == rp.CANCELED, "and the task with it")


def test_output_for_a_full_folder_of_the_user_fails_and_others_go_on(full: Full, source: Path) -> None:
    user = full.disk / "user"
    user.mkdir()
    full.fill()
    for number in range(3):
        # From outside into a folder on the full file system that is not the session's.
        target = {"source": f"file://{source}", "target": f"file://{user}/out{number}", "action": rp.COPY}
        task = full.campaign.run(shell("exit 0", output_staging=[target]))
        assert task.outcome is not None and task.outcome.ending.name == "STAGING_FAILED"
        assert "there is no room for target" in task.exception
    assert full.campaign.shell("exit 0").state == rp.DONE
    assert list(user.iterdir()) == []
