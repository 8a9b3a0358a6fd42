"""The identities of things, as distinct types over plain strings and integers.

An execution is named ``(task, binding, attempt)``: the client assigns the binding when it binds a task to a pilot, the
pilot assigns the attempt each time it hands the task to a runner. A message that carries a stale name is ignored.
"""

from __future__ import annotations

from typing import NewType

SessionUid = NewType("SessionUid", str)
PilotUid = NewType("PilotUid", str)
TaskUid = NewType("TaskUid", str)

Binding = NewType("Binding", int)
"""Counts how often the client bound a task to a pilot; the first binding is 1."""

Attempt = NewType("Attempt", int)
"""Counts how often a pilot handed a task to a runner; the first attempt is 1."""

LaneId = NewType("LaneId", int)
"""A placement held for one task, or for a chain of short tasks of the same shape that use it one after another."""

RunnerId = NewType("RunnerId", str)
"""A process that runs tasks for the agent: a spawner (``spawner.0``) or a function worker (``worker.0``)."""

TemplateId = NewType("TemplateId", int)
"""What many tasks of one binding stream have in common is described once, under this number."""
