"""Files of a session that its user asks for: logs, what processes printed, and notes of the user's own."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pilotage.errors import InvalidRequest
from pilotage.log.files import replace_file


def fetch(paths: Iterable[Path], session: str, target: str | os.PathLike[str] | None) -> list[str]:
    """Return those of the paths that are files; with ``target`` copies of them in a folder of the session's name there."""
    found = sorted(path for path in paths if path.is_file())
    if target is None:
        return [os.fspath(path) for path in found]
    copies = []
    for path in found:
        # Files of several pilots have the same names.
        copy = Path(target, session, path.parent.parent.name, path.parent.name, path.name)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copies.append(os.fspath(shutil.copy2(path, copy)))
    return copies


def note_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Note something down in the file ``path``; earlier notes stay unless named again.

    Raises:
        InvalidRequest: it is not a dict of what JSON can hold.
    """
    try:
        noted = json.loads(path.read_bytes()) if path.exists() else {}
        written = json.dumps({**noted, **metadata}, indent=2)
    except TypeError as error:
        raise InvalidRequest(f"metadata={metadata!r:.80}: {error}; give a dict of texts, numbers, lists and dicts") from error
    replace_file(path, [written.encode()])
