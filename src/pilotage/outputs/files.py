"""The files that a task's output goes to, and the ends of files as text."""

from __future__ import annotations

import os
import stat

from pilotage.model.ids import TaskUid
from pilotage.model.workload import Template
from pilotage.outputs.records import STREAMS

OUTPUT_FOLDER = "output"
"""Folder in the pilot's folder that holds the aggregates and the pairs of files beside them."""


def file_names(template: Template, uid: TaskUid) -> tuple[str, str]:
    """Return the names of a task's own files, as seen from its sandbox.

    >>> file_names(Template(stderr="errors.txt"), TaskUid("md-17"))
    ('md-17.out', 'errors.txt')
    """
    return template.stdout or uid + STREAMS[0], template.stderr or uid + STREAMS[1]


def tail(path: str, limit_bytes: int) -> bytes:
    """Return the end of a regular file; nothing if it cannot be read."""
    try:
        # O_NONBLOCK: a named pipe without a writer would hold us up.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return os.pread(descriptor, limit_bytes, max(0, status.st_size - limit_bytes))
    except OSError:
        return b""
    finally:
        os.close(descriptor)
