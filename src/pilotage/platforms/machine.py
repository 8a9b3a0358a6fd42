"""What this machine offers to the calling process."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

MIB = 1024 * 1024


def usable_cores() -> list[int]:
    """Return the indices of the hardware threads on which this process may run, ascending."""
    return sorted(os.sched_getaffinity(0))


def usable_gpus(devices: Path = Path("/dev")) -> int:
    """Return the number of NVIDIA GPUs of this machine; other makes must be told by the platform or the pilot."""
    try:
        return sum(1 for entry in os.listdir(devices) if re.fullmatch(r"nvidia\d+", entry))
    except OSError:
        return 0


def usable_memory_mib(meminfo: Path = Path("/proc/meminfo"), limit: Path = Path("/sys/fs/cgroup/memory.max")) -> int:
    """Return the machine's memory, or what the container that this process is in allows, in MiB; 0 if it cannot be told."""
    try:
        total = int(re.search(r"^MemTotal:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)[1]) // 1024  # type: ignore[index]
    except (OSError, TypeError):
        return 0
    try:
        return min(total, int(limit.read_text()) // MIB)
    except (OSError, ValueError):  # no such file, or "max"
        return total


def usable_disk_mib(folder: Path) -> int:
    """Return what is free on the file system that holds ``folder`` (or its nearest existing parent), in MiB."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free // MIB
