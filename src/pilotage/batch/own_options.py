"""Options of batch systems that a job's own would fight with, or that leave no job behind: refused among extra options.

Either the pilot has an attribute for it, which is then also known to whoever counts its nodes and its time; or the job
would not be the one that its pilot waits for: an array of jobs, one in the foreground, none at all.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple


class OwnOption(NamedTuple):
    """A regular expression that an option with its value matches from its beginning on, why it is refused, what to do."""

    pattern: str
    why: str
    remedy: str


_LEAVE_OUT = "leave it out"
_NONE = ("it submits no job", _LEAVE_OUT)
_MANY = ("it makes many jobs, and a pilot is one", "submit several pilots")
_WAITS = ("the submission would wait for the job's end", f"{_LEAVE_OUT}; wait for the pilot")
_SILENT = ("the submission would not tell the job's id", _LEAVE_OUT)
_SCRIPT = ("the job would not run the pilot's script", _LEAVE_OUT)
_OUTPUT = ("the job's output is read from the pilot's folder", _LEAVE_OUT)
_NAME = ("the job is found by its name", "give job_name")
_NODES = ("the pilot counts its nodes", "give nodes, or cores, gpus and memory")
_TIME = ("the pilot counts its time", "give runtime")
_SIGNAL = ("a signal that the agent does not expect ends it", "give drain_s and checkpoint_signal")
_ELSEWHERE = ("the job would be in another cluster, where it is not looked for", "submit from a login node of that one")
_LEAST_CHARACTERS = 3


def _long(*names: str) -> str:
    """Return a pattern of long options, which may be cut short."""
    cut = [name[:end] for name in names for end in range(len(name), min(len(name), _LEAST_CHARACTERS) - 1, -1)]
    return rf"--({'|'.join(map(re.escape, cut))})(?=[=\s]|$)"


def _word(*names: str) -> str:
    """Return a pattern of options that are whole words."""
    return rf"-({'|'.join(map(re.escape, names))})(?=\s|$)"


_OF_PBS = (
    OwnOption(r"-(I|X|G)", *_WAITS),
    OwnOption(r"-W\s*(.*,)?block=", *_WAITS),
    OwnOption(r"-[oej]", *_OUTPUT),
    OwnOption(r"-N", *_NAME),
    OwnOption(r"-l\s*(.*,)?(select|nodes|nodect|ncpus)=", *_NODES),
    OwnOption(r"-l\s*(.*,)?walltime=", *_TIME),
    OwnOption(r"-z", *_SILENT),
    OwnOption(r"-C", *_SCRIPT),
    OwnOption(r"--(version|help)?(?=\s|$)", *_NONE),
)
OWN_OPTIONS: Mapping[str, tuple[OwnOption, ...]] = {
    "slurm": (
        OwnOption(_long("test-only", "help", "usage", "version"), *_NONE),
        OwnOption(r"-[hV]", *_NONE),
        OwnOption(_long("array"), *_MANY),
        OwnOption(r"-a", *_MANY),
        OwnOption(r"hetjob|packjob", *_MANY),
        OwnOption(_long("wait"), *_WAITS),
        OwnOption(r"-W", *_WAITS),
        OwnOption(_long("wrap"), *_SCRIPT),
        OwnOption(_long("quiet"), *_SILENT),
        OwnOption(r"-Q", *_SILENT),
        OwnOption(_long("output", "error"), *_OUTPUT),
        OwnOption(r"-[oe]", *_OUTPUT),
        OwnOption(_long("job-name"), *_NAME),
        OwnOption(r"-J", *_NAME),
        OwnOption(_long("nodes"), *_NODES),
        OwnOption(r"-N", *_NODES),
        OwnOption(_long("time"), *_TIME),
        OwnOption(r"-t", *_TIME),
        OwnOption(_long("signal"), *_SIGNAL),
        OwnOption(_long("clusters"), *_ELSEWHERE),
        OwnOption(r"-M", *_ELSEWHERE),
    ),
    "pbspro": (OwnOption(r"-J", *_MANY), OwnOption(r"-f", *_WAITS), *_OF_PBS),
    "torque": (OwnOption(r"-t", *_MANY), OwnOption(r"-x", *_WAITS), *_OF_PBS),
    "lsf": (
        OwnOption(r"-J\s*\S*\[", *_MANY),
        OwnOption(_word("J"), *_NAME),
        OwnOption(_word("pack"), *_MANY),
        OwnOption(_word("K", "I", "Ip", "Is", "IS", "ISp", "ISs", "IX"), *_WAITS),
        OwnOption(_word("o", "oo", "e", "eo"), *_OUTPUT),
        OwnOption(_word("n"), *_NODES),
        OwnOption(_word("W"), *_TIME),
        OwnOption(_word("wa", "wt", "s"), *_SIGNAL),
        OwnOption(_word("clusters"), *_ELSEWHERE),
        OwnOption(_word("Zs", "json", "jsdl", "yaml"), *_SCRIPT),
        OwnOption(_word("h", "V"), *_NONE),
    ),
    "cobalt": (
        OwnOption(_long("interactive"), *_WAITS),
        OwnOption(r"-I", *_WAITS),
        OwnOption(_long("output", "error", "outputprefix"), *_OUTPUT),
        OwnOption(r"-[oeO]", *_OUTPUT),
        OwnOption(_long("jobname"), *_NAME),
        OwnOption(_long("nodecount"), *_NODES),
        OwnOption(r"-n", *_NODES),
        OwnOption(_long("time"), *_TIME),
        OwnOption(r"-t", *_TIME),
    ),
    "flux": (
        OwnOption(_long("dry-run", "help"), *_NONE),
        OwnOption(r"-h", *_NONE),
        OwnOption(_long("cc", "bcc"), *_MANY),
        OwnOption(_long("watch"), *_WAITS),
        OwnOption(_long("quiet"), *_SILENT),
        OwnOption(_long("wrap"), *_SCRIPT),
        OwnOption(_long("output", "error"), *_OUTPUT),
        OwnOption(_long("job-name"), *_NAME),
        OwnOption(_long("nodes", "nslots"), *_NODES),
        OwnOption(r"-[Nn]", *_NODES),
        OwnOption(_long("time-limit"), *_TIME),
        OwnOption(r"-t", *_TIME),
        OwnOption(_long("signal"), *_SIGNAL),
    ),
    "grid_engine": (
        OwnOption(_word("t"), *_MANY),
        OwnOption(r"-sync\s+(y|[^n])", *_WAITS),
        OwnOption(_word("I", "now"), *_WAITS),
        OwnOption(_word("verify", "help"), *_NONE),
        OwnOption(r"-w\s+[vp]", *_NONE),
        OwnOption(_word("o", "e", "j"), *_OUTPUT),
        OwnOption(_word("N"), *_NAME),
        OwnOption(_word("pe"), "the pilot counts its nodes", "name the parallel environment in the platform's batch_options"),
        OwnOption(r"-l\s+(.*,)?h_rt=", *_TIME),
        OwnOption(_word("notify"), *_SIGNAL),
        OwnOption(_word("C", "b"), *_SCRIPT),
    ),
    "loadleveler": (
        OwnOption(r"(queue|step_name)\b", *_MANY),
        OwnOption(r"(executable|arguments|job_type)\b", *_SCRIPT),
        OwnOption(r"(output|error)\b", *_OUTPUT),
        OwnOption(r"job_name\b", *_NAME),
        OwnOption(r"(node|tasks_per_node|total_tasks)\b", *_NODES),
        OwnOption(r"wall_clock_limit\b", *_TIME),
    ),
}
"""By batch system. Of those that are not listed nothing is known."""


def own_option(system: str, text: str) -> OwnOption | None:
    """Return what is wrong with an extra option, or the first of several in one; None: nothing that is known.

    >>> own_option("slurm", "--switches=1 --wrap=hostname").why
    "the job would not run the pilot's script"
    """
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    for at, word in enumerate(words):
        if at and not word.startswith("-"):
            continue
        with_value = " ".join(words[at : at + 2])
        for own in OWN_OPTIONS.get(system, ()):
            if re.match(own.pattern, with_value):
                return own
    return None
