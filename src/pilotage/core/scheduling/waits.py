"""Why a task waits, in a sentence."""

from __future__ import annotations

from collections.abc import Collection

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.pool import OPEN, SUSPENDED, Pool
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.reservation import Reservations
from pilotage.model.ids import TaskUid

NOTHING_WAITS = "nothing waits here under this name"

_NAMED = 4
"""So many nodes that cannot be used are named."""


def why(task: TaskUid, group: Group, before: int, pool: Pool, placing: Placing, reservations: Reservations) -> str:
    """Return why the ``task`` of ``group`` waits, with ``before`` tasks before it."""
    if group.stranded:
        return f"cannot run any more: {group.stranded}"
    need = group.need
    words = [slots.describe(pool, need.chosen)] if need.chosen else _rooms(group, pool)
    bound = placing.settled_node(need) if need.follows else None
    if bound is not None:
        words.append(f"the tag {need.colocate or need.request.beside!r} keeps it on node {pool.nodes[bound].name}")
    elif need.request.beside:
        words.append(f"it is to run on the node of task {need.request.beside!r}, which is not placed yet")
    if need.gang and need.request.gang_size > 1:
        words.append(f"all {need.request.gang_size:,} tasks of gang {need.request.gang!r} are here, and start together")
    suspended = [pool.nodes[node].name for node in _nodes_of(group, pool) if pool.state[node] == SUSPENDED]
    if suspended:
        named = ", ".join(suspended[:_NAMED]) + (", ..." if len(suspended) > _NAMED else "")
        words.append(f"nothing can be started for now on {_many(len(suspended), 'node', 'nodes')}: {named}")
    elif reservations.is_walled(group):
        words.append("only the end of a service can make room for it")
    words.append(f"{_many(before, 'task is', 'tasks are')} before it")
    reservation = reservations.current
    if reservation is not None:
        nodes = _many(len(reservation.nodes), "node", "nodes")
        whose = "it" if reservation.group.tasks[0] == task else f"task {reservation.group.tasks[0]}"
        words.append(f"a reservation for {whose} holds {nodes}")
    return "; ".join(words)


def _nodes_of(group: Group, pool: Pool) -> Collection[int]:
    """Return the nodes on which the group may run, in their order."""
    return range(len(pool.state)) if group.index is None else group.index.bucket_of


def _rooms(group: Group, pool: Pool) -> list[str]:
    need = group.need
    only = _nodes_of(group, pool)
    rooms = [pool.capacity(need, node) for node in only if pool.state[node] == OPEN]
    nodes = _many(sum(room > 0 for room in rooms), "node has", "nodes have")
    if need.pinned:
        nodes = f"of {_many(len(only), 'node', 'nodes')} named {', '.join(need.pinned)} {nodes}"
    what = "it" if need.ranks == 1 else f"{sum(rooms):,} ranks of it"
    return [f"needs {needs.describe(need)}", f"{nodes} room for {what} now"]


def _many(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
