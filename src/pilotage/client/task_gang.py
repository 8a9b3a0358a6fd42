"""What a description says of the gang with which its task starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pilotage.client.checks import count_of, text_of
from pilotage.client.constants import AGENT_SERVICE, TASK_SERVICE
from pilotage.client.task_service import RESTARTS_OF_TASKS
from pilotage.errors import InvalidTask


def gang_of(task: str, said: Mapping[str, Any]) -> tuple[str, int]:
    """Return the gang's name and how many tasks it has; "" and 0 for a task that starts by itself.

    Raises:
        InvalidTask: names the value, the limit and the remedy.
    """
    name, size = said["gang"], said["gang_size"]
    if not name:
        if size:
            raise InvalidTask(f"{task}: gang_size={size} says how many tasks start together, and no gang is named; set gang")
        return "", 0
    if not size:
        raise InvalidTask(f"{task}: gang={name!r} does not say how many tasks start together; set gang_size, the same in all")
    if said["mode"] in (AGENT_SERVICE, TASK_SERVICE):
        raise InvalidTask(
            f"{task}: gang={name!r}: a service starts by itself; leave gang out, or let the gang need the service"
        )
    restarts = said["restart"] in RESTARTS_OF_TASKS
    if said["retries"] or said["restartable"] or restarts:
        again = f"restart={said['restart']!r}" if restarts else "restartable=True"
        again = f"retries={said['retries']}" if said["retries"] else again
        raise InvalidTask(
            f"{task}: {again}: an attempt that follows would be without the other tasks of gang={name!r}, which began with the "
            f"first; leave {again.partition('=')[0]} out, and submit a new gang"
        )
    for tag in ("colocate", "task"):
        if said["tags"].get(tag):
            raise InvalidTask(
                f"{task}: gang={name!r}, and tag {tag!r} makes it wait for a node of its own; leave one of them out"
            )
    return text_of(task, "gang", name), count_of(task, "gang_size", size, 1)
