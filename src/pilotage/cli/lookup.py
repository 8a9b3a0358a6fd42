"""Finding sessions, pilots and tasks by what a person types, and reading what their logs tell.

Logs are read without locks, whether their session is open or not. The client's log knows all tasks and their outcomes; of a
task that is not final a living agent knows more (see ``observer``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from pilotage.agent.settings import CONNECTION_FILE, SETTINGS_FILE
from pilotage.client.session_folder import CLIENT_FOLDER, sessions_folder
from pilotage.core.client.state import ClientState, PilotRecord, TaskRecord
from pilotage.errors import BackendError, InvalidRequest, PilotageError, nearest
from pilotage.log.lease import STALE_S, holder_of
from pilotage.model.ids import Attempt
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.states import FINAL
from pilotage.outputs.reader import STREAM_NAMES
from pilotage.system.processes import boot_id, is_alive
from pilotage.wire.keys import Connection, read_connection

PROGRAM_FILE = "program.json"
"""In the folder of a session that is, or was, opened inside a job: what was submitted to do that."""

_NAMES_SHOWN = 5


def session_folders(*, waiting: bool = False) -> list[Path]:
    """Return the folders of all sessions, the newest first. ``waiting``: those, too, that wait for their job to open them."""
    base = sessions_folder()
    if not base.is_dir():
        return []
    folders = [
        entry for entry in base.iterdir() if (entry / CLIENT_FOLDER).is_dir() or (waiting and (entry / PROGRAM_FILE).exists())
    ]
    return sorted(folders, key=lambda folder: (_born(folder), folder.name), reverse=True)


def is_waiting(folder: Path) -> bool:
    """Tell whether a session has not been opened yet by the job that was submitted for it."""
    return not (folder / CLIENT_FOLDER).is_dir()


def _born(folder: Path) -> float:
    # The settings of the blobs' folder and the like are written once; a folder's own time changes with each pilot.
    try:
        if is_waiting(folder):
            return (folder / PROGRAM_FILE).stat().st_mtime
        return min(entry.stat().st_mtime for entry in (folder / CLIENT_FOLDER).iterdir())
    except (OSError, ValueError):
        return 0.0


def find_session(name: str, *, waiting: bool = False) -> Path:
    """Return the folder of the session that ``name`` means: its uid, or a beginning or end of it that no other has.

    ``waiting``: it may be one that waits for its job to open it.

    Raises:
        InvalidRequest: there is no such session, or there are several; or it waits for its job.
    """
    folders = session_folders(waiting=waiting)
    if name and not waiting and name not in (folder.name for folder in folders):
        for folder in session_folders(waiting=True):
            if folder.name == name and is_waiting(folder):
                raise InvalidRequest(f"session {name!r} is not there before its job begins; see: pilotage status {name}")
    if not folders:
        raise InvalidRequest(f"there are no sessions in {sessions_folder()}; start one with `pilotage run -- PROGRAM`")
    if not name:
        return folders[0]
    uid = meant(name, [folder.name for folder in folders], "session", f"in {sessions_folder()}")
    return sessions_folder() / uid


def meant(name: str, known: Iterable[str], kind: str, where: str) -> str:
    """Return the one uid of ``known`` that is ``name``, or begins or ends with it; a number alone means the uid of that number.

    Raises:
        InvalidRequest: none, or more than one.
    """
    uids = list(known)
    if name in uids:
        return name
    found = [uid for uid in uids if name and (uid.startswith(name) or uid.endswith(name))]
    if len(found) > 1 and name.isdigit():
        numbered = [uid for uid in found if uid.rpartition(".")[2].lstrip("0") == name.lstrip("0")]
        found = numbered or found
    if len(found) == 1:
        return found[0]
    if found:
        some = ", ".join(found[:_NAMES_SHOWN]) + (", ..." if len(found) > _NAMES_SHOWN else "")
        raise InvalidRequest(f"{name!r} is how {len(found)} {kind}s {where} begin or end: {some}; give more of it")
    raise InvalidRequest(f"there is no {kind} {name!r} {where}{nearest(name, uids)}")


def read_state(folder: Path) -> ClientState:
    """Return what the client's log in a session's folder tells; if no program has the session open, what agents' tell, too.

    Raises:
        LogCorrupted: the client's log cannot be trusted.
    """
    from pilotage.client.recovery import recover_state

    state = recover_state(folder / CLIENT_FOLDER)
    unheard = [record for record in state.tasks.values() if record.outcome is None and record.pilot]
    if unheard and session_state(folder) != "open":
        _add_what_agents_know(folder, unheard)
    return state


def _add_what_agents_know(folder: Path, records: list[TaskRecord]) -> None:
    """Bring tasks up to what agents have in their logs and no client has taken yet."""
    from pilotage.trace.listing import list_tasks

    known = {task.uid: task for task in list_tasks(folder)}
    for record in records:
        task = known.get(record.row.uid)
        if task is None:
            continue
        record.state = task.state
        if task.ending is not None:
            times = Times(task.accepted, task.launched, task.started, task.ended)
            attempt = Attempt(task.attempt)
            record.outcome = Outcome(task.uid, record.binding, attempt, task.ending, task.exit_code, times=times)


def full_outcome(folder: Path, record: TaskRecord) -> Outcome | None:
    """Return how a task ended, with message and detail, also when only an agent has it; None if it has not."""
    from pilotage.trace.listing import show_task

    if record.outcome is None or record.outcome.message or record.outcome.ending is Ending.DONE:
        return record.outcome
    details = show_task(folder, record.row.uid)
    return details.outcome if details is not None and details.outcome is not None else record.outcome


def session_state(folder: Path) -> str:
    """Return ``open`` (a process has it), ``closed``, or ``crashed`` (its process died with it)."""
    holder = holder_of(folder / CLIENT_FOLDER)
    if holder is None or holder.released:
        return "closed"
    if holder.boot == boot_id():
        return "open" if is_alive(holder.pid, holder.started_ticks, holder.boot) else "crashed"
    # On another node only its heartbeat is seen, which is the time of its file.
    try:
        age_s = time.time() - (folder / CLIENT_FOLDER / f"lease.{holder.epoch}").stat().st_mtime
    except OSError:
        return "crashed"
    return "open" if age_s < STALE_S else "crashed"


def pilot_folder(folder: Path, pilot: PilotRecord) -> Path:
    """Return the folder of a pilot of the session in ``folder``."""
    sandbox = msgspec.msgpack.decode(pilot.description).get("sandbox")
    own = folder / pilot.uid
    if sandbox and not (own / SETTINGS_FILE).exists():
        return Path(sandbox).expanduser().absolute() / folder.name / pilot.uid
    return own


def living_agent(folder: Path) -> Connection | None:
    """Return how to reach the agent of the pilot in ``folder``; None if there is none that is known to live."""
    try:
        connection = read_connection(folder / CONNECTION_FILE)
    except (OSError, PilotageError):
        return None
    if connection.boot_id == boot_id() and not is_alive(connection.pid, connection.started_ticks, connection.boot_id):
        return None
    return connection


def living_pilots(folder: Path, state: ClientState) -> list[tuple[PilotRecord, Path]]:
    """Return the pilots of a session that are alive, with their folders: whose processes live on this machine, or whose jobs
    are not known to be over."""
    found = []
    for pilot in state.pilots.values():
        place = pilot_folder(folder, pilot)
        if pilot.job is not None:
            if pilot.state not in FINAL:
                found.append((pilot, place))
        elif (pilot.pid and is_alive(pilot.pid, pilot.started_ticks, pilot.boot_id)) or living_agent(place) is not None:
            found.append((pilot, place))
    return found


def session_row(folder: Path) -> dict[str, Any]:
    """Return what a list of sessions says of one; what cannot be read is said under ``problem``."""
    if is_waiting(folder):
        return _waiting_row(folder)
    row: dict[str, Any] = {
        "uid": folder.name,
        "state": session_state(folder),
        "path": os.fspath(folder),
        "problem": "",
        "job": "",
    }
    try:
        state = read_state(folder)
    except PilotageError as error:
        return row | {"problem": str(error), "opened": _born(folder), "pilots": 0, "living_pilots": 0} | counts(())
    alive = living_pilots(folder, state)
    opened = min((pilot.submitted for pilot in state.pilots.values()), default=state.opened)
    return row | {
        "opened": min(opened, state.opened) or _born(folder),
        "pilots": len(state.pilots),
        "living_pilots": len(alive),
        **counts(state.tasks.values()),
    }


def _waiting_row(folder: Path) -> dict[str, Any]:
    from pilotage.cli.submitted import read_program

    submitted = read_program(folder)
    row: dict[str, Any] = {"uid": folder.name, "state": "", "path": os.fspath(folder), "problem": ""}
    try:
        row["state"] = submitted.now().state.value
    except BackendError as error:
        row |= {"state": "unknown", "problem": f"the batch system was asked for {submitted.shown_job}: {error}"}
    return row | {
        "job": submitted.job,
        "opened": _born(folder),
        "pilots": 0,
        "living_pilots": 0,
        **counts(()),
        "tasks": submitted.tasks,
        "unfinished": submitted.tasks,
    }


def counts(tasks: Iterable[TaskRecord]) -> dict[str, int]:
    """Return how many tasks there are, by what became of them."""
    found = dict.fromkeys(("tasks", "done", "failed", "canceled", "unfinished"), 0)
    for record in tasks:
        found["tasks"] += 1
        found[record.state.lower() if record.state in FINAL else "unfinished"] += 1
    return found


def task_row(record: TaskRecord) -> dict[str, Any]:
    """Return what a list of tasks says of one."""
    outcome = record.outcome
    times = outcome.times if outcome is not None else None
    ran_s = times.ended - times.started if times is not None and times.started and times.ended else None
    return {
        "uid": record.row.uid,
        "name": record.row.name or record.row.uid,
        "state": record.state,
        "pilot": record.pilot or None,
        "ending": outcome.ending.name if outcome is not None else None,
        "exit_code": outcome.exit_code if outcome is not None else None,
        "ran_s": ran_s,
        "reason": outcome.message if outcome is not None else "",
    }


def task_details(folder: Path, state: ClientState, record: TaskRecord) -> dict[str, Any]:
    """Return all that the log tells of one task, but for its payloads and the values of its environment."""
    template = state.templates[record.row.template]
    outcome = record.outcome = full_outcome(folder, record)
    request = template.request
    sandbox, stdout, stderr = task_files(folder, state, record)
    details = task_row(record) | {
        "mode": template.mode,
        "command": [template.executable, *record.row.arguments] if template.mode == "executable" else None,
        "ranks": request.ranks,
        "cores_per_rank": request.cores,
        "gpus_per_rank": request.gpu_shares / 64,
        "memory_per_rank_mib": request.memory * 64,
        "disk_per_rank_mib": request.disk * 64,
        "priority": template.priority,
        "timeout_s": template.timeout_s,
        "retries": template.retries,
        "environment": sorted(template.environment),
        "sandbox": sandbox,
        "stdout": stdout,
        "stderr": stderr,
        "attempt": outcome.attempt if outcome is not None else None,
        "cancelling": record.cancelling,
        "detail": outcome.detail if outcome is not None else "",
    }
    times = outcome.times if outcome is not None else None
    for station in ("accepted", "launched", "started", "ended"):
        details[station] = (getattr(times, station) or None) if times is not None else None
    return details


def task_files(folder: Path, state: ClientState, record: TaskRecord) -> tuple[str | None, str | None, str | None]:
    """Return where a task runs, and the files of its stdout and stderr, where they have any; None while no pilot has it."""
    from pilotage.client.task_output import PilotOutputs

    if not record.pilot:
        return None, None, None
    template, row = state.templates[record.row.template], record.row
    outputs = PilotOutputs(pilot_folder(folder, state.pilots[record.pilot]))
    printed = outputs.of(template, row, record.outcome.attempt if record.outcome is not None else Attempt(0))
    stdout, stderr = [None if path is None else os.fspath(path) for path in map(printed.path, STREAM_NAMES)]
    return outputs.sandbox(template, row), stdout, stderr
