"""Making sure that a pilot is over, and reading what its log says of its tasks.

Unreachable is not dead: a pilot's tasks may be given to another, or called lost, only when nothing of the pilot can run any
more. ``living_agent`` finds an agent that goes on without its bootstrap. ``fence`` ends what is left of a pilot whose agent
is gone (runners, and by the marker in their environment the tasks themselves) and returns what became of the tasks.
Of a pilot that is a job the batch system has ended all that ran when it says that the job is over; ``fence_job`` ends
nothing, keeps another run of the job from beginning, and reads.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pilotage.agent.claim import claimant, forbid
from pilotage.agent.private_folder import private_folder, remove_private_folder
from pilotage.agent.recovery import recover_state
from pilotage.agent.settings import CONNECTION_FILE, LOG_FOLDER, PARTITIONS_FOLDER, SETTINGS_FILE, read_settings
from pilotage.core.agent.aftermath import Aftermath, aftermath
from pilotage.errors import BackendError, LogCorrupted, PilotageError
from pilotage.executors.orphans import end_orphans, end_runners, marks_of
from pilotage.outputs.spares import recover
from pilotage.system.processes import boot_id, is_alive
from pilotage.wire.keys import read_connection

RUNNERS_END_S = 8.0
"""Spawners end their tasks with a grace of a few seconds; then they are killed."""
TASKS_END_S = 5.0
_LOOK_S = 0.02


def living_agent(pilot_folder: Path) -> int | None:
    """Return the pid of the pilot's agent if it lives on this machine."""
    try:
        connection = read_connection(pilot_folder / CONNECTION_FILE)
    except (FileNotFoundError, PilotageError):
        return None
    if is_alive(connection.pid, connection.started_ticks, connection.boot_id):
        return connection.pid
    return None


def fence(pilot_folder: Path, delivered: int) -> Aftermath:
    """End what is left of a local pilot, and tell what became of its tasks; takes as long as ending them takes.

    ``delivered``: number of the last message of the agent that the client has.

    Raises:
        BackendError: something of the pilot cannot be ended.
        LogCorrupted: the agent's log cannot be trusted.
    """
    settings = read_settings(pilot_folder)
    # A head first: it would start its partitions' agents again.
    _end_agent(pilot_folder, living_agent)
    partitions = _partitions(pilot_folder) if settings.partitions else {}
    for folder in partitions.values():
        forbid(folder)
        # Those that went away for lack of a head are still ending their runners.
        _end_agent(folder, claimant)
    for folder in (pilot_folder, *partitions.values()):
        _end_runners(folder, settings.pilot)
    if not end_orphans(settings.session, settings.pilot, (), TASKS_END_S):
        raise BackendError(f"pilot {settings.pilot}: processes of its tasks cannot be ended", transient=True)
    for folder in (pilot_folder, *partitions.values()):
        private = _private_folder(folder)
        recover(private)
        remove_private_folder(private)
    # Last, as it may raise: whatever the log says, nothing of the pilot runs any more.
    if settings.partitions:
        return _aftermath_of_head(pilot_folder, partitions, delivered, _is_complete)
    return _aftermath(pilot_folder, delivered, _is_complete)


def fence_job(pilot_folder: Path, delivered: int, *, complete: bool) -> Aftermath:
    """Tell what became of the tasks of a pilot whose job is over, from its log on the file system that nodes share.

    ``complete``: whether no node of it was lost, with what was last written there. What ran on its nodes is gone with the job.

    Raises:
        LogCorrupted: the agent's log cannot be trusted.
        FileNotFoundError: it was never prepared.
    """
    settings = read_settings(pilot_folder)
    forbid(pilot_folder)
    if not settings.partitions:
        return _aftermath(pilot_folder, delivered, lambda folder: complete)
    partitions = _partitions(pilot_folder)
    for folder in partitions.values():
        forbid(folder)
    return _aftermath_of_head(pilot_folder, partitions, delivered, lambda folder: complete)


def fence_partition(folder: Path, delivered: int, *, hosts_end_s: float | None = None) -> Aftermath:
    """Do the same for one partition of a pilot, which has its agent's folder here; the others go on.

    An agent on a thread of this process cannot be ended here: it must be gone, or have nothing left to do. ``hosts_end_s``:
    how long hosts on other nodes are waited for; None: until they are gone for certain.

    Raises:
        BackendError, LogCorrupted
        FileNotFoundError: no agent was ever started for it.
    """
    settings = read_settings(folder)
    forbid(folder)
    if claimant(folder) != os.getpid():
        _end_agent(folder, claimant)
    if settings.executor == "cluster":
        from pilotage.agent.partition_hosts import GONE_S, end_partition_hosts

        end_partition_hosts(settings, GONE_S if hosts_end_s is None else hosts_end_s)
    _end_runners(folder, settings.pilot)
    if not end_orphans(settings.session, settings.pilot, (), TASKS_END_S, marked=marks_of(settings.partition)):
        where = f"pilot {settings.pilot}, partition {settings.partition}"
        raise BackendError(f"{where}: processes of its tasks cannot be ended", transient=True)
    remove_private_folder(_private_folder(folder))
    return _aftermath(folder, delivered, _is_complete)


def _partitions(pilot_folder: Path) -> dict[str, Path]:
    """Return the folders of the partitions for which an agent was started."""
    return {path.parent.name: path.parent for path in sorted((pilot_folder / PARTITIONS_FOLDER).glob(f"*/{SETTINGS_FILE}"))}


def _aftermath(folder: Path, delivered: int, is_complete: Callable[[Path], bool]) -> Aftermath:
    state, _ = recover_state(folder / LOG_FOLDER)
    return aftermath(state, delivered, complete=is_complete(folder))


def _aftermath_of_head(
    pilot_folder: Path, partitions: Mapping[str, Path], delivered: int, is_complete: Callable[[Path], bool]
) -> Aftermath:
    from pilotage.agent.head_recovery import recover_head
    from pilotage.core.metascheduler.aftermath import aftermath_of_all

    head = recover_head(pilot_folder / LOG_FOLDER)
    found: dict[str, Aftermath] = {}
    for name, folder in partitions.items():
        record = head.partitions.get(name)
        if record is not None and record.living:
            try:
                found[name] = _aftermath(folder, record.received, is_complete)
            except LogCorrupted:
                # Of its tasks nothing is known.
                continue
    return aftermath_of_all(head, found, delivered, complete=is_complete(pilot_folder))


def _end_agent(folder: Path, find: Callable[[Path], int | None]) -> None:
    pid = find(folder)
    if pid is not None:
        _signal(pid, signal.SIGKILL)
        _await_end(lambda: find(folder) is not None, RUNNERS_END_S)


def _end_runners(folder: Path, pilot: str) -> None:
    if not end_runners(_private_folder(folder), RUNNERS_END_S, TASKS_END_S):
        raise BackendError(f"pilot {pilot}: runners of {folder} cannot be ended", transient=True)


def _private_folder(pilot_folder: Path) -> Path:
    """Return the private folder that the agents of this folder had, whose TMPDIR need not be that of this process."""
    try:
        socket_path = read_connection(pilot_folder / CONNECTION_FILE).socket
    except (FileNotFoundError, PilotageError):
        socket_path = ""
    return Path(socket_path).parent if socket_path else private_folder(pilot_folder)


def _is_complete(folder: Path) -> bool:
    """Tell whether this machine was not started again since the agent of a pilot on it came up."""
    try:
        return read_connection(folder / CONNECTION_FILE).boot_id == boot_id()
    except (FileNotFoundError, PilotageError):
        # An agent that never came up had nothing that could be lost.
        return True


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _await_end(lives: Callable[[], bool], patience_s: float) -> bool:
    until = time.monotonic() + patience_s
    while lives():
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_S)
    return True
