"""What a description says that its task waits for: ``after``, ``after_policy`` and ``services``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pilotage.client.checks import one_of
from pilotage.client.fields import shown
from pilotage.core.client.facts import AfterPolicy, Held
from pilotage.errors import InvalidTask
from pilotage.model.ids import TaskUid


def held_of(task: str, values: Mapping[str, Any]) -> Held:
    """Return what a description says that its task waits for; uids once each.

    Raises:
        InvalidTask: an entry is no task and no uid, or there is no such policy.
    """
    policy = one_of(task, "after_policy", values.get("after_policy") or "ok", get_args(AfterPolicy))
    after, services = (_uids(task, name, values.get(name) or ()) for name in ("after", "services"))
    both = set(after) & set(services)
    if both:
        raise InvalidTask(
            f"{task}: {min(both)!r} is in both after and services; the task would need a service that has ended: "
            "leave it out of one of them"
        )
    if policy != "ok" and not after:
        raise InvalidTask(f"{task}: after_policy={policy!r} without after; name the tasks that it is to run after")
    return Held(after, policy, services)  # type: ignore[arg-type]


def _uids(task: str, name: str, entries: Sequence[Any]) -> tuple[TaskUid, ...]:
    found: dict[TaskUid, None] = {}
    for index, entry in enumerate(entries):
        uid = entry if isinstance(entry, str) else getattr(entry, "uid", None)
        if not isinstance(uid, str) or not uid:
            raise InvalidTask(f"{task}: {name}[{index}] is {shown(entry)}; give a task, or its uid")
        found[TaskUid(uid)] = None
    return tuple(found)
