"""The commands around a task, as one shell script per template: pure text work.

The script is the same for all tasks of a template: the program and its arguments are its parameters::

    bash --norc --noprofile -c SCRIPT pilotage NOTE PROGRAM ARGUMENT...

It runs the hooks, and then becomes the program; only when hooks follow does it wait for the program, and end as it did. What
a shell says by its exit code is not certain, so it leaves a *note*, a file of lines: before each hook that could end or replace
the shell, which one it is; and where a hook has failed, or the program could not be started, that and the code. What stands
last when the shell is over tells where that was.

Users write bash. But bash takes twice as long to start as the plain shell of most systems, and most hooks say no more than
``export OMP_NUM_THREADS=4``. So hooks whose every line is a *plain* command, which means the same to both shells and can
neither end the shell nor hide from it, are left to ``/bin/sh`` where that is another shell; all others get bash.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
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

_MODULES = """\
if ! type module >/dev/null 2>&1; then
for _pilotage_init in "${MODULESHOME-}/init/bash" "${LMOD_PKG-}/init/bash"; do
if [ -r "$_pilotage_init" ]; then . "$_pilotage_init"; break; fi
done
fi"""
"""Environment modules are a function of the shell, which a user's environment hands on only where it is exported."""


_NOTE_LINE = re.compile(r"(pre_launch|pre_exec|program|exec|post_exec|post_launch|end) (\d+) (-|\d+)(?: (.*))?")


class Step(NamedTuple):
    """One hook: ``text`` for this ``rank``, or ``ALL_RANKS``; ``number`` counts those of its name from 0."""

    hook: HookName
    number: int
    rank: int
    text: str


class Script(NamedTuple):
    """A script, and which shell it is for. ``plain``: it leaves a note only when something has failed."""

    text: str
    bash: bool
    plain: bool


class Note(NamedTuple):
    """What a script has left: ``place`` is a hook's name, ``program``, ``exec`` (it could not be started) or ``end``.

    ``code`` is None while the place is not left. ``rest``: of a hook after the program, the program's exit code; of ``exec``,
    the PATH in which the program was looked for.
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


def render(
    before: Sequence[Step],
    after: Sequence[Step] = (),
    *,
    bash: bool = True,
    plain: bool = False,
    once: bool = False,
    program: bool = True,
    barrier: int = 0,
    alarm: int = 0,
) -> Script:
    """Return the script that runs ``before``, the program (unless there is none) and ``after``.

    ``plain``: all hooks are. ``once``: not in each rank, but where the task is launched. ``barrier``: so many ranks wait for
    each other when ``before`` is done. ``alarm``: a process that gets SIGUSR1 when a rank does not begin its program, for ranks
    that are another's children: their launcher, and the other ranks, would wait for it.
    """
    mark = _Marks(plain)
    call = f"kill -USR1 {alarm}; " if alarm else ""
    lines = [f"_pilotage_barrier=$1 _pilotage_note=$1.{LAUNCH if once else '$PILOTAGE_RANK'}; shift"]
    if bash:
        # What is sourced without arguments sees those of the shell, and must not take the program's for its own.
        lines.append('_pilotage_command=("$@"); set --')
    lines.append(
        '_pilotage_check() { [ "$3" = 0 ] || { printf "%s\\n" "$1 $2 $3 ${4-}" >>"$_pilotage_note"; '
        f'{call}exit "$3"; }}; }}'
    )
    if not plain:
        lines.append('_pilotage_mark() { _pilotage_at="$1 $2"; echo "$1 $2 - ${3-}" >>"$_pilotage_note"; }')
    if any(re.search(r"\b(?:module|ml)\b", step.text) for step in (*before, *after)):
        lines.append(_MODULES)
    if alarm and not plain:
        lines.append(f'_pilotage_left() {{ echo "$_pilotage_at $1" >>"$_pilotage_note"; {call}[ "$1" != 0 ] || exit 1; }}')
        lines.append("trap '_pilotage_left $?' EXIT")
    lines += mark.steps(before, "")
    if barrier > 1:
        lines.append(_barrier(barrier))
    if alarm and not plain:
        lines.append("trap - EXIT")
    if program:
        lines += mark.place("program")
        lines += _program(bash=bash, waits=bool(after))
    if after:
        lines += mark.steps(after, ' "$RP_RET"')
        lines.append('echo "end 0 $RP_RET" >>"$_pilotage_note"; exit "$RP_RET"')
    if not program:
        lines += mark.place("end")
    return Script("\n".join(lines) + "\n", bash, plain)


def parse_note(text: str) -> Note | None:
    """Return where a script was last; None if it has left nothing.

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


class _Marks:
    """Renders steps, with what is noted before each of them."""

    def __init__(self, plain: bool) -> None:
        self._plain = plain

    def place(self, place: str, number: int = 0, rest: str = "") -> list[str]:
        return [] if self._plain else [f"_pilotage_mark {place} {number}{rest}"]

    def steps(self, steps: Iterable[Step], rest: str) -> Iterator[str]:
        for rank, group in groupby(steps, lambda step: step.rank):
            if rank != ALL_RANKS:
                yield f'case "$PILOTAGE_RANK" in {rank})'
            for step in group:
                yield from self.place(step.hook, step.number, rest)
                # By itself, and not before an ``||``: there a user's ``set -e`` would mean nothing.
                yield f"eval {shlex.quote(step.text)}"
                yield f"_pilotage_check {step.hook} {step.number} $?{rest}"
            if rank != ALL_RANKS:
                yield ";; esac"


def _program(*, bash: bool, waits: bool) -> Iterator[str]:
    if bash:
        # What is no file to execute is found here. What cannot be executed for another reason, by the exec itself; but not in
        # a subshell, which ends at once.
        yield 'type -P -- "${_pilotage_command[0]}" >/dev/null || _pilotage_check exec 0 127 "$PATH"'
        become = 'shopt -s execfail; exec "${_pilotage_command[@]}"; _pilotage_check exec 0 $? "$PATH"'
    else:
        become = 'trap \'_pilotage_check exec 0 $? "$PATH"\' EXIT; exec "$@"'
    if not waits:
        yield become
        return
    # TERM is for the program, which gets it as well; the shell stays to tell how that ended.
    yield "trap : HUP INT QUIT TERM USR1 USR2"
    yield f"( {become} ) && RP_RET=0 || RP_RET=$?"
    yield "trap - HUP INT QUIT TERM USR1 USR2"
    if not bash:
        yield "_pilotage_at="
        yield '{ while read -r _pilotage_place _; do _pilotage_at=$_pilotage_place; done <"$_pilotage_note"; } 2>/dev/null'
        yield '[ "$_pilotage_at" != exec ] || exit "$RP_RET"'


def _barrier(ranks: int) -> str:
    """Return the lines in which ranks wait for each other, by two named pipes in the place of the notes.

    Rank 0 reads a line from each of the others, then writes one for each. All have the second pipe open before they say that
    they are there, so that what is written to it is not lost; lines are empty, so that no reader gets part of one.
    """
    here, go = PIPES
    return f"""\
(
exec 8<>"$_pilotage_barrier.{go}"
if [ "$PILOTAGE_RANK" = 0 ]; then
exec 9<>"$_pilotage_barrier.{here}"
_pilotage_rank=1; while [ $_pilotage_rank -lt {ranks} ]; do read -r _ <&9; _pilotage_rank=$((_pilotage_rank+1)); done
_pilotage_rank=1; while [ $_pilotage_rank -lt {ranks} ]; do echo >&8; _pilotage_rank=$((_pilotage_rank+1)); done
else
echo >"$_pilotage_barrier.{here}"
read -r _ <&8
fi
)"""
