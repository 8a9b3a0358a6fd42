"""Ending what dead runners, and dead agents, have left running.

Each process of a task, of a function worker or of what prepares an environment carries the uids of its session and pilot, and
the name of its partition if it is of one, among its variables, which its children inherit even through ``setsid`` and double
forks. That marker, read from ``/proc``, finds
them. A living spawner is the subreaper of all that it started, so what descends from a living runner has somebody who looks
after it; the rest are orphans. The start time keeps a reused pid from being hit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from pilotage.model.ids import PilotUid, SessionUid
from pilotage.system.processes import started_ticks

_SCAN_PAUSE_S = 0.02
_EXEC_S = 0.002
TASK_MARK, WORKER_MARK, ENVIRONMENT_MARK = b"PILOTAGE_TASK_ID", b"PILOTAGE_WORKER_ID", b"PILOTAGE_ENVIRONMENT"
"""Variables that say what a process belongs to; the last is for what prepares a named environment."""

ALL_MARKS = (TASK_MARK, WORKER_MARK, ENVIRONMENT_MARK)
PARTITION_MARK = "PILOTAGE_PARTITION"
"""The variable that names the partition, in pilots that have several."""


HOST_MARK = "PILOTAGE_HOST"
"""The variable that names the host, in pilots that have one on each node: ranks of another's tasks may run beside its own."""


def marks_of(partition: str, host: str = "") -> dict[str, str]:
    """Return what marks the processes of a partition, and of a host, beside their session and pilot."""
    return {name: value for name, value in ((PARTITION_MARK, partition), (HOST_MARK, host)) if value}


def orphans(
    session: SessionUid,
    pilot: PilotUid,
    runners: Collection[int],
    owners: Collection[bytes] = ALL_MARKS,
    *,
    marked: Mapping[str, str] | None = None,
) -> dict[int, int]:
    """Return the pilot's processes of these kinds that neither are nor descend from ``runners`` (process ids).

    ``marked``: variables that they must have besides, such as that of their partition. The result maps process ids to their
    start times in clock ticks. Zombies are left out: they run no more.
    """
    wanted = {"PILOTAGE_SESSION_ID": session, "PILOTAGE_PILOT_ID": pilot, **(marked or {})}
    marks = {f"{name}={value}".encode() for name, value in wanted.items()}
    prefixes = tuple(owner + b"=" for owner in owners)
    found: dict[int, int] = {}
    undecided = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    for pause_s in (0.0, _EXEC_S):
        time.sleep(pause_s)
        # In the middle of an exec a process shows no environment for a moment; kernel threads and few others never do.
        undecided = [pid for pid in undecided if not _decided(pid, marks, prefixes, runners, found)]
        if not undecided:
            break
    return found


def _decided(pid: int, marks: set[bytes], prefixes: tuple[bytes, ...], runners: Collection[int], found: dict[int, int]) -> bool:
    """Add a process to ``found`` if it is an orphan; return False if nothing can be said of it now."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return True
    if variables == [b""]:
        return False
    if marks.issubset(variables) and any(variable.startswith(prefixes) for variable in variables):
        ticks = started_ticks(pid)
        if ticks is not None and not _descends(pid, runners):
            found[pid] = ticks
    return True


def end_orphans(
    session: SessionUid,
    pilot: PilotUid,
    runners: Collection[int],
    deadline_s: float,
    owners: Collection[bytes] = ALL_MARKS,
    *,
    marked: Mapping[str, str] | None = None,
) -> bool:
    """Kill all ``orphans``; return True when none is left, False when the deadline (in seconds from now) came first."""
    until = time.monotonic() + deadline_s
    while found := orphans(session, pilot, runners, owners, marked=marked):
        for pid, ticks in found.items():
            if started_ticks(pid) == ticks:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        if time.monotonic() > until:
            return False
        time.sleep(_SCAN_PAUSE_S)
    return True


def runners_of(folder: Path) -> list[int]:
    """Return the spawners and workers that were started for an agent with this private folder, which is in their arguments."""
    argument = os.fsencode(folder)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    arguments = file.read().split(b"\0")
            except OSError:
                continue
            if argument in arguments and started_ticks(int(entry)) is not None:
                found.append(int(entry))
    return found


def end_runners(folder: Path, grace_s: float, deadline_s: float) -> bool:
    """End the runners of this private folder: by TERM, which spawners pass on to their tasks, and after the grace by KILL.

    Return True when none is left, False when the deadline (in seconds from the KILL) came first.
    """
    for number, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, deadline_s)):
        for pid in runners_of(folder):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        until = time.monotonic() + patience_s
        while left := runners_of(folder):
            if time.monotonic() > until:
                break
            time.sleep(_SCAN_PAUSE_S)
        if not left:
            return True
    return False


def end_spawners(folder: Path, names: Collection[str]) -> None:
    """Kill the spawners of these names that were started for an agent with this private folder."""
    wanted = {(os.fsencode(folder), name.encode()) for name in names}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                arguments = file.read().split(b"\0")
            if tuple(arguments[-3:-1]) in wanted:
                os.kill(int(entry), signal.SIGKILL)
        except OSError:
            continue


def _descends(pid: int, ancestors: Collection[int]) -> bool:
    while pid > 1:
        if pid in ancestors:
            return True
        try:
            with open(f"/proc/{pid}/stat") as file:
                stat = file.read()
        except (FileNotFoundError, ProcessLookupError):
            return False
        pid = int(stat[stat.rindex(")") + 2 :].split()[1])
    return False
