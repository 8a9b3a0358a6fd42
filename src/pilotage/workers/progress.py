"""How far a worker is, in memory that it shares with its agent: read when the worker is dead, and when a call holds it up.

The agent must know which calls a worker has begun even when the worker cannot speak: it was killed, or a call keeps the
interpreter to itself. So the worker writes the number of each call into a mapped file before it begins the call, and the
agent writes there which numbers are not to be begun.

Numbers. The calls that a connection's hello holds are 1, 2, ... in the order of ``holds``; each call launched over that
connection takes the next one, in the order of its messages. A number means nothing to an agent that has not read the hello,
and a worker that says hello again counts again: ``connection`` counts the hellos.

The words of ``<folder>/<worker>.progress``, native 64-bit unsigned integers::

    0  reached      number of the last call that the worker came to; it has begun, or was passed over because of words 1, 2
    1  first        calls from this number ...
    2  last         ... through this number must not be begun. ``first`` is NEVER while none are recalled
    3  connection   how often the worker has said hello

Recall. The worker writes ``reached = n``, then reads ``first`` and ``last``, then begins call ``n`` or passes it over. The
agent writes ``last``, then ``first``, waits until stores of both sides are visible to each other (a store leaves the core that
made it within microseconds; a millisecond is waited), then reads ``reached = r``. A call above ``r`` will find the range when
the worker comes to it. So of the range, all above ``r`` have not begun and never will: the agent has them back at that
moment. What is at or below ``r`` may have begun, and only the worker's word on it counts: it ended, or it was returned.
The range needs no clearing: later calls have higher numbers. A worker tells all that it passes over as returned; what the
agent has taken back before is then a stale name, which it ignores. Until the worker has come to the end of a range, a further
recall extends the range, and may take back the calls between the two as well.

Death. Calls above ``reached`` never began; of ``reached`` and below, those that were not told as ended or returned, and whose
ends are not in the worker's ``outbox``, may have: that is the one call that ran.
"""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

from pilotage.model.ids import RunnerId

NEVER = (1 << 64) - 1
REACHED, FIRST, LAST, CONNECTION = range(4)

_BYTES = 32
_VISIBLE_S = 0.001


def progress_path(folder: Path, worker: RunnerId) -> Path:
    """Return where the progress of this worker lies."""
    return folder / f"{worker}.progress"


def create_progress(folder: Path, worker: RunnerId) -> memoryview:
    """Create the file of this worker, readable by its owner alone, and return its words, mapped."""
    path = progress_path(folder, worker)
    # Put in place whole: a reader finds either nothing or all words. A file of the same name from a worker before this one
    # stays as it was for who has it mapped.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(descriptor, _BYTES)
        words = memoryview(mmap.mmap(descriptor, _BYTES)).cast("Q")
    finally:
        os.close(descriptor)
    words[FIRST] = NEVER
    os.replace(unfinished, path)
    return words


class ProgressReader:
    """The agent's side. Open it when the worker's hello has arrived, and again after each further hello.

    Raises:
        FileNotFoundError: no worker of this name has said hello from this folder.
    """

    def __init__(self, folder: Path, worker: RunnerId) -> None:
        descriptor = os.open(progress_path(folder, worker), os.O_RDWR | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(descriptor, _BYTES)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")
        self._connection = self._words[CONNECTION]

    @property
    def current(self) -> int | None:
        """The number of the last call that the worker came to (0: none); calls above it have not begun.

        None: the worker has said hello again, and the numbers that the agent knows are no longer those of the worker.
        """
        reached: int = self._words[REACHED]
        # Read second: the worker counts the hello up before it counts anew.
        return reached if self._words[CONNECTION] == self._connection else None

    def recall_from(self, first: int, last: int) -> int | None:
        """Keep the worker from beginning calls ``first`` to ``last`` (the last launched); takes a millisecond.

        Returns the number from which on, through ``last``, calls have not begun and never will: they may run elsewhere at
        once. ``last + 1`` if all may have begun; lower than ``first`` if an earlier recall is still under way and what lay
        between was taken back too. None: the worker has said hello again, and nothing is known.
        """
        self.ask(first, last)
        time.sleep(_VISIBLE_S)
        return self.recalled()

    def ask(self, first: int, last: int) -> None:
        """The first half of ``recall_from``, for a caller that has better to do meanwhile than to sleep."""
        words = self._words
        if words[FIRST] != NEVER:
            if words[REACHED] < words[LAST]:
                first = min(first, words[FIRST])
                last = max(last, words[LAST])
            else:
                # The worker is past the old range, which would otherwise reach to the new end for a moment.
                words[FIRST] = NEVER
        words[LAST] = last
        words[FIRST] = first

    def recalled(self) -> int | None:
        """The second half, at least a millisecond after ``ask``: returns what ``recall_from`` returns."""
        reached = self.current
        if reached is None:
            return None
        words = self._words
        return max(int(words[FIRST]), min(reached, int(words[LAST])) + 1)

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._map.close()
