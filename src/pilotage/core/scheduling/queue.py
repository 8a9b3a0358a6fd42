"""Who waits, in which order.

Tasks of one group wait first in, first out. Groups stand in one sorted list by (priority, arrival of their first task),
so that its front is the task whose turn it is. A group moves back when its first task leaves; its entry is mended when it
is next looked at, so that taking a hundred tasks moves the group once. A withdrawn task leaves a gap that is skipped when
its turn comes.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence

from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.policy import GroupKey
from pilotage.errors import InvariantViolated
from pilotage.model.ids import TaskUid

_PRIORITY_STEP = 1 << 48
"""Arrivals that fit between two priorities in an order number."""

_EMPTY_KEPT = 4096
"""Groups without tasks that are kept, as the next task of the same shape is likely to come."""


class Group:
    """The waiting tasks of one shape, and what the scheduler remembers about its last search for them."""

    __slots__ = (
        "arrivals",
        "bagged",
        "index",
        "key",
        "latest",
        "live",
        "missing",
        "need",
        "order_base",
        "overtaken_from",
        "queued",
        "refused_at",
        "refused_since",
        "stranded",
        "tasks",
        "timed",
        "walled_at",
    )

    def __init__(self, key: GroupKey, need: Need, order_base: int) -> None:
        self.key = key
        self.need = need
        self.order_base = order_base
        self.index: NodeIndex | None = None
        """The nodes to which it is pinned, by what they have free; None: any."""
        self.latest = math.inf
        """When tasks can be started at the latest."""
        self.timed = False
        """Whether it is noted who is too late when that time has come (see ``lateness``)."""
        self.tasks: deque[TaskUid] = deque()
        self.arrivals: deque[int] = deque()
        self.live = 0
        self.queued = False
        self.bagged = False
        """Whether it is in a bag (see ``bag``)."""
        self.stranded: str | None = None
        """Why the group can't be placed any more, or None; empty: it waits for the task beside which it is to run."""
        self.refused_at = -1
        """How many releases had been noted when a search found no room; -1: search anew."""
        self.missing = 0
        """Ranks that found no room in that search, less those that releases since may have made room for."""
        self.refused_since = 0.0
        """When the first task of the group was first refused while its turn had come."""
        self.overtaken_from = -1
        """How many tasks had been placed at that time; -1: its turn has not come."""
        self.walled_at = -1
        """At which of the ``changes`` of the reservations only the end of a service could make room; -1: at none."""


class WaitingQueue:
    """All waiting tasks by group, and the groups in the order of their turns. ``priorities``: whether these count."""

    def __init__(self, *, priorities: bool = True) -> None:
        self._priorities = priorities
        self.groups: dict[GroupKey, Group] = {}
        self.count = 0
        self._group_of: dict[TaskUid, Group] = {}
        self._order: list[tuple[int, Group]] = []
        self._front = 0
        self.arrived = 0
        """How many tasks have arrived."""
        self._last: Group | None = None

    def group(self, key: GroupKey) -> Group:
        """Return the group of this key, made if it is new."""
        last = self._last
        if last is not None and last.key is key:
            return last
        group = self.groups.get(key)
        if group is None:
            if len(self.groups) >= 2 * _EMPTY_KEPT:
                self._forget_empty()
            group = self.groups[key] = Group(key, Need(key.request), -key.priority * _PRIORITY_STEP if self._priorities else 0)
        self._last = group
        return group

    def find(self, key: GroupKey) -> Group | None:
        """Return the group of this key if there is one."""
        last = self._last
        if last is not None and last.key is key:
            return last
        return self.groups.get(key)

    def group_of(self, task: TaskUid) -> Group | None:
        """Return the group in which the task waits, if it waits."""
        return self._group_of.get(task)

    def append(self, group: Group, task: TaskUid) -> None:
        """Let a task wait as the last of its group."""
        if task in self._group_of:
            raise InvariantViolated(f"task {task!r} is enqueued, but waits already")
        self._group_of[task] = group
        group.tasks.append(task)
        group.arrivals.append(self.arrived)
        self.arrived += 1
        group.live += 1
        self.count += 1
        if not group.queued:
            self.line_up(group)

    def extend(self, group: Group, tasks: Sequence[TaskUid]) -> None:
        """Let tasks wait as the last of their group."""
        if len(tasks) < 2:
            for task in tasks:
                self.append(group, task)
            return
        waiting = len(self._group_of)
        self._group_of.update(dict.fromkeys(tasks, group))
        if len(self._group_of) != waiting + len(tasks):
            raise InvariantViolated(f"of {len(tasks)} tasks from {tasks[0]!r} on, some are enqueued that wait already")
        group.tasks.extend(tasks)
        end = self.arrived + len(tasks)
        group.arrivals.extend(range(self.arrived, end))
        self.arrived = end
        group.live += len(tasks)
        self.count += len(tasks)
        if not group.queued:
            self.line_up(group)

    def withdraw(self, task: TaskUid) -> bool:
        """Take the task out, if it waits."""
        group = self._group_of.pop(task, None)
        if group is None:
            return False
        group.live -= 1
        self.count -= 1
        self._skip_gaps(group)
        return True

    def take(self, group: Group, count: int, before: int) -> list[TaskUid]:
        """Take up to ``count`` first tasks of the group that arrived before arrival number ``before``."""
        tasks = group.tasks
        arrivals = group.arrivals
        group_of = self._group_of
        if count == 1 and group.live == len(tasks):
            if not tasks or arrivals[0] >= before:
                return []
            task = tasks.popleft()
            arrivals.popleft()
            del group_of[task]
            group.live -= 1
            self.count -= 1
            return [task]
        taken: list[TaskUid] = []
        if group.live == len(tasks):
            while count and tasks and arrivals[0] < before:
                task = tasks.popleft()
                arrivals.popleft()
                del group_of[task]
                taken.append(task)
                count -= 1
        else:
            while count and tasks and arrivals[0] < before:
                task = tasks.popleft()
                arrivals.popleft()
                if group_of.get(task) is group:
                    del group_of[task]
                    taken.append(task)
                    count -= 1
        group.live -= len(taken)
        self.count -= len(taken)
        if group.live != len(tasks):
            self._skip_gaps(group)
        return taken

    def peek(self, position: int) -> Group | None:
        """Return the group whose turn is ``position`` places from the front, or None behind the last."""
        order = self._order
        while True:
            place = self._front + position
            if place >= len(order):
                return None
            noted, group = order[place]
            if not group.live or group.stranded is not None:
                group.queued = False
                self._remove(place)
                continue
            actual = group.order_base + group.arrivals[0]
            if actual == noted:
                return group
            if place + 1 == len(order) or actual < order[place + 1][0]:
                order[place] = (actual, group)
                return group
            self._remove(place)
            insort(order, (actual, group), self._front)

    def pass_over(self, position: int, stop: int, seen: int, now: int, cores: int, memory: int) -> int:
        """Return the first position from ``position`` on, below ``stop``, whose group may have room at last.

        The others were refused at ``seen`` or later and need at least ``cores`` of a node, or more than ``memory``, which is
        more than has been free on any since; they count as refused ``now``. That an entry may be out of date does no harm here.
        """
        order = self._order
        front = self._front
        end = min(front + stop, len(order))
        for place in range(front + position, end):
            group = order[place][1]
            need = group.need
            if group.refused_at < seen or (need.least_cores < cores and need.least_memory <= memory):
                return place - front
            group.refused_at = now
        return max(end - front, position)

    def turn_before(self, position: int, group: Group) -> int:
        """Return before which arrival the tasks of ``group``, which stands at ``position``, are not behind the next group."""
        place = self._front + position + 1
        if place >= len(self._order):
            return self.arrived
        return self._order[place][0] - group.order_base

    def oldest_other(self, group: Group) -> int | None:
        """Return before which arrival tasks of ``group`` precede all others, or None if no other group waits."""
        other = self.peek(0)
        if other is group:
            other = self.peek(1)
        if other is None:
            return None
        return other.order_base + other.arrivals[0] - group.order_base

    def line_up(self, group: Group) -> None:
        """Put a group with tasks in the order of turns, if it is not there."""
        if group.queued or group.stranded is not None or not group.live:
            return
        group.queued = True
        entry = (group.order_base + group.arrivals[0], group)
        if not self._order or entry[0] > self._order[-1][0]:
            self._order.append(entry)
        else:
            insort(self._order, entry, self._front)

    def tasks_of(self, group: Group) -> list[TaskUid]:
        """Return the waiting tasks of a group in their order."""
        if group.live == len(group.tasks):
            return list(group.tasks)
        return [task for task in dict.fromkeys(group.tasks) if self._group_of.get(task) is group]

    def is_before(self, task: TaskUid, group: Group) -> bool:
        """Tell whether ``task``, which waits, arrived before the first task of ``group``."""
        other = self._group_of[task]
        return other.arrivals[other.tasks.index(task)] < group.arrivals[0]

    def before(self, group: Group, task: TaskUid) -> int:
        """Return how many waiting tasks have their turn before ``task`` of ``group``."""
        turn = group.order_base + group.arrivals[group.tasks.index(task)]
        before = 0
        for other in self.groups.values():
            if other.live and other.stranded is None and other.order_base + other.arrivals[0] < turn:
                before += min(other.live, bisect_left(list(other.arrivals), turn - other.order_base))
        return before

    def _remove(self, place: int) -> None:
        # Most groups leave near the front: moving the few before the gap is cheaper than all behind it.
        order = self._order
        front = self._front
        if place - front > 256:
            del order[place]
            return
        if place > front:
            order[front + 1 : place + 1] = order[front:place]
        self._front = front + 1
        if front > 1024 and 2 * front > len(order):
            del order[: front + 1]
            self._front = 0

    def _skip_gaps(self, group: Group) -> None:
        tasks = group.tasks
        while len(tasks) > group.live and self._group_of.get(tasks[0]) is not group:
            tasks.popleft()
            group.arrivals.popleft()

    def _forget_empty(self) -> None:
        empty = [key for key, group in self.groups.items() if not group.live and not group.queued]
        for key in empty:
            del self.groups[key]

    def faults(self) -> list[str]:
        """Return what is inconsistent in the queue (test aid)."""
        faults = []
        members: dict[int, int] = {}
        for group in self._group_of.values():
            members[id(group)] = members.get(id(group), 0) + 1
        standing = [group for _, group in self._order[self._front :]]
        for group in self.groups.values():
            waiting = members.get(id(group), 0)
            if group.live != waiting or len(group.tasks) != len(group.arrivals) or len(group.tasks) < waiting:
                faults.append(f"{group.key} counts {group.live} tasks and {len(group.tasks)} places, {waiting} wait")
            if sum(other is group for other in standing) != group.queued:
                faults.append(f"{group.key} stands {sum(other is group for other in standing)} times in the order")
            if group.live and group.stranded is None and not group.queued:
                faults.append(f"{group.key} has {group.live} tasks and stands nowhere")
        if self.count != len(self._group_of):
            faults.append(f"{self.count} tasks are counted, {len(self._group_of)} wait")
        turns = [turn for turn, _ in self._order[self._front :]]
        if turns != sorted(turns):
            faults.append(f"turns {turns} are out of order")
        return faults
