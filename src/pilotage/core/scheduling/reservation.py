"""Nodes kept for a task that would starve otherwise, and how they are chosen."""

from __future__ import annotations

from itertools import accumulate

from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import OPEN, Pool
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.search import tightest


class Reservation:
    """The ``nodes`` that are kept for the first task of ``group``; ``changed`` when something came free there."""

    __slots__ = ("changed", "group", "nodes")

    def __init__(self, group: Group, nodes: list[int]) -> None:
        self.group = group
        self.nodes = nodes
        self.changed = True


def nodes_to_drain(pool: Pool, need: Need) -> list[int]:
    """Return open nodes that can hold ``need`` once they are free, near each other, on which least is running."""
    least = need.ranks if need.colocate else need.per_node or 1
    room_of = {shape: room for shape in pool.index.shapes if (room := need.capacity(shape)) >= least}
    nodes = [n for n, shape in enumerate(pool.shape) if shape in room_of and pool.state[n] == OPEN]
    rooms = [need.per_node or room_of[pool.shape[node]] for node in nodes]
    running = [0, *accumulate(pool.shape[node].cores - pool.count[node] for node in nodes)]
    window = tightest(rooms, need.ranks, running[:-1], running[1:])
    if window is None:
        # The last of even shares fits on a smaller node only: whichever that is, it is among all.
        return [n for n, state in enumerate(pool.state) if state == OPEN]
    return nodes[window[0] : window[1]]
