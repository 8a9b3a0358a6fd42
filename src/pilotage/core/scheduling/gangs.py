"""Gangs: tasks that start together or not at all.

Members wait in groups of their own shapes, set aside until as many wait as the gang has (``size``). Then the group of the
oldest *leads*: it stands in the order of turns, for all of them. When its turn comes, nodes are taken for one member after
the other, the largest first; if one finds none, all is given back. Which members count as large is found out by the plan.

Whether a gang can run at all is found out on an *idle machine*, a second set of books in which nothing is held: the layout
found there is its *plan*. A machine that has emptied has room for the plan, whichever way the search would go there; so what
has a plan is placed in the end. When a gang was passed over for too long, the nodes of its plan are what is reserved for it,
and it starts when all of the plan is free. (The plan keeps clear of what services hold then.)

Tasks of one name beyond ``size`` wait for as many more. A member that comes back after its gang has begun is a gang of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pilotage.core.scheduling import slots
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.policy import Assignment, GroupKey
from pilotage.core.scheduling.pool import CLOSED, LOST, OPEN, Pool
from pilotage.core.scheduling.queue import Group, WaitingQueue
from pilotage.core.scheduling.releases import Releases
from pilotage.core.scheduling.search import Layout, Search
from pilotage.core.scheduling.tags import Places
from pilotage.model.resources import NodeShare, Placement

_ALL = 1 << 62
"""Later than any arrival."""

MISFIT = (
    "the {size} tasks of gang {name!r} start together, and do not fit on the nodes of this pilot at once, though each of them "
    "does; ask for less, or for more nodes"
)

Plan = list[tuple[Group, Layout]]
"""Nodes for each member, the largest first; an empty layout stands for the slots that the user has chosen."""


class Gang:
    """The members that wait, by their groups."""

    __slots__ = ("cores", "groups", "lead", "name", "order", "plan", "size", "tried_at")

    def __init__(self, name: str, size: int) -> None:
        self.name = name
        self.size = size
        self.groups: dict[GroupKey, Group] = {}
        self.lead: Group | None = None
        """The group that has the turn of the gang; None: members are missing, or they can't run."""
        self.cores = 0
        """How many the members take together."""
        self.order = 0
        """By which of ``_ORDERS`` nodes are taken for members."""
        self.plan: Plan = []
        self.tried_at = -1
        """How many releases had been noted when there was no room for all; -1: try anew."""

    @property
    def waiting(self) -> int:
        """How many members wait."""
        return sum([group.live for group in self.groups.values()])

    def members(self) -> list[tuple[Group, int]]:
        """Return who is to start together, as groups and numbers of tasks: the largest first."""
        left = self.size
        found = []
        for group in sorted([group for group in self.groups.values() if group.live], key=lambda group: group.arrivals[0]):
            count = min(left, group.live)
            if count:
                found.append((group, count))
            left -= count
        size_of = _ORDERS[self.order]
        return sorted(found, key=lambda member: size_of(member[0].need), reverse=True)


class Gangs:
    """The gangs of which members wait.

    ``search`` looks for nodes in ``pool``, and what ``make_search`` returns in another. ``line_up`` gives a group its turn.
    """

    def __init__(
        self,
        pool: Pool,
        queue: WaitingQueue,
        releases: Releases,
        search: Search,
        make_search: Callable[[Pool], Search],
        places: Places,
        line_up: Callable[[Group], None],
    ) -> None:
        self._pool = pool
        self._queue = queue
        self._releases = releases
        self._search = search
        self._places = places
        self._make_search = make_search
        self._line_up = line_up
        self._idle: tuple[Pool, Search] | None = None
        self._counted_at = -1
        self._counted = 0
        self._gangs: dict[tuple[str, int], Gang] = {}
        self.misfits: list[Group] = []
        """Groups that were found just now to lead gangs which can never run."""

    # Who waits.

    def of(self, group: Group) -> Gang:
        """Return the gang of this group."""
        request = group.need.request
        gang = self._gangs.get((request.gang, request.gang_size))
        if gang is None:
            gang = self._gangs[request.gang, request.gang_size] = Gang(request.gang, request.gang_size)
        gang.groups[group.key] = group
        return gang

    def settle(self, gang: Gang) -> None:
        """Find out who leads, as members came, left or were placed, and give that group its turn."""
        if gang.lead is not None and gang.lead.stranded is None:
            gang.lead.stranded = ""
        gang.lead, gang.plan, gang.tried_at = None, [], -1
        gang.groups = {key: group for key, group in gang.groups.items() if group.live}
        if not gang.groups:
            self._gangs.pop((gang.name, gang.size), None)
            return
        if gang.waiting < gang.size or any(group.stranded for group in gang.groups.values()):
            return
        lead = min(gang.groups.values(), key=lambda group: group.arrivals[0])
        plan = self._plan(gang, ())
        if plan is None:
            lead.stranded = MISFIT.format(size=gang.size, name=gang.name)
            self.misfits.append(lead)
            return
        gang.lead, gang.plan = lead, plan
        gang.cores = sum([count * group.need.ranks * group.need.cores for group, count in gang.members()])
        lead.stranded = None
        lead.refused_at = lead.overtaken_from = -1
        lead.latest = min([group.latest for group, _ in gang.members()])
        self._line_up(lead)

    def settle_anew(self) -> None:
        """The nodes are others: find out who leads everywhere."""
        self._idle = None
        for gang in list(self._gangs.values()):
            self.settle(gang)

    def take_misfits(self) -> list[Group]:
        """Return the ``misfits``, once."""
        misfits, self.misfits = self.misfits, []
        return [group for group in misfits if group.live and group.stranded]

    def describe(self, group: Group) -> str:
        """Return in words whom the members wait for; empty if that is nobody."""
        gang = self.of(group)
        missing = gang.size - gang.waiting
        if gang.size == 1 or missing <= 0:
            return ""
        are = "is" if missing == 1 else "are"
        return (
            f"starts together with the other tasks of gang {gang.name!r}: {gang.waiting:,} of {gang.size:,} wait here, "
            f"{missing:,} {are} missing"
        )

    # Where they run.

    def place(self, group: Group, out: list[Assignment]) -> int:
        """Place the gang that this group leads, if there is room for all members; return how many that are."""
        gang = self.of(group)
        if gang.lead is not group or gang.tried_at == self._releases.end():
            return 0
        gang.tried_at = self._releases.end()
        if gang.cores > self._free_cores():
            return 0
        taken = self._lay_out(self._pool, self._search, gang)
        self._search.cut = False
        if taken is None:
            taken = self._follow(gang.plan, OPEN)
        return 0 if taken is None else self._begin(gang, taken, out)

    def _free_cores(self) -> int:
        """Return how many cores are free, or were when something came free last: there are no more now."""
        end = self._releases.end()
        if self._counted_at != end:
            self._counted_at, self._counted = end, sum(self._pool.count)
        return self._counted

    def place_reserved(self, group: Group, state: int, out: list[Assignment]) -> int:
        """Place the gang as planned, on nodes of this state, if all of that is free; return how many members it has."""
        gang = self.of(group)
        taken = self._follow(gang.plan, state)
        return 0 if taken is None else self._begin(gang, taken, out)

    def nodes_for(self, group: Group, held: Iterable[NodeShare]) -> list[int]:
        """Plan the gang anew beside what services have ``held``; return its nodes, or none if that leaves no room for it."""
        gang = self.of(group)
        shares = list(held)
        plan = self._plan(gang, shares) if shares else gang.plan
        if plan is None:
            return []
        gang.plan = plan
        nodes: dict[int, None] = {}
        for member, layout in plan:
            nodes.update(dict.fromkeys([share.node for share in member.need.chosen] or [node for node, _ in layout]))
        return list(nodes)

    def _begin(self, gang: Gang, taken: list[tuple[Group, Layout, Placement]], out: list[Assignment]) -> int:
        for group, _, placement in taken:
            tasks = self._queue.take(group, 1, _ALL)
            self._places.note(tasks, placement[0].node)
            out.append(Assignment(group.key, tasks, placement))
        self.settle(gang)
        return len(taken)

    def _plan(self, gang: Gang, held: Sequence[NodeShare]) -> Plan | None:
        """Lay the gang out on a machine on which nothing but this is held, in an order in which that can be."""
        for gang.order in range(len(_ORDERS)):
            plan = self._plan_in_order(gang, held)
            if plan is not None:
                return plan
        return None

    def _plan_in_order(self, gang: Gang, held: Sequence[NodeShare]) -> Plan | None:
        if self._idle is None:
            pool = Pool(self._pool.nodes)
            for node, state in enumerate(self._pool.state):
                if state >= CLOSED:
                    pool.set_state(node, LOST)
            self._idle = pool, self._make_search(pool)
        pool, search = self._idle
        there = [share for share in held if pool.state[share.node] == OPEN]
        for share in there:
            pool.occupy(share)
        search.thorough = True
        taken = self._lay_out(pool, search, gang)
        for _group, _, placement in taken or ():
            _give_back(pool, placement)
        _give_back(pool, there)
        return None if taken is None else [(group, layout) for group, layout, _ in taken]

    def _lay_out(self, pool: Pool, search: Search, gang: Gang) -> list[tuple[Group, Layout, Placement]] | None:
        """Take nodes for all members that a search finds, or none."""
        taken: list[tuple[Group, Layout, Placement]] = []
        for group, count in gang.members():
            need, view = group.need, group.index
            if view is not None and pool is not self._pool:
                view = pool.view(view.bucket_of)
            layout: Layout | None = None
            for _ in range(count):
                if need.chosen:
                    layout = [] if slots.are_free(pool, need.chosen) else None
                elif need.scatters or need.exclusive:
                    layout = search.nodes(need, view)
                else:
                    node = search.node(need, view)
                    layout = None if node < 0 else [(node, need.ranks)]
                if layout is None:
                    break
                taken.append((group, layout, _take(pool, need, layout)))
            if view is not None and pool is not self._pool:
                pool.drop_view(view)
            if layout is None:
                for _, _, placement in taken:
                    _give_back(pool, placement)
                return None
        return taken

    def _follow(self, plan: Plan, state: int) -> list[tuple[Group, Layout, Placement]] | None:
        """Take all that the plan says, on nodes of this state, or nothing."""
        pool = self._pool
        taken: list[tuple[Group, Layout, Placement]] = []
        for group, layout in plan:
            need = group.need
            if need.chosen:
                fits = slots.are_free(pool, need.chosen, state)
            else:
                fits = all(pool.state[node] == state and pool.capacity(need, node) >= ranks for node, ranks in layout)
            if not fits:
                for _, _, placement in taken:
                    _give_back(pool, placement)
                return None
            taken.append((group, layout, _take(pool, need, layout)))
        return taken

    def faults(self) -> list[str]:
        """Return what is inconsistent between gangs and the order of turns (test aid)."""
        faults = []
        for gang in self._gangs.values():
            for group in gang.groups.values():
                if group.live and group.stranded is None and group is not gang.lead:
                    faults.append(f"{group.key} has a turn, and does not lead its gang")
            if gang.lead is not None and gang.waiting < gang.size:
                faults.append(f"gang {gang.name!r} has a turn with {gang.waiting} of {gang.size} members")
        return faults


def _take(pool: Pool, need: Need, layout: Layout) -> Placement:
    if need.chosen:
        for share in need.request.slots:
            pool.occupy(share)
        return need.request.slots
    return tuple([pool.carve(need, node, ranks) for node, ranks in layout])


def _give_back(pool: Pool, shares: Iterable[NodeShare]) -> None:
    for share in shares:
        pool.give_back(share)


def _limited(need: Need) -> tuple[bool, bool, bool]:
    """Those with least choice come first in all orders."""
    return bool(need.chosen), bool(need.pinned), need.exclusive


def _by_gpus(need: Need) -> tuple[Any, ...]:
    gpus = need.ranks * need.request.gpu_shares
    return *_limited(need), gpus, need.ranks * need.cores, need.ranks * need.memory


def _by_cores(need: Need) -> tuple[Any, ...]:
    return *_limited(need), need.ranks * need.cores, need.ranks * need.request.gpu_shares, need.ranks * need.memory


def _by_rank(need: Need) -> tuple[Any, ...]:
    return *_limited(need), need.cores * (1 if need.scatters else need.ranks), need.request.gpu_shares, need.memory


def _by_memory(need: Need) -> tuple[Any, ...]:
    return *_limited(need), need.ranks * need.memory, need.ranks * need.disk, need.ranks * need.cores


_ORDERS: tuple[Callable[[Need], tuple[Any, ...]], ...] = (_by_gpus, _by_cores, _by_rank, _by_memory)
