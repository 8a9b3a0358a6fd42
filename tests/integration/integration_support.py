"""What the integration tests share: campaigns (session, pilot, managers), programs of their own, a look at what is left."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pilotage as rp
from pilotage.model.outcome import Outcome

PATIENCE_S = 60.0
"""No wait of a test is longer. What takes so long hangs."""


def eventually(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Return the first true value of ``condition()``; fail when ``patience_s`` passes without one."""
    until = time.monotonic() + patience_s
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {patience_s:g} s in vain: {what}"
        time.sleep(0.01)
    return found


class Campaign:
    """A session with managers and pilots of the test's choice."""

    def __init__(self, base: Path, **session: Any) -> None:
        self.session = rp.Session(base=base, **session)
        self.pilots = rp.PilotManager(self.session)
        self.tasks = rp.TaskManager(self.session)

    def start(self, **pilot: Any) -> rp.Pilot:
        """Submit a pilot (2 cores of this machine unless told otherwise), add it, and wait until it is active."""
        described = {"resource": "local.localhost", "runtime": 10, **pilot}
        if not {"cores", "nodes", "gpus"} & described.keys():
            described["cores"] = 2
        found = self.pilots.submit_pilots(rp.PilotDescription(described))
        self.tasks.add_pilots(found)
        assert found.wait(rp.PMGR_ACTIVE, timeout=PATIENCE_S) == rp.PMGR_ACTIVE, found.reason
        return found

    def run(self, *descriptions: rp.TaskDescription | Iterable[rp.TaskDescription]) -> Any:
        """Submit and wait: a task for one description, else a list."""
        several = not (len(descriptions) == 1 and isinstance(descriptions[0], rp.TaskDescription))
        given = descriptions[0] if several and len(descriptions) == 1 else list(descriptions)
        found = self.tasks.submit_tasks(given)
        uids = [task.uid for task in found]
        self.tasks.wait_tasks(uids, timeout=PATIENCE_S)
        assert not [task for task in found if task.state not in rp.FINAL], "these tasks hang"
        return found if several else found[0]

    def shell(self, script: str, **more: Any) -> rp.Task:
        """Run a shell script as a task."""
        return self.run(shell(script, **more))

    def call(self, function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        """Run a function as a task, and return its result."""
        return self.run(rp.TaskDescription(function=function, args=list(args), **more)).result(0)


def shell(script: str, **more: Any) -> rp.TaskDescription:
    """Describe a shell script as a task."""
    return rp.TaskDescription(executable="/bin/sh", arguments=["-c", script], **more)


def outcome_of(task: rp.Task) -> Outcome:
    """Return the outcome of a task that has one."""
    assert task.outcome is not None, f"{task} is not final"
    return task.outcome


class Programs:
    """Programs of their own, as a user would start them; ``close`` ends those that still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: list[subprocess.Popen[str]] = []

    def start(self, source: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """Start Python on this source, always by the same file name."""
        path = self._folder / "program.py"
        path.write_text(textwrap.dedent(source))
        command = [sys.executable, str(path), *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, start_new_session=True, **{**pipes, **options})
        self._started.append(process)
        return process

    def run(self, source: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run Python on this source to its end."""
        process = self.start(source, *arguments, **options)
        out, err = process.communicate(timeout=PATIENCE_S)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def close(self) -> None:
        """End what still runs."""
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


# what is left


def processes_of(folder: Path) -> dict[int, str]:
    """Return the processes, by pid, whose environment, command line or working folder names ``folder``."""
    name = os.fsencode(folder)
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            command = Path("/proc", entry, "cmdline").read_bytes()
            place = os.fsencode(os.readlink(f"/proc/{entry}/cwd"))
            environment = Path("/proc", entry, "environ").read_bytes()
        except OSError:
            continue
        if any(name in text for text in (command, place, environment)):
            found[int(entry)] = command.replace(b"\0", b" ").decode(errors="replace")[:200]
    return found


def children() -> dict[int, str]:
    """Return this process's children, zombies included, by pid."""
    found = {}
    for task in os.listdir("/proc/self/task"):
        for pid in Path("/proc/self/task", task, "children").read_text().split():
            try:
                found[int(pid)] = Path("/proc", pid, "stat").read_text().split(")")[0]
            except OSError:
                continue
    return found


def descriptors() -> dict[int, str]:
    """Return what this process has open, by descriptor."""
    gc.collect()
    found = {}
    for entry in os.listdir("/proc/self/fd"):
        try:
            found[int(entry)] = os.readlink(f"/proc/self/fd/{entry}")
        except OSError:
            continue
    return found


class Belongings:
    """What this process had at some time, to be compared with what it has later."""

    def __init__(self, folder: Path, private: Path) -> None:
        self._folder = folder
        self._private = private
        self._threads = set(threading.enumerate())
        self._children = set(children())
        self._descriptors = descriptors()

    def left_over(self) -> list[str]:
        """Return what is here now and was not then: processes, threads, descriptors, private folders of agents."""
        left = [f"process {pid}: {name}" for pid, name in processes_of(self._folder).items()]
        left += [f"child {pid}: {name}" for pid, name in children().items() if pid not in self._children]
        left += [f"{thread}" for thread in threading.enumerate() if thread not in self._threads]
        left += [f"descriptor {fd}: {what}" for fd, what in descriptors().items() if self._descriptors.get(fd) != what]
        left += [f"folder {path}" for path in self._private.glob("*/*")]
        return left

    def end_processes(self) -> None:
        """End the processes that are left."""
        for pid in processes_of(self._folder):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def expect_nothing_left(before: Belongings, patience_s: float = 10.0) -> None:
    """Fail if something is left; processes that are ending have ``patience_s`` for it."""
    until = time.monotonic() + patience_s
    while (left := before.left_over()) and time.monotonic() < until:
        time.sleep(0.02)
    if left:
        before.end_processes()
    assert not left, "left behind:\n" + "\n".join(left)
