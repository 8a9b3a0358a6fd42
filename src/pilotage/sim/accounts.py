"""Accounts for all of the time of a pilot's resources, from what its runners wrote down."""

from __future__ import annotations

import msgspec

from pilotage.model.resources import NodeShape
from pilotage.sim.clients import AnyPilot
from pilotage.sim.metaschedulers import SimulatedMetascheduler
from pilotage.sim.pilots import SimulatedPilot
from pilotage.sim.result import PartitionResult, ResourceTime

Account = tuple[ResourceTime, ResourceTime, list[PartitionResult]]


def account(pilot: AnyPilot, shape: NodeShape, until_s: float) -> Account:
    """Return the pilot's core-time and GPU-time up to then, and those of each of its partitions; it is one if it has none.

    A partition is offered what it owned. Nodes that are no partition's are idle, and count for the pilot alone.
    """
    if isinstance(pilot, SimulatedMetascheduler):
        pilot.note_nodes()
    parts = list(pilot.partitions.values()) if isinstance(pilot, SimulatedMetascheduler) else [pilot]
    lost_s = sum(max(0.0, until_s - at) for at in pilot.lost_at.values())
    totals: list[ResourceTime] = []
    for kind, each in (("core_s", shape.cores), ("gpu_s", shape.gpus)):
        total = ResourceTime()
        for part in parts:
            held: ResourceTime = getattr(part.launching.ledger, kind)
            held.startup = part.first_nodes * each * _startup_s(part, until_s)
            total.add(held)
        total.offered, total.lost = len(pilot.nodes) * each * until_s, lost_s * each
        total.idle = _rest(total)
        totals.append(total)
    if not isinstance(pilot, SimulatedMetascheduler):
        return totals[0], totals[1], [_result(pilot, totals[0], totals[1])]
    results = []
    for part in parts:
        core_s, gpu_s = (msgspec.structs.replace(held) for held in (part.launching.ledger.core_s, part.launching.ledger.gpu_s))
        for held, each in ((core_s, shape.cores), (gpu_s, shape.gpus)):
            held.offered = pilot.node_s.get(part.uid, 0.0) * each
            held.idle = _rest(held)
        results.append(_result(part, core_s, gpu_s))
    return totals[0], totals[1], results


def _startup_s(part: SimulatedPilot, until_s: float) -> float:
    return max(0.0, min(part.up_at_s, until_s) - part.begun_s)


def _rest(held: ResourceTime) -> float:
    used = held.startup + held.scheduling + held.waiting + held.preparing + held.running + held.acknowledging
    return held.offered - used - held.lost


def _result(part: SimulatedPilot, core_s: ResourceTime, gpu_s: ResourceTime) -> PartitionResult:
    return PartitionResult(name=part.uid, nodes=part.first_nodes, starts=part.launching.starts, core_s=core_s, gpu_s=gpu_s)
