"""The table of a task description's attributes: types, defaults, and which of them await a later version."""

from __future__ import annotations

from collections.abc import Mapping

from pilotage.client.constants import TASK_EXECUTABLE
from pilotage.client.fields import Field, Kind

_RAPTOR = "RAPTOR masters and workers"

TASK_FIELDS: Mapping[str, Field] = {
    # identity
    "uid": Field(Kind.TEXT, ""),
    "name": Field(Kind.TEXT, ""),
    "metadata": Field(Kind.ANY, {}),
    "mode": Field(Kind.TEXT, TASK_EXECUTABLE),
    # payload
    "executable": Field(Kind.PATH, ""),
    "arguments": Field(Kind.LIST, []),
    "function": Field(Kind.FUNCTION),
    "args": Field(Kind.LIST, []),
    "kwargs": Field(Kind.TABLE, {}),
    "code": Field(Kind.TEXT, ""),
    "command": Field(Kind.TEXT, ""),
    # resources
    "ranks": Field(Kind.WHOLE, 1),
    "ranks_per_node": Field(Kind.WHOLE),
    "cores_per_rank": Field(Kind.WHOLE, 1),
    "gpus_per_rank": Field(Kind.NUMBER, 0.0),
    "gang": Field(Kind.TEXT, ""),
    "gang_size": Field(Kind.WHOLE, 0),
    "gpu_type": Field(Kind.TEXT, ""),
    "threading_type": Field(Kind.TEXT, ""),
    "mem_per_rank": Field(Kind.NUMBER, 0),
    "lfs_per_rank": Field(Kind.NUMBER, 0),
    "use_mpi": Field(Kind.FLAG),
    "launch_method": Field(Kind.PATH, ""),
    "partition": Field(Kind.ANY),
    "slots": Field(Kind.LIST, []),
    # environment
    "environment": Field(Kind.TABLE, {}),
    "named_env": Field(Kind.TEXT, ""),
    "sandbox": Field(Kind.PATH, ""),
    "stdout": Field(Kind.PATH, ""),
    "stderr": Field(Kind.PATH, ""),
    "output": Field(Kind.TEXT, ""),
    "output_limit_mb": Field(Kind.NUMBER, 0),
    # hooks
    "pre_launch": Field(Kind.COMMANDS, []),
    "post_launch": Field(Kind.COMMANDS, []),
    "pre_exec": Field(Kind.COMMANDS, []),
    "post_exec": Field(Kind.COMMANDS, []),
    "pre_exec_sync": Field(Kind.FLAG, False),
    # data
    "input_staging": Field(Kind.COMMANDS, []),
    "output_staging": Field(Kind.COMMANDS, []),
    "stage_on_error": Field(Kind.FLAG, False),
    # control
    "priority": Field(Kind.WHOLE, 0),
    "timeout": Field(Kind.NUMBER, 0.0),
    "duration_s": Field(Kind.NUMBER, 0.0),
    "grace": Field(Kind.NUMBER, 5.0),
    "retries": Field(Kind.WHOLE, 0),
    "retry_on": Field(Kind.CODES, []),
    "restartable": Field(Kind.FLAG, False),
    "pilot": Field(Kind.TEXT, ""),
    "tags": Field(Kind.TABLE, {}),
    "cleanup": Field(Kind.FLAG, False),
    # order
    "after": Field(Kind.TASKS, []),
    "after_policy": Field(Kind.TEXT, "ok"),
    "services": Field(Kind.TASKS, []),
    # services
    "ready": Field(Kind.TEXT, ""),
    "info_pattern": Field(Kind.TEXT, ""),
    "startup_timeout": Field(Kind.NUMBER, 0.0),
    "health": Field(Kind.TEXT, ""),
    "health_interval": Field(Kind.NUMBER, 10.0),
    "restart": Field(Kind.TEXT, "never"),
    # RAPTOR
    "raptor_id": Field(Kind.TEXT, "", awaits=_RAPTOR),
    "raptor_class": Field(Kind.TEXT, "", awaits=_RAPTOR),
    "raptor_file": Field(Kind.PATH, "", awaits=_RAPTOR),
}

OLDER_TASK_NAMES: Mapping[str, str] = {
    "method": "function",
    "cpu_processes": "ranks",
    "cpu_threads": "cores_per_rank",
    "cpu_thread_type": "threading_type",
    "cpu_process_type": "",
    "gpu_processes": "gpus_per_rank",
    "gpu_process_type": "gpu_type",
    "gpu_threads": "",
    "gpu_thread_type": "",
    "lfs_per_process": "lfs_per_rank",
    "mem_per_process": "mem_per_rank",
    "scheduler": "raptor_id",
    "worker_class": "raptor_class",
    "worker_file": "raptor_file",
}

COMMON_OWN_ATTRIBUTES = frozenset({"uid", "name", "metadata", "arguments", "args", "kwargs", "pilot"})
"""What is a task's own, and most tasks have."""

RARE_OWN_ATTRIBUTES = frozenset({"code", "command", "input_staging", "output_staging", "after", "after_policy", "services"})
"""What is a task's own, and few tasks have."""

OWN_ATTRIBUTES = COMMON_OWN_ATTRIBUTES | RARE_OWN_ATTRIBUTES
"""What is a task's own. Tasks that agree in all other attributes share a template (``pilot`` is the client's business)."""
