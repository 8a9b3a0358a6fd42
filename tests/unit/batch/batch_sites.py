"""Sites for the contract of batch systems: stand-ins for commands on a PATH of their own, and what moves their jobs on."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import batch_stand_in

from pilotage.batch.commands import BatchCommands, LocalRunner
from pilotage.batch.system import BatchSystem


class StandInSite:
    """A site whose batch system is played. See ``BatchSite``."""

    def __init__(self, system: BatchSystem, folder: Path) -> None:
        self.folder = folder
        self._jobs = folder / "jobs"
        self._jobs.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        for program in system.facts.commands:
            line = [sys.executable, "-S", "-E", batch_stand_in.__file__, system.facts.name, program, str(self._jobs)]
            path = programs / program
            path.write_text(f'#!/bin/sh\nexec {shlex.join(line)} "$@"\n')
            path.chmod(0o755)
        self.commands = BatchCommands(system, LocalRunner({"PATH": f"{programs}:/usr/bin:/bin"}), timeout_s=60)

    def command(self) -> tuple[str, ...]:
        return ("./program", "an argument")

    def begin(self, job: str) -> None:
        self._move(job, state="running")

    def end(self, job: str, exit_code: int) -> None:
        self._move(job, state="ended", exit=exit_code)

    def go_down(self) -> None:
        (self._jobs / "down").touch()

    def _move(self, job: str, **changes: object) -> None:
        path = self._jobs / f"{job}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
