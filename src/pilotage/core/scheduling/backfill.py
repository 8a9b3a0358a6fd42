"""What runs on reserved nodes meanwhile: tasks that are declared to end before the reserved one can start there.

When that can be is known only if all that runs there is of declared duration (see ``ends``); else nothing is filled in. A
task that takes longer than it is declared to may hold the reserved one up: what users declare is believed.
"""

from __future__ import annotations

from itertools import islice

from pilotage.core.scheduling.ends import NOT_KNOWN
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.policy import SERVICE, GroupKey
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.search import Layout, spread

_NODES_LOOKED_AT = 256
"""Reserved nodes with something free, of which the others are left empty until these are full."""


class Gaps:
    """What is free on the reserved ``nodes`` of ``pool`` until ``end``, from when on they are needed."""

    __slots__ = ("_nodes", "_pool", "_refused", "_spare", "end")

    def __init__(self, pool: Pool, nodes: list[int], end: float) -> None:
        self._pool = pool
        self._nodes = nodes
        self.end = end
        self._spare: list[int] | None = None
        self._refused: set[GroupKey] = set()

    def note_freed(self) -> None:
        """Something came free on these nodes."""
        self._spare = None
        self._refused.clear()

    def are_open(self, now: float) -> bool:
        """Tell whether there may be room for tasks that are short enough."""
        if self.end is NOT_KNOWN or now >= self.end:
            return False
        if self._spare is None:
            pool = self._pool
            self._spare = list(islice((node for node in self._nodes if pool.count[node]), _NODES_LOOKED_AT))
        return bool(self._spare)

    def layout(self, group: Group, now: float) -> Layout | None:
        """Return nodes for a task of this group that would end in time, or None. Time and tasks only make gaps smaller."""
        key = group.key
        if key in self._refused:
            return None
        found = self._find(group, now)
        if found is None:
            self._refused.add(key)
        return found

    def _find(self, group: Group, now: float) -> Layout | None:
        key, need = group.key, group.need
        if not key.duration_s or key.lane_kind == SERVICE or now + key.duration_s > self.end:
            return None
        if now > group.latest or need.chosen or need.follows or need.gang:
            return None
        return self._narrow(group, need) if need.ranks == 1 else self._wide(group, need)

    def _narrow(self, group: Group, need: Need) -> Layout | None:
        pool, spare = self._pool, self._spare or []
        while spare and not pool.count[spare[-1]]:
            spare.pop()
        for node in reversed(spare):
            if pool.capacity(need, node) and _is_allowed(group, node):
                return [(node, 1)]
        return None

    def _wide(self, group: Group, need: Need) -> Layout | None:
        rooms = [
            (node, room) for node in self._spare or () if (room := self._pool.capacity(need, node)) and _is_allowed(group, node)
        ]
        return spread(rooms, need)


def _is_allowed(group: Group, node: int) -> bool:
    only = None if group.index is None else group.index.only
    return only is None or node in only
