"""The commands around a task: in which order, which of them are plain, and what is noted of them. Pure text work.

The shell that runs them (see ``hook_scripts``) leaves a *note*, a file of lines: ``<place> <number> <code> <rest>``. Places are
the names of hooks, ``program``, ``exec`` (it could not be started) and ``end``; the code is ``-`` while the place is not left.
What stands last when the shell is over tells where that was.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable
from typing import Literal, NamedTuple

from pilotage.model.workload import ALL_RANKS, Hooks

HookName = Literal["pre_launch", "pre_exec", "post_exec", "post_launch"]

LAUNCH = "launch"
"""Takes the place of the rank's number in the name of a note, for the hooks that run once."""

PIPES = ("here", "go")
"""Ends of the names of the pipes by which ranks wait for each other."""

_PLAIN_CHARACTERS = r"[A-Za-z0-9_./:=@%+,-]"
_PLAIN_VARIABLE = (
    r"\$(?:\w*(?:PATH|DIR|HOME|ROOT)\b|(?:PILOTAGE|RP)_\w+|\{(?:\w*(?:PATH|DIR|HOME|ROOT)|(?:PILOTAGE|RP)_\w+)\}|USER\b)"
)
"""Those that no shell sets by itself."""
_PLAIN_WORD = rf"""(?:{_PLAIN_CHARACTERS}|'[^'\\\n]*'|"(?:[ ]|{_PLAIN_CHARACTERS}|{_PLAIN_VARIABLE})*")+"""
_PLAIN_TOOLS = "cat|chmod|cp|date|hostname|ln|ls|mkdir|mv|rm|rmdir|sleep|touch|true|uname"
_PLAIN_COMMAND = re.compile(
    rf"""[ \t]*(?:
        \#.*
      | [A-Za-z_]\w*={_PLAIN_WORD}
      | export(?:[ \t]+[A-Za-z_]\w*(?:={_PLAIN_WORD})?)+
      | unset(?:[ \t]+[A-Za-z_]\w*)+
      | cd[ \t]+{_PLAIN_WORD}
      | echo(?:[ \t]+(?!-){_PLAIN_WORD})*
      | (?:{_PLAIN_TOOLS}|/[A-Za-z0-9_./+-]+)(?:[ \t]+{_PLAIN_WORD})*
    )?[ \t]*""",
    re.VERBOSE,
)

_NOTE_LINE = re.compile(r"(pre_launch|pre_exec|program|exec|post_exec|post_launch|end) (\d+) (-|\d+)(?: (.*))?")

_FATAL_SIGNALS = frozenset(range(1, 32)) - {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGURG,
    signal.SIGWINCH,
}
"""Those that a program can die of; another exit code above 128 is the program's own."""


class Step(NamedTuple):
    """One hook: ``text`` for this ``rank``, or ``ALL_RANKS``; ``number`` counts those of its name from 0."""

    hook: HookName
    number: int
    rank: int
    text: str


class Note(NamedTuple):
    """What a shell has noted last: ``place``, see above; ``number`` of a hook; ``code``: None while the place was not left.

    ``rest``: of a hook after the program, the program's exit code; of ``exec``, the PATH in which it was looked for.
    """

    place: str
    number: int
    code: int | None
    rest: str


def steps(hooks: Hooks, *names: HookName) -> list[Step]:
    """Return the hooks of these names, in order."""
    found: list[Step] = []
    for name in names:
        if name == "pre_launch" or name == "post_launch":
            texts: Iterable[tuple[int, str]] = ((ALL_RANKS, text) for text in getattr(hooks, name))
        else:
            texts = getattr(hooks, name)
        found += (Step(name, number, rank, text) for number, (rank, text) in enumerate(texts))
    return found


def is_plain(text: str) -> bool:
    """Tell whether a hook means the same to every shell, and can neither end the shell nor replace it.

    >>> is_plain("export OMP_NUM_THREADS=4"), is_plain("source env/bin/activate"), is_plain("exit 0")
    (True, False, False)
    """
    return all(_PLAIN_COMMAND.fullmatch(line) for line in text.split("\n"))


def parse_note(text: str) -> Note | None:
    """Return what a shell has noted last; None if nothing.

    >>> parse_note("pre_exec 0 - \\npre_exec 1 - \\npre_exec 1 127\\n")
    Note(place='pre_exec', number=1, code=127, rest='')
    """
    lines = [found for line in text.split("\n") if (found := _NOTE_LINE.fullmatch(line))]
    if not lines:
        return None
    place, number, code, rest = lines[-1].groups(default="")
    return Note(place, int(number), int(code) if code != "-" else None, rest)


def exit_code_of(shown: int) -> int:
    """Return an exit code, negative for a signal, from what a shell says of a program that it has waited for.

    >>> exit_code_of(3), exit_code_of(139), exit_code_of(255)
    (3, -11, 255)
    """
    return 128 - shown if shown - 128 in _FATAL_SIGNALS else shown
