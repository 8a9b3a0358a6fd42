"""What could have been given back before the end: of each node the time from its last use to the end of its pilot.

A node is in use while a lane has something of it. One that never was counts from when its pilot was ready.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pilotage.trace.run import PilotTrace


class IdleTail(msgspec.Struct, frozen=True):
    """Core-seconds that nodes were held for after their last use.

    ``core_s``: of all nodes. ``beside_core_s``: the part of it in which other nodes of the same pilot were still in use.
    ``nodes``: how many those were.
    """

    core_s: float = 0.0
    beside_core_s: float = 0.0
    nodes: int = 0


def idle_tail(pilots: Iterable[PilotTrace]) -> IdleTail:
    """Return what these pilots held for nothing at their ends."""
    total = beside = 0.0
    nodes = 0
    for pilot in pilots:
        ready = max(pilot.begin, pilot.active, pilot.ready)
        if not pilot.nodes or not ready or pilot.end <= ready:
            continue
        used = _last_uses(pilot)
        last = max(used.values(), default=ready)
        for node in pilot.nodes:
            since = used.get(node.index, ready)
            total += max(0.0, pilot.end - since) * node.shape.cores
            if since < last:
                beside += (last - since) * node.shape.cores
                nodes += 1
    return IdleTail(total, beside, nodes)


def _last_uses(pilot: PilotTrace) -> dict[int, float]:
    """Return when each node was in use last, of those that ever were; what was open when the log ended was so until then."""
    used: dict[int, float] = {}
    for placement, closed in zip(pilot.lanes.placement, pilot.lanes.closed, strict=True):
        until = min(closed or pilot.end, pilot.end)
        for share in placement:
            if until > used.get(share.node, 0.0):
                used[share.node] = until
    return used
