"""The agent's private folder: mode 0700, short, and on a file system of the node itself, as Unix sockets want it.

Its path follows from that of the pilot's folder, so that an agent that is started again finds the runners of the one before.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

from pilotage.errors import BackendError


def private_folder(pilot_folder: Path) -> Path:
    """Return the private folder of this pilot's agents, made if it is not there.

    Raises:
        BackendError: the place is taken by somebody else's folder.
    """
    base = Path(tempfile.gettempdir()) / f"pilotage-{os.geteuid()}"
    name = hashlib.sha256(os.fsencode(pilot_folder)).hexdigest()[:16]
    for folder in (base, base / name):
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o077 or folder.is_symlink():
            raise BackendError(
                f"{folder} is not a folder of mode 0700 that belongs to user {os.geteuid()}; "
                "remove it, or set TMPDIR to a folder of your own on this node"
            )
    return base / name


def remove_private_folder(folder: Path) -> None:
    """Remove the folder when the pilot is over."""
    shutil.rmtree(folder, ignore_errors=True)
