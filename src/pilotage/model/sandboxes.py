"""Where a task runs, relative to the pilot's folder: pure functions that client, agent, spawners and readers share.

A folder with a million entries is a burden to every file system, so the sandboxes of a session's first thousand tasks lie in
``tasks/`` itself and those of each further thousand in a folder of their own: ``tasks/shard.0001/task.001234``. No
task may have the name of such a folder: with ``cleanup`` it would remove the sandboxes of a thousand others.
"""

from __future__ import annotations

from pilotage.model.ids import TaskUid
from pilotage.model.workload import NO_SANDBOX, OWN_SANDBOX, SHARED_SANDBOX, Row, Template

TASKS_FOLDER = "tasks"
"""Folder in the pilot's folder that holds the sandboxes."""

_SHARED_NAME = "shared"
_SHARD_PREFIX = "shard."

SHARED_FOLDER = f"{TASKS_FOLDER}/{_SHARED_NAME}"
"""The sandbox of all tasks that share one."""

SHARD_ENTRIES = 1000
"""Sandboxes in one folder at the most."""


def own_sandbox(uid: TaskUid, shard: int) -> str:
    """Return the folder of a task's own.

    >>> own_sandbox(TaskUid("md-17"), 0), own_sandbox(TaskUid("task.001234"), 1)
    ('tasks/md-17', 'tasks/shard.0001/task.001234')
    """
    return f"{TASKS_FOLDER}/{_SHARD_PREFIX}{shard:04d}/{uid}" if shard else f"{TASKS_FOLDER}/{uid}"


def is_folder_of_others(uid: str) -> bool:
    """Tell whether a task of this name would have for its own sandbox a folder that holds those of others."""
    return uid == _SHARED_NAME or uid.startswith(_SHARD_PREFIX)


def sandbox_of(template: Template, row: Row) -> str | None:
    """Return a task's sandbox: absolute, or relative to the pilot's folder; None: the folder of the user's program."""
    sandbox = template.sandbox
    if row.extra is not None and row.extra.sandbox:
        return row.extra.sandbox
    if sandbox == OWN_SANDBOX:
        return own_sandbox(row.uid, row.shard)
    if sandbox == SHARED_SANDBOX:
        return SHARED_FOLDER
    return None if sandbox == NO_SANDBOX else sandbox


def folder_of_call(template: Template, row: Row) -> str | None:
    """Return the folder that a function begins in: its sandbox if files are staged for it, else None, that of the program."""
    extra = row.extra
    if extra is None or not (extra.input_staging or extra.output_staging):
        return None
    return sandbox_of(template, row)
