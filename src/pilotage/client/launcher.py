"""Starts pilots on this machine, and writes what those need that are jobs.

The bootstrap runs in a session of its own, so that Ctrl-C at the terminal does not reach it, and says through an inherited
pipe when the agent is ready: then the pipe is readable, as it is when all who held its other end are gone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from pilotage.agent.bootstrap import CLAIM_FILE
from pilotage.agent.settings import PilotSettings, write_settings
from pilotage.batch.commands import write_script
from pilotage.batch.job import JobSpec
from pilotage.batch.system import BatchSystem
from pilotage.client.job_specs import JOB_OUTPUT, JOB_SCRIPT
from pilotage.errors import BackendError
from pilotage.system.processes import boot_id, started_ticks
from pilotage.system.python import python_command

BOOTSTRAP_OUTPUT = "bootstrap.err"
AGENT_OUTPUT = "agent.err"
_READY_FD = 3


class StartedPilot(msgspec.Struct, frozen=True):
    """A bootstrap that runs, and the descriptor that becomes readable when its agent is ready, or gone."""

    pid: int
    started_ticks: int
    boot_id: str
    ready_fd: int


class PreparedJob(msgspec.Struct, frozen=True):
    """A pilot of which all is written that its job needs: one of this name, in this batch system."""

    system: str
    name: str


def claimed_by(folder: Path) -> tuple[int, int, str] | None:
    """Return pid, start in clock ticks and boot id of the bootstrap that has the pilot of this folder; None: none ever had."""
    try:
        pid, ticks, boot = (folder / CLAIM_FILE).read_text().split()[:3]
    except FileNotFoundError:
        return None
    return int(pid), int(ticks), boot


def prepare_job(settings: PilotSettings, spec: JobSpec, system: BatchSystem) -> None:
    """Write the pilot's folder, and the script of its job there.

    Raises:
        BackendError: the folder cannot be written.
    """
    folder = Path(settings.pilot_folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_settings(settings)
        write_script(system, spec, folder / JOB_SCRIPT)
        if spec.output:
            # Batch systems that write to it at once keep its mode, and would else make it by that of the job.
            Path(spec.output).touch(mode=0o600)
    except OSError as error:
        raise BackendError(f"pilot {settings.pilot!r} could not be prepared in {folder}: {error}") from error


def start_local_pilot(settings: PilotSettings) -> StartedPilot:
    """Write the pilot's folder and start its bootstrap.

    Raises:
        BackendError: the folder cannot be written, or no process started.
    """
    folder = Path(settings.pilot_folder)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_settings(settings)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            command = python_command("pilotage.agent.bootstrap", str(folder), str(_READY_FD))
            output = os.fspath(folder / BOOTSTRAP_OUTPUT)
            pid = os.posix_spawn(
                command[0],
                command,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, writer, _READY_FD),
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
    except OSError as error:
        raise BackendError(f"pilot {settings.pilot!r} could not be started in {folder}: {error}") from error
    os.set_blocking(reader, False)
    return StartedPilot(pid, started_ticks(pid) or 0, boot_id(), reader)


def user_python_path() -> list[str]:
    """Return ``sys.path`` of this program with absolute entries."""
    return [os.path.abspath(entry) for entry in sys.path]


def tail_of_output(folder: Path, limit: int = 1000) -> str:
    """Return the end of what the bootstrap and the agent of a pilot printed, for error messages: whole lines where it can."""
    parts = []
    for name in (JOB_OUTPUT, BOOTSTRAP_OUTPUT, AGENT_OUTPUT):
        try:
            text = (folder / name).read_text(errors="replace").strip()
        except OSError:
            continue
        if text:
            end = text[-limit:]
            parts.append(end if len(text) <= limit else end.partition("\n")[2] or end)
    return "\n".join(parts)
