"""The spawner process: ``python_command("pilotage.spawner.main", <private folder>, <runner id>)``."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from pilotage.model.ids import RunnerId
from pilotage.spawner.spawner import Spawner
from pilotage.wire.runner_settings import read_settings

_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Run a spawner until the agent stops it, or is gone for too long."""
    folder, runner = Path(sys.argv[1]), RunnerId(sys.argv[2])
    settings = read_settings(folder)
    _print_to(os.path.join(settings.printing_folder, f"{runner}.err"))
    # Only the agent and TERM end a spawner: an interrupt at a terminal is for the user's program.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    _become_subreaper()
    Spawner(folder, runner, settings).run()


def _print_to(path: str) -> None:
    """Have what this process prints go to a file, and read nothing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(null)


def _become_subreaper() -> None:
    """Become the parent of all descendants that lose theirs.

    Raises:
        OSError: the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        number = ctypes.get_errno()
        raise OSError(number, f"PR_SET_CHILD_SUBREAPER: {os.strerror(number)}")
