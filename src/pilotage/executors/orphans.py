"""Ending what a dead spawner has left running.

Each process of a task carries the task's and the pilot's uid in its environment, which its children inherit even through
``setsid`` and double forks. That marker, read from ``/proc``, finds them; the start time keeps a reused pid from being hit.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection

from pilotage.model.ids import PilotUid, TaskUid
from pilotage.system.processes import started_ticks

_SCAN_PAUSE_S = 0.02


def marked_processes(pilot: PilotUid, tasks: Collection[TaskUid]) -> dict[int, int]:
    """Return the processes of these tasks of the pilot, as ``{pid: started_ticks}``."""
    pilot_mark = f"PILOTAGE_PILOT_ID={pilot}".encode()
    found = {}
    wanted = {f"PILOTAGE_TASK_ID={task}".encode() for task in tasks}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                variables = file.read().split(b"\0")
        except OSError:
            continue
        if pilot_mark in variables and not wanted.isdisjoint(variables):
            ticks = started_ticks(int(entry))
            if ticks is not None:
                found[int(entry)] = ticks
    return found


def end_marked(pilot: PilotUid, tasks: Collection[TaskUid], deadline_s: float) -> bool:
    """Kill all processes of these tasks; return True when none is left, False when the deadline came first."""
    until = time.monotonic() + deadline_s
    while tasks:
        found = marked_processes(pilot, tasks)
        if not found:
            return True
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
