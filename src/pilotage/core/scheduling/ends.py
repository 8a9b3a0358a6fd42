"""When what runs is declared to end, and when a task for which nodes are reserved can start by that.

Known is only what is held by tasks of declared duration. A lane on which more tasks were drawn ends later than is known here,
so what is told is the earliest time: who counts on it never counts on too much.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.services import ServiceHoldings
from pilotage.model.resources import NodeShare, Placement

NOT_KNOWN = -math.inf

_MOST_HELD = 1 << 15
"""Shares on reserved nodes, above which it is not found out when these come free."""


class DeclaredEnds:
    """The placements of tasks of declared duration that run on nodes of ``pool``, and when they end."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.held = 0
        """How many shares there are."""
        self._on: list[dict[bytes, tuple[float, NodeShare]]] = [{} for _ in pool.nodes]
        """Shares and when they come free at the earliest, by node and by their cores, which no two have in common."""

    def note(self, placement: Placement, end: float) -> None:
        """This is held until then."""
        on = self._on
        for share in placement:
            on[share.node][share.cores] = (end, share)
        self.held += len(placement)

    def forget(self, placement: Placement) -> None:
        """Whoever held this has ended."""
        on = self._on
        for share in placement:
            held = on[share.node]
            if held and held.pop(share.cores, None) is not None:
                self.held -= 1

    def on(self, nodes: Iterable[int], services: ServiceHoldings) -> list[tuple[float, NodeShare]] | None:
        """Return what is held on these nodes, first what comes free first; None if of something that is not known.

        What services hold does not come free, and is left out.
        """
        found: list[tuple[float, NodeShare]] = []
        pool = self._pool
        for node in nodes:
            held = pool.shape[node].cores - pool.count[node] - services.cores_on(node)
            for end, share in self._on[node].values():
                found.append((end, share))
                held -= int.from_bytes(share.cores, "little").bit_count()
            if held or len(found) > _MOST_HELD:
                return None
        return sorted(found, key=_end_of)

    def earliest(self, need: Need, nodes: Sequence[int], services: ServiceHoldings, fits: Callable[[], bool]) -> float:
        """Return when ``need``, for which these nodes are reserved, can be placed there at the earliest; or NOT_KNOWN.

        ``fits`` tells whether it can be placed now.
        """
        held = self.on(nodes, services)
        if held is None:
            return NOT_KNOWN
        pool = self._pool
        rooms = {node: pool.capacity(need, node) for node in nodes}
        ranks = sum(rooms.values())
        freed: list[NodeShare] = []
        earliest = NOT_KNOWN
        for end, shares in groupby(held, _end_of):
            for _, share in shares:
                pool.give_back(share)
                freed.append(share)
                room = pool.capacity(need, share.node)
                ranks += room - rooms[share.node]
                rooms[share.node] = room
            if ranks >= need.ranks and fits():
                earliest = end
                break
        for share in reversed(freed):
            pool.occupy(share)
        return earliest


def _end_of(held: tuple[float, NodeShare]) -> float:
    return held[0]
