"""What becomes of submitted clients: shown, waited for, cancelled. Those of campaigns look as campaigns that need no client.

What their sessions know lies in logs, as of any session; what there is before and beside that is told by their jobs.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pilotage.cli.campaign_order import FIRST_PILOT
from pilotage.cli.detached import judge, show_session, starts_of, status_of, watch_session
from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import Column, Format, note, plural, print_one
from pilotage.cli.session import END_PATIENCE_S, is_over
from pilotage.cli.submitted import (
    ERROR_FILE,
    LOCAL,
    OUTPUT_FILE,
    SubmittedProgram,
    end_program,
    exit_code_of,
    read_program,
)
from pilotage.client.session_folder import CLIENT_FOLDER
from pilotage.errors import BackendError
from pilotage.model.states import PMGR_ACTIVE_PENDING

if TYPE_CHECKING:
    from pilotage.batch.job import JobStatus

LOOK_S = 2.0
VANISHED_S = 30.0
"""A job that is not listed, and whose client has not told its end, is given up after this time."""
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


def show_program(folder: Path, format: Format) -> None:
    """Print how a submitted client is, and what its session knows."""
    from pilotage.cli.lookup import session_state

    submitted = read_program(folder)
    row: dict[str, Any] = {"problem": ""}
    pilots: list[dict[str, Any]] = []
    if (folder / CLIENT_FOLDER).is_dir():
        row, pilots = status_of(folder, session_state(folder))
    told = None
    try:
        told = submitted.now()
    except BackendError as error:
        row["problem"] = f"the batch system was asked for {submitted.shown_job}: {error}"
    if submitted.campaign:
        _show_campaign(folder, submitted, told, row, pilots, format)
        return
    row |= {
        "uid": submitted.uid,
        "program": " ".join([submitted.program, *submitted.arguments]),
        "platform": submitted.platform,
        "job": submitted.job,
        "job_state": _words(told) if told is not None else "",
        "starts": starts_of(told),
        "exit_code": exit_code_of(folder),
        "output": str(folder / OUTPUT_FILE),
        "errors": str(folder / ERROR_FILE),
        "path": str(folder),
    }
    print_one("program", row, _FIELDS, format)


def _show_campaign(
    folder: Path,
    submitted: SubmittedProgram,
    told: JobStatus | None,
    row: dict[str, Any],
    pilots: list[dict[str, Any]],
    format: Format,
) -> None:
    state = told.state.value if told is not None else ""
    of_job = {"job": submitted.job, "job_state": state, "starts": starts_of(told)}
    if submitted.system == LOCAL:
        of_job = dict.fromkeys(of_job, "")
    if "uid" not in row:
        # It has no session before its job begins.
        row |= {"uid": submitted.uid, "state": state, "path": str(folder), "tasks": 0, "states": {}}
    if not pilots:
        waiting = told is None or not is_over(told)
        pilots = [
            {
                "uid": FIRST_PILOT,
                "state": PMGR_ACTIVE_PENDING if waiting else state.upper(),
                "resource": submitted.platform,
                "unfinished": submitted.tasks,
                "reason": told.reason if told is not None and waiting else "",
                "path": str(folder / FIRST_PILOT),
            }
        ]
    for pilot in pilots:
        pilot |= of_job
    missing = submitted.tasks - row["tasks"]
    if missing > 0:
        # Those wait in the file until others have ended, or the job begins.
        row["states"] = {**row["states"], "NOT SUBMITTED": missing}
        row["tasks"] = submitted.tasks
        row["by_state"] = ", ".join(f"{count:,} {name}" for name, count in row["states"].items())
    code = exit_code_of(folder)
    if not row["problem"] and code != 0 and (code is not None or (told is not None and is_over(told))):
        row["problem"] = _said(folder)
    show_session(row, pilots, format)


def follow_program(folder: Path, *, shown: bool) -> int:
    """Wait until a client has ended, showing its session if it has one; return its exit code."""
    from pilotage.batch.job import JobState

    submitted = read_program(folder)
    unlisted_since: float | None = None
    said = ""
    with Interrupts() as interrupts:
        while not interrupts.count:
            if exit_code_of(folder) is not None:
                return _ended(folder, submitted)
            if shown and (folder / CLIENT_FOLDER).is_dir():
                number = watch_session(folder, shown=True)
                if number:
                    return 128 + number
                # What is left is the end of the client, which is not looked at again unless more tasks come.
                shown = bool(submitted.campaign)
                interrupts.wait(LOOK_S)
                if exit_code_of(folder) is not None:
                    continue
            told = submitted.now()
            if told.state.is_final and exit_code_of(folder) is None:
                return _gone(folder, submitted, f"is {_words(told)}")
            unlisted_since = None if told.state is not JobState.UNKNOWN else unlisted_since or time.monotonic()
            if unlisted_since is not None and time.monotonic() - unlisted_since > VANISHED_S:
                return _gone(folder, submitted, "is not listed any more")
            if shown and not (folder / CLIENT_FOLDER).is_dir() and (now := _expected(told)) != said:
                said = now
                note(f"{submitted.shown_job} is {now}")
            interrupts.wait(LOOK_S)
    note(f"left to its job; come back with: pilotage {'attach' if shown else 'wait'} {submitted.uid}")
    return 128 + interrupts.number


def _words(told: JobStatus) -> str:
    from pilotage.batch.job import JobState

    # What a job that is cancelled last waited for tells nothing.
    reason = "" if told.state is JobState.CANCELLED else told.reason
    return f"{told.state.value}{f': {reason}' if reason else ''}"


def _expected(told: JobStatus) -> str:
    starts = starts_of(told)
    return f"{_words(told)}{f'; it is expected to start at {starts}' if starts else ''}"


def _ended(folder: Path, submitted: SubmittedProgram) -> int:
    """Say how a client ended, and return its exit code."""
    code = exit_code_of(folder) or 0
    if submitted.campaign:
        status = _judge_campaign(folder, submitted)
        return status or (_FAILED if code else 0)
    note(f"the program ended with exit code {code}; it printed {folder / OUTPUT_FILE}")
    if (folder / CLIENT_FOLDER).is_dir():
        judge(folder)
    return code if code >= 0 else 128 - code


def _gone(folder: Path, submitted: SubmittedProgram, how: str) -> int:
    """Say that a job took its client with it, and return the exit code."""
    if not submitted.campaign:
        note(f"{submitted.shown_job} {how}, and its program has not told how it ended")
        return _FAILED
    note(f"{submitted.shown_job} {how}")
    _judge_campaign(folder, submitted)
    return _FAILED


def _judge_campaign(folder: Path, submitted: SubmittedProgram) -> int:
    """Say what became of the tasks of a campaign, and return the exit code."""
    if (folder / CLIENT_FOLDER).is_dir():
        status = judge(folder, submitted.tasks)
    else:
        note(f"none of its {plural(submitted.tasks, 'task')} was begun")
        status = _FAILED
    if status and (said := _said(folder)):
        note(said)
    return status


def _said(folder: Path) -> str:
    """Return where to read what a campaign's client, or its job, said last; empty: neither said anything."""
    from pilotage.client.job_specs import JOB_OUTPUT

    for who, name in (("its client", ERROR_FILE), ("its job", JOB_OUTPUT)):
        path = folder / name
        if path.exists() and path.stat().st_size:
            return f"what {who} said: {path}"
    return ""


def cancel_program(folder: Path) -> int:
    """Cancel the job of a client, and wait until nothing of it runs; return the exit code."""
    submitted = read_program(folder)
    before = submitted.now()
    if is_over(before):
        note(f"{submitted.shown_job} is {before.state.value}; nothing was to be cancelled")
        return 0
    if not end_program(folder, submitted):
        note(f"{submitted.shown_job} was cancelled, and has not ended in {END_PATIENCE_S:g} s; look again: pilotage status")
        return _FAILED
    what = "the tasks of its campaign wrote" if submitted.campaign else "its program wrote"
    note(f"{submitted.shown_job} was {before.state.value} and is cancelled; what {what} is in {folder}")
    if (folder / CLIENT_FOLDER).is_dir():
        judge(folder, submitted.tasks)
    elif submitted.campaign:
        note(f"none of its {plural(submitted.tasks, 'task')} was begun")
    return 0
