"""Who runs a partition: one agent at a time, whatever heads and agents died on the way.

An agent of a partition takes a lock in its folder before it reads anything there, and writes the name of its process into
it; the kernel takes the lock from it when that is gone. So a head that stands in for a dead one finds the agents which that
one started, also those that do not listen yet, and of two that were started for one partition the second goes away. An agent
whose process goes on without it, as it is on a thread of its head's, gives the lock back, and takes the name away, when it
is over.

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


def claim(folder: Path) -> int | None:
    """Take the partition of this folder for this process's whole life, or until the claim, which is returned, is released.

    None: another has it, or none may.
    """
    descriptor = os.open(folder / CLAIM_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    pid = os.getpid()
    # In one piece over the last one's, so that nobody reads half a name.
    os.pwrite(descriptor, f"{pid} {started_ticks(pid)} {boot_id()}".ljust(_NAME_BYTES).encode(), 0)
    if (folder / FORBIDDEN_FILE).exists():
        release(descriptor)
        return None
    return descriptor


def release(claimed: int) -> None:
    """Give a partition back that this process had."""
    os.pwrite(claimed, b" " * _NAME_BYTES, 0)
    # Explicitly: a process that is just being started may still hold a copy of the descriptor.
    fcntl.flock(claimed, fcntl.LOCK_UN)
    os.close(claimed)


def forbid(folder: Path) -> None:
    """Let no agent begin any more in the partition of this folder."""
    (folder / FORBIDDEN_FILE).touch(mode=0o600)


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
    new.touch(mode=0o600)
    new.write_text(f"{number}\n")
    new.replace(path)
    return number


def starts(folder: Path) -> int:
    """Return how many agents were started for the partition of this folder."""
    try:
        return int((folder / STARTS_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return 0
