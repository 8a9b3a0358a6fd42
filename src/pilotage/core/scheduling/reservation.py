"""Large tasks do not starve: nodes are kept for the task whose turn it is, once it has been passed over long enough.

When the task whose turn it is has been refused for ``patience_s``, or ``overtake_limit`` tasks were placed meanwhile, the
nodes that will be free with least loss are *reserved*: nothing else is placed there and no lane draws, until it fits. So a
large task starts in the end, however many small ones come. There is one reservation at a time, and a task of higher priority
ends it. Until it can start there, by what is declared, shorter tasks are filled in (see ``backfill``).

Nothing is reserved for a task for which only the end of a service could make room: that may never come, and all others would
wait with it. Such a group is *walled* until a service ends or the nodes are others, and the turn to be served is the next's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import accumulate

from pilotage.core.scheduling import slots
from pilotage.core.scheduling.backfill import Gaps
from pilotage.core.scheduling.ends import NOT_KNOWN, DeclaredEnds
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.policy import SERVICE, Assignment, shortest_duration
from pilotage.core.scheduling.pool import OPEN, RESERVED, Pool
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.search import Layout, spread, tightest
from pilotage.core.scheduling.services import ServiceHoldings
from pilotage.model.resources import Placement


class Reservation:
    """The ``nodes`` that are kept for the first task of ``group``; ``changed`` when something came free there."""

    __slots__ = ("changed", "gaps", "group", "nodes")

    def __init__(self, group: Group, nodes: list[int], gaps: Gaps) -> None:
        self.group = group
        self.nodes = nodes
        self.gaps = gaps
        self.changed = True


class Reservations:
    """Counts how long groups are passed over, and makes, serves and ends the reservation that follows."""

    def __init__(self, pool: Pool, placing: Placing, releases: Releases, overtake_limit: int, patience_s: float) -> None:
        self._pool = pool
        self._placing = placing
        self._releases = releases
        self._overtake_limit = overtake_limit
        self._patience_s = patience_s
        self._placed = 0
        self._changes = 0
        """How often a service ended or the nodes became others."""
        self.services = ServiceHoldings(pool)
        self.ends = DeclaredEnds(pool)
        self.knows = False
        """Whether anything is known of when what is held comes free: so that others need not ask."""
        self.now = 0.0
        self.current: Reservation | None = None

    def note_placed(self, group: Group, count: int, placed: Sequence[Assignment] = ()) -> None:
        """So many tasks of this group were placed, or drawn. ``placed`` ends with what they took anew."""
        self._placed += count
        if group.key.lane_kind == SERVICE:
            for assignment in placed[-count:]:
                self.note_service(assignment.placement)
        elif group.need.gang:
            # Each member has a duration of its own.
            for assignment in placed[-count:]:
                self._note_end(assignment.group.duration_s, (assignment,))
        elif group.key.duration_s and placed:
            self._note_end(group.key.duration_s, placed[-count:])
        group.overtaken_from = -1
        current = self.current
        if current is not None and current.group is group:
            self.end()

    def _note_end(self, duration_s: float, placed: Iterable[Assignment]) -> None:
        if duration_s:
            self.knows = True
            end = self.now + shortest_duration(duration_s)
            for assignment in placed:
                self.ends.note(assignment.placement, end)

    def note_released(self, placement: Placement) -> None:
        """This was released, while something is known of what is held."""
        if self.services.held and self.services.end(placement):
            self._changes += 1
        else:
            self.ends.forget(placement)
        self.knows = bool(self.ends.held or self.services.held)

    def note_service(self, placement: Placement) -> None:
        """A service holds this from now on."""
        self.knows = True
        self.services.note(placement)

    def note_freed(self) -> None:
        """Something came free on nodes that are reserved."""
        if self.current is not None:
            self.current.changed = True
            self.current.gaps.note_freed()

    def note_nodes(self) -> None:
        """The nodes are others."""
        self._changes += 1

    def is_walled(self, group: Group) -> bool:
        """Tell whether nothing was reserved for this group as only the end of a service can make room for it."""
        return group.walled_at == self._changes

    def age(self, group: Group, now: float) -> bool:
        """Count how long the group whose turn it is has been passed over; tell if the reservations changed by that."""
        current = self.current
        if current is not None:
            if current.group.order_base > group.order_base:
                self.end()
                return True
            return False
        if group.overtaken_from < 0:
            group.overtaken_from = self._placed
            group.refused_since = now
            return False
        if self._placed - group.overtaken_from < self._overtake_limit and now - group.refused_since < self._patience_s:
            return False
        return self.make(group)

    def make(self, group: Group) -> bool:
        """Reserve nodes for the first task of this group; tell if that can be."""
        need = group.need
        if need.request.beside and self._placing.settled_node(need) is None:
            return False
        nodes = self._nodes_for(group)
        if not nodes:
            group.walled_at = self._changes
            return False
        if any(self._pool.state[node] != OPEN for node in nodes):
            return False
        for node in nodes:
            self._pool.set_state(node, RESERVED)
        # When a gang can start is not foreseen: nothing is filled in.
        end = NOT_KNOWN if need.gang else self.ends.earliest(need, nodes, self.services, lambda: self._fits(group, nodes))
        self.current = Reservation(group, nodes, Gaps(self._pool, nodes, end))
        return True

    def _fits(self, group: Group, nodes: Sequence[int]) -> bool:
        need = group.need
        if need.chosen:
            return slots.are_free(self._pool, need.chosen, RESERVED)
        return self._layout(need, nodes) is not None

    def _layout(self, need: Need, nodes: Sequence[int]) -> Layout | None:
        return spread([(node, room) for node in nodes if (room := self._pool.capacity(need, node))], need)

    def _nodes_for(self, group: Group) -> list[int]:
        """Return the nodes to be kept; none if what will be free on any is not enough."""
        need = group.need
        services = self.services
        if need.gang:
            return self._placing.gangs.nodes_for(group, services.held)
        if need.chosen:
            return [share.node for share in need.chosen] if services.leave(need.chosen) else []
        if need.follows:
            node = self._placing.settled_node(need)
            if node is not None:
                if group.index is not None and node not in group.index.bucket_of:
                    return []
                return [node] if services.room(need, node) >= need.ranks else []
        return nodes_to_drain(self._pool, need, None if group.index is None else group.index.only, services)

    def serve(self, out: list[Assignment]) -> None:
        """Place the task for which nodes are reserved, if it fits there now."""
        current = self.current
        if current is None or not current.changed:
            return
        current.changed = False
        group = current.group
        if group.need.gang:
            placed = self._placing.gangs.place_reserved(group, RESERVED, out)
            if placed:
                self.note_placed(group, placed, out)
            return
        if group.need.chosen:
            if self._placing.place_chosen(group, RESERVED, out):
                self.note_placed(group, 1, out)
            return
        if group.need.follows and self._placing.settled_node(group.need) not in (None, *current.nodes):
            # Meanwhile another task of the tag has settled the node.
            self.end()
            return
        layout = self._layout(group.need, current.nodes)
        if layout is not None:
            self._placing.place_on(group, layout, group.arrivals[0] + 1, out)
            self.note_placed(group, 1, out)

    def fill(self, group: Group, out: list[Assignment]) -> bool:
        """Place the first task of this group on reserved nodes if it ends before these are needed; tell whether it was."""
        current = self.current
        layout = None if current is None or group is current.group else current.gaps.layout(group, self.now)
        if layout is None:
            return False
        self._placing.place_on(group, layout, group.arrivals[0] + 1, out)
        self.note_placed(group, 1, out)
        return True

    def end(self) -> None:
        """Open the nodes that are reserved, if there are any."""
        current = self.current
        if current is None:
            return
        self.current = None
        for node in current.nodes:
            self._pool.set_state(node, OPEN)
        # For the refused these nodes are as good as released.
        self._releases.extend(current.nodes)

    def faults(self) -> list[str]:
        """Return what is inconsistent between nodes and reservation (test aid)."""
        faults = []
        reserved = {node for node, state in enumerate(self._pool.state) if state == RESERVED}
        expected = set(self.current.nodes) if self.current is not None else set()
        if reserved != expected:
            faults.append(f"nodes {sorted(reserved)} are reserved, nodes {sorted(expected)} should be")
        if self.current is not None and not self.current.group.live:
            faults.append("a reservation stands for a group in which no task waits")
        return faults


def nodes_to_drain(pool: Pool, need: Need, only: Collection[int] | None, services: ServiceHoldings) -> list[int]:
    """Return open nodes (of ``only``, if given) that hold ``need`` once all but ``services`` have ended there.

    They are near each other, with least running; none are returned if all of them together are not enough.
    """
    least = need.ranks if need.follows else need.per_node or 1
    room_of = [need.capacity(shape) for shape in pool.index.shapes]
    open_nodes = [n for n, state in enumerate(pool.state) if state == OPEN and (only is None or n in only)]
    shape_number = pool.index.shape_number
    room_on = {n: room_of[shape_number[n]] for n in open_nodes}
    if services.held:
        room_on.update((n, services.room(need, n)) for n in open_nodes if services.on(n))
    nodes = [node for node in open_nodes if room_on[node] >= least]
    rooms = [need.per_node or room_on[node] for node in nodes]
    running = [0, *accumulate(pool.shape[node].cores - pool.count[node] for node in nodes)]
    window = tightest(rooms, need.ranks, running[:-1], running[1:])
    if window is None:
        # The last of even shares may fit on a smaller node only: whichever that is, it is among all.
        enough = not need.follows and spread([(node, room) for node, room in room_on.items() if room], need)
        return open_nodes if enough else []
    return nodes[window[0] : window[1]]
