"""What is free in pilots and what waits: as the pilots told last, and as the client knows by itself.

A pilot tells how busy it is when it is asked. What was sent to it since it cannot have counted; so what waits is taken to be
all that it has, but what it said to run. Then nothing that was just submitted is overlooked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from pilotage.core.client.state import ClientState, ManagerRecord, PilotRecord
from pilotage.model.ids import PilotUid
from pilotage.model.partitions import Load
from pilotage.model.resources import BLOCK_MIB, GPU_SHARES
from pilotage.model.states import PMGR_ACTIVE


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What active pilots have, what of that is free, and what waits for it.

    GPUs may be parts of GPUs, memory is in MiB. Of idle nodes nothing is in use.
    """

    pilots: int = 0
    """How many pilots are active; all else is about these alone."""
    nodes: int = 0
    idle_nodes: int = 0
    cores: int = 0
    free_cores: int = 0
    gpus: int = 0
    free_gpus: float = 0.0
    memory: int = 0
    free_memory: int = 0
    running: int = 0
    """Tasks that run, or have run and whose output is being staged."""
    waiting: int = 0
    """Tasks that wait: for resources, for files or environments, for a pilot, or are on their way there."""
    waiting_cores: int = 0
    """What tasks that wait for resources or for a pilot ask for."""
    waiting_gpus: float = 0.0
    missing: int = 0
    """For who was told by ``TaskManager.adapt``: how many of its tasks are missing to its ``floor``."""


def resources_of(
    state: ClientState,
    pilots: Iterable[PilotRecord],
    loads: Mapping[PilotUid, Load],
    manager: ManagerRecord | None = None,
    missing: int = 0,
) -> Resources:
    """Return what these pilots have, as far as they are active and have told; with what waits in a manager, if one is given."""
    active = [pilot for pilot in pilots if pilot.state == PMGR_ACTIVE and pilot.uid in loads]
    told = [loads[pilot.uid] for pilot in active]
    shapes = [node.shape for pilot in active for node in pilot.nodes]
    waiting_cores = sum(load.waiting_cores for load in told)
    waiting_gpu_shares = sum(load.waiting_gpu_shares for load in told)
    if manager is not None and manager.waiting:
        for template, count in Counter(state.tasks[uid].row.template for uid in manager.waiting.copy()).items():
            request = state.templates[template].request
            waiting_cores += count * request.ranks * request.cores
            waiting_gpu_shares += count * request.ranks * request.gpu_shares
    return Resources(
        pilots=len(active),
        nodes=sum(load.nodes for load in told),
        idle_nodes=sum(load.idle_nodes for load in told),
        cores=sum(shape.cores for shape in shapes),
        free_cores=sum(load.free_cores for load in told),
        gpus=sum(shape.gpus for shape in shapes),
        free_gpus=sum(load.free_gpu_shares for load in told) / GPU_SHARES,
        memory=sum(shape.memory for shape in shapes) * BLOCK_MIB,
        free_memory=sum(load.free_memory for load in told) * BLOCK_MIB,
        running=sum(load.running for load in told),
        waiting=_waiting(active, loads, manager),
        waiting_cores=waiting_cores,
        waiting_gpus=waiting_gpu_shares / GPU_SHARES,
        missing=missing,
    )


def are_idle(pilots: Iterable[PilotRecord], loads: Mapping[PilotUid, Load], manager: ManagerRecord) -> bool:
    """Tell whether something is free in pilots, all of which told, and nothing waits for it."""
    active = [pilot for pilot in pilots if pilot.state == PMGR_ACTIVE]
    if not active or any(pilot.uid not in loads for pilot in active) or _waiting(active, loads, manager):
        return False
    return any(loads[pilot.uid].free_cores and not loads[pilot.uid].paused for pilot in active)


def _waiting(active: Iterable[PilotRecord], loads: Mapping[PilotUid, Load], manager: ManagerRecord | None) -> int:
    there = sum(max(0, pilot.load - loads[pilot.uid].running) for pilot in active)
    return there + (len(manager.waiting) if manager is not None else 0)
