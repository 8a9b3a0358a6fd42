"""Programs that were submitted: each runs inside a job of its own, and its pilot takes the nodes of that job.

All of it lies in the folder of the session that the program is to open, which has the submission's name::

    program.json     the program, its arguments, its surroundings, the job (0600)
    job.sh, job.out  what the job runs, and what the batch system and the platform's setup printed
    program.out, program.err, program.exit
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from pilotage.cli.detached import job_now, judge, starts_of, watch_session
from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import Column, Format, note, print_one
from pilotage.errors import BackendError, InvalidRequest, nearest
from pilotage.log.files import make_folder, replace_file

PROGRAM_FILE = "program.json"
EXIT_FILE = "program.exit"
OUTPUT_FILE = "program.out"
ERROR_FILE = "program.err"
LOOK_S = 2.0
VANISHED_S = 30.0
"""A job that is not listed, and whose program has not told its end, is given up after this time."""
_FAILED = 1

_FIELDS = (
    Column("uid", "session"),
    Column("program", "program"),
    Column("platform", "platform"),
    Column("job", "job"),
    Column("job_state", "queue"),
    Column("starts", "starts"),
    Column("exit_code", "exit code"),
    Column("output", "output"),
    Column("errors", "errors"),
    Column("state", "state"),
    Column("tasks", "tasks"),
    Column("by_state", "by state"),
    Column("problem", "problem"),
)


class SubmittedProgram(msgspec.Struct, kw_only=True):
    """A program that runs, or is to run, in a job. ``environment``: that of its submission."""

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


def submit_program(
    program: Path, arguments: list[str], attributes: dict[str, Any], uid: str, dry_run: bool, format: Format
) -> int:
    """Submit a job that runs a program, and say how to go on; return the exit code.

    ``program`` is its absolute path, ``attributes`` are those of a pilot that its job is asked for by.
    """
    from pilotage.batch.commands import BatchCommands, LocalRunner, write_script
    from pilotage.batch.registry import batch_system
    from pilotage.batch.system import BatchError
    from pilotage.cli.submit import FIELDS, next_commands
    from pilotage.client.job_specs import JOB_OUTPUT, JOB_SCRIPT, check_job, job_name, job_spec, module_command
    from pilotage.client.job_words import refusal
    from pilotage.client.pilot_description import PilotDescription
    from pilotage.client.session import sessions_folder
    from pilotage.platforms import platform

    description = PilotDescription(attributes)
    on = platform(description.resource or "")
    if on.batch == "local":
        raise InvalidRequest(f"platform {on.name} has no batch system; run the program: python {program}")
    description.verify()
    check_job("program", on, description)
    uid = uid or f"session.{time.strftime('%Y%m%d-%H%M%S')}.{secrets.token_hex(3)}"
    folder = sessions_folder() / uid
    name = job_name(uid, program.stem, secrets.token_hex(4))
    spec = msgspec.structs.replace(
        job_spec(name, on, description, folder),
        command=module_command(on, "pilotage.cli.inside_job", str(folder)),
        output=str(folder / JOB_OUTPUT),
        # What a program has done once it may not do twice.
        requeue=False,
    )
    if dry_run:
        from pilotage.client.dry_run import dry_run_of_job

        print(dry_run_of_job(on, spec, folder).text(), end="")
        return 0
    if folder.exists():
        raise InvalidRequest(f"there is a session {uid!r} in {folder.parent}; choose another name")
    submitted = SubmittedProgram(
        uid=uid,
        program=str(program),
        arguments=arguments,
        python=on.python or sys.executable,
        working_folder=os.getcwd(),
        environment=dict(os.environ),
        platform=on.name,
        system=on.batch,
        job_name=name,
    )
    make_folder(folder)
    _write(folder, submitted)
    system = batch_system(on.batch)
    write_script(system, spec, folder / JOB_SCRIPT)
    try:
        submitted.job = BatchCommands(system, LocalRunner()).submit(str(folder / JOB_SCRIPT))
    except BatchError as error:
        note(refusal(error))
        return _FAILED
    _write(folder, submitted)
    row = {
        "uid": uid,
        "path": str(folder),
        "job": submitted.job,
        "script": str(folder / JOB_SCRIPT),
        "output": str(folder / OUTPUT_FILE),
        "next": next_commands(uid),
    }
    print_one("submission", row if format is Format.JSON else row | {"next": "\n".join(next_commands(uid))}, FIELDS, format)
    return 0


def found_program(program: Path) -> Path:
    """Return the absolute path of a program.

    Raises:
        InvalidRequest: there is none, or it is not one that can be submitted; says what to do.
    """
    if not program.is_file():
        there = [path.name for path in program.absolute().parent.glob("*") if path.suffix in (".py", ".toml")]
        raise InvalidRequest(f"there is no program {program}{nearest(program.name, there)}")
    if program.suffix != ".py":
        raise InvalidRequest(
            f"{program} is neither a campaign (.toml) nor a Python program (.py); run other programs as tasks of a campaign"
        )
    return program.absolute()


def _write(folder: Path, submitted: SubmittedProgram) -> None:
    replace_file(folder / PROGRAM_FILE, [msgspec.json.format(msgspec.json.encode(submitted))])


def read_program(folder: Path) -> SubmittedProgram:
    """Return the program that was submitted under a session's folder."""
    return msgspec.json.decode((folder / PROGRAM_FILE).read_bytes(), type=SubmittedProgram)


def find_program(name: str) -> Path | None:
    """Return the folder of the program that ``name`` means, as ``find_session`` does; None: it is a session of another kind."""
    from pilotage.cli.lookup import meant
    from pilotage.client.session import CLIENT_FOLDER, sessions_folder

    base = sessions_folder()
    entries = list(base.iterdir()) if base.is_dir() else []
    known = [entry for entry in entries if (entry / PROGRAM_FILE).exists() or (entry / CLIENT_FOLDER).is_dir()]
    if not known:
        return None
    if name:
        found = base / meant(name, [entry.name for entry in known], "session", f"in {base}")
    else:
        found = max(known, key=lambda entry: (entry.stat().st_mtime, entry.name))
    return found if (found / PROGRAM_FILE).exists() else None


def exit_code_of(folder: Path) -> int | None:
    """Return how the program ended; None: it has not, or was ended without a word."""
    try:
        return int((folder / EXIT_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None


def show_program(folder: Path, format: Format) -> None:
    """Print how a submitted program is, and what its session knows."""
    from pilotage.cli.detached import status_of
    from pilotage.cli.lookup import session_state
    from pilotage.client.session import CLIENT_FOLDER

    submitted = read_program(folder)
    row: dict[str, Any] = {"problem": ""}
    if (folder / CLIENT_FOLDER).is_dir():
        row, _ = status_of(folder, session_state(folder))
    told = None
    try:
        told = job_now(submitted.system, submitted.job) if submitted.job else None
    except BackendError as error:
        row["problem"] = f"the batch system was asked for job {submitted.job}: {error}"
    row |= {
        "uid": submitted.uid,
        "program": " ".join([submitted.program, *submitted.arguments]),
        "platform": submitted.platform,
        "job": submitted.job,
        "job_state": f"{told.state.value}{f': {told.reason}' if told.reason else ''}" if told is not None else "",
        "starts": starts_of(told),
        "exit_code": exit_code_of(folder),
        "output": str(folder / OUTPUT_FILE),
        "errors": str(folder / ERROR_FILE),
        "path": str(folder),
    }
    print_one("program", row, _FIELDS, format)


def follow_program(folder: Path, *, shown: bool) -> int:
    """Wait until a program has ended, showing its session if it has one; return its exit code."""
    from pilotage.batch.job import JobState
    from pilotage.client.session import CLIENT_FOLDER

    submitted = read_program(folder)
    unlisted_since: float | None = None
    with Interrupts() as interrupts:
        while not interrupts.count:
            code = exit_code_of(folder)
            if code is not None:
                note(f"the program ended with exit code {code}; it printed {folder / OUTPUT_FILE}")
                if (folder / CLIENT_FOLDER).is_dir():
                    judge(folder)
                return code if code >= 0 else 128 - code
            if shown and (folder / CLIENT_FOLDER).is_dir():
                shown = False
                number = watch_session(folder, shown=True)
                if number:
                    return 128 + number
                continue
            told = job_now(submitted.system, submitted.job)
            if told.state.is_final and exit_code_of(folder) is None:
                note(
                    f"job {submitted.job} is {told.state.value}{f': {told.reason}' if told.reason else ''}; its program is gone"
                )
                return _FAILED
            unlisted_since = None if told.state is not JobState.UNKNOWN else unlisted_since or time.monotonic()
            if unlisted_since is not None and time.monotonic() - unlisted_since > VANISHED_S:
                note(f"job {submitted.job} is not listed any more, and its program has not told how it ended")
                return _FAILED
            interrupts.wait(LOOK_S)
    note(f"left to its job; come back with: pilotage {'attach' if shown else 'wait'} {submitted.uid}")
    return 128 + interrupts.number


def cancel_program(folder: Path) -> int:
    """Cancel the job of a program, and wait until nothing of it runs; return the exit code."""
    from pilotage.batch.commands import BatchCommands, LocalRunner
    from pilotage.batch.registry import batch_system
    from pilotage.cli.session import REPEAT_S, is_over
    from pilotage.client.session import CLIENT_FOLDER

    submitted = read_program(folder)
    before = job_now(submitted.system, submitted.job)
    if is_over(before):
        note(f"job {submitted.job} is {before.state.value}; nothing was to be cancelled")
        return 0
    BatchCommands(batch_system(submitted.system), LocalRunner()).cancel(submitted.job)
    until = time.monotonic() + VANISHED_S
    while not is_over(job_now(submitted.system, submitted.job)):
        if time.monotonic() > until:
            note(f"job {submitted.job} was cancelled, and has not ended in {VANISHED_S:g} s; look again: pilotage status")
            return _FAILED
        time.sleep(REPEAT_S)
    note(f"job {submitted.job} was {before.state.value} and is cancelled; what its program wrote is in {folder}")
    if (folder / CLIENT_FOLDER).is_dir():
        judge(folder)
    return 0
