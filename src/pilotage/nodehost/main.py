"""The host's process: ``python_command("pilotage.nodehost.main", <agent's folder>)``, started once on each node.

All else is in files of that folder, which no other user can read. Which node this is is told by ``$PILOTAGE_NODE_NAME``, or by
the batch system, or it is the hostname. What the host has to say is in ``host.<name>.err`` of the agent's folder.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

from pilotage.agent.claim import CLAIM_FILE, claim
from pilotage.agent.private_folder import private_folder, remove_private_folder
from pilotage.errors import BackendError, PilotageError
from pilotage.executors.hosts import NODE_NAME
from pilotage.nodehost.host import NodeHost
from pilotage.platforms.allocations.allocation import place_here
from pilotage.platforms.allocations.registry import discover
from pilotage.wire.keys import HostAccess, read_host_access
from pilotage.wire.runner_settings import HOSTS_FILE

CRASHED = 2
_FILE_APPEARS_S = 30.0
"""A shared file system may show a file that was just written elsewhere a while later."""
_LEAVES_S = 20.0
"""A host whose node was given back, and that is wanted again, may still be ending what it had."""
_LOOK_S = 0.1
_YOUNG_OBJECTS = 50_000


def main() -> None:
    """Run a host until its pilot is over, or it has no agent for too long."""
    agent_folder = Path(sys.argv[1])
    # Only the agent and TERM end a host.
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    try:
        access = _read_access(agent_folder / HOSTS_FILE)
        name = name_here(access.names)
        folder = _claimed_folder(agent_folder / name)
        if folder is None:
            raise BackendError(f"node {name} has a host of this pilot already")
    except (PilotageError, OSError) as error:
        sys.exit(f"no host can begin on {socket.gethostname()}: {error}")
    _print_to(agent_folder / f"host.{name}.err")
    gc.set_threshold(_YOUNG_OBJECTS, 50, 100)
    gc.freeze()
    try:
        reason = NodeHost(agent_folder, folder, name, access).run()
    except BaseException:  # root of the process: runners go on, and the next host finds them
        traceback.print_exc(file=sys.stderr)
        sys.stderr.flush()
        os._exit(CRASHED)
    sys.stderr.write(f"the host of node {name} ends: {reason}\n")
    sys.stderr.flush()
    remove_private_folder(folder)
    # Nothing is left to be cleaned up; the interpreter's own way out would take longer.
    os._exit(0)


def _claimed_folder(host_folder: Path) -> Path | None:
    """Return the private folder of the host, which is ours from now on; None if another host keeps it."""
    until = time.monotonic() + _LEAVES_S
    while True:
        folder = private_folder(host_folder)
        try:
            claimed = claim(folder)
            # One that ends takes its folder along.
            if claimed is not None and os.path.samestat(os.fstat(claimed), os.stat(folder / CLAIM_FILE)):
                return folder
        except FileNotFoundError:
            claimed = None
        if claimed is not None:
            os.close(claimed)
        elif time.monotonic() > until:
            return None
        time.sleep(_LOOK_S)


def name_here(names: tuple[str, ...]) -> str:
    """Return which of these nodes this one is.

    Raises:
        BackendError: it is none of them.
    """
    hostname = socket.gethostname()
    told = os.environ.get(NODE_NAME, "") or _name_in_allocation(hostname) or hostname
    name = place_here(names, told)
    if name is None:
        raise BackendError(f"this is {told}, which is no node of the pilot; set {NODE_NAME} to its name: {' '.join(names[:8])}")
    return name


def _name_in_allocation(hostname: str) -> str:
    try:
        allocation = discover(os.environ, lambda path: Path(path).read_text(), hostname=hostname)
    except BackendError:
        # What it has of a job's variables says nothing of use; the hostname may.
        return ""
    return (allocation.here or "") if allocation is not None else ""


def _read_access(path: Path) -> HostAccess:
    until = time.monotonic() + _FILE_APPEARS_S
    while True:
        try:
            return read_host_access(path)
        except FileNotFoundError:
            if time.monotonic() > until:
                raise
        time.sleep(_LOOK_S)


def _print_to(path: Path) -> None:
    """Have what this process prints go to a file, and read nothing."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.close(null)
