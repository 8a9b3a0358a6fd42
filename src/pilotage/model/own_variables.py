"""A task's own variables in the arguments of its executable: which they are, and how they are put in. Pure text work.

Programs are started without a shell, so their arguments reach them as they stand. RADICAL-Pilot's go through one, each between
double quotes, and its users write ``$RP_TASK_ID`` there. So what is a task's own is put in where it starts:

* ``$NAME`` and ``${NAME}`` become the value of an own variable, or nothing where that is not set. A value is not read again,
  and never makes two arguments of one.
* ``\\$NAME`` of an own variable becomes ``$NAME``.
* All else stays as it is: other variables, ``$1``, ``$$``, ``$(...)``, backquotes.

Own is what begins with ``RP_`` or ``PILOTAGE_``, what the pilot sets beside those, what stands in ``environment`` or in the
named environment, and what hooks say to ``export`` in the shell that becomes the program (or in that of its mpiexec).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence

from pilotage.model.workload import Template

_OWN_PREFIXES = ("RP_", "PILOTAGE_")
_SET_BESIDE = (
    "CUDA_VISIBLE_DEVICES",
    "NOTIFY_SOCKET",
    "OMP_NUM_THREADS",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
)
"""What the pilot sets for tasks that ask for GPUs, for threads, for a service."""

_NAME = "[A-Za-z_][A-Za-z0-9_]*"
# Two signs are matched together so that the second does not begin a reference.
_REFERENCE = re.compile(rf"\$\$|\\?\$(?:({_NAME})|\{{({_NAME})\}})")

_VALUE = r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|\$\([^()]*\)|`[^`]*`|[^\s;&|'"\\`])*"""
_BLANK = r"(?:[ \t]|\\\n)+"
_EXPORT = re.compile(
    rf"(?:^|[;&|({{]|\b(?:then|do|else)\b)\s*export((?:{_BLANK}{_NAME}(?:=(?:{_VALUE}))?)+)", re.DOTALL | re.MULTILINE
)
_EXPORTED = re.compile(rf"{_BLANK}({_NAME})(?:={_VALUE})?", re.DOTALL)

Piece = tuple[str, bool]
"""A part of an argument: a text (False), or the name of an own variable (True)."""


def references(argument: str) -> Iterator[str]:
    """Return the names of the variables that an argument refers to, anyone's.

    >>> list(references("$HOME/${RP_RANK}.dat costs $5 and $$RP_RANK"))
    ['HOME', 'RP_RANK']
    """
    return (name for match in _REFERENCE.finditer(argument) if (name := match[1] or match[2]))


def exported(text: str) -> Iterator[str]:
    """Return the names that a hook says to export.

    >>> list(exported("module load gcc; export A=1 B='two words' C && export PATH=$(pwd -P):$PATH"))
    ['A', 'B', 'C', 'PATH']
    """
    return (word[1] for command in _EXPORT.finditer(text) for word in _EXPORTED.finditer(command[1]))


class OwnVariables:
    """The names of the variables that are the own of a template's tasks; ``named``: those of its named environment."""

    def __init__(self, template: Template, named: Iterable[str] = ()) -> None:
        self._names = {*_SET_BESIDE, *template.environment, *named}
        hooks = template.hooks
        if hooks is not None:
            self._names.update(name for _, text in hooks.pre_exec for name in exported(text))
            # Of ranks without an mpiexec these run in a process of their own, which hands nothing on.
            if template.uses_mpi or template.request.ranks == 1:
                self._names.update(name for text in hooks.pre_launch for name in exported(text))

    def __contains__(self, name: str) -> bool:
        return name.startswith(_OWN_PREFIXES) or name in self._names

    def expanded(self, arguments: Sequence[str], value_of: Callable[[str], str]) -> list[str]:
        """Return the arguments with values put in."""
        return [
            argument
            if (pieces := self._pieces(argument)) is None
            else "".join(value_of(text) if is_name else text for text, is_name in pieces)
            for argument in arguments
        ]

    def words(self, command: Sequence[str]) -> list[str | None]:
        """Return the words by which a POSIX shell puts values in; None for each that stays as it is.

        A shell reads them anywhere in a command: texts are quoted, names stand between double quotes.
        """
        return [None if (pieces := self._pieces(text)) is None else _word(pieces) for text in command]

    def _pieces(self, argument: str) -> list[Piece] | None:
        """Return the parts of an argument; None if it stays as it is."""
        if "$" not in argument:
            return None
        pieces: list[Piece] = []
        end = 0
        for match in _REFERENCE.finditer(argument):
            name = match[1] or match[2]
            if name is None or name not in self:
                continue
            pieces.append((argument[end : match.start()], False))
            protected = match[0].startswith("\\")
            pieces.append((match[0][1:], False) if protected else (name, True))
            end = match.end()
        return [*pieces, (argument[end:], False)] if pieces else None


def _word(pieces: Iterable[Piece]) -> str:
    return "".join(f'"${{{text}-}}"' if is_name else shlex.quote(text) for text, is_name in pieces if text)
