"""Shell scripts around a template's tasks, made from its hooks: pure text work.

A script is the same for all tasks of a template: the program and its arguments are its parameters::

    bash --norc --noprofile -c SCRIPT hooks NOTE PROGRAM ARGUMENT...

It runs the hooks, and then becomes the program; only when hooks follow does it wait for the program, and end as it did. What
a shell says by its exit code is not certain, so it leaves a note (see ``hooks``): where a hook has failed, or the program could
not be started, that and the code; and before each hook that could end or replace the shell, which one it is.

Where arguments hold variables of the task, lines that put these in follow the hooks that run before it; only they are of one
task alone.

Users write bash. But bash takes twice as long to start as the plain shell of most systems, and most hooks say no more than
``export OMP_NUM_THREADS=4``. So *plain* hooks are left to ``/bin/sh`` where that is another shell; all others get bash.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from pilotage.launchers.method import Words
from pilotage.launchers.rank_script import positional
from pilotage.model.workload import ALL_RANKS
from pilotage.spawner.hooks import LAUNCH, PIPES, Step, is_plain

_KEPT_SIGNALS = "HUP INT QUIT TERM USR1 USR2"
"""Those that a shell which waits for the program leaves to it."""

_FEW_RANKS = 64
"""So many may look into a folder of a shared file system ten times a second."""

_MODULES = """\
if ! type module >/dev/null 2>&1; then
for _pilotage_init in "${MODULESHOME-}/init/bash" "${LMOD_PKG-}/init/bash"; do
if [ -r "$_pilotage_init" ]; then . "$_pilotage_init"; break; fi
done
fi"""
"""Environment modules are a function of the shell, which a user's environment hands on only where it is exported."""


class Script(NamedTuple):
    """A script, and whether it is for bash or for ``/bin/sh``. ``plain``: it leaves a note only when something has failed.

    ``before``: how much of the text comes before the program, which is all that follows the hooks before it.
    """

    text: str
    bash: bool
    plain: bool
    before: int


def render(
    before: Sequence[Step],
    after: Sequence[Step] = (),
    *,
    bash: bool = True,
    quick: bool = False,
    once: bool = False,
    program: bool = True,
    barrier: int = 0,
    alarm: int = 0,
    far: bool = False,
) -> Script:
    """Return the script that runs ``before``, the program (unless there is none) and ``after``.

    ``bash``: there is one. ``quick``: ``/bin/sh`` is another shell, and may run plain hooks. ``once``: not in each rank, but
    where the task is launched. ``barrier``: so many ranks wait for each other when ``before`` is done. ``alarm``: a process
    that gets SIGUSR1 when a rank does not begin its program, for ranks that are another's children: their launcher, and the
    other ranks, would wait for it. ``far``: some are on other nodes, where nobody hears an alarm and no pipe leads: there the
    launcher ends all when one fails, and ranks meet by files in a folder that all nodes see.
    """
    plain = quick and all(is_plain(step.text) for step in (*before, *after))
    note = f"_pilotage_barrier=$1 _pilotage_note=$1.{LAUNCH if once else '$PILOTAGE_RANK'}; shift"
    call = f"kill -USR1 {alarm}" if alarm and not far else ""
    writer = _Plain(call) if plain else _Careful(call, bash, others=bool(alarm))
    lines = [note, *writer.begin((*before, *after)), *_steps(writer, before)]
    if barrier > 1:
        lines.append(_far_barrier(barrier) if far else _barrier(barrier))
    before_program = len("\n".join(lines)) + 1
    if program:
        lines += writer.program(waits=bool(after))
    if after:
        lines += [*_steps(writer, after), *writer.end_as_program()]
    elif not program:
        lines += writer.end()
    return Script("\n".join(lines) + "\n", bash and not plain, plain, before_program)


def with_words(script: Script, words: Words) -> str:
    """Return the text of a script that takes these words for its command's, once the hooks before it have run."""
    if not any(words):
        return script.text
    if script.bash:
        changed = "\n".join(f"_pilotage_command[{index}]={word}" for index, word in enumerate(words) if word is not None)
    else:
        changed = "set -- " + " ".join(positional(words))
    return f"{script.text[: script.before]}{changed}\n{script.text[script.before :]}"


def _steps(writer: _Plain | _Careful, steps: Sequence[Step]) -> Iterator[str]:
    for rank, group in groupby(steps, lambda step: step.rank):
        if rank != ALL_RANKS:
            yield f'case "$PILOTAGE_RANK" in {rank})'
        for step in group:
            yield from writer.step(step)
        if rank != ALL_RANKS:
            yield ";; esac"


class _Plain:
    """Renders what can neither end the shell nor hide from it: one trap tells of all that fails."""

    def __init__(self, call: str) -> None:
        called = f"; {call}" if call else ""
        self._trap = f'\'printf "%s\\n" "$_pilotage_at $? ${{RP_RET-$PATH}}" >>"$_pilotage_note"{called}\''

    def begin(self, steps: Sequence[Step]) -> Iterator[str]:
        yield f"trap {self._trap} EXIT"

    def step(self, step: Step) -> Iterator[str]:
        yield f"_pilotage_at='{step.hook} {step.number}'; eval {shlex.quote(step.text)} || exit"

    def program(self, *, waits: bool) -> Iterator[str]:
        become = "_pilotage_at='exec 0'; exec \"$@\""
        if not waits:
            yield become
            return
        yield f"trap : {_KEPT_SIGNALS}"
        yield f"( trap {self._trap} EXIT; {become} ) && RP_RET=0 || RP_RET=$?"
        yield f"trap - {_KEPT_SIGNALS}"
        yield '[ ! -e "$_pilotage_note" ] || { trap - EXIT; exit "$RP_RET"; }'

    def end_as_program(self) -> Iterator[str]:
        yield "trap - EXIT"
        yield '[ "$RP_RET" -le 128 ] || echo "end 0 $RP_RET" >>"$_pilotage_note"'
        yield 'exit "$RP_RET"'

    def end(self) -> Iterator[str]:
        yield "trap - EXIT"


class _Careful:
    """Renders what may do anything to its shell: end it, replace it, set traps and options."""

    def __init__(self, call: str, bash: bool, others: bool) -> None:
        self._call = call
        self._bash = bash
        self._others = others
        self._rest = ""

    def begin(self, steps: Sequence[Step]) -> Iterator[str]:
        if self._bash:
            # What is sourced without arguments sees those of the shell, and must not take the program's for its own.
            yield '_pilotage_command=("$@"); set --'
        call = f"{self._call}; " if self._call else ""
        yield '_pilotage_mark() { _pilotage_at="$1 $2"; echo "$1 $2 - ${3-}" >>"$_pilotage_note"; }'
        failed = f'printf "%s\\n" "$1 $2 $3 ${{4-}}" >>"$_pilotage_note"; {call}exit "$3"'
        yield f'_pilotage_check() {{ [ "$3" = 0 ] || {{ {failed}; }}; }}'
        if any(re.search(r"\b(?:module|ml)\b", step.text) for step in steps):
            yield _MODULES
        if self._others:
            yield f'_pilotage_left() {{ echo "$_pilotage_at $1" >>"$_pilotage_note"; {call}[ "$1" != 0 ] || exit 1; }}'
            yield "trap '_pilotage_left $?' EXIT"

    def step(self, step: Step) -> Iterator[str]:
        yield f"_pilotage_mark {step.hook} {step.number}{self._rest}"
        # By itself, and not before an ``||``: there a user's ``set -e`` would mean nothing.
        yield f"eval {shlex.quote(step.text)}"
        yield f"_pilotage_check {step.hook} {step.number} $?{self._rest}"

    def program(self, *, waits: bool) -> Iterator[str]:
        if self._others:
            yield "trap - EXIT"
        yield "_pilotage_mark program 0"
        if self._bash:
            # What is no file to execute is found here. What cannot be executed for another reason, by the exec itself; but not
            # in a subshell, which ends at once.
            yield 'type -P -- "${_pilotage_command[0]}" >/dev/null || _pilotage_check exec 0 127 "$PATH"'
            become = 'shopt -s execfail; exec "${_pilotage_command[@]}"; _pilotage_check exec 0 $? "$PATH"'
        else:
            become = 'trap \'_pilotage_check exec 0 $? "$PATH"\' EXIT; exec "$@"'
        if not waits:
            yield become
            return
        # TERM is for the program, which gets it as well; the shell stays to tell how that ended.
        yield f"trap : {_KEPT_SIGNALS}"
        yield f"( {become} ) && RP_RET=0 || RP_RET=$?"
        yield f"trap - {_KEPT_SIGNALS}"
        if not self._bash:
            yield 'while read -r _pilotage_at _; do :; done <"$_pilotage_note"; [ "$_pilotage_at" != exec ] || exit "$RP_RET"'
        self._rest = ' "$RP_RET"'

    def end_as_program(self) -> Iterator[str]:
        yield 'echo "end 0 $RP_RET" >>"$_pilotage_note"; exit "$RP_RET"'

    def end(self) -> Iterator[str]:
        yield "_pilotage_mark end 0"


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


def _far_barrier(ranks: int) -> str:
    """Return the lines in which ranks of several nodes wait for each other, by files in the place of the notes.

    Each makes its own, and rank 0 one more when all are there. They are looked for by listing the folder: a shared file system
    may go on to believe for a while that a file it was asked for is not there. The shell itself waits, and no subshell, which
    might outlive it where the batch system does not see it.
    """
    here, go = PIPES
    pause_s = 0.1 if ranks <= _FEW_RANKS else 1
    return f"""\
_pilotage_met() {{ ls "${{_pilotage_barrier%/*}}" >/dev/null
set -- "$1" "$_pilotage_barrier.$2"*; [ -e "$2" ] && [ $# -gt "$1" ]; }}
: >"$_pilotage_barrier.{here}.$PILOTAGE_RANK"
if [ "$PILOTAGE_RANK" = 0 ]; then
until _pilotage_met {ranks} {here}.; do sleep {pause_s}; done
: >"$_pilotage_barrier.{go}"
else
until _pilotage_met 1 {go}; do sleep {pause_s}; done
fi
unset -f _pilotage_met"""
