"""What the shells of hooks leave behind, and the pipes by which ranks wait for each other: files in the agent's private folder.

That folder is on a file system of the node itself, so both are cheap, and pipes work there. Ranks on other nodes leave theirs
in a shared folder, and wait for each other by files.
"""

from __future__ import annotations

import os
from pathlib import Path

from pilotage.model.execution import Execution
from pilotage.spawner.failures import unusable_notes
from pilotage.spawner.hooks import LAUNCH, PIPES, Note, parse_note

_FOLDER = "hooks"
_NOTE = "note"
_READ_BYTES = 1 << 16


class Notes:
    """The notes of a spawner's tasks, in ``folder``. A note's full name ends with the rank that left it, or with ``LAUNCH``."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder / _FOLDER)
        self._made = False

    def name(self, execution: Execution, barrier: bool, far: str = "") -> str:
        """Return the beginning of the names of an execution's notes; with ``barrier`` its ranks find their pipes there.

        ``far``: a folder that other nodes see, for an execution that has ranks there. It is made; the caller removes it.

        Raises:
            LaunchFailed: there is no room for them.
        """
        if far:
            try:
                os.makedirs(far, mode=0o700, exist_ok=True)
            except OSError as error:
                raise unusable_notes(far, error) from error
            return f"{far}/{_NOTE}"
        task, attempt = execution
        name = f"{self._folder}/{task}.{attempt}"
        try:
            if not self._made:
                os.makedirs(self._folder, mode=0o700, exist_ok=True)
                self._made = True
            for pipe in PIPES if barrier else ():
                os.mkfifo(f"{name}.{pipe}", 0o600)
        except OSError as error:
            raise unusable_notes(self._folder, error) from error
        return name

    def take(self, name: str, who: int | str) -> Note | None:
        """Return the note of a rank, or of ``LAUNCH``, and remove it; None if there is none."""
        note = self.look(name, who)
        _remove(f"{name}.{who}")
        return note

    def look(self, name: str, who: int | str) -> Note | None:
        """Return the note of a rank as it is now; None if there is none."""
        try:
            descriptor = os.open(f"{name}.{who}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            return parse_note(os.fsdecode(os.read(descriptor, _READ_BYTES)))
        finally:
            os.close(descriptor)

    def clear(self, name: str, ranks: int, barrier: bool) -> None:
        """Remove what is left of an execution's notes."""
        for who in (LAUNCH, *range(ranks), *(PIPES if barrier else ())):
            _remove(f"{name}.{who}")


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
