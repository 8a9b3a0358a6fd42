"""Which pilot gets which tasks.

How a manager deals is said by its ``scheduler``:

``round_robin``: each task at once, in turn, to the pilots that can hold it, whether they are active yet or not.

``backfilling``: only active pilots get tasks, each up to its *window*, and the rest waits for whichever pilot is done first.
The window is what the pilot can use within a second (its throughput), and at least two tasks for each core, so that the pilot
never idles for want of a message and a pilot that comes later still finds work. A task counts by what it takes: as many cores
as it asks for, or as the greatest part of the pilot's GPUs, memory or disk comes to.

None of the two: a manager with one pilot binds to it at once, even before it is active, as there is nothing to choose, and
the tasks are there when it starts; a manager with several does as ``backfilling``.

The tasks of a gang wait here until all have come, and then go to the pilot that the first of them gets, whatever room there
is: they start together.

A pilot whose services are not ready yet gets no tasks in any of these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pilotage.core.client.state import ClientState, ManagerRecord, PilotRecord
from pilotage.core.scheduling.need import Need, refusal
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, Request
from pilotage.model.states import PMGR_ACTIVE

TASKS_PER_CORE = 2
CHUNK_TASKS = 2000
"""Most tasks in one message, so that the pilot starts the first while the rest is under way."""

Shares = list[tuple[PilotRecord, list[TaskUid]]]


def usable_pilots(state: ClientState, manager: ManagerRecord) -> list[PilotRecord]:
    """Return the pilots of a manager that take tasks, now or when they become active."""
    return [pilot for uid in manager.pilots if (pilot := state.pilots[uid]).usable]


def only_pilot(state: ClientState, manager: ManagerRecord) -> PilotRecord | None:
    """Return the pilot that all tasks of a manager are bound to at once; None if they are dealt, or wait."""
    usable = usable_pilots(state, manager)
    alone = len(usable) == 1 and manager.scheduler != "backfilling"
    return usable[0] if alone and not usable[0].awaited else None


def fits(request: Request, nodes: Sequence[Node]) -> bool:
    """Tell whether nodes could ever hold this request, when all of it is free. No nodes means that they are not known."""
    if not nodes:
        return True
    need = Need(request)
    ranks = 0
    for node in nodes:
        most = need.capacity(node.shape)
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


class Capacity(msgspec.Struct, frozen=True):
    """What all nodes of a pilot have together, in the units of ``NodeShape``."""

    nodes: int
    cores: int
    gpu_shares: int
    memory: int
    disk: int


class Dealer:
    """Deals the waiting tasks of managers to pilots. What it keeps is derived from the state."""

    def __init__(self, state: ClientState) -> None:
        self._state = state
        self._capacities: dict[PilotUid, tuple[list[Node], Capacity]] = {}

    def deal(self, manager: ManagerRecord) -> Shares:
        """Return which waiting tasks of a manager go to which pilots now, in the order in which they wait."""
        usable = usable_pilots(self._state, manager)
        if not manager.waiting or not usable:
            return []
        if (only := only_pilot(self._state, manager)) is not None:
            return [(only, list(manager.waiting))]
        gangs = self._gangs(manager, usable)
        deal = self._in_turn if manager.scheduler == "round_robin" else self._by_room
        shares = deal(manager, usable, gangs)
        if gangs.names:
            gangs.complete(manager, {pilot.uid for pilot in usable if not pilot.awaited}, shares)
        return [(self._state.pilots[name], tasks) for name, tasks in shares.items()]

    def _gangs(self, manager: ManagerRecord, usable: list[PilotRecord]) -> _Gangs:
        tasks = self._state.tasks
        names = self._state.gang_templates
        if names and not any(tasks[uid].row.template in names for uid in manager.waiting):
            names = {}
        return _Gangs(self._state, names, {pilot.uid for pilot in usable})

    def _in_turn(self, manager: ManagerRecord, usable: list[PilotRecord], gangs: _Gangs) -> dict[PilotUid, list[TaskUid]]:
        takes = [pilot.uid for pilot in usable if not pilot.awaited]
        dealt = {uid: manager.dealt.get(uid, 0) for uid in takes}
        fitting: dict[TemplateId, list[PilotUid]] = {}
        shares: dict[PilotUid, list[TaskUid]] = {}
        for uid in manager.waiting:
            template = self._state.tasks[uid].row.template
            if template in gangs.names and gangs.holds_back(template):
                continue
            pilots = fitting.get(template)
            if pilots is None:
                pilots = fitting[template] = [name for name in self._fitting(template, usable) if name in dealt]
            # The turn is that of who got least, so that tasks which only some pilots can hold do not upset that of others.
            chosen = min(pilots, key=dealt.__getitem__, default=None)
            if chosen is not None:
                dealt[chosen] += 1
                shares.setdefault(chosen, []).append(uid)
                if template in gangs.names:
                    gangs.note(template, chosen)
        return shares

    def _by_room(self, manager: ManagerRecord, usable: list[PilotRecord], gangs: _Gangs) -> dict[PilotUid, list[TaskUid]]:
        rooms = {
            pilot.uid: room
            for pilot in usable
            if pilot.state == PMGR_ACTIVE and not pilot.awaited and (room := self._room(pilot)).left > 0
        }
        shares: dict[PilotUid, list[TaskUid]] = {}
        fitting: dict[TemplateId, list[PilotUid]] = {}
        for uid in manager.waiting:
            if not rooms:
                break
            template = self._state.tasks[uid].row.template
            if template in gangs.names and gangs.holds_back(template):
                continue
            pilots = fitting.get(template)
            if pilots is None:
                pilots = fitting[template] = self._fitting(template, usable)
            chosen = max((rooms[name] for name in pilots if name in rooms), key=lambda room: room.left, default=None)
            if chosen is None:
                continue
            chosen.take(template)
            if chosen.left <= 0:
                del rooms[chosen.pilot.uid]
            shares.setdefault(chosen.pilot.uid, []).append(uid)
            if template in gangs.names:
                gangs.note(template, chosen.pilot.uid)
        return shares

    def _fitting(self, template: TemplateId, usable: list[PilotRecord]) -> list[PilotUid]:
        """Return the pilots that can hold a task. What fits nowhere goes to any: its agent refuses it, and says why."""
        request = self._state.templates[template].request
        if request.beside:
            # The node is one of the pilot that has, or had, the other task.
            earlier = self._state.tasks.get(TaskUid(request.beside))
            if earlier is not None and any(pilot.uid == earlier.pilot for pilot in usable):
                return [earlier.pilot]
        requests = [request]
        if request.gang:
            templates = self._state.templates
            requests = [
                templates[number].request for number, gang in self._state.gang_templates.items() if gang == request.gang
            ]
        found = [pilot.uid for pilot in usable if all(fits(each, pilot.nodes) for each in requests)]
        return found or [pilot.uid for pilot in usable]

    def _room(self, pilot: PilotRecord) -> _Room:
        nodes, capacity = self._capacities.get(pilot.uid, (None, Capacity(0, 0, 0, 0, 0)))
        # A pilot of ten thousand nodes is summed up once, not whenever it has ended some tasks.
        if nodes is not pilot.nodes:
            capacity = capacity_of(pilot.nodes)
            self._capacities[pilot.uid] = (pilot.nodes, capacity)
        return _Room(self._state, pilot, capacity)


class _Gangs:
    """The gangs of tasks that wait, and the ``usable`` pilots that they got. ``names``: of gangs, by template."""

    def __init__(self, state: ClientState, names: dict[TemplateId, str], usable: set[PilotUid]) -> None:
        self._tasks = state.tasks
        self.names = names
        self._pilots: dict[str, PilotUid] = {}
        self._came: dict[str, int] = {}
        self._sizes = {names[number]: state.templates[number].request.gang_size for number in names}
        for record in state.tasks.values() if names else ():
            gang = names.get(record.row.template)
            if gang is not None:
                self._came[gang] = self._came.get(gang, 0) + 1
                if record.pilot in usable:
                    self._pilots[gang] = record.pilot

    def holds_back(self, template: TemplateId) -> bool:
        """Tell whether no pilot is to be chosen: others of the gang have got one, or are still to come."""
        gang = self.names[template]
        return gang in self._pilots or self._came[gang] < self._sizes[gang]

    def note(self, template: TemplateId, pilot: PilotUid) -> None:
        """A task of the gang gets this pilot."""
        self._pilots[self.names[template]] = pilot

    def complete(self, manager: ManagerRecord, takes: set[PilotUid], shares: dict[PilotUid, list[TaskUid]]) -> None:
        """Add to the shares the others of each gang that has got one of the pilots that ``takes`` tasks."""
        dealt = {uid for tasks in shares.values() for uid in tasks}
        for uid in manager.waiting:
            gang = self.names.get(self._tasks[uid].row.template)
            pilot = None if gang is None else self._pilots.get(gang)
            if pilot in takes and uid not in dealt:
                shares.setdefault(pilot, []).append(uid)


class _Room:
    """How much more an active pilot should hold: as many tasks as it ends in a second, or twice what it can run.

    Or, if that is more, as many as it waits for before it starts any.
    """

    def __init__(self, state: ClientState, pilot: PilotRecord, capacity: Capacity) -> None:
        self.pilot = pilot
        self._templates = state.templates
        self._capacity = capacity
        extra = sum(count * (self._weight(template) - 1) for template, count in pilot.wide.items())
        # What stays below a pilot's barrier would wait there for ever.
        self._tasks = max(pilot.throughput, pilot.interval_outcomes, pilot.barrier) - pilot.load
        self._cores = TASKS_PER_CORE * capacity.cores - pilot.load - extra

    @property
    def left(self) -> float:
        """How much, in tasks of one core."""
        return max(self._tasks, self._cores)

    def take(self, template: TemplateId) -> None:
        """One task more."""
        self._tasks -= 1
        self._cores -= self._weight(template)

    def _weight(self, template: TemplateId) -> float:
        return weight(self._templates[template].request, self._capacity)


def capacity_of(nodes: Sequence[Node]) -> Capacity:
    """Return what nodes have together."""
    shapes = [node.shape for node in nodes]
    return Capacity(
        len(nodes),
        sum(shape.cores for shape in shapes),
        sum(shape.gpus for shape in shapes) * GPU_SHARES,
        sum(shape.memory for shape in shapes),
        sum(shape.disk for shape in shapes),
    )


def weight(request: Request, capacity: Capacity) -> float:
    """Return as how many cores of a pilot a task counts: the greatest part that it takes of anything, in cores.

    >>> half = Capacity(nodes=1, cores=8, gpu_shares=2 * 64, memory=0, disk=0)
    >>> weight(Request(ranks=2, cores=2), half), weight(Request(gpu_shares=64), half)
    (4.0, 4.0)
    """
    cores, ranks = capacity.cores, request.ranks
    counts = [float(ranks * request.cores)]
    for asked, there in (
        (request.gpu_shares, capacity.gpu_shares),
        (request.memory, capacity.memory),
        (request.disk, capacity.disk),
    ):
        if asked and there:
            counts.append(ranks * asked * cores / there)
    if request.exclusive and capacity.nodes:
        nodes = -(-ranks // request.ranks_per_node) if request.ranks_per_node else 1
        counts.append(nodes * cores / capacity.nodes)
    return max(counts)
