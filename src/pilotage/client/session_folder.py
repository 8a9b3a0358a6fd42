"""The folder of a session, and the names of what is in it.

::

    ~/.pilotage/sessions/<session>/      or below $PILOTAGE_HOME
        client/          the client's log and lease
        blobs/           functions, arguments and results above 4 KiB
        <pilot>/         a pilot: its settings, log, and the sandboxes of its tasks
"""

from __future__ import annotations

import os
from pathlib import Path

from pilotage.errors import BackendError

CLIENT_FOLDER = "client"
CLIENT_KEY_FILE = "key.json"
"""In the client's folder: the key pair with which it talks to pilots over the network."""

OBSERVER_KEY_FILE = "observer.json"
"""In the client's folder: the key pair of the command line, which may look and cancel."""
BLOB_FOLDER = "blobs"
METADATA_FILE = "metadata.json"
HANDED_OVER_FILE = "handed.over"
"""There once the session was handed over: its pilots see to their follow-ups themselves when nobody has it open."""


def sessions_folder(base: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that holds all sessions: ``base``, or ``$PILOTAGE_HOME/sessions``, or ``~/.pilotage/sessions``."""
    if base is not None:
        return Path(base).expanduser().absolute()
    home = os.environ.get("PILOTAGE_HOME")
    return (Path(home).expanduser().absolute() if home else Path.home() / ".pilotage") / "sessions"


def has_client(folder: Path) -> bool:
    """Tell whether a session's folder has been one: there is its client's log.

    Raises:
        BackendError: it cannot be looked at.
    """
    try:
        return (folder / CLIENT_FOLDER).is_dir()
    except OSError as error:
        raise unusable(folder, error) from error


def unusable(folder: Path, error: OSError) -> BackendError:
    """Return the error for a session's folder that cannot be made, read or written."""
    reason = error.strerror or repr(error)
    return BackendError(
        f"the session's folder {folder} cannot be used: {reason}; "
        "set PILOTAGE_HOME to a folder that you can write, or pass one as base="
    )
