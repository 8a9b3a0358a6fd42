"""What the tests of staging share: a pilot's folders, pictures of what is in them, and system calls that kill or fail."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pilotage.client.staging import parse_directives
from pilotage.model.staging import Directive
from pilotage.staging.actions import Work
from pilotage.staging.failures import TEMPORARY
from pilotage.staging.notes import Notes
from pilotage.staging.stager import Stager
from pilotage.staging.urls import Places

KILLED = 77

OLD_TIME_NS = 1_500_000_000_123_456_789

CHANGING = ("mkdir", "open", "write", "rename", "link", "symlink", "unlink", "rmdir", "chmod", "fchmod", "utime", "ftruncate")
"""System calls that change files; between any two of them a process may die, and each of them may fail."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


class World:
    """A user's folder, and a session with a pilot and a task, in a folder of the test."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.client = root / "client"
        self.session = root / "resource" / "session"
        self.pilot = self.session / "pilot.0000"
        self.task = self.pilot / "tasks" / "task.000001"
        for folder in (self.client, self.task):
            folder.mkdir(parents=True)

    @property
    def places(self) -> Places:
        return Places(str(self.pilot), str(self.session), str(self.session.parent), str(self.task))

    def directives(self, *entries: Any, phase: str = "input") -> tuple[Directive, ...]:
        """Parse entries as the user's program does that is in the user's folder."""
        before = os.getcwd()
        os.chdir(self.client)
        try:
            return parse_directives(list(entries), "task", phase)  # type: ignore[arg-type]
        finally:
            os.chdir(before)

    def work(self, directives: tuple[Directive, ...], phase: str = "input", **more: Any) -> Work:
        return Work(("task.000001", phase, 0), directives, self.places, own=str(self.task), **more)

    def stage(self, *entries: Any, phase: str = "input", incarnation: int = 1, **more: Any) -> None:
        """Stage as an agent does that is the first, or that follows others."""
        directives = self.directives(*entries, phase=phase)
        with self.stager(incarnation) as stager:
            stager.stage(self.work(directives, phase, **more))

    @contextmanager
    def stager(self, incarnation: int = 1) -> Iterator[Stager]:
        notes = Notes(str(self.pilot / "staging.notes"))
        try:
            yield Stager(f"p-{incarnation}", notes=notes, heir_of="p-" if incarnation > 1 else "")
        finally:
            notes.close()


def write(path: Path, content: bytes | str = "content", mode: int = 0o640) -> Path:
    """Make a file, and the folders that it lies in; its time is an old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    os.utime(path, ns=(OLD_TIME_NS, OLD_TIME_NS))
    return path


def picture(folder: Path) -> dict[str, object]:
    """Return all that is in a folder: content and permissions of files, text of links, permissions of folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name, status = str(path.relative_to(folder)), path.lstat()
        if stat.S_ISLNK(status.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(status.st_mode):
            found[name] = ("folder", stat.S_IMODE(status.st_mode))
        elif stat.S_ISREG(status.st_mode):
            found[name] = (path.read_bytes(), stat.S_IMODE(status.st_mode))
        else:
            found[name] = ("special", stat.S_IFMT(status.st_mode))
    return found


def temporaries(folder: Path) -> list[Path]:
    """Return the temporary names that are left below a folder."""
    return list(folder.rglob(f"{TEMPORARY}*"))


class Calls:
    """Counts the system calls that change files, and has one of them fail or kill the process.

    ``at``: which one, beginning with 0; ``act`` is called with its name, the call and its arguments instead of it.
    """

    def __init__(self, at: int = -1, act: Callable[..., Any] | None = None) -> None:
        self.names: list[str] = []
        self._at = at
        self._act = act

    @contextmanager
    def planted(self) -> Iterator[Calls]:
        with patch.multiple(os, **{name: self._wrapped(name, getattr(os, name)) for name in CHANGING}):
            yield self

    def _wrapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if name == "open" and not arguments[1] & _WRITES:
                return call(*arguments, **options)
            self.names.append(name)
            if self._act is not None and len(self.names) - 1 == self._at:
                return self._act(name, call, *arguments, **options)
            return call(*arguments, **options)

        return wrapped


def die(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """End the process before the call; of a write, after half of it."""
    if name == "write":
        descriptor, content = arguments
        call(descriptor, bytes(content)[: len(content) // 2])
    os._exit(KILLED)


def fail(code: int) -> Callable[..., Any]:
    """Return what lets a call fail with this error."""

    def failing(name: str, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        paths = [argument for argument in arguments if isinstance(argument, str)]
        first, second = (*paths, None, None)[:2]
        raise OSError(code, os.strerror(code), first, None, second)

    return failing


def killed_at(at: int, body: Callable[[], None]) -> bool:
    """Run ``body`` in a process that dies at its call number ``at``; tell whether it came so far."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with Calls(at, die).planted():
                body()
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, KILLED), f"the process ended with {code}"
    return code == KILLED


def calls_of(body: Callable[[], None]) -> list[str]:
    """Return the names of the calls that ``body`` makes."""
    with Calls().planted() as calls:
        body()
    return calls.names


@contextmanager
def other_file_system(like: Path) -> Iterator[Path | None]:
    """Give a folder on another file system than that of ``like``; None: this machine has none that can be written."""
    for place in ("/dev/shm", "/var/tmp", "/tmp"):
        if os.access(place, os.W_OK) and os.stat(place).st_dev != like.stat().st_dev:
            with tempfile.TemporaryDirectory(dir=place) as folder:
                yield Path(folder)
            return
    yield None
