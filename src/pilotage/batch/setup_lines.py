"""Shell lines that a site has run in each job before its command: put into a script so that one which ends the job is named.

A trap says which line it was, and with which exit status, where the job's output goes. The note of a line must not stand
inside a command of several lines, nor change what ``$?`` is: where lines only make sense together they are one to the trap.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence

FAILURE = "the platform's setup ended the job with exit status"
"""What the message begins with; the status and the line follow."""

_REMEMBER = "pilotage_setup() { pilotage_line=$2; case $- in *e*) ;; *) return $1 ;; esac; }"
"""Passes the exit status of the line before on, unless the shell would end for it (``set -e``)."""
_PAIRS = {"if": "fi", "case": "esac", "do": "done", "{": "}", "(": ")"}
_GO_ON = ("&&", "||", "|", "|&")
_IN_IF = ("then", "elif", "else")
_BEFORE_DO = ("for", "while", "until", "select")


def setup_lines(setup: Sequence[str]) -> list[str]:
    """Return the lines of a script that run the lines of a setup, and say which one has ended it."""
    if not setup:
        return []
    told = f'echo "{FAILURE} $?: $pilotage_line" >&2'
    lines = [_REMEMBER, f"trap {shlex.quote(told)} EXIT"]
    if all(map(is_complete, setup)):
        for line in setup:
            lines += [_note(line), line]
    else:
        lines += [_note("; ".join(setup)), *setup]
    return [*lines, "trap - EXIT"]


def is_complete(line: str) -> bool:
    """Tell whether a line of shell is surely whole in itself; what is hard to tell is not.

    >>> is_complete("if [ -e /opt ]; then module load mpi; fi"), is_complete("if [ -e /opt ]; then"), is_complete("echo 'a")
    (True, False, False)
    """
    if "<<" in line:
        return False
    try:
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.commenters = ""
        words = list(reader)
    except ValueError:
        return False
    if not words or line.rstrip().endswith("\\") or words[-1] in _GO_ON:
        return False
    # Operators come in one piece where nothing stands between them: "();".
    parts = [part for word in words for part in (word if set(word) <= set("();") else [word])]
    counts = Counter(parts)
    if any(counts[first] != counts[last] for first, last in _PAIRS.items()):
        return False
    has_if = counts["if"] > 0
    return sum(counts[word] for word in _BEFORE_DO) <= counts["do"] and (has_if or not any(counts[word] for word in _IN_IF))


def _note(line: str) -> str:
    return f"pilotage_setup $? {shlex.quote(line)}"
