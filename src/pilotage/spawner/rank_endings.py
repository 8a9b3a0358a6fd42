"""How the ranks of an mpiexec ended, from its exit code and from what it says of them: pure text work.

The exit code of an mpiexec is made from those of all ranks, in the way of each kind: Hydra joins their bits, OpenMPI takes the
first, and a signal is its number, 128 more, or 255. What they print is clearer, so that goes before where there is any.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pilotage.model.workload import MpiKind, MpiLauncher
from pilotage.spawner.hooks import exit_code_of

_SIGNALS: dict[MpiKind, re.Pattern[str]] = {
    "mpich": re.compile(r"YOUR APPLICATION TERMINATED WITH THE EXIT STRING: .*\(signal (?P<signal>\d+)\)"),
    "intelmpi": re.compile(r"=\s+RANK (?P<rank>\d+) PID .*\n=\s+KILLED BY SIGNAL: (?P<signal>\d+)"),
    "openmpi": re.compile(
        r"noticed that process rank (?P<rank>\d+) with PID \d+ on node \S+\s+exited on\s+signal (?P<signal>\d+)"
    ),
    "pals": re.compile(r"\brank (?P<rank>\d+) died from signal (?P<signal>\d+)"),
}
_CODES: dict[MpiKind, re.Pattern[str]] = {
    "intelmpi": re.compile(r"=\s+RANK (?P<rank>\d+) PID .*\n=\s+EXIT STATUS: (?P<code>\d+)"),
    "openmpi": re.compile(r"The first process to do so was:\s+Process name: \[.*,(?P<rank>\d+)\]\s+Exit code:\s+(?P<code>\d+)"),
    "pals": re.compile(r"\brank (?P<rank>\d+) exited with code (?P<code>\d+)"),
}


_OWN_FAILURE = re.compile(r"^\[mpiexec@\S+\] (.+)$", re.MULTILINE)
_OWN_FAILURE_CODE = 255
"""How Hydra ends when it has lost its way, as happens when a rank is ended by a signal."""


class RankEnding(NamedTuple):
    """The exit code, negative for a signal, of one rank, or of all together where ``rank`` is None.

    ``failure``: what the launcher says of itself, if it was that which failed.
    """

    exit_code: int
    rank: int | None = None
    failure: str = ""


def rank_ending(launcher: MpiLauncher, exit_code: int, said: str) -> RankEnding:
    """Return how the ranks ended whose mpiexec ended with this exit code, and ``said`` this.

    >>> rank_ending(MpiLauncher("pals", "mpiexec"), 143, "node1: rank 3 died from signal 11")
    RankEnding(exit_code=-11, rank=3, failure='')
    """
    if exit_code <= 0:
        return RankEnding(exit_code)
    for patterns, name, sign in ((_SIGNALS, "signal", -1), (_CODES, "code", 1)):
        pattern = patterns.get(launcher.kind)
        if pattern is not None and (found := pattern.search(said)):
            parts = found.groupdict()
            return RankEnding(sign * int(parts[name]), int(parts["rank"]) if "rank" in parts else None)
    if exit_code == _OWN_FAILURE_CODE and launcher.kind in ("mpich", "intelmpi") and (failed := _OWN_FAILURE.search(said)):
        return RankEnding(exit_code, failure=failed[1])
    return RankEnding(exit_code_of(exit_code) if launcher.kind == "openmpi" else exit_code)
