"""How the ranks of an mpiexec ended, from its exit code and from what it says of them: pure text work.

The exit code of an mpiexec is made from those of all ranks, in the way of each kind: Hydra joins their bits, OpenMPI takes the
first, and a signal is its number, 128 more, or 255. What they print is clearer, so that goes before where there is any.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

from pilotage.spawner.hooks import exit_code_of

_SIGNALS: dict[str, re.Pattern[str]] = {
    "mpich": re.compile(r"YOUR APPLICATION TERMINATED WITH THE EXIT STRING: .*\(signal (?P<signal>\d+)\)"),
    "intelmpi": re.compile(r"=\s+RANK (?P<rank>\d+) PID .*\n=\s+KILLED BY SIGNAL: (?P<signal>\d+)"),
    "openmpi": re.compile(
        r"noticed that process rank (?P<rank>\d+) with PID \d+ on node \S+\s+exited on\s+signal (?P<signal>\d+)"
    ),
    "pals": re.compile(r"\brank (?P<rank>\d+) died from signal (?P<signal>\d+)"),
}
_CODES: dict[str, re.Pattern[str]] = {
    "intelmpi": re.compile(r"=\s+RANK (?P<rank>\d+) PID .*\n=\s+EXIT STATUS: (?P<code>\d+)"),
    "openmpi": re.compile(r"The first process to do so was:\s+Process name: \[.*,(?P<rank>\d+)\]\s+Exit code:\s+(?P<code>\d+)"),
    "pals": re.compile(r"\brank (?P<rank>\d+) exited with code (?P<code>\d+)"),
}


_OWN_FAILURE = re.compile(r"^\[mpiexec@\S+\] (.+)$", re.MULTILINE)
_OWN_FAILURE_CODE = 255
"""How Hydra ends when it has lost its way, as happens when a rank is ended by a signal."""

_OF_SRUN = re.compile(
    r"^(?:\d+: )?srun: error: \S+: tasks? (?P<rank>\d+)[\d,-]*: "
    r"(?:Exited with exit code (?P<code>\d+)|(?P<signal>[A-Z][^\n(]*?))(?: \(core dumped\))?$",
    re.MULTILINE,
)
_SRUN_REFUSED = re.compile(
    r"^srun: error: ((?:Unable to (?:create step|confirm allocation|allocate resources)|Invalid |Requested node configuration|"
    r"Task launch for|Application launch failed|Memory required by task|More processors requested|Unable to resolve)[^\n]*)",
    re.MULTILINE,
)

_SRUN_REFUSED_NOW = re.compile(
    r"^(?:Unable to create step|Unable to confirm allocation)\b.*: (?:Memory required by task is not available|"
    r"Unable to contact slurm controller|Socket timed out|Zero Bytes were transmitted|Resource temporarily unavailable|"
    r"Slurm backup controller in standby|Transport endpoint)",
    re.IGNORECASE,
)
"""While the controller is away, and for some seconds after: it says that there is no memory until it knows its nodes again."""
_OUT_OF_MEMORY = "Out Of Memory"
_USED_UP_MEMORY = re.compile(r"^slurmstepd\S*: error: (?:Detected \d+ oom.kill event|\S+ exceeded memory limit)", re.MULTILINE)


class RankEnding(NamedTuple):
    """The exit code, negative for a signal, of one rank, or of all together where ``rank`` is None.

    ``failure``: what the launcher says of itself, if it was that which failed. ``refused``: it has started no rank, and if that
    is ``transient``, it may the next time. ``out_of_memory``: the rank was killed as its step had used up its memory.
    """

    exit_code: int
    rank: int | None = None
    failure: str = ""
    refused: bool = False
    transient: bool = False
    out_of_memory: bool = False


def rank_ending(kind: str, exit_code: int, said: str) -> RankEnding:
    """Return how the ranks ended whose launcher ended with this exit code, and ``said`` this.

    ``kind``: of an mpiexec, or the name of another launch method.

    >>> rank_ending("pals", 143, "node1: rank 3 died from signal 11")
    RankEnding(exit_code=-11, rank=3, failure='', refused=False, transient=False, out_of_memory=False)
    >>> rank_ending("srun", 143, "srun: error: node1: task 1: Exited with exit code 3") == RankEnding(3, rank=1)
    True
    """
    if exit_code <= 0:
        return RankEnding(exit_code)
    if kind == "srun":
        return _of_srun(exit_code, said)
    for patterns, name, sign in ((_SIGNALS, "signal", -1), (_CODES, "code", 1)):
        pattern = patterns.get(kind)
        if pattern is not None and (found := pattern.search(said)):
            parts = found.groupdict()
            return RankEnding(sign * int(parts[name]), int(parts["rank"]) if "rank" in parts else None)
    if exit_code == _OWN_FAILURE_CODE and kind in ("mpich", "intelmpi") and (failed := _OWN_FAILURE.search(said)):
        return RankEnding(exit_code, failure=failed[1])
    return RankEnding(exit_code_of(exit_code) if kind == "openmpi" else exit_code)


def _of_srun(exit_code: int, said: str) -> RankEnding:
    """Return how ranks of a step ended: ``srun`` tells each of them that failed, and the one that failed first before others.

    Its exit code is the highest of all ranks, those included that it ended because of the first.
    """
    for found in _OF_SRUN.finditer(said):
        rank = int(found["rank"])
        if found["code"] is not None:
            return RankEnding(exit_code_of(int(found["code"])), rank)
        word = found["signal"].strip()
        if word == _OUT_OF_MEMORY:
            return RankEnding(-signal.SIGKILL, rank, out_of_memory=True)
        if (number := _SIGNAL_NUMBERS.get(word)) is not None:
            used_up = number == signal.SIGKILL and _USED_UP_MEMORY.search(said) is not None
            return RankEnding(-number, rank, out_of_memory=used_up)
    if failed := _SRUN_REFUSED.search(said):
        return RankEnding(exit_code, failure=failed[1], refused=True, transient=_SRUN_REFUSED_NOW.search(failed[1]) is not None)
    return RankEnding(exit_code_of(exit_code))


_SIGNAL_NUMBERS = {text: number for number in signal.valid_signals() if (text := signal.strsignal(number))}
