"""What runs on a virtual node of a test's cluster, and the loss of all that at once, as when the power of a node is cut."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from slurm_cluster import SlurmCluster

from pilotage.spawner.forest import children_by_parent


def cut_power(cluster: SlurmCluster, node: str) -> None:
    """Kill the ``slurmd`` of a node and all that it has started; nobody is told of it."""
    pids = _processes_on(cluster, node)
    assert pids
    # First all stop, so that none sees the end of another.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    cluster.wait_until_over(node)


def _processes_on(cluster: SlurmCluster, node: str) -> list[int]:
    """Return the daemons of a node, which have its log open, and all below them."""
    log = str(cluster.folder / "log" / f"{node}.log")
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if log in _open_files(path)]
    children = children_by_parent()
    for pid in found:
        found += [child for child in children.get(pid, []) if child not in found]
    return found


def _open_files(process: Path) -> list[str]:
    files = []
    try:
        for entry in os.scandir(process / "fd"):
            files.append(os.readlink(entry.path))
    except OSError:
        # It is gone, or a descriptor of it.
        pass
    return files
