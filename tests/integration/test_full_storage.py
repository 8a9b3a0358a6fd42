"""A file system without room for another sandbox: nothing is placed until there is room, and everybody is told."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, shell

import pilotage as rp
from pilotage.cli.main import run_command


@pytest.fixture
def few_inodes(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for bytes, and for few files."""
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
