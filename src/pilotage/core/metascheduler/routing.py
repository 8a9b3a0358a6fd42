"""Which waiting tasks are leased to which partitions now.

Each group goes to those of its partitions that have the least to do, by their expected wait, in portions that are small
against what one of them runs at once; tasks are given out as long as partitions have room. So the cost is one decision for each
portion, not for each task.

What waits in a partition is not had back, so it is not to wait there while it could start elsewhere. While partitions are about
to come nobody is given tasks ahead of time. Nor is anybody, unless tasks are short, when what waits here is a *tail*: no more
than can start in the partitions by the time that each has done what runs there now. Who got some of that ahead of time would
be at it a generation later, while others had nothing left to do.
"""

from __future__ import annotations

import heapq
from collections import Counter

from pilotage.core.client.binding import CHUNK_TASKS
from pilotage.core.metascheduler import actions, facts
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.groups import Group, Route
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.queue import Queue
from pilotage.model.ids import TaskUid

_Turn = tuple[float, int, Backlog]

_ROUNDING = 1e-6
_MOST_SOON = 2.0 + _ROUNDING
"""Partitions can start no more than this of themselves soon."""


class Routing:
    """Leases tasks."""

    def __init__(self, journal: Journal, queue: Queue) -> None:
        self._journal = journal
        self._state = journal.state
        self._queue = queue
        self._services_only = False
        self._routes: list[Route] = []
        self._is_tail: bool | None = None
        """Whether what waits of the route that is dealt is a tail; None: to be found out."""
        self._sharing: Counter[str] | None = None
        """On how many of the routes that are dealt each partition lies; None: nobody has asked yet."""

    def deal(self, now: float, *, services_only: bool = False) -> None:
        """Lease what partitions have room for; ``services_only``: of other tasks nothing yet."""
        self._services_only = services_only
        shares: dict[str, list[TaskUid]] = {}
        self._routes = self._queue.routes_in_turn()
        self._sharing = None
        if self._state.gangs:
            self._deal_gangs(shares)
        for route in self._routes:
            self._is_tail = None
            self._deal_on(route, shares)
        for name, uids in shares.items():
            self._lease(now, name, uids)
            self._journal.act(actions.OfferMessages(name))

    def _deal_on(self, route: Route, shares: dict[str, list[TaskUid]]) -> None:
        """Deal the groups of a route."""
        # Nearly all partitions are full, nearly always.
        open_to = route.backlogs if route.services else [backlog for backlog in route.backlogs if not backlog.is_full]
        turns: list[_Turn] = [(backlog.seconds, backlog.index, backlog) for backlog in open_to if backlog.takes]
        if not turns:
            return
        heapq.heapify(turns)
        ahead = not any(backlog.record.life == "starting" for backlog in route.backlogs)
        for group in route.in_turn():
            if not turns:
                break
            if self._services_only and not group.is_service:
                continue
            blocked = self._deal_group(group, turns, shares, ahead)
            for turn in blocked:
                heapq.heappush(turns, turn)

    def _deal_group(self, group: Group, turns: list[_Turn], shares: dict[str, list[TaskUid]], ahead: bool) -> list[_Turn]:
        """Deal the tasks of a group; take out who has no room for more, and return those whom services block for it alone."""
        blocked: list[_Turn] = []
        tag = group.wish.request.party
        if group.wish.request.gang and self._state.gangs[group.wish.request.gang] < group.wish.request.gang_size:
            # What waits for others to come takes no room in a partition.
            return blocked
        suited = self._suited(group) if group.wish.request.gang and group.waiting else ()
        while turns and group.waiting:
            backlog = turns[0][2]
            if suited and backlog.name not in suited:
                blocked.append(heapq.heappop(turns))
                continue
            room = backlog.room(group, ahead=ahead)
            if ahead and room > 0 and self._is_in_tail(group):
                room = backlog.room(group, ahead=False)
            if room <= 0:
                turn = heapq.heappop(turns)
                if room < 0:
                    blocked.append(turn)
                continue
            if group.wish.request.gang:
                self._give_gang(group, backlog, shares)
                heapq.heapreplace(turns, (backlog.seconds, backlog.index, backlog))
                break
            if tag:
                # They share a node: the first choice is for all.
                portion = len(group.waiting)
            else:
                portion = min(room, max(1, backlog.slots(group) // 2, room // 4))
            taken = self._queue.take(group, portion)
            backlog.add(group, len(taken))
            shares.setdefault(backlog.name, []).extend(taken)
            heapq.heapreplace(turns, (backlog.seconds, backlog.index, backlog))
            self._queue.is_stale |= bool(tag)
        return blocked

    def _deal_gangs(self, shares: dict[str, list[TaskUid]]) -> None:
        """Let those of gangs follow the others that a partition has, whatever room is there: these wait for them."""
        for route in self._routes:
            for group in route.in_turn():
                where = self._state.anchors.get(group.wish.request.party) if group.wish.request.gang else None
                for backlog in route.backlogs:
                    if backlog.name == where and backlog.takes:
                        self._give_gang(group, backlog, shares)

    def _suited(self, group: Group) -> set[str]:
        """Return the partitions that can run all that wait of the group's gang; none if there is none, and any may say so."""
        gang = group.wish.request.gang
        fits = [set(each.route.fits) for each in self._queue.groups() if each.wish.request.gang == gang and each.route]
        return set.intersection(*fits)

    def _give_gang(self, first: Group, backlog: Backlog, shares: dict[str, list[TaskUid]]) -> None:
        """Give all that wait of a gang to one partition."""
        gang = first.wish.request.gang
        for group in self._queue.groups():
            if group.wish.request.gang == gang and group.route is not None and backlog.name in group.route.fits:
                taken = self._queue.take(group, len(group.waiting))
                backlog.add(group, len(taken))
                shares.setdefault(backlog.name, []).extend(taken)
        self._queue.is_stale = True

    def _is_in_tail(self, group: Group) -> bool:
        """Tell whether tasks of a group, which is dealt, had better wait here than in a partition."""
        if group.is_service or group.wish.request.party or not (group.is_long or group.seconds is None):
            return False
        if self._is_tail is None:
            assert group.route is not None
            # Where other routes lead, too, tasks that need much room wait for it there, or never find it.
            self._is_tail = self._is_alone(group.route) and self._has_tail(group, group.route)
        return self._is_tail

    def _is_alone(self, route: Route) -> bool:
        """Tell whether none that waits on another route fits any of the partitions of this one."""
        if len(self._routes) < 2:
            return True
        if self._sharing is None:
            self._sharing = Counter(name for each in self._routes for name in each.fits)
        return all(self._sharing[name] < 2 for name in route.fits)

    def _has_tail(self, group: Group, route: Route) -> bool:
        """Tell whether all that waits on the route of this group can start soon."""
        if route.work > _MOST_SOON:
            return False
        soon: dict[int, float] = {}
        for backlog in route.backlogs:
            if backlog.is_willing:
                soon[backlog.likes] = soon.get(backlog.likes, 0.0) + backlog.soon
        slots = {each.likes: each.slots(group) for each, _ in self._queue.counts(route.fits)}
        return route.work <= sum(each * slots[likes] for likes, each in soon.items()) * group.share + _ROUNDING

    def _lease(self, now: float, partition: str, uids: list[TaskUid]) -> None:
        tasks = self._state.tasks
        self._queue.note_placed(uids)
        # A message has one lease; tasks that come back from a partition have a higher one than new tasks.
        by_lease: dict[int, list[TaskUid]] = {}
        for uid in uids:
            by_lease.setdefault(tasks[uid].lease + 1, []).append(uid)
        for lease, group in by_lease.items():
            for start in range(0, len(group), CHUNK_TASKS):
                self._journal.emit(facts.TasksLeased(now, partition, lease, group[start : start + CHUNK_TASKS]))
