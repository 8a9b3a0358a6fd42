"""What an agent on a cluster learns from the batch job that it is in: its nodes, its end, and which variables are the job's.

The user's environment comes from where the client runs, and the job's from the script that started the agent. Tasks start from
the user's, without what is said in it of another node or of a job around the client; launchers need what is said of this job,
which is kept apart for them.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from pilotage.agent.settings import PilotSettings
from pilotage.batch.commands import LocalRunner
from pilotage.errors import BackendError
from pilotage.launchers.outer import without_outer_launch
from pilotage.platforms.allocations import AllocatedNode, Allocation, discover
from pilotage.platforms.allocations.allocation import NODE_FILE
from pilotage.platforms.allocations.variables import batch_variables, without_job

ASK_S = 30.0
"""How long a command may take that tells of the job; without it what the variables tell has to do."""

_SHOWN = 300
_OF_ANOTHER_NODE = ("DBUS_SESSION_BUS_ADDRESS", "HOSTNAME", "SSH_CLIENT", "SSH_CONNECTION", "SSH_TTY", "XDG_RUNTIME_DIR")
"""What the user's environment tells of the machine that the client is on."""


def allocation_here(settings: PilotSettings) -> Allocation:
    """Return the allocation that this process is in.

    Raises:
        BackendError: it is in none, though its pilot is a job; or what is told of it cannot be understood.
    """
    hostname = socket.gethostname()
    found = discover(os.environ, read_text, ask_system, hostname=hostname)
    if found is not None:
        return found
    if settings.batch == "local":
        return Allocation(system="local", job="", nodes=(AllocatedNode(name=hostname),), here=hostname)
    raise BackendError(
        f"this agent is to run in a job of {settings.batch}, and no variable of a job is set on {hostname}; "
        f"name the job's nodes in a file, and the file in {NODE_FILE}, in the platform's setup"
    )


def is_on(allocation: Allocation) -> int | None:
    """Return the place of this process's node among those of its allocation; None if it is none of them."""
    names = [node.name for node in allocation.nodes]
    if allocation.here in names:
        return names.index(allocation.here)
    # Where there is but one, and no node beside it for the job's script, this is it, by whatever name it goes.
    return 0 if len(names) == 1 and allocation.launch_node is None else None


def task_environment(settings: PilotSettings, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what tasks on a cluster start from. ``environment``: this process's, that of the job's script."""
    variables = without_job(settings.environment)
    if settings.batch != "local":
        for name in _OF_ANOTHER_NODE:
            variables.pop(name, None)
        # A site may give each job a folder of its own on the node.
        folder = environment.get("TMPDIR", "")
        if folder:
            variables["TMPDIR"] = folder
        elif not os.path.isdir(variables.get("TMPDIR", "")):
            variables.pop("TMPDIR", None)
    return variables


def allocation_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what launchers need of the job's variables."""
    outside = without_outer_launch({os.fsencode(name): os.fsencode(value) for name, value in environment.items()})
    return batch_variables({os.fsdecode(name): os.fsdecode(value) for name, value in outside.items()})


def read_text(path: str) -> str:
    """Return what is in a file. See ``platforms.allocations``."""
    return Path(path).read_text()


def ask_system(command: Sequence[str]) -> str:
    """Run a command of the batch system, and return what it prints.

    Raises:
        BackendError: it failed, or took longer than ``ASK_S``.
    """
    try:
        result = LocalRunner().run(command, ASK_S)
    except TimeoutError as error:
        raise BackendError(str(error), transient=True) from None
    if result.exit_code:
        said = (result.stderr.strip() or result.stdout.strip())[-_SHOWN:]
        raise BackendError(f"{' '.join(command)} ended with exit code {result.exit_code}: {said or 'it printed nothing'}")
    return result.stdout
