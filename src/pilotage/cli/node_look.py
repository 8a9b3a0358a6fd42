"""Runs on each node of a job for ``pilotage platforms check``, and prints in one line what it finds there.

Arguments: the folder of pilots, a file in it that every node should see, and where the process listens that wants to know:
``host:port``, several of them separated by commas.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
from pathlib import Path

import msgspec

from pilotage.executors.hosts import NODE_NAME
from pilotage.platforms.node_here import NodeFound, usable_here
from pilotage.version import __version__

MARK = "pilotage-look "
"""Before what is told: launchers and sites print, too."""

_CONNECT_S = 5.0


class Look(msgspec.Struct, frozen=True):
    """What a process on a node has found. ``reaches``: the address by which it reached who asked; empty: none.

    ``python``: with the version of Pilotage. ``hostname``: of the node, which may have another name for the batch system.
    """

    node: str
    hostname: str
    found: NodeFound
    sees_folder: bool
    reaches: str
    python: str


def main(arguments: list[str] | None = None) -> None:
    """Look, and print what was found."""
    folder, file, addresses = sys.argv[1:] if arguments is None else arguments
    hostname = socket.gethostname()
    told = os.environ.get(NODE_NAME) or os.environ.get("SLURMD_NODENAME") or hostname
    look = Look(
        node=told,
        hostname=hostname,
        found=usable_here(Path(folder), name=told),
        sees_folder=os.path.exists(file),
        reaches=next((address for address in addresses.split(",") if address and _reaches(address)), ""),
        python=f"{platform.python_version()} at {sys.executable}, Pilotage {__version__}",
    )
    # In one call, so that the lines of several nodes stay whole.
    os.write(1, b"\n" + MARK.encode() + msgspec.json.encode(look) + b"\n")


def _reaches(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except OSError:
        return False
    return True
