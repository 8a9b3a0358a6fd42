"""Naming processes so that a reused pid is never taken for the process it once was.

A process is named by its pid, its start time in clock ticks since boot and the id of that boot.
"""

from __future__ import annotations

from pathlib import Path


def boot_id() -> str:
    """Return the id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started_ticks(pid: int) -> int | None:
    """Return when ``pid`` started, in clock ticks since boot; None if there is no such process, or it is a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may hold anything; the fields after it do not.
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_alive(pid: int, ticks: int, boot: str) -> bool:
    """Tell whether the process of this name still lives on this machine."""
    return boot == boot_id() and started_ticks(pid) == ticks
