"""What became of a task's process, from its exit code and from what the shell of its hooks has noted: pure functions."""

from __future__ import annotations

from typing import NamedTuple

from pilotage.model.outcome import Ending
from pilotage.model.workload import Hooks
from pilotage.spawner.failures import failed_exec
from pilotage.spawner.hooks import Note, exit_code_of

_SHOWN_CHARACTERS = 200
_BEFORE = ("pre_launch", "pre_exec")


class Verdict(NamedTuple):
    """How a process ended. ``ending`` is None where the exit code says it all; negative ones are of signals.

    ``rank``: of a task with several, if it is known which. ``hook``: whether it was one that failed, so that what was printed
    before is its own. ``transient``: nothing has begun, and trying again may help.
    """

    exit_code: int
    ending: Ending | None = None
    message: str = ""
    rank: int | None = None
    hook: bool = False
    transient: bool = False


def verdict_on_script(hooks: Hooks, executable: str, note: Note | None, exit_code: int) -> Verdict:
    """Return how a process ended that began as a shell with these hooks around this executable."""
    if note is None or note.place == "program" or exit_code < 0:
        return Verdict(exit_code)
    if note.place == "exec":
        return Verdict(exit_code, Ending.LAUNCH_FAILED, failed_exec(executable, exit_code, note.rest))
    if note.place == "end":
        return Verdict(exit_code_of(exit_code))
    before = note.place in _BEFORE
    hook = f"{note.place}[{note.number}]"
    if not note.code:
        instead = "before the program began" if before else "before the hooks after it"
        message = f"{hook} ended the shell with exit code {exit_code} {instead}"
    else:
        message = f"{hook} failed with exit code {exit_code}"
    message += f": {_shown(hooks, note)}"
    if before:
        return Verdict(exit_code, Ending.LAUNCH_FAILED, message, hook=True)
    of_program = exit_code_of(int(note.rest)) if note.rest.strip().isdecimal() else 0
    if of_program:
        return Verdict(of_program)
    # A hook after the program that ends the shell well has only kept the others from being run.
    return Verdict(exit_code, Ending.EXITED, message, hook=True) if exit_code else Verdict(0)


def _shown(hooks: Hooks, note: Note) -> str:
    commands = getattr(hooks, note.place)
    entry = commands[note.number]
    text: str = entry if isinstance(entry, str) else entry[1]
    first, newline, _ = text.strip().partition("\n")
    return first[:_SHOWN_CHARACTERS] + (" ..." if newline or len(first) > _SHOWN_CHARACTERS else "")
