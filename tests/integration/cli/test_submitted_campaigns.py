"""Campaigns with a client of their own on this machine: it is a process that stays when its user leaves."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen

import pytest
from test_commands import PATIENCE_S, asked, eventually, pilotage, start

__all__ = ["start"]

CAMPAIGN = """
session = "steps"

[pilot]
resource = "local.emulated"
nodes = 1
cores_per_node = 8
runtime = 10

[[pilot.services]]
name = "cache"
executable = "/bin/sh"
arguments = ["-c", "echo at here; exec sleep infinity"]
info_pattern = "stdout:at (.*)"

[[tasks]]
name = "one"
executable = "/bin/sh"
arguments = ["-c", "{one}"]
array = "0-3%1"
services = ["cache"]

[[tasks]]
name = "two"
executable = "/bin/sh"
arguments = ["-c", "echo {i} $PILOTAGE_SERVICE_CACHE >>{seen}"]
count = 4
after = ["one.{i}"]
services = ["cache"]

[[tasks]]
name = "three"
mode = "task.eval"
code = "6 * 7"
after = ["two"]
"""


@pytest.fixture
def seen(tmp_path: Path) -> Path:
    return tmp_path / "seen"


def submitted(tmp_path: Path, seen: Path, one: str = "true") -> None:
    text = CAMPAIGN.replace("{one}", one).replace("{seen}", str(seen))
    (tmp_path / "steps.toml").write_text(text)
    done = pilotage("submit", "steps.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "pilot.0000: process " in done.stdout


def test_it_goes_on_with_nobody_there(tmp_path: Path, seen: Path) -> None:
    submitted(tmp_path, seen, one="exec true")
    done = pilotage("wait", "steps")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "10 tasks: 10 done" in done.stderr
    assert sorted(seen.read_text().splitlines()) == ["0 here", "1 here", "2 here", "3 here"]
    found = asked("status", "steps")["session"]
    assert (found["state"], found["states"], found["problem"]) == ("closed", {"DONE": 10}, "")
    assert found["pilots"][0]["state"] == "DONE"
    assert pilotage("session", "rm", "steps").returncode == 0


def test_it_is_attached_to_left_and_cancelled(tmp_path: Path, seen: Path, start: Callable[..., Popen[str]]) -> None:
    submitted(tmp_path, seen, one="[ {i} = 0 ] || exec sleep infinity")
    eventually(seen.exists)
    refused = pilotage("session", "rm", "steps")
    assert refused.returncode == 1
    assert "is running; end it first with: pilotage cancel steps" in refused.stderr
    attached = start("attach", "steps")
    assert attached.stdout is not None
    assert attached.stdout.readline(), "it watches"
    attached.send_signal(signal.SIGINT)
    assert attached.wait(PATIENCE_S) == 130
    done = pilotage("cancel", "steps")
    assert done.returncode == 0, done.stderr
    assert "was running and is cancelled" in done.stderr
    found = asked("status", "steps")["session"]
    assert found["states"].keys() <= {"DONE", "CANCELED", "NOT SUBMITTED"}
    # Of the table with a limit none goes out any more.
    assert found["states"]["NOT SUBMITTED"] >= 2
    waited = pilotage("wait", "steps")
    assert waited.returncode == 1
    assert "not submitted" in waited.stderr
