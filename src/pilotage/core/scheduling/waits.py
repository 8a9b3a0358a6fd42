"""Why a task waits, in a sentence."""

from __future__ import annotations

from pilotage.core.scheduling import need as needs
from pilotage.core.scheduling import slots
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.placing import Placing
from pilotage.core.scheduling.pool import OPEN, Pool
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.reservation import Reservation
from pilotage.model.ids import TaskUid

NOTHING_WAITS = "nothing waits here under this name"


def why(task: TaskUid, group: Group, before: int, pool: Pool, placing: Placing, reservation: Reservation | None) -> str:
    """Return why the ``task`` of ``group`` waits, with ``before`` tasks before it."""
    if group.stranded is not None:
        return f"cannot run any more: {group.stranded}"
    need = group.need
    words = [slots.describe(pool, need.chosen)] if need.chosen else _rooms(need, pool)
    bound = placing.node_of_tag.get(need.colocate)
    if bound is not None:
        words.append(f"the tag {need.colocate!r} keeps it on node {pool.nodes[bound].name}")
    words.append(f"{_many(before, 'task is', 'tasks are')} before it")
    if reservation is not None:
        nodes = _many(len(reservation.nodes), "node", "nodes")
        whose = "it" if reservation.group.tasks[0] == task else f"task {reservation.group.tasks[0]}"
        words.append(f"a reservation for {whose} holds {nodes}")
    return "; ".join(words)


def _rooms(need: Need, pool: Pool) -> list[str]:
    rooms = [pool.capacity(need, node) for node, state in enumerate(pool.state) if state == OPEN]
    nodes = _many(sum(room > 0 for room in rooms), "node has", "nodes have")
    what = "it" if need.ranks == 1 else f"{sum(rooms):,} ranks of it"
    return [f"needs {needs.describe(need)}", f"{nodes} room for {what} now"]


def _many(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
