"""A user's shell on a login node of the Slurm of the tests."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from slurm_cluster import PATIENCE_S

CAMPAIGN = """
session = "{session}"

[pilot]
resource = "test.cluster"
nodes = 2
runtime = 10
idle_timeout_s = 1

[[tasks]]
executable = "/bin/sh"
arguments = ["-c", "{line}"]
count = 20
"""


class Gate:
    """A file before which tasks wait, without using the machine meanwhile, until a test opens it. ``wait``: their line."""

    def __init__(self, path: Path) -> None:
        self.wait = f"flock --shared {path} true"
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def open(self) -> None:
        """Let all tasks through, also those that come later."""
        os.close(self._descriptor)


class Shell:
    """A user's shell on a login node, in a folder of their own.

    ``session``: the name of those of campaigns. Tasks are known by session, pilot and node, and pilots of one name would end
    each other's: modules that may run at one time have names of their own.
    """

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.session = "water"

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "pilotage.cli", *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, cwd=self.home, env=self.environment, stdout=pipe, stderr=pipe, text=True)

    def run(self, *words: str, code: int = 0) -> str:
        """Return what a command prints, both streams together, when it has ended with this exit code."""
        process = self.start(*words)
        output, errors = process.communicate(timeout=3 * PATIENCE_S)
        assert process.returncode == code, (process.returncode, output, errors)
        return output + errors

    def status(self) -> dict[str, Any]:
        """Return what is told of the newest session."""
        document = json.loads(self.run("status", "--format", "json"))
        found: dict[str, Any] = document.get("session") or document["program"]
        return found

    def campaign(self, line: str) -> str:
        """Return the name of a campaign of 20 tasks that run a line of shell."""
        (self.home / "campaign.toml").write_text(CAMPAIGN.replace("{session}", self.session).replace("{line}", line))
        return "campaign.toml"
