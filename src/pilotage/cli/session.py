"""``pilotage session``: what sessions there are, going on with one, and removing those that are over."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotage.cli.options import FormatOption
from pilotage.cli.renderers import Column, Format, note, plural, print_one, print_rows
from pilotage.errors import BackendError, InvalidRequest, SessionInUse

if TYPE_CHECKING:
    from pilotage.batch.job import JobStatus
    from pilotage.client.session import Session
    from pilotage.core.client.state import PilotRecord
    from pilotage.model.ids import PilotUid

app = typer.Typer(help="List, show, resume and remove sessions.", no_args_is_help=True)

END_PATIENCE_S = 30.0
REPEAT_S = 2.0
_FAILED = 1
_INTERRUPTED = 130

_COLUMNS = (
    Column("uid", "SESSION"),
    Column("state", "STATE"),
    Column("job", "JOB"),
    Column("opened", "OPENED", kind="age"),
    Column("living_pilots", "PILOTS ALIVE", right=True),
    Column("tasks", "TASKS", right=True),
    Column("done", "DONE", right=True),
    Column("failed", "FAILED", right=True),
    Column("canceled", "CANCELED", right=True),
    Column("unfinished", "UNFINISHED", right=True),
    Column("problem", "PROBLEM"),
)
_PARTITION_COLUMNS = (
    Column("pilot", "PILOT"),
    Column("name", "PARTITION"),
    Column("state", "STATE"),
    Column("nodes", "NODES", right=True),
    Column("running", "RUNNING", right=True),
    Column("waiting", "WAITING", right=True),
    Column("reason", "REASON"),
)
_PILOT_COLUMNS = (
    Column("uid", "PILOT"),
    Column("state", "STATE"),
    Column("resource", "PLATFORM"),
    Column("nodes", "NODES", right=True),
    Column("cores", "CORES", right=True),
    Column("alive", "ALIVE"),
    Column("job", "JOB"),
    Column("job_state", "QUEUE"),
    Column("starts", "STARTS"),
    Column("submitted", "SUBMITTED", kind="age"),
    Column("reason", "REASON"),
)

_OF_JOBS = ("job", "job_state", "starts")

SessionArgument = Annotated[str, typer.Argument(metavar="UID", help="The session, or how its uid begins or ends.")]


@app.command("list")
def list_(
    limit: Annotated[int, typer.Option(min=0, help="Print only so many, the newest. 0: all.")] = 0,
    format: FormatOption = Format.TABLE,
) -> None:
    """List the sessions, the newest first."""
    from pilotage.cli.lookup import session_folders, session_row

    folders = session_folders(waiting=True)
    shown = folders[:limit] if limit else folders
    if format is Format.QUIET:
        print_rows("sessions", [{"uid": folder.name} for folder in shown], _COLUMNS, format)
        return
    rows = [session_row(folder) for folder in shown]
    rare = ("job", "problem")
    columns = [column for column in _COLUMNS if column.key not in rare or any(row[column.key] for row in rows)]
    print_rows("sessions", rows, columns, format)
    if format is Format.TABLE and not rows:
        from pilotage.client.session_folder import sessions_folder

        note(f"there are no sessions in {sessions_folder()}")


@app.command("show")
def show_(uid: SessionArgument = "", format: FormatOption = Format.TABLE) -> None:
    """Show a session, its pilots and their partitions (the newest session unless one is named).

    All of it is read from files. Of a session that no program has open, the batch system is asked how its jobs stand now.
    """
    from pilotage.cli.detached import jobs_of, reason_now, starts_of
    from pilotage.cli.lookup import counts, find_session, living_pilots, pilot_folder, read_state, session_row
    from pilotage.client.job_words import reason_of

    folder = find_session(uid)
    row = session_row(folder)
    row["client"] = _client_of(folder, row["state"])
    pilots: list[dict[str, Any]] = []
    if not row["problem"]:
        state = read_state(folder)
        told: dict[PilotUid, JobStatus] = {}
        if row["state"] != "open":
            told, row["problem"] = jobs_of(state)
        alive = {pilot.uid for pilot, _ in living_pilots(folder, state)}
        alive -= {pilot for pilot, status in told.items() if is_over(status)}
        row["living_pilots"] = len(alive)
        for pilot in state.pilots.values():
            import msgspec

            now = told.get(pilot.uid)
            pilots.append(
                {
                    "uid": pilot.uid,
                    "state": pilot.state,
                    "resource": msgspec.msgpack.decode(pilot.description).get("resource"),
                    "nodes": len(pilot.nodes),
                    "cores": pilot.cores,
                    "alive": pilot.uid in alive,
                    "submitted": pilot.submitted,
                    "active_since": pilot.active_since or None,
                    "ended": pilot.ended or None,
                    "job": pilot.job.id if pilot.job is not None else "",
                    "job_state": now.state.value if now is not None else pilot.job.state if pilot.job is not None else "",
                    "starts": starts_of(now),
                    "reason": reason_now(pilot, now) if now is not None else reason_of(pilot),
                    "path": os.fspath(pilot_folder(folder, pilot)),
                    "partitions": _partitions(folder, pilot_folder(folder, pilot)) if pilot.uid in alive else [],
                    **counts(record for record in state.tasks.values() if record.pilot == pilot.uid),
                }
            )
    fields = (
        Column("uid", "session"),
        Column("state", "state"),
        Column("client", "client"),
        Column("opened", "opened", kind="age"),
        Column("path", "path"),
        Column("tasks", "tasks"),
        Column("done", "done"),
        Column("failed", "failed"),
        Column("canceled", "canceled"),
        Column("unfinished", "unfinished"),
        Column("problem", "problem"),
    )
    pilots_key = {"pilots": pilots} if format is Format.JSON else {}
    print_one("session", row | pilots_key, fields, format)
    if format is Format.TABLE and pilots:
        print()
        are_jobs = any(pilot["job_state"] or pilot["job"] for pilot in pilots)
        print_rows("pilots", pilots, [each for each in _PILOT_COLUMNS if are_jobs or each.key not in _OF_JOBS], format)
        partitions = [{"pilot": pilot["uid"], **each} for pilot in pilots for each in pilot["partitions"]]
        if partitions:
            print()
            print_rows("partitions", partitions, _PARTITION_COLUMNS, format)


def _client_of(folder: Path, state: str) -> str:
    """Return in words which program has a session open."""
    from pilotage.client.session_folder import CLIENT_FOLDER
    from pilotage.log.lease import holder_of

    holder = holder_of(folder / CLIENT_FOLDER)
    if state == "open" and holder is not None:
        return f"process {holder.pid} on {holder.host} has it open"
    died = f", the last one (process {holder.pid} on {holder.host}) died" if state == "crashed" and holder is not None else ""
    return f"none has it open{died}; come back with: pilotage attach {folder.name}"


def _partitions(folder: Path, pilot_folder: Path) -> list[dict[str, Any]]:
    """Return how the partitions of a pilot are, as far as its agent says."""
    import msgspec

    from pilotage.agent.settings import read_settings
    from pilotage.cli.observer import Observer

    if not read_settings(pilot_folder).partitions:
        return []
    try:
        with Observer.of(pilot_folder, folder) or contextlib.nullcontext() as observer:
            return [] if observer is None else [msgspec.structs.asdict(each) for each in observer.partitions()]
    except BackendError as error:
        note(str(error))
        return []


@app.command()
def path(uid: SessionArgument = "") -> None:
    """Print the folder of a session: cd "$(pilotage session path)"."""
    from pilotage.cli.lookup import find_session

    print(find_session(uid))


@app.command()
def resume(uid: SessionArgument = "") -> int:
    """Go on with a session whose program has ended or died, until all its tasks have ended.

    Ctrl-C leaves it again; its pilots go on as long as they may without a client.
    """
    from pilotage.cli.lookup import find_session

    return go_on(find_session(uid), "session resume")


def go_on(folder: Path, command: str, *, shown: bool = True) -> int:
    """Be the client of a session until all its tasks have ended, and return the exit code.

    ``command`` is what one comes back with; ``shown``: whether to show on a terminal how far it is.

    Raises:
        SessionInUse: another process has it.
    """
    from pilotage.cli.progress import Interrupts, Tally, display, follow
    from pilotage.client.job_words import reason_of
    from pilotage.client.session import Session
    from pilotage.model.states import FINAL, PMGR_ACTIVE

    with Interrupts() as interrupts:
        session = Session.resume(folder.name)
        managers = session.get_task_managers()
        tasks = [task for manager in managers for task in manager.get_tasks()]
        tally = Tally(tasks)
        tally.look()
        note(f"session {session.uid}: {tally.summary()}")
        detached = False

        def detach() -> None:
            nonlocal detached
            detached = True

        def wait(left: Any, timeout_s: float) -> None:
            managers[0].wait_for(left, None, timeout_s)

        def possible() -> bool:
            return not detached and any(pilot.state not in FINAL for pilot in session.state.pilots.values())

        def waits_for() -> str:
            pilots = [pilot for pilot in session.state.pilots.values() if pilot.state not in FINAL]
            if any(pilot.state == PMGR_ACTIVE for pilot in pilots):
                return ""
            return next((f"{pilot.uid}: {reason}" for pilot in pilots if (reason := reason_of(pilot))), "")

        try:
            if tally.left:
                bar = display(tally.total, wanted=shown)
                follow(tally, wait, detach, interrupts, bar, possible, interrupted="leaving", waits_for=waits_for)
        finally:
            if detached or interrupts.count:
                _leave(session)
            else:
                session.close()
    if interrupts.count:
        note(f"left {plural(len(tally.left), 'task')} to the pilots; come back with: pilotage {command} {session.uid}")
        return 128 + interrupts.number
    note(tally.summary())
    if tally.left:
        note("no pilot is left for the unfinished tasks; submit one from a program: Session.resume, then PilotManager")
    if tally.failed:
        note(f"see: pilotage task list -s {session.uid} --state FAILED")
    return 0 if tally.done + tally.canceled == tally.total else _FAILED


def _leave(session: Session) -> None:
    """Leave the pilots to themselves."""
    try:
        session.hand_over()
    except BackendError as error:
        note(str(error))
        session.close(terminate=False)


@app.command()
def rm(
    uids: Annotated[list[str], typer.Argument(metavar="UID...", help="Sessions, or how their uids begin or end.")],
    force: Annotated[bool, typer.Option("--force", help="End what still runs, and remove the session then.")] = False,
) -> None:
    """Remove sessions with all their files; a live one is refused unless --force."""
    from pilotage.cli.lookup import find_session

    # All are found before the first is removed: a slip in the third must not cost the first two.
    folders = [find_session(uid, waiting=True) for uid in uids if uid] if all(uids) else []
    if not folders:
        raise InvalidRequest("an empty uid names no session; see: pilotage session list")
    for folder in dict.fromkeys(folders):
        remove_session(folder, force)


def remove_session(folder: Path, force: bool) -> None:
    """Remove a session's folder and all that belongs to it.

    Raises:
        SessionInUse: it is alive and not to be ended (``force``), or what runs of it does not end.
    """
    from pilotage.agent.private_folder import private_folder, remove_private_folder
    from pilotage.cli.lookup import is_waiting, living_pilots, pilot_folder, read_state, session_state
    from pilotage.client.session_folder import CLIENT_FOLDER
    from pilotage.errors import PilotageError
    from pilotage.log.lease import holder_of

    if folder.is_symlink():
        raise InvalidRequest(f"{folder} is a link; remove it by hand")
    _end_submitted(folder, force)
    if is_waiting(folder):
        shutil.rmtree(folder)
        return
    try:
        state = read_state(folder)
    except PilotageError:
        if not force:
            raise
        state = None
    alive = living_pilots(folder, state) if state is not None else []
    is_open = session_state(folder) == "open"
    if (is_open or alive) and not force:
        holder = holder_of(folder / CLIENT_FOLDER)
        has = [f"process {holder.pid} on {holder.host} has it open"] if is_open and holder is not None else []
        has += [f"{plural(len(alive), 'pilot')} still run{'s' if len(alive) == 1 else ''}"] if alive else []
        raise SessionInUse(
            f"session {folder.name} is alive: {' and '.join(has)}; end that first, or use --force, which ends its pilots"
        )
    if alive:
        here = [(pilot, place) for pilot, place in alive if pilot.job is None]
        left = end_processes([pid for pilot, place in here for pid in _processes(pilot, place)], END_PATIENCE_S)
        if left:
            raise SessionInUse(
                f"session {folder.name}: processes {', '.join(map(str, left))} of its pilots did not end in "
                f"{END_PATIENCE_S:g} s; end them by hand (kill -9), and remove the session then"
            )
    end_jobs(alive, END_PATIENCE_S)
    for pilot in state.pilots.values() if state is not None else ():
        place = pilot_folder(folder, pilot)
        remove_private_folder(private_folder(place))
        if not place.is_relative_to(folder):
            shutil.rmtree(place, ignore_errors=True)
    shutil.rmtree(folder)


def _end_submitted(folder: Path, force: bool) -> None:
    """End the job that was submitted to open a session, with all that is in it, if there is one.

    Raises:
        SessionInUse: it is not over, and not to be ended (``force``), or does not end.
        BatchError: the batch system cannot be asked.
    """
    from pilotage.cli.lookup import PROGRAM_FILE
    from pilotage.cli.submitted import end_program, exit_code_of, read_program

    if not (folder / PROGRAM_FILE).exists() or exit_code_of(folder) is not None:
        return
    submitted = read_program(folder)
    status = submitted.now()
    if is_over(status):
        return
    job = f"session {folder.name}: {submitted.shown_job} is {status.state.value}"
    if not force:
        raise SessionInUse(f"{job}; end it first with: pilotage cancel {folder.name}; or use --force, which cancels it")
    if not end_program(folder, submitted, END_PATIENCE_S):
        raise SessionInUse(
            f"{job}, was cancelled, and has not ended in {END_PATIENCE_S:g} s; remove the session when it is over"
        )


def _processes(pilot: Any, place: Path) -> list[int]:
    """Return the process to tell that a pilot is to end: its bootstrap, or its agent if that is gone."""
    from pilotage.cli.lookup import living_agent
    from pilotage.system.processes import is_alive

    if is_alive(pilot.pid, pilot.started_ticks, pilot.boot_id):
        return [pilot.pid]
    connection = living_agent(place)
    return [connection.pid] if connection is not None else []


def end_jobs(pilots: Iterable[tuple[PilotRecord, Path]], patience_s: float) -> None:
    """Cancel the jobs of these pilots, and wait for their ends.

    Raises:
        BatchError: the batch system cannot be asked.
        SessionInUse: they have not ended after ``patience_s``.
    """
    from pilotage.agent.claim import forbid
    from pilotage.batch.commands import BatchCommands

    for pilot, place in pilots:
        if pilot.job is None:
            continue
        forbid(place)
        commands = BatchCommands.here(pilot.job.system)
        found = [pilot.job.id] if pilot.job.id else commands.find(pilot.job.name) or []
        until = time.monotonic() + patience_s
        for job in found:
            commands.cancel(job)
        while any(not is_over(status) for status in commands.statuses(found).values()):
            if time.monotonic() > until:
                raise SessionInUse(
                    f"pilot {pilot.uid!r}: its job {' and '.join(found)} was cancelled, and has not ended in {patience_s:g} s; "
                    "remove the session when it is over"
                )
            time.sleep(REPEAT_S)


def is_over(status: JobStatus) -> bool:
    """Tell whether nothing of a job runs any more, as far as its batch system knows."""
    from pilotage.batch.job import JobState

    return status.state.is_final or status.state is JobState.UNKNOWN


def end_processes(pids: list[int], patience_s: float) -> list[int]:
    """Tell processes to end, wait for them, and return those that live on."""
    descriptors: dict[int, int] = {}
    for pid in pids:
        try:
            descriptors[os.pidfd_open(pid)] = pid
        except ProcessLookupError:
            continue
    until = time.monotonic() + patience_s
    waiting = dict(descriptors)
    try:
        while waiting and (left_s := until - time.monotonic()) > 0:
            # Said again, as an agent that is just being started anew does not hear it yet.
            for descriptor in waiting:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            ended, _, _ = select.select(list(waiting), [], [], min(left_s, REPEAT_S))
            for descriptor in ended:
                del waiting[descriptor]
        return list(waiting.values())
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
