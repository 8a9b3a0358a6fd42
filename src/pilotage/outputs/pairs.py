"""Spare pairs of files, which one task after another writes to.

A file that was written to is moved away or removed, and made again by the next task that opens it. To empty it instead would
cost a hundred times as much: file systems take care that a file is not lost that is emptied and written anew, and write it to
disk.
"""

from __future__ import annotations

import os

from pilotage.outputs.files import OUTPUT_FOLDER
from pilotage.outputs.records import STREAMS

PAIRS_IN_FOLDER = 1000
_MODE = 0o666


class Pairs:
    """The pairs of one runner, in the pilot's folder for output. Nothing is made before the first use.

    ``owner`` names them among all pairs of the pilot.
    """

    def __init__(self, pilot_folder: str, owner: str) -> None:
        self._folder = os.path.join(pilot_folder, OUTPUT_FOLDER)
        self._owner = owner
        self._free: list[str] = []
        self._pairs = 0

    def take_pair(self) -> str:
        """Return the name of a pair of files for a task to write to: empty, or to be made.

        Raises:
            OSError: they cannot be made.
        """
        return self._free.pop() if self._free else self._make_pair()

    def paths(self, pair: str) -> tuple[str, str]:
        """Return the paths of a pair's files."""
        return f"{self._folder}/{pair}{STREAMS[0]}", f"{self._folder}/{pair}{STREAMS[1]}"

    def return_pair(self, pair: str) -> None:
        """Take back a pair whose files are empty, or gone."""
        self._free.append(pair)

    def close(self) -> None:
        """Remove the files that no task writes to."""
        for pair in self._free:
            for path in self.paths(pair):
                remove(path)
        self._free.clear()

    def _make_pair(self) -> str:
        while True:
            self._pairs += 1
            shard = self._pairs // PAIRS_IN_FOLDER
            name = f"{self._owner}.{self._pairs}"
            pair = f"{shard:04d}/{name}" if shard else name
            try:
                for path in self.paths(pair):
                    os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
            except FileExistsError:
                # From another life of this runner: it holds output, of tasks that were lost or that was too large to copy.
                continue
            return pair


def size_of(path: str) -> int:
    """Return how large a file is; 0 if there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        # The task has removed it.
        return 0


def remove(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except OSError:
        # It is not there: the task has removed it, or nothing was written to it since.
        return


def remove_empty(path: str) -> bool:
    """Remove a file if it is empty; return whether nothing is in it, or it is not there."""
    try:
        if os.stat(path).st_size:
            return False
        os.unlink(path)
    except FileNotFoundError:
        # The task has removed it, or its folder; or it was never made.
        return True
    except OSError:
        return False
    return True
