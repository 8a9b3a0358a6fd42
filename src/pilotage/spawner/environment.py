"""The environment variables of a task: pure functions.

A task starts from the user's environment; its template's variables come on top, then ours under ``PILOTAGE_`` names and under
the ``RP_`` names that users of RADICAL-Pilot know. Names and values are bytes: a spawn needs them so, and what a thousand
tasks share is encoded once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pilotage.model.ranks import RankSlot
from pilotage.model.resources import GPU_SHARES
from pilotage.model.workload import Template
from pilotage.wire.runner_settings import RunnerSettings

Environment = dict[bytes, bytes]

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
    return {
        name.encode("utf-8", "surrogateescape"): value.encode("utf-8", "surrogateescape") for name, value in variables.items()
    }


def template_environment(settings: RunnerSettings, template: Template) -> Environment:
    """Return what all tasks of a template share."""
    request = template.request
    ours = {
        "SESSION_ID": settings.session,
        "PILOT_ID": settings.pilot,
        "PILOT_SANDBOX": settings.pilot_folder,
        "RANKS": str(request.ranks),
        "CORES_PER_RANK": str(request.cores),
        "GPUS_PER_RANK": f"{request.gpu_shares / GPU_SHARES:g}",
    }
    variables = {**settings.environment, **template.environment}
    for name, value in ours.items():
        variables[f"PILOTAGE_{name}"] = variables[f"RP_{name}"] = value
    if template.threading_type.lower() == "openmp":
        variables["OMP_NUM_THREADS"] = str(request.cores)
    return encoded(variables)


def rank_variables(slot: RankSlot, rank: int, node_name: str, gpu_type: str) -> Environment:
    """Return what distinguishes a rank: its number, its node and the GPUs it may use (unset when it holds none)."""
    number = b"%d" % rank
    variables = {
        b"PILOTAGE_RANK": number,
        b"RP_RANK": number,
        b"PILOTAGE_LOCAL_RANK": b"%d" % slot.local_rank,
        b"PILOTAGE_NODE": node_name.encode(),
    }
    if slot.gpus:
        visible = _VISIBLE_DEVICES.get(gpu_type.lower(), b"CUDA_VISIBLE_DEVICES")
        variables[visible] = b",".join(b"%d" % index for index in slot.gpus)
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
