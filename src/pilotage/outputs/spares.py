"""Spare files for tasks that are likely to print nothing: what they do print is moved to files of their own.

To make two files for a short task and to remove them again costs more than all else that is done for it, and on some file
systems the more, the more were removed lately. A spare pair goes from task to task instead, for as long as nothing is written
to it. What was written is moved to the task's own files at its end, or as soon as others may want to look at it. Moving keeps
the descriptors of those who write; only where it cannot be done, as between file systems, it is a copy, and waits for the end.

Who writes to which pair is noted in a file of the runner: one slot for each pair, overwritten by its next task. So nothing is
lost that was printed to a spare pair when the runner is killed: ``recover`` puts it in its place.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pilotage.outputs.pairs import Pairs, remove, remove_empty, size_of
from pilotage.outputs.records import STREAMS

_SLOT_BYTES = 1024
_NOTES = ".spares"
_CHUNK_BYTES = 1 << 20


class Spares(Pairs):
    """The spare pairs of one runner, whose notes are in ``notes_folder``.

    ``owner`` names it among all runners of the pilot, ``runner`` among those with notes in that folder. The own files of a task
    are named by what their paths have in common: without the ``.out`` and ``.err`` at their ends.
    """

    def __init__(self, pilot_folder: str, owner: str, notes_folder: Path, runner: str) -> None:
        super().__init__(pilot_folder, f"{owner}.spare")
        self._notes_path = notes_folder / f"{runner}{_NOTES}"
        self._notes = -1
        self._slots: dict[str, int] = {}

    def lend(self, own: str) -> str:
        """Return the name of a pair for the task with these own files to write to.

        Raises:
            OSError: there is none, or no room for a note of it.
        """
        pair = self.take_pair()
        try:
            self._note(pair, own)
        except OSError:
            self.return_pair(pair)
            raise
        return pair

    def show(self, pair: str, own: str) -> tuple[str, str]:
        """Move the files of a task that goes on writing to where they are looked for; return where each is now."""
        stdout, stderr = (_shown(path, own + stream) for path, stream in zip(self.paths(pair), STREAMS, strict=True))
        return stdout, stderr

    def end(self, pair: str, own: str) -> bool:
        """Move what a task has printed that is over to its own files, and take the pair back; tell whether it was nothing.

        Raises:
            OSError: it could neither be moved nor copied. It stays in the pair, which no other task gets.
        """
        silent, trouble = True, None
        for path, stream in zip(self.paths(pair), STREAMS, strict=True):
            if size_of(path):
                silent = False
                try:
                    _put(path, own + stream)
                except OSError as error:
                    trouble = error
        if trouble is not None:
            raise trouble
        self.return_pair(pair)
        return silent

    def close(self) -> None:
        """Remove the files that no task writes to, and the notes, as no task writes any more."""
        super().close()
        if self._notes >= 0:
            os.close(self._notes)
            self._notes = -1
            remove(os.fspath(self._notes_path))
            try:
                os.rmdir(self._folder)
            except OSError:
                # Others have something there.
                return

    def _note(self, pair: str, own: str) -> None:
        if self._notes < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            self._notes = os.open(self._notes_path, flags, 0o600)
        note = os.fsencode(f"{self._folder}/{pair}\0{own}\0")
        if len(note) > _SLOT_BYTES:
            raise OSError(f"the names are too long for a note: {own}")
        slot = self._slots.setdefault(pair, len(self._slots))
        if os.pwrite(self._notes, note, slot * _SLOT_BYTES) < len(note):
            raise OSError(f"no room for a note in {self._notes_path}")


def recover(notes_folder: Path, runner: str = "*") -> None:
    """Put in its place what tasks have printed to the spare files of a runner that is dead, as they are; ``*``: of all.

    What cannot be put there stays where it is, and stderr tells.
    """
    for notes in notes_folder.glob(f"{runner}{_NOTES}"):
        try:
            content = notes.read_bytes()
            for start in range(0, len(content), _SLOT_BYTES):
                spare, own, *_ = *content[start : start + _SLOT_BYTES].split(b"\0", 2), b""
                if own:
                    _recover_pair(os.fsdecode(spare), os.fsdecode(own))
            notes.unlink()
        except OSError as error:
            sys.stderr.write(f"who wrote to the spare files of {notes.stem} is not known: {error}\n")


def _recover_pair(spare: str, own: str) -> None:
    for stream in STREAMS:
        path = spare + stream
        try:
            if not remove_empty(path):
                _put(path, own + stream)
        except OSError as error:
            sys.stderr.write(f"what was printed to {own}{stream} stays in {path}: {error}\n")


def _shown(path: str, own: str) -> str:
    return own if _move(path, own) else path


def _put(path: str, own: str) -> None:
    """Move a file, or else append it to what is there."""
    if _move(path, own):
        return
    try:
        # A file system of its own, or a file that the task has made itself under this name: nothing of either is lost.
        with open(path, "rb") as source, open(own, "ab") as target:
            shutil.copyfileobj(source, target, _CHUNK_BYTES)
    except FileNotFoundError:
        # The task has removed its folder, and what it printed with it.
        pass
    remove(path)


def _move(path: str, own: str) -> bool:
    if os.path.lexists(own):
        return False
    try:
        os.rename(path, own)
    except OSError:
        return False
    return True
