"""Which waiting tasks are leased to which partitions now.

Each group goes to those of its partitions that have the least to do, by their expected wait, in portions that are small
against what one of them runs at once; tasks are given out as long as partitions have room. So the cost is one decision for each
portion, not for each task.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from pilotage.core.client.binding import CHUNK_TASKS
from pilotage.core.metascheduler import actions, facts
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.groups import Group, Route
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.queue import Queue
from pilotage.model.ids import TaskUid

_Turn = tuple[float, int, Backlog]


class Routing:
    """Leases tasks."""

    def __init__(self, journal: Journal, queue: Queue, backlogs: Mapping[str, Backlog]) -> None:
        self._journal = journal
        self._state = journal.state
        self._queue = queue
        self._backlogs = backlogs

    def deal(self, now: float) -> None:
        """Lease what partitions have room for."""
        shares: dict[str, list[TaskUid]] = {}
        for route in self._queue.routes_in_turn():
            self._deal_on(route, shares)
        for name, uids in shares.items():
            self._lease(now, name, uids)
            self._journal.act(actions.OfferMessages(name))

    def _deal_on(self, route: Route, shares: dict[str, list[TaskUid]]) -> None:
        backlogs = [self._backlogs[name] for name in route.fits]
        turns: list[_Turn] = [(backlog.seconds, backlog.index, backlog) for backlog in backlogs if backlog.takes]
        heapq.heapify(turns)
        for group in route.in_turn():
            if not turns:
                break
            blocked = self._deal_group(group, turns, shares)
            for turn in blocked:
                heapq.heappush(turns, turn)

    def _deal_group(self, group: Group, turns: list[_Turn], shares: dict[str, list[TaskUid]]) -> list[_Turn]:
        """Deal the tasks of a group; take out who has no room for more, and return those whom services block for it alone."""
        blocked: list[_Turn] = []
        tag = group.wish.request.colocate
        while turns and group.waiting:
            backlog = turns[0][2]
            room = backlog.room(group)
            if room <= 0:
                turn = heapq.heappop(turns)
                if room < 0:
                    blocked.append(turn)
                continue
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
