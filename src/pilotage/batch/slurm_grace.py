"""Whether Slurm may give a job a grace before another takes its place: its end is nearer then, and its script is not told.

``GraceTime`` is a partition's, or a quality of service's; what that says only the accounting knows, which is not asked.
"""

from __future__ import annotations

import math
import re

from pilotage.batch.system import unreadable


def configuration_command() -> list[str]:
    """Return the command that tells whether, and by what, jobs are preempted."""
    return ["scontrol", "show", "config"]


def partition_command(partition: str) -> list[str]:
    """Return the command that tells of a partition."""
    return ["scontrol", "--oneliner", "show", "partition", partition]


def grace_s(configuration: str, partition: str) -> float | None:
    """Return how long a grace jobs of a partition have, in seconds; infinity: it is not known; None: they have none.

    The arguments are what those commands printed.

    Raises:
        BatchError: that cannot be read.
    """
    by = re.search(r"^PreemptType\s*=\s*(\S+)", configuration, re.MULTILINE)
    if by is None:
        raise unreadable("slurm", "configuration", configuration)
    if by[1] in ("preempt/none", "(null)"):
        return None
    grace = re.search(r"\bGraceTime=(\d+)", partition)
    if grace is None:
        raise unreadable("slurm", "partition", partition)
    if int(grace[1]):
        return float(grace[1])
    return math.inf if by[1] == "preempt/qos" else None
