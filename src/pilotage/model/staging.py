"""What is to be done with a file before or after a task: values only; ``pilotage.staging`` does it."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import msgspec


class StagingAction(IntEnum):
    """What is done. On one machine, or one file system, a transfer is a copy."""

    TRANSFER = 0
    COPY = 1
    LINK = 2
    MOVE = 3
    DOWNLOAD = 4
    TARBALL = 5


class StagingFlag(IntFlag):
    """How it is done; the numbers are those that RADICAL-Pilot's users know."""

    NONE = 0
    RECURSIVE = 1
    CREATE_PARENTS = 2
    NON_FATAL = 4


class Directive(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One line of staging: ``source`` is brought to ``target``.

    Both are URLs. What only the client can tell is resolved by it (``file:///...`` for ``client://`` and ``pwd://``);
    ``task://``, ``pilot://``, ``session://``, ``resource://`` and ``endpoint://`` are resolved where the pilot runs. A source
    may hold a glob pattern. Of a task's directives those of higher ``priority`` are done first.
    """

    source: str
    target: str
    action: StagingAction = StagingAction.TRANSFER
    flags: StagingFlag = StagingFlag.CREATE_PARENTS
    priority: int = 0
