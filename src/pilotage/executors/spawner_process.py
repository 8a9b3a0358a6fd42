"""Starting a spawner: a process of its own session on this node, as the agent's child."""

from __future__ import annotations

import os
from pathlib import Path

from pilotage.model.ids import RunnerId
from pilotage.system.python import python_command


def start_spawner(folder: Path, runner: RunnerId, log_folder: Path) -> int:
    """Start a spawner, which connects to the agent's socket in ``folder``; return its process id.

    ``log_folder`` takes what it prints before it opens files of its own.

    Raises:
        OSError: the process cannot be started.
    """
    output = str(log_folder / f"{runner}.err")
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    command = python_command("pilotage.spawner.main", str(folder), runner)
    return os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
