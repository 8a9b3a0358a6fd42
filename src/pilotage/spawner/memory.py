"""Whether the kernel killed a process for memory: the count of such kills in the memory cgroup that we share with our tasks."""

from __future__ import annotations

import os
from pathlib import Path

_REFRESH_S = 1.0


class MemoryKills:
    """Follows the kernel's count of processes of our cgroup that it killed for memory; knows nothing where it is not told.

    The count does not name the process. So one kill is credited to one process that died by KILL, none of ours, at about the
    time when the count rose; the count is refreshed at most once a second while tasks end.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._credited = 0
        self._refreshed = 0.0

    def open(self, path: Path | None) -> None:
        """Count from now on what the kernel counts in this file; None: nothing."""
        self._path = path
        self._credited = self._count()

    def refresh(self, now: float) -> None:
        """Forget kills that no process of ours was credited with for a while."""
        if self._path is not None and now - self._refreshed > _REFRESH_S:
            self._refreshed = now
            self._credited = self._count()

    def credit(self) -> bool:
        """Tell whether the kernel has just killed a process for memory that was not credited to another."""
        if self._path is None or self._count() <= self._credited:
            return False
        self._credited += 1
        return True

    def _count(self) -> int:
        try:
            return parse_kills(self._path.read_text()) if self._path is not None else 0
        except OSError:
            return 0


def own_events_file() -> Path | None:
    """Return the file that counts kills in our own cgroup; None if there is none to read."""
    return find_events_file(Path("/proc/self/cgroup").read_text(), Path("/sys/fs/cgroup"))


def parse_kills(events: str) -> int:
    """Return the count of kills in a ``memory.events`` (cgroup 2) or ``memory.oom_control`` (cgroup 1) file.

    >>> parse_kills("low 0\\noom 3\\noom_kill 2\\n")
    2
    """
    for line in events.splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def find_events_file(cgroups: str, mount: Path) -> Path | None:
    """Return the readable file that counts kills, given the text of ``/proc/self/cgroup``; None if there is none."""
    for line in cgroups.splitlines():
        _, controllers, folder = line.split(":", 2)
        if controllers == "memory":
            path = mount / "memory" / folder.lstrip("/") / "memory.oom_control"
        elif not controllers:
            path = mount / folder.lstrip("/") / "memory.events"
        else:
            continue
        if os.access(path, os.R_OK):
            return path
    return None
