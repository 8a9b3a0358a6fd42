"""A user's shell on a login node of the Slurm of the tests."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from slurm_cluster import PATIENCE_S

CAMPAIGN = """
session = "water"

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


class Shell:
    """A user's shell on a login node, in a folder of their own."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment

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

    def status(self, uid: str = "water") -> dict[str, Any]:
        document = json.loads(self.run("status", uid, "--format", "json"))
        found: dict[str, Any] = document.get("session") or document["program"]
        return found

    def campaign(self, line: str) -> str:
        """Return the name of a campaign of 20 tasks that run a line of shell."""
        (self.home / "campaign.toml").write_text(CAMPAIGN.replace("{line}", line))
        return "campaign.toml"
