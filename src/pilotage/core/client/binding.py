"""Which pilot gets which tasks.

A manager with one pilot binds to it at once, even before it is active: there is nothing to choose, and the tasks are there
when it starts. A manager with several binds late: only active pilots get tasks, each up to its *window*, and the rest waits
for whichever pilot is done first. The window is what the pilot can use within a second (its throughput), and at least two
tasks for each core, so that the pilot never idles for want of a message and a pilot that comes later still finds work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pilotage.core.client.state import ClientState, ManagerRecord, PilotRecord
from pilotage.core.scheduling.need import Need, refusal
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, Request
from pilotage.model.states import PMGR_ACTIVE

TASKS_PER_CORE = 2
CHUNK_TASKS = 2000
"""Most tasks in one message, so that the pilot starts the first while the rest is under way."""


def usable_pilots(state: ClientState, manager: ManagerRecord) -> list[PilotRecord]:
    """Return the pilots of a manager that take tasks, now or when they become active."""
    return [pilot for uid in manager.pilots if (pilot := state.pilots[uid]).usable]


def room(pilot: PilotRecord) -> int:
    """Return how many more tasks an active pilot should hold."""
    window = max(TASKS_PER_CORE * pilot.cores, pilot.throughput, pilot.interval_outcomes)
    return max(0, window - pilot.load)


def fits(request: Request, nodes: Sequence[Node]) -> bool:
    """Tell whether nodes could ever hold this request, when all of it is free. No nodes means that they are not known."""
    if not nodes:
        return True
    ranks = 0
    for node in nodes:
        shape = node.shape
        most = shape.cores // request.cores
        if request.gpu_shares >= GPU_SHARES:
            most = min(most, shape.gpus * GPU_SHARES // request.gpu_shares)
        elif request.gpu_shares:
            most = min(most, shape.gpus * (GPU_SHARES // request.gpu_shares))
        if request.memory:
            most = min(most, shape.memory // request.memory)
        if request.disk:
            most = min(most, shape.disk // request.disk)
        if request.ranks_per_node:
            most = request.ranks_per_node if most >= request.ranks_per_node else 0
        ranks += most
        if ranks >= request.ranks:
            return True
    return False


def infeasible(request: Request, pilots: Mapping[PilotUid, Mapping[NodeShape, int]]) -> str:
    """Return why no pilot with so many nodes of these shapes can ever run a request; empty if one can, or if there is none.

    A pilot without nodes is one whose nodes are not known yet: it may turn out to be large enough.
    """
    reasons: dict[str, PilotUid] = {}
    for uid, shapes in pilots.items():
        refused = refusal(Need(request), shapes) if shapes else None
        if refused is None:
            return ""
        reasons.setdefault(refused, uid)
    if len(reasons) < 2:
        return "".join(reasons)
    return "; ".join(f"pilot {uid!r}: {reason}" for reason, uid in reasons.items())


def deal(state: ClientState, manager: ManagerRecord) -> list[tuple[PilotRecord, list[TaskUid]]]:
    """Return which waiting tasks of a manager go to which active pilots now, in the order in which they wait."""
    usable = usable_pilots(state, manager)
    if not manager.waiting or not usable:
        return []
    if len(usable) == 1:
        return [] if usable[0].awaited else [(usable[0], list(manager.waiting))]
    rooms = {pilot.uid: room(pilot) for pilot in usable if pilot.state == PMGR_ACTIVE and not pilot.awaited}
    left = sum(rooms.values())
    shares: dict[str, tuple[PilotRecord, list[TaskUid]]] = {}
    candidates: dict[TemplateId, list[PilotRecord]] = {}
    for uid in manager.waiting:
        if left <= 0:
            break
        template = state.tasks[uid].row.template
        fitting = candidates.get(template)
        if fitting is None:
            request = state.templates[template].request
            # What fits nowhere goes to any pilot: its agent refuses it, and says why.
            wide = [pilot for pilot in usable if fits(request, pilot.nodes)] or usable
            fitting = candidates[template] = [pilot for pilot in wide if pilot.uid in rooms]
        chosen = max(fitting, key=lambda pilot: rooms[pilot.uid], default=None)
        if chosen is None or not rooms[chosen.uid]:
            continue
        rooms[chosen.uid] -= 1
        left -= 1
        shares.setdefault(chosen.uid, (chosen, []))[1].append(uid)
    return list(shares.values())
