"""Keeps the daemons of one cluster, and ends all that they have started; a process of its own, of the standard library alone.

Slurm's daemons leave processes behind by design: the one that keeps a step (``slurmstepd``) outlives its ``slurmd``, and the
programs of a step outlive both. As the *subreaper* of all of them this process becomes the parent of whatever loses its own.
So to end everything is to kill one's children until there are none: no list of process ids is needed, and none can be wrong.

It ends when its input ends, or when its parent is gone: a test run that was killed leaves no daemon.

Orders are lines of JSON on its input; each is answered by a line of JSON::

    {"start": "node1", "arguments": ["slurmd", ...], "log": "/.../node1.err"}   ->  its process id
    {"signal": 9, "to": "node1"}                                                 ->  true if it was there to get it
    {"running": "node1"}                                                         ->  whether it runs
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
LOOK_S = 0.5
"""How often it looks whether its parent is there: somebody else may hold the other end of its input."""

_prctl = ctypes.CDLL(None, use_errno=True).prctl


class Keeper:
    """The daemons, by their names."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}

    def obey(self, order: dict[str, Any]) -> int | bool:
        """Do what a line says, and return the answer."""
        if name := order.get("start"):
            with open(order["log"], "ab") as log:
                self._pids[name] = subprocess.Popen(
                    order["arguments"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
                ).pid
            return self._pids[name]
        if "signal" in order:
            # Nobody but this process waits for it, so the number is its own until ``reap`` has told that it is gone.
            self.reap()
            pid = self._pids.get(order["to"])
            if pid is not None:
                os.kill(pid, order["signal"])
            return pid is not None
        self.reap()
        return order["running"] in self._pids

    def reap(self) -> bool:
        """Wait for those that have ended, and return whether there are others."""
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._pids.clear()
                return False
            if pid == 0:
                return True
            self._pids = {name: known for name, known in self._pids.items() if known != pid}

    def end(self) -> None:
        """Kill all children, and theirs when they become its own."""
        while self.reap():
            for pid in _children():
                os.kill(pid, signal.SIGKILL)
            try:
                os.waitpid(-1, 0)
            except ChildProcessError:
                return


def _children() -> list[int]:
    """Return the children of this process: not yet waited for, so that none of the numbers can be another's."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    # The name of the command, in brackets, can hold anything.
                    parent = stat.read().rpartition(b")")[2].split()[1]
            except OSError:
                continue
            if int(parent) == os.getpid():
                found.append(int(name))
    return found


def main() -> None:
    """Keep daemons until the input ends."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    # What Ctrl-C means is decided by the test run, which closes the input when it has cleaned up.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    keeper = Keeper()
    pending = b""
    try:
        while os.getppid() == parent:
            readable, _, _ = select.select([0], [], [], LOOK_S)
            keeper.reap()
            if not readable:
                continue
            read = os.read(0, 65536)
            if not read:
                break
            *lines, pending = (pending + read).split(b"\n")
            for line in lines:
                print(json.dumps(keeper.obey(json.loads(line))), flush=True)
    finally:
        keeper.end()


if __name__ == "__main__":
    main()
