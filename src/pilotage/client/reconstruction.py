"""From what travels back to a description: for handles of tasks that another process submitted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from pilotage.client.constants import TASK_EXECUTABLE, TASK_FUNCTION
from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import is_empty
from pilotage.core.client.state import TaskRecord
from pilotage.model.payload import Payload
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES
from pilotage.model.workload import Template


def description_of(template: Template, record: TaskRecord, load: Callable[[Payload], bytes], metadata: Any) -> TaskDescription:
    """Return a description that says what the task's template and row say; what is the default is left out.

    Raises:
        BackendError: the function or its arguments are blobs that cannot be read.
    """
    request, row = template.request, record.row
    values: dict[str, Any] = {
        "uid": row.uid,
        "name": row.name,
        "metadata": metadata,
        "pilot": record.pinned,
        "executable": template.executable,
        "arguments": list(row.arguments),
        "ranks": request.ranks,
        "cores_per_rank": request.cores,
        "gpus_per_rank": request.gpu_shares / GPU_SHARES,
        "mem_per_rank": float(request.memory * BLOCK_MIB),
        "lfs_per_rank": float(request.disk * BLOCK_MIB),
        "ranks_per_node": request.ranks_per_node or None,
        "tags": {name: value for name, value in (("colocate", request.colocate), ("exclusive", request.exclusive)) if value},
        "environment": dict(template.environment),
        "sandbox": template.sandbox,
        "stdout": template.stdout,
        "stderr": template.stderr,
        "priority": template.priority,
        "timeout": template.timeout_s,
        "grace": template.grace_s,
        "retries": template.retries,
        "restartable": template.restartable,
        "gpu_type": template.gpu_type,
        "threading_type": template.threading_type,
        "mode": TASK_FUNCTION if template.mode == "function" else TASK_EXECUTABLE,
    }
    if template.function is not None:
        values["function"] = _opened(load(template.function))
    if row.payload is not None:
        opened = _opened(load(row.payload))
        if isinstance(opened, tuple):
            values["args"], values["kwargs"] = list(opened[0]), opened[1]
    # Only of what is one of these types: metadata may be an array, which compares item by item.
    given = {name: value for name, value in values.items() if not is_empty(value)}
    description = TaskDescription(given)
    return TaskDescription(description.differing())


def _opened(pickled: bytes) -> Any:
    """Return the pickled object, or, where it cannot be opened in this program, a function that says so when called."""
    try:
        return pickle.loads(pickled)
    except Exception as error:  # opening imports the user's modules and runs the user's classes
        reason = f"{type(error).__name__}: {error}"

    def unavailable(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError(f"this function cannot be opened in this program: {reason}")

    return unavailable
