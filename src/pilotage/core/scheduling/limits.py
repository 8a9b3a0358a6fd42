"""What can run at all: on the nodes that are there, where tags lead, before the pilot ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots, tags
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import CLOSED, Pool
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.tags import Territories
from pilotage.model.resources import NodeShape, Request


class Limits:
    """Of the nodes of ``pool``. ``groups`` name sets of them. ``latest``: when tasks of declared duration have to end."""

    def __init__(self, pool: Pool, groups: Mapping[str, Sequence[str]], latest: float) -> None:
        self._pool = pool
        self._territories = Territories(pool, groups)
        self._latest = latest
        self.shapes: dict[NodeShape, int] = {}
        self.count()

    def count(self) -> None:
        """Count the nodes that can be used, as they have changed."""
        pool = self._pool
        self.shapes = Counter(shape for shape, state in zip(pool.shape, pool.state, strict=True) if state < CLOSED)

    def apply(self, group: Group, others: Iterable[Group]) -> None:
        """Note in a group without tasks what limits it. ``others``: all groups."""
        group.stranded = self.refusal(group.need)
        if group.need.pinned:
            group.index = self._territories.view(group.need.pinned, others)
        if group.key.duration_s:
            group.latest = self._latest - group.key.duration_s

    def refusal(self, need: Need) -> str | None:
        """Return why no set of the nodes can ever satisfy ``need`` (value, limit, remedy), or None if one can."""
        pool = self._pool
        request = need.request
        if need.gang:
            reason = _gang_refusal(request)
            if reason is not None:
                return reason
        if need.pinned or request.beside:
            reason = tags.refusal(request, pool.nodes, self._territories.groups)
            if reason is not None:
                return reason
        if need.chosen:
            return slots.refusal(request, pool.nodes, pool.state)
        if not need.pinned:
            return needs.refusal(need, self.shapes)
        shapes = Counter(pool.shape[node] for node in self._territories.nodes(need.pinned) if pool.state[node] < CLOSED)
        names = ", ".join(need.pinned)
        if not shapes:
            return f"none of the nodes named {names} is left in this pilot; name others, or leave the tag out"
        reason = needs.refusal(need, shapes)
        return None if reason is None else f"on the nodes named {names}: {reason}"

    def too_late(self, group: Group, now: float) -> str:
        """Return why tasks of this group can't be started any more."""
        left = max(0.0, self._latest - now)
        return (
            f"it is declared to take {group.key.duration_s:,.6g} s, and tasks have to end within {left:,.6g} s in this pilot; "
            "submit it to a pilot with more runtime, or declare a shorter duration_s if it takes less"
        )


def _gang_refusal(request: Request) -> str | None:
    if request.gang_size < 1:
        return f"gang={request.gang!r} has gang_size={request.gang_size}; say how many tasks it has"
    if request.colocate or request.beside:
        tag = "colocate" if request.colocate else "task"
        return (
            f"it is one of gang {request.gang!r}, and its tag {tag} makes it wait for a node of its own; leave one of them out"
        )
    return None
