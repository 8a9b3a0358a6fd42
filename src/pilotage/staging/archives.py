"""Folders packed into one tar file. Imported when that is to be done."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable
from typing import Literal

from pilotage.staging.failures import TEMPORARY, Stopped

_Mode = Literal["x:", "x:gz", "x:bz2", "x:xz"]
_MODES: dict[str, _Mode] = {
    "tar": "x:",
    "gz": "x:gz",
    "tgz": "x:gz",
    "bz2": "x:bz2",
    "tbz2": "x:bz2",
    "xz": "x:xz",
    "txz": "x:xz",
}


def pack(sources: Iterable[tuple[str, str]], name: str, path: str, stopped: Callable[[], bool] = lambda: False) -> None:
    """Pack files and folders, each under the name beside it, into a new file at ``path``.

    ``name``, which ends as one of ``urls.ARCHIVES`` does, says how it is compressed.
    """

    def checked(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if stopped():
            raise Stopped
        return None if os.path.basename(member.name).startswith(TEMPORARY) else member

    mode = _MODES[name.rpartition(".")[2]]
    with tarfile.open(path, mode) as archive:
        for source, member in sources:
            archive.add(os.path.realpath(source), member, filter=checked)
