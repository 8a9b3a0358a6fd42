"""Who runs a partition: one agent at a time, whatever heads and agents died on the way.

An agent of a partition takes a lock in its folder before it reads anything there, and writes its name into it; the kernel
takes the lock from it when it is gone. So a head that stands in for a dead one finds the agents which that one started, also
those that do not listen yet, and of two that were started for one partition the second goes away.

Who fences a partition forbids it first, and then looks who has it; an agent claims it first, and then looks whether it is
forbidden. So none that was just being started comes up in a partition that is given up.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from pilotage.system.processes import boot_id, is_alive, started_ticks

CLAIM_FILE = "agent.claim"
FORBIDDEN_FILE = "agent.forbidden"
STARTS_FILE = "agent.starts"
TAKEN = 75
"""The exit status of an agent that finds another one there, or is not wanted any more (``EX_TEMPFAIL``)."""
_NAME_BYTES = 128


def claim(folder: Path) -> bool:
    """Take the partition of this folder for this process, for its whole life; False if another has it, or none may."""
    descriptor = os.open(folder / CLAIM_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    pid = os.getpid()
    # In one piece over the last one's, so that nobody reads half a name.
    os.pwrite(descriptor, f"{pid} {started_ticks(pid)} {boot_id()}".ljust(_NAME_BYTES).encode(), 0)
    return not (folder / FORBIDDEN_FILE).exists()


def forbid(folder: Path) -> None:
    """Let no agent begin any more in the partition of this folder."""
    (folder / FORBIDDEN_FILE).touch()


def claimant(folder: Path) -> int | None:
    """Return the pid of the living agent that has the partition of this folder; None if there is none."""
    try:
        pid, ticks, boot = (folder / CLAIM_FILE).read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if is_alive(int(pid), int(ticks), boot) else None


def count_start(folder: Path) -> int:
    """Note, before it is done, that an agent is started; return how many were, this one included."""
    path = folder / STARTS_FILE
    number = starts(folder) + 1
    new = path.with_suffix(".new")
    new.write_text(f"{number}\n")
    new.replace(path)
    return number


def starts(folder: Path) -> int:
    """Return how many agents were started for the partition of this folder."""
    try:
        return int((folder / STARTS_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return 0
