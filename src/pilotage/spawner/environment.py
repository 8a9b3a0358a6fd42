"""The environment variables of a task: pure functions.

A task starts from the user's environment, without what a launch that the pilot is part of has put there. What the named
environment is beside that, its template's variables, and ours under ``PILOTAGE_`` names and under the ``RP_`` names that users
of RADICAL-Pilot know come on top; and last what is the task's own. Names and values are bytes: a spawn needs them so, and what
a thousand tasks share is encoded once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from pilotage.launchers.outer import without_outer_launch
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.ranks import RankSlot
from pilotage.model.resources import GPU_SHARES
from pilotage.model.workload import Template
from pilotage.wire.runner_settings import RunnerSettings

Environment = dict[bytes, bytes]

ENCODING = ("utf-8", "surrogateescape")
"""How text that may be any bytes, such as names of files, is encoded."""

_VISIBLE_DEVICES = {
    "": b"CUDA_VISIBLE_DEVICES",
    "cuda": b"CUDA_VISIBLE_DEVICES",
    "nvidia": b"CUDA_VISIBLE_DEVICES",
    "rocm": b"ROCR_VISIBLE_DEVICES",
    "amd": b"ROCR_VISIBLE_DEVICES",
    "intel": b"ZE_AFFINITY_MASK",
    "ze": b"ZE_AFFINITY_MASK",
}


def encoded(variables: Mapping[str, str]) -> Environment:
    """Return the variables as bytes."""
    return {name.encode(*ENCODING): value.encode(*ENCODING) for name, value in variables.items()}


def template_environment(
    settings: RunnerSettings, template: Template, named: EnvironmentDifference | None = None
) -> Environment:
    """Return what all tasks of a template share; ``named``: the environment of the pilot that they run in."""
    environment = without_outer_launch(encoded(settings.environment))
    if named is not None:
        for name in named.unset:
            environment.pop(name.encode(*ENCODING), None)
        environment.update(encoded(named.variables))
    environment.update(encoded(template.environment))
    request = template.request
    ours = {
        "SESSION_ID": settings.session,
        "PILOT_ID": settings.pilot,
        "PILOT_SANDBOX": settings.pilot_folder,
        "RANKS": str(request.ranks),
        "CORES_PER_RANK": str(request.cores),
        "GPUS_PER_RANK": f"{request.gpu_shares / GPU_SHARES:g}",
    }
    for prefix in ("PILOTAGE_", "RP_"):
        environment.update(encoded({prefix + name: value for name, value in ours.items()}))
    # What a pilot within a task of another has inherited is not its own.
    for mark in (b"PILOTAGE_PARTITION", b"PILOTAGE_HOST", b"PILOTAGE_END_TIME"):
        environment.pop(mark, None)
    environment.update(encoded(settings.marks()))
    environment.update(encoded(settings.limits()))
    if template.service is not None and settings.notify_socket:
        environment[b"NOTIFY_SOCKET"] = settings.notify_socket.encode(*ENCODING)
    if template.threading_type.lower() == "openmp":
        environment[b"OMP_NUM_THREADS"] = b"%d" % request.cores
    if template.service is not None and settings.notify_socket:
        environment[b"NOTIFY_SOCKET"] = os.fsencode(settings.notify_socket)
    return environment


def rank_variables(slot: RankSlot, rank: int, node_name: str, gpu_type: str, gpus: Sequence[str]) -> Environment:
    """Return what distinguishes a rank: its number, its node and the GPUs it may use (unset when there are none), by name."""
    number = b"%d" % rank
    variables = {
        b"PILOTAGE_RANK": number,
        b"RP_RANK": number,
        b"PILOTAGE_LOCAL_RANK": b"%d" % slot.local_rank,
        b"PILOTAGE_NODE": node_name.encode(),
    }
    if gpus:
        visible = _VISIBLE_DEVICES.get(gpu_type.lower(), b"CUDA_VISIBLE_DEVICES")
        variables[visible] = ",".join(gpus).encode(*ENCODING)
    return variables


def task_variables(task: bytes, attempt: int, name: bytes, sandbox: bytes) -> Environment:
    """Return what is a task's own."""
    return {
        b"PILOTAGE_TASK_ID": task,
        b"RP_TASK_ID": task,
        b"PILOTAGE_TASK_NAME": name,
        b"RP_TASK_NAME": name,
        b"PILOTAGE_TASK_SANDBOX": sandbox,
        b"RP_TASK_SANDBOX": sandbox,
        b"PILOTAGE_ATTEMPT": b"%d" % attempt,
    }


def parse_environment(block: bytes) -> Environment:
    """Return the variables in what ``/proc/<pid>/environ`` holds."""
    pairs: Iterable[tuple[bytes, bytes, bytes]] = (entry.partition(b"=") for entry in block.split(b"\0"))
    return {name: value for name, separator, value in pairs if separator}
