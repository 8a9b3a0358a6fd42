"""Tasks in bulk, as they travel and as they are logged.

What many tasks have in common is written once, as a ``Template``; what differs from task to task is a ``Row``. A user's
``TaskDescription`` is split into the two at submission, so that validating, encoding, logging and matching a thousand alike
tasks costs about as much as one of each.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.payload import Payload
from pilotage.model.resources import Request

Mode = Literal["executable", "function"]


class Template(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a group of tasks has in common. Field names and meanings are those of ``TaskDescription``.

    ``function`` is the pickled callable; ``sandbox``, ``stdout`` and ``stderr`` are empty for the default (a folder of the
    task's own, and ``<uid>.out`` and ``<uid>.err`` in it). Times in seconds; 0.0 means no limit.
    """

    mode: Mode = "executable"
    executable: str = ""
    function: Payload | None = None
    request: Request = Request()
    priority: int = 0
    environment: dict[str, str] = {}
    sandbox: str = ""
    stdout: str = ""
    stderr: str = ""
    timeout_s: float = 0.0
    grace_s: float = 5.0
    """Time between TERM and KILL when the task is ended."""
    retries: int = 0
    """How often a failed or lost attempt is followed by another."""
    restartable: bool = False
    """Whether a lost attempt that may have run is followed by another."""
    gpu_type: str = ""
    threading_type: str = ""


class Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What is a task's own: its uid, the template it follows, and its arguments.

    ``arguments``: of an executable. ``payload``: the pickled ``(args, kwargs)`` of a function.
    """

    uid: TaskUid
    template: TemplateId
    arguments: tuple[str, ...] = ()
    payload: Payload | None = None
    name: str = ""


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """Tasks submitted together. ``templates`` brings those that the rows use and that the receiver has not seen."""

    templates: dict[TemplateId, Template]
    rows: list[Row]
