"""Clients that were submitted: a program of the user's, or a campaign that needs a client, in a job of its own.

All of it lies in the folder of the session that the client is to open, which has the submission's name::

    program.json      what runs, in which surroundings, and its job (0600)
    campaign.msgpack  of a campaign: what is to be run
    job.sh, job.out   what the job runs, and what the batch system and the platform's setup printed
    cancel            of a campaign: it is to be cancelled
    program.out, program.err, program.exit

On a platform without a batch system the job is a process of this machine, which lives on when its user leaves.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pilotage.cli.lookup import PROGRAM_FILE, meant, session_folders, session_state
from pilotage.cli.session import END_PATIENCE_S, REPEAT_S, is_over
from pilotage.log.files import replace_file
from pilotage.system.processes import boot_id, is_alive, started_ticks

if TYPE_CHECKING:
    from pilotage.batch.job import JobStatus

EXIT_FILE = "program.exit"
OUTPUT_FILE = "program.out"
ERROR_FILE = "program.err"
CANCEL_FILE = "cancel"
LOCAL = "local"


class SubmittedProgram(msgspec.Struct, kw_only=True):
    """What runs, or is to run, in a job of its own. ``environment``: that of its submission.

    ``campaign``: the path of the campaign's file, empty for a program; ``tasks``: how many tasks a campaign has, services too.
    ``job``: as the batch system calls it; of a process of this machine its number, start and boot.
    """

    uid: str
    program: str
    arguments: list[str]
    python: str
    working_folder: str
    environment: dict[str, str]
    platform: str
    system: str
    job_name: str
    job: str = ""
    campaign: str = ""
    tasks: int = 0

    @property
    def shown_job(self) -> str:
        """How messages name its job."""
        return f"process {self.job.partition(' ')[0]}" if self.system == LOCAL else f"job {self.job}"

    def now(self) -> JobStatus:
        """Return how its job is now.

        Raises:
            BackendError: the batch system cannot be asked.
        """
        from pilotage.batch.commands import BatchCommands, LocalRunner
        from pilotage.batch.job import NOT_LISTED, JobState, JobStatus
        from pilotage.batch.registry import batch_system

        if self.system == LOCAL:
            return JobStatus(JobState.RUNNING if self._is_alive() else JobState.DONE)
        commands = BatchCommands(batch_system(self.system), LocalRunner())
        if not self.job:
            # Who submitted it died before the number was noted.
            self.job = next(iter(commands.find(self.job_name) or ()), "")
        return commands.statuses([self.job])[self.job] if self.job else NOT_LISTED

    def cancel(self) -> None:
        """Have its job cancelled.

        Raises:
            BackendError: the batch system cannot be asked.
        """
        from pilotage.batch.commands import BatchCommands, LocalRunner
        from pilotage.batch.registry import batch_system

        if self.system != LOCAL:
            BatchCommands(batch_system(self.system), LocalRunner()).cancel(self.job)
        elif self._is_alive():
            os.kill(int(self.job.split()[0]), signal.SIGTERM)

    def _is_alive(self) -> bool:
        if not self.job:
            return False
        pid, ticks, boot = self.job.split()
        return is_alive(int(pid), int(ticks), boot)


def write_program(folder: Path, submitted: SubmittedProgram) -> None:
    """Note what was submitted. Raises ``BackendError`` if it cannot be written."""
    replace_file(folder / PROGRAM_FILE, [msgspec.json.format(msgspec.json.encode(submitted))])


def read_program(folder: Path) -> SubmittedProgram:
    """Return what was submitted under a session's folder."""
    return msgspec.json.decode((folder / PROGRAM_FILE).read_bytes(), type=SubmittedProgram)


def start_here(command: tuple[str, ...], output: Path) -> str:
    """Start a process of this machine that lives on when its user leaves, and return what it is known by as a job."""
    with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "ab") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, cwd=output.parent
        )
    return f"{process.pid} {started_ticks(process.pid)} {boot_id()}"


def find_program(name: str) -> Path | None:
    """Return the folder of the submission that ``name`` means, as ``find_session`` does; None: it is a session of another
    kind."""
    known = session_folders(waiting=True)
    if not known:
        return None
    found = known[0]
    if name:
        uid = meant(name, [folder.name for folder in known], "session", f"in {found.parent}")
        found = found.parent / uid
    return found if (found / PROGRAM_FILE).exists() else None


def exit_code_of(folder: Path) -> int | None:
    """Return how the client ended; None: it has not, or was ended without a word."""
    try:
        return int((folder / EXIT_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def end_program(folder: Path, submitted: SubmittedProgram, patience_s: float = END_PATIENCE_S) -> bool:
    """End the job of what was submitted, and wait for that. Return whether it has ended in time.

    A campaign's client that runs is asked to end its tasks and its pilot first, as a job that is cancelled takes all of them
    with it, and nobody would know how they ended.

    Raises:
        BackendError: the batch system cannot be asked, or the folder cannot be written.
    """
    if submitted.campaign and session_state(folder) == "open":
        replace_file(folder / CANCEL_FILE, [])
        if _awaits_end(submitted, patience_s):
            return True
    submitted.cancel()
    return _awaits_end(submitted, patience_s)


def _awaits_end(submitted: SubmittedProgram, patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while not is_over(submitted.now()):
        if time.monotonic() > until:
            return False
        time.sleep(REPEAT_S)
    return True
