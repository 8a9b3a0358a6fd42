"""Where a task runs, relative to the pilot's folder: pure functions that client, agent, spawners and readers share.

A folder with a million entries is a burden to every file system, so the sandboxes of a session's first thousand tasks lie in
``tasks/`` itself and those of each further thousand in a folder of their own: ``tasks/0001/task.001234``.
"""

from __future__ import annotations

from pilotage.model.ids import TaskUid
from pilotage.model.workload import NO_SANDBOX, OWN_SANDBOX, SHARED_SANDBOX, Row, Template

TASKS_FOLDER = "tasks"
"""Folder in the pilot's folder that holds the sandboxes."""

SHARED_FOLDER = f"{TASKS_FOLDER}/shared"
"""The sandbox of all tasks that share one."""

SHARD_ENTRIES = 1000
"""Sandboxes in one folder at the most."""


def own_sandbox(uid: TaskUid, shard: int) -> str:
    """Return the folder of a task's own.

    >>> own_sandbox(TaskUid("md-17"), 0), own_sandbox(TaskUid("task.001234"), 1)
    ('tasks/md-17', 'tasks/0001/task.001234')
    """
    return f"{TASKS_FOLDER}/{shard:04d}/{uid}" if shard else f"{TASKS_FOLDER}/{uid}"


def sandbox_of(template: Template, row: Row) -> str | None:
    """Return a task's sandbox: absolute, or relative to the pilot's folder; None: the folder of the user's program."""
    sandbox = template.sandbox
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
