"""What the tests of the log share: small logs, forked children that are always ended, and planted crashes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from pilotage.log.reader import recover
from pilotage.log.writer import LogWriter

NEVER_S = 3600.0
"""A sync interval that does not end during a test: only what the test syncs is synced."""

CRASHED = 77


def record(number: int) -> bytes:
    """Return the record that tests write as number ``number``; lengths differ, contents too."""
    return b"record %d " % number + bytes([number % 251]) * (number % 7)


def write_log(folder: Path, last: int, *, first: int = 1, segment_bytes: int = 1 << 20) -> None:
    with LogWriter.open(folder, writer="test", segment_bytes=segment_bytes, sync_interval_s=NEVER_S) as log:
        for number in range(first, last + 1):
            assert log.append(record(number)) == number


def recovered_numbers(folder: Path) -> list[int]:
    """Recover the log, check that each record is the one written under its number, and return the numbers."""
    found = list(recover(folder).records)
    assert [content for _, content in found] == [record(number) for number, _ in found]
    return [number for number, _ in found]


class MemoryFolders:
    """Makes folders in memory where there is such a file system: these tests sync thousands of times."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._root))


class Children:
    """Forked children of a test; those that still live at its end are killed by their ids."""

    def __init__(self) -> None:
        self._living: set[int] = set()

    def fork(self, body: Callable[[], None]) -> int:
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                body()
                status = 0
            finally:
                os._exit(status)
        self._living.add(pid)
        return pid

    def wait(self, pid: int) -> int:
        """Return the exit status of a child once it has ended; negative is a signal."""
        _, status = os.waitpid(pid, 0)
        self._living.discard(pid)
        return os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        for pid in list(self._living):
            os.kill(pid, signal.SIGKILL)
            self.wait(pid)


CHANGING_CALLS = ("open", "mkdir", "write", "writev", "fsync", "fdatasync", "rename", "unlink", "ftruncate", "link")


def crash_at(step: int, *, halfway: bool = False) -> None:
    """Let this process die before the ``step``-th call that changes files; with ``halfway``, in the middle of a write."""
    count = 0

    def planted(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def counted(*args: object, **keywords: object) -> object:
            nonlocal count
            if count == step:
                if halfway and name == "writev":
                    fd, parts = args
                    content = b"".join(parts)  # type: ignore[arg-type]
                    real_write(fd, content[: len(content) // 2])
                os._exit(CRASHED)
            count += 1
            return call(*args, **keywords)

        return counted

    real_write = os.write
    for name in CHANGING_CALLS:
        setattr(os, name, planted(name, getattr(os, name)))
