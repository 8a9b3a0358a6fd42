"""Waiting for room: once storage was found full, some is taken and given back once a second, until that goes well.

What a file system says of its free space does not count quotas, reserves or inodes; only writing tells. What is written
where the tasks write is a folder and a file in it, flushed, as tasks need both.

Room for the probe may be too little for a large file that waits to be staged. It fails again then, having used the disk for
nothing; so when storage is found full soon after it was found free, the next probe waits twice as long.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

PROBE_S = 1.0
PROBE_BYTES = 1 << 20
"""Room for this much has to be there before tasks are placed again."""

LONGEST_PROBE_S = 16.0
SOON_S = 60.0
"""Storage that is full again within this time was not free for long."""

_FOLDER = ".room"


class StorageProbe:
    """Probes ``folder`` on a thread from ``begin`` on, until there is room, and then calls ``freed`` there."""

    def __init__(self, folder: Path, freed: Callable[[], None]) -> None:
        self._folder = folder
        self._freed = freed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._probing = False
        self._pause_s = 0.0
        self._freed_at = float("-inf")

    def begin(self) -> None:
        """Storage was found full. What is probed already is not probed twice."""
        if self._probing:
            return
        self._probing = True
        again = time.monotonic() < self._freed_at + SOON_S
        self._pause_s = min(2 * self._pause_s, LONGEST_PROBE_S) if again else PROBE_S
        self._thread = threading.Thread(target=self._run, name="storage", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Probe no more."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._pause_s):
            if has_room(self._folder):
                self._freed_at = time.monotonic()
                # In this order: who finds it full from now on has it probed again.
                self._probing = False
                self._freed()
                return


def has_room(folder: Path) -> bool:
    """Tell whether a folder and ``PROBE_BYTES`` in a file can be written below ``folder`` now."""
    probe = folder / _FOLDER
    try:
        probe.mkdir(exist_ok=True)
        with open(probe / "probe", "wb", buffering=0) as file:
            block = memoryview(bytes(PROBE_BYTES))
            while block:
                block = block[file.write(block) :]
            # Some file systems find out only now.
            os.fsync(file.fileno())
    except OSError:
        return False
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    return True
