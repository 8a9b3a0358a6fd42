"""From what travels back to a description: for handles of tasks that another process submitted."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

from pilotage.client import task_hooks, task_service, task_slots
from pilotage.client.constants import TASK_EVAL, TASK_EXEC, TASK_SHELL
from pilotage.client.modes import named_mode
from pilotage.client.staging import directive_dict
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_validation import MIB
from pilotage.client.templates import is_empty
from pilotage.core.client.facts import Held
from pilotage.core.client.state import TaskRecord
from pilotage.model.payload import Payload
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES
from pilotage.model.workload import ANY_MPI, NO_SANDBOX, Row, Template


def description_of(
    template: Template, record: TaskRecord, load: Callable[[Payload], bytes], metadata: Any, asked: Held | None = None
) -> TaskDescription:
    """Return a description that says what the task's template and row say; what is the default is left out.

    Raises:
        BackendError: the function or its arguments are blobs that cannot be read.
    """
    row = record.row
    values: dict[str, Any] = {
        "uid": row.uid,
        "name": row.name,
        "metadata": metadata,
        "pilot": record.pinned,
        "mode": named_mode(template),
        **_resources(template),
        "environment": dict(template.environment),
        "named_env": template.named_env,
        "sandbox": template.sandbox,
        "stdout": template.stdout,
        "stderr": template.stderr,
        "output": template.output if template.sandbox == NO_SANDBOX or template.output != "files" else "",
        "output_limit_mb": template.output_limit_bytes / MIB,
        "cleanup": template.cleanup,
        "stage_on_error": template.stage_on_error,
        "priority": template.priority,
        "partition": template.partition,
        "timeout": template.timeout_s,
        "duration_s": template.duration_s,
        "grace": template.grace_s,
        "retries": template.retries,
        "retry_on": list(template.retry_on),
        "restartable": template.restartable,
        **({"restart": template.restart} if template.restart else {}),
        **task_hooks.attributes_of(template.hooks),
        **task_service.attributes_of(template.service),
        **_payload(template, row, load),
    }
    if row.extra is not None:
        values["input_staging"] = [directive_dict(one) for one in row.extra.input_staging]
        values["output_staging"] = [directive_dict(one) for one in row.extra.output_staging]
    if asked is not None:
        values |= {"after": list(asked.after), "after_policy": asked.policy, "services": list(asked.services)}
    # Only of what is one of these types: metadata may be an array, which compares item by item.
    given = {name: value for name, value in values.items() if not is_empty(value)}
    description = TaskDescription(given)
    return TaskDescription(description.differing())


def _use_of_mpi(template: Template) -> bool | None:
    if template.request.ranks > 1:
        return None if template.uses_mpi else False
    return True if template.launch_method == ANY_MPI else None


def _named_launcher(template: Template) -> str:
    if template.launch_method:
        return "" if template.launch_method == ANY_MPI else template.launch_method
    return "" if template.launcher is None else template.launcher.path


def _resources(template: Template) -> dict[str, Any]:
    request = template.request
    sizes = {
        "mem_per_rank": float(request.memory * BLOCK_MIB),
        "lfs_per_rank": float(request.disk * BLOCK_MIB),
        "gpu_type": template.gpu_type,
        "threading_type": template.threading_type,
        "launch_method": _named_launcher(template),
        "gang": request.gang,
        "gang_size": request.gang_size,
        "use_mpi": _use_of_mpi(template),
    }
    if request.slots:
        return {**sizes, "slots": task_slots.attribute_of(request)}
    tags = {
        "colocate": request.colocate,
        "exclusive": request.exclusive,
        "node": list(request.pinned),
        "task": request.beside,
    }
    return {
        **sizes,
        "ranks": request.ranks,
        "cores_per_rank": request.cores,
        "gpus_per_rank": request.gpu_shares / GPU_SHARES,
        "ranks_per_node": request.ranks_per_node or None,
        "tags": {name: value for name, value in tags.items() if value},
    }


def _payload(template: Template, row: Row, load: Callable[[Payload], bytes]) -> dict[str, Any]:
    if template.mode == "executable":
        if template.form == TASK_SHELL:
            return {"command": row.arguments[-1]}
        return {"executable": template.executable, "arguments": list(row.arguments)}
    called = _opened(load(row.payload)) if row.payload is not None else None
    args, kwargs = called if isinstance(called, tuple) else ((), {})
    if template.form in (TASK_EVAL, TASK_EXEC):
        code, *before = args
        return {"code": code, "pre_exec": list(before[0]) if before else []}
    values: dict[str, Any] = {"args": list(args), "kwargs": kwargs}
    if template.function is not None:
        values["function"] = _opened(load(template.function))
    return values


def _opened(pickled: bytes) -> Any:
    """Return the pickled object, or, where it cannot be opened in this program, a function that says so when called."""
    try:
        return pickle.loads(pickled)
    except Exception as error:  # opening imports the user's modules and runs the user's classes
        reason = f"{type(error).__name__}: {error}"

    def unavailable(*_args: Any, **_kwargs: Any) -> Any:
        raise RuntimeError(f"this function cannot be opened in this program: {reason}")

    return unavailable
