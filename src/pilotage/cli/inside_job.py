"""Runs a client that was submitted inside its job, on the first node. Argument: the folder of its session.

It is a program of the user's, or the client of a campaign.

The program has the environment of its submission, and of the job what batch systems and launchers need. It is told which
session it is and on which platform, so that the pilot which it asks for takes the nodes of this job. What it prints, and how it
ends, is kept in files.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from pilotage.agent.allocation import allocation_environment
from pilotage.cli.submitted import ERROR_FILE, EXIT_FILE, LOCAL, OUTPUT_FILE, SubmittedProgram, read_program
from pilotage.client.inside import PLATFORM_VARIABLE, SESSION_VARIABLE
from pilotage.log.files import replace_file
from pilotage.platforms.allocations.variables import client_in_job
from pilotage.system.limits import lift_limits_of_submission
from pilotage.system.python import python_command


def main() -> None:
    """Run the program, and exit as it does."""
    folder = Path(sys.argv[1])
    submitted = read_program(folder)
    if submitted.system != LOCAL:
        lift_limits_of_submission()
    environment = environment_of(submitted, os.environ)
    with _opened(folder / OUTPUT_FILE) as output, _opened(folder / ERROR_FILE) as errors:
        program = subprocess.Popen(
            command_of(submitted, folder),
            cwd=submitted.working_folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, lambda received, frame: program.send_signal(received))
    code = program.wait()
    replace_file(folder / EXIT_FILE, [str(code).encode()])
    sys.exit(code if code >= 0 else 128 - code)


def command_of(submitted: SubmittedProgram, folder: Path) -> list[str]:
    """Return the command line of the program, or of a campaign's client."""
    if submitted.campaign:
        return python_command("pilotage.cli.campaign_client", str(folder))
    return [submitted.python, submitted.program, *submitted.arguments]


def environment_of(submitted: SubmittedProgram, job: Mapping[str, str]) -> dict[str, str]:
    """Return what the program starts from. ``job``: the environment of the job's script."""
    if submitted.system == LOCAL:
        return submitted.environment
    environment = client_in_job(submitted.environment, job) | allocation_environment(job)
    folder = job.get("TMPDIR", "")
    if folder:
        environment["TMPDIR"] = folder
    elif not os.path.isdir(environment.get("TMPDIR", "")):
        environment.pop("TMPDIR", None)
    return environment | {PLATFORM_VARIABLE: submitted.platform, SESSION_VARIABLE: submitted.uid}


def _opened(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab")
