"""``pilotage status``, ``wait``, ``attach`` and ``cancel``: what was submitted, from any machine that sees its files.

What is known lies in files: the client's log, those of agents, and what the batch system tells now. So ``status`` needs no
process of the session, and disturbs none. Who waits or attaches is the session's client for that time, unless another process
is: then it is only watched.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.progress import Interrupts
from pilotage.cli.renderers import Column, Format, note, plural, print_one, print_rows
from pilotage.errors import BackendError, SessionInUse
from pilotage.model.states import DONE, FINAL, PMGR_ACTIVE

if TYPE_CHECKING:
    from pilotage.batch.job import JobStatus
    from pilotage.client.session import Session
    from pilotage.core.client.state import ClientState, PilotRecord
    from pilotage.model.ids import PilotUid

SessionArgument = Annotated[str, typer.Argument(metavar="SESSION", help="The session, or how its uid begins or ends.")]

TO_BE_CONTINUED = "TO BE CONTINUED"
"""In place of the states of tasks whose pilot is over, and that go on in the one that follows it."""

LOOK_S = 2.0
ANSWER_S = 15.0
"""For how long an agent that runs may be silent before its job is cancelled instead."""
JOBS_S = 20.0
"""For how long a person waits for what the batch system says of jobs; without it the rest is told."""
_FAILED = 1

_FIELDS = (
    Column("uid", "session"),
    Column("state", "state"),
    Column("path", "path"),
    Column("tasks", "tasks"),
    Column("by_state", "by state"),
    Column("problem", "problem"),
)
_PILOT_COLUMNS = (
    Column("uid", "PILOT"),
    Column("state", "STATE"),
    Column("resource", "PLATFORM"),
    Column("job", "JOB"),
    Column("job_state", "QUEUE"),
    Column("starts", "STARTS"),
    Column("unfinished", "UNFINISHED", right=True),
    Column("reason", "REASON"),
)


def status(uid: SessionArgument = "", format: FormatOption = Format.TABLE) -> None:
    """Show what was submitted: its jobs as the batch system sees them now, and its tasks by state."""
    from pilotage.cli.lookup import find_session, session_state
    from pilotage.cli.submitted import find_program
    from pilotage.cli.submitted_life import show_program

    program = find_program(uid)
    if program is not None:
        show_program(program, format)
        return
    folder = find_session(uid)
    show_session(*status_of(folder, session_state(folder)), format)


def show_session(row: dict[str, Any], pilots: list[dict[str, Any]], format: Format) -> None:
    """Print how a session and its pilots are, as ``status_of`` has found it."""
    print_one("session", row | ({"pilots": pilots} if format is Format.JSON else {}), _FIELDS, format)
    if format is Format.TABLE and pilots:
        print()
        print_rows("pilots", pilots, _PILOT_COLUMNS, format)


def status_of(folder: Path, session: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return what is known of a session, whose log is in ``session`` (open, closed, crashed), and of each of its pilots."""
    from pilotage.cli.lookup import read_state

    state = read_state(folder)
    told, problem = jobs_of(state)
    unfinished = Counter(record.pilot for record in state.tasks.values() if record.outcome is None)
    pilots = [_pilot_row(folder, pilot, told.get(pilot.uid), unfinished[pilot.uid]) for pilot in state.pilots.values()]
    followed = {pilot["uid"] for pilot in pilots if unfinished[pilot["uid"]]} & _followed(folder, state, told)
    for pilot in pilots:
        if pilot["uid"] in followed and not pilot["reason"]:
            pilot["reason"] = _why_not_followed(folder.name, Path(pilot["path"]))
    states = Counter(
        TO_BE_CONTINUED if record.outcome is None and record.pilot in followed else record.state
        for record in state.tasks.values()
    )
    row = {
        "uid": folder.name,
        "state": session,
        "path": os.fspath(folder),
        "tasks": len(state.tasks),
        "by_state": ", ".join(f"{count:,} {name}" for name, count in states.most_common()),
        "states": dict(states),
        "problem": problem,
    }
    return row, pilots


def _why_not_followed(session: str, pilot_folder: Path) -> str:
    from pilotage.cli.follow_up import problem_of

    if problem := problem_of(pilot_folder):
        return f"a follow-up could not be submitted from the job: {problem}; pilotage wait {session} submits it"
    return f"its time is over; a follow-up is submitted by: pilotage wait {session}"


def _followed(folder: Path, state: ClientState, told: Mapping[PilotUid, JobStatus]) -> set[PilotUid]:
    """Return the pilots that are over, as far as is told of their jobs or processes, and that others may follow."""
    from pilotage.batch.job import JobState
    from pilotage.cli.lookup import living_pilots
    from pilotage.core.client.successors import may_be_followed

    alive = {pilot.uid for pilot, _ in living_pilots(folder, state)}
    by_itself = (JobState.DONE, JobState.TIMED_OUT, JobState.PREEMPTED, JobState.NODE_FAILED)
    return {
        pilot.uid
        for pilot in state.pilots.values()
        if pilot.state not in FINAL
        and not pilot.ending
        and may_be_followed(pilot)
        and (told[pilot.uid].state in by_itself if pilot.uid in told else pilot.job is None and pilot.uid not in alive)
    }


def jobs_of(state: ClientState) -> tuple[dict[PilotUid, JobStatus], str]:
    """Return what batch systems tell of the jobs of pilots that are not known to have ended, and what stood in the way."""
    ids: dict[str, dict[str, PilotUid]] = {}
    for pilot in state.pilots.values():
        if pilot.job is not None and pilot.job.id and pilot.state not in FINAL:
            ids.setdefault(pilot.job.system, {})[pilot.job.id] = pilot.uid
    told: dict[PilotUid, JobStatus] = {}
    problems = []
    for system, jobs in ids.items():
        try:
            told.update((jobs[job], status) for job, status in jobs_now(system, list(jobs)).items())
        except BackendError as error:
            problems.append(f"{system} was asked for {plural(len(jobs), 'job')}: {error}")
    return told, "; ".join(problems)


def _pilot_row(folder: Path, pilot: PilotRecord, told: JobStatus | None, unfinished: int) -> dict[str, Any]:
    import msgspec

    from pilotage.cli.lookup import pilot_folder

    job = pilot.job
    return {
        "uid": pilot.uid,
        "state": pilot.state,
        "resource": msgspec.msgpack.decode(pilot.description).get("resource"),
        "job": job.id if job is not None else "",
        "job_state": told.state.value if told is not None else job.state if job is not None else "",
        "starts": starts_of(told),
        "unfinished": unfinished,
        "reason": reason_now(pilot, told),
        "path": os.fspath(pilot_folder(folder, pilot)),
    }


def reason_now(pilot: PilotRecord, told: JobStatus | None) -> str:
    """Return why a pilot ended; of one that has not what its batch system tells of its job now."""
    return pilot.reason or (told.reason if told is not None else "")


def job_now(system: str, job: str) -> JobStatus:
    """Return what a batch system tells of a job now.

    Raises:
        BackendError: it cannot be asked.
    """
    return jobs_now(system, [job])[job]


def jobs_now(system: str, jobs: Sequence[str]) -> dict[str, JobStatus]:
    """Return what a batch system tells of jobs now.

    Raises:
        BackendError: it cannot be asked.
    """
    from pilotage.batch.commands import BatchCommands

    return BatchCommands.here(system, timeout_s=JOBS_S).statuses(jobs)


def starts_of(told: JobStatus | None) -> str:
    """Return when a job that waits is expected to start, in words; empty if that is not known."""
    if told is None or not told.start_estimate_s:
        return ""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(told.start_estimate_s))


# waiting


def wait(uid: SessionArgument = "") -> int:
    """Wait until all of it has ended. Exit code: 0 if all tasks are done, 1 if not, 130 after Ctrl-C, which ends nothing.

    While it waits it is the session's client: it submits the follow-ups of pilots with successors, too.
    """
    return _follow(uid, shown=False)


def attach(uid: SessionArgument = "") -> int:
    """Follow it live until all of it has ended; Ctrl-C leaves it running. Exit codes are those of `pilotage wait`."""
    return _follow(uid, shown=True)


def _follow(uid: str, *, shown: bool) -> int:
    from pilotage.cli.lookup import find_session, session_state
    from pilotage.cli.session import go_on
    from pilotage.cli.submitted import find_program
    from pilotage.cli.submitted_life import follow_program

    program = find_program(uid)
    if program is not None:
        return follow_program(program, shown=shown)
    folder = find_session(uid)
    while True:
        if session_state(folder) != "open":
            if _is_settled(folder):
                return judge(folder)
            with suppress(SessionInUse):  # somebody was faster
                return go_on(folder, "attach" if shown else "wait", shown=shown)
        number = watch_session(folder, shown=shown)
        if number:
            return 128 + number


def _is_settled(folder: Path) -> bool:
    """Tell whether all tasks of a session have ended, so that no client could make anything more of them."""
    from pilotage.cli.lookup import read_state
    from pilotage.client.recovery import recover_state
    from pilotage.client.session_folder import CLIENT_FOLDER

    # What only agents know may not be the last word: tasks whose pilot's time was over may go on in another one.
    told = read_state(folder).tasks.values()
    if all(record.state == DONE for record in told):
        return True
    return all(record.outcome is not None for record in recover_state(folder / CLIENT_FOLDER).tasks.values())


def watch_session(folder: Path, *, shown: bool) -> int:
    """Watch a session that another process has open, until that is over; return the signal that interrupted it, or 0."""
    from pilotage.cli.lookup import session_state
    from pilotage.cli.watch import look_on

    if shown:
        return look_on(folder)[1]
    with Interrupts() as interrupts:
        while not interrupts.count and session_state(folder) == "open":
            interrupts.wait(LOOK_S)
    return interrupts.number


def judge(folder: Path, planned: int = 0) -> int:
    """Say what became of a session's tasks, and return the exit code. ``planned``: how many were to be submitted at least."""
    from pilotage.cli.lookup import counts, read_state

    found = counts(read_state(folder).tasks.values())
    if planned > found["tasks"]:
        found |= {"tasks": planned, "unsubmitted": planned - found["tasks"]}
    parts = [f"{found[name]:,} {word}" for name, word in _WORDS.items() if found.get(name)]
    note(f"{plural(found['tasks'], 'task')}: {', '.join(parts) or 'nothing to do'}")
    if found["failed"]:
        note(f"see: pilotage task list -s {folder.name} --state FAILED")
    return 0 if found["done"] == found["tasks"] else _FAILED


def _running(session: Session) -> list[PilotRecord]:
    """Return the pilots whose jobs run, as far as the batch system tells."""
    from pilotage.batch.job import JobState

    found = []
    for pilot in session.state.pilots.values():
        job = pilot.job
        if pilot.state in FINAL or (job is not None and not job.id):
            continue
        try:
            if job is None or job_now(job.system, job.id).state is JobState.RUNNING:
                found.append(pilot)
        except BackendError as error:
            note(f"the batch system was asked for job {pilot.job.id if pilot.job is not None else ''}: {error}")
    return found


_WORDS = {
    "done": "done",
    "failed": "failed",
    "canceled": "canceled",
    "unfinished": "not finished",
    "unsubmitted": "not submitted",
}


# cancelling


def cancel(uid: SessionArgument = "") -> int:
    """End it: cancel jobs that wait, end pilots that run. What had not ended before is cancelled, and said."""
    from pilotage.cli.lookup import find_session, read_state
    from pilotage.cli.submitted import find_program
    from pilotage.cli.submitted_life import cancel_program
    from pilotage.client.session import Session as OpenSession

    program = find_program(uid)
    if program is not None:
        return cancel_program(program)
    folder = find_session(uid)
    before = read_state(folder)
    if all(pilot.state in FINAL for pilot in before.pilots.values()):
        note(f"all pilots of session {folder.name} have ended; nothing was to be cancelled")
        return 0
    try:
        session = OpenSession.resume(folder.name)
    except SessionInUse as error:
        raise SessionInUse(f"{error}. End that process, or cancel tasks: pilotage task cancel -s {folder.name}") from None
    # One that runs ends in good order when its agent is told to, and its tasks with it.
    session.wait(_running(session), frozenset((PMGR_ACTIVE, *FINAL)), ANSWER_S)
    session.close()
    left = [pilot for pilot in session.state.pilots.values() if pilot.state not in FINAL]
    for pilot in session.state.pilots.values():
        note(f"{pilot.uid} {pilot.state}{f': {pilot.reason}' if pilot.reason else ''}")
    done = sum(record.state == DONE for record in session.state.tasks.values())
    total = len(session.state.tasks)
    note(f"{done:,} of {plural(total, 'task')} were done; what they wrote is in {folder}")
    if left:
        note(f"not ended yet: {', '.join(pilot.uid for pilot in left)}; look again: pilotage status {folder.name}")
    return _FAILED if left else 0
