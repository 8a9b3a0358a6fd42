"""The policy `packed`: nodes are filled as a whole, so that a bag of mixed tasks ends as soon as it can.

It is for many tasks of different sizes, of which it is better to know how long they take (``duration_s``). Instead of a node
for the task whose turn it is, it looks for the tasks that fill a node: see ``bag`` for how they are chosen.

How it decides:

* Tasks that may need several nodes, gangs, and tasks that tags or slots send somewhere, go first, in the order of their
  turns, as `continuous` would place them.
* Then nodes on which something came free are filled. A node whose other tasks are declared to end soon (within a small part
  of the longest duration that waits) is left until then: what is filled at once fits better.
* Priorities come before all that, in the order `priority`; what no task of a higher one fits into is filled with others.

What it guarantees beyond the contract of all policies:

* Ranks that together fit on a node run on one.
* With declared durations and the queue full, cores and GPUs that mixed tasks ask for in balance are used up nearly
  completely, to the end of the bag: `pilotage bench packing` measures how near the makespan comes to the lower bound.
* A task that runs on one node may be passed over by all that were there when its turn came, and by later ones for as long
  as the longest that waits is declared to take, 60 s at least; if none is declared, by ``OVERTAKE`` later ones. Then a node
  is reserved for it (see ``reservation``).
* In the order `first_come` nothing is looked for but the place for the task whose turn it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from pilotage.core.scheduling.bag import Bag
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.policy import OVERTAKE, Assignment, GroupKey
from pilotage.core.scheduling.pool import OPEN
from pilotage.core.scheduling.queue import Group
from pilotage.core.scheduling.scheduler import Scheduler
from pilotage.model.ids import TaskUid
from pilotage.model.resources import Node, Placement, Request

_WAIT = 1 / 16
"""Part of the longest waiting duration for which a node is left to become empty."""

_NODES_AT_ONCE = 256
"""Nodes that are looked at in one go for a group that is new."""

_ALL = 1 << 62
"""Later than any arrival."""


class Packed(Scheduler):
    """The policy `packed` (see ``Policy`` for the contract and the head of this module for its rules)."""

    def __init__(self, nodes: Sequence[Node], **options: Any) -> None:
        super().__init__(nodes, **options)
        self._strict = options.get("order") == "first_come"
        self._bags: dict[int, Bag] = {}
        """By the order of their priority."""
        self._apart: dict[GroupKey, Group] = {}
        """Groups that are in no bag."""
        self._fresh: dict[GroupKey, Group] = {}
        """Groups in bags that nodes have not been looked through for."""
        self._dirty: dict[int, None] = {}
        """Nodes to be filled."""
        self._ends = [0.0] * len(nodes)
        """When all that runs on a node is declared to end; infinite if that is not known."""
        self._unfinished = -1
        """The node that was being filled when no more lanes were asked for."""
        self._patience_s = float(options.get("patience_s", 60.0))
        self._overtake_limit = int(options.get("overtake_limit", OVERTAKE))
        self._front: Group | None = None
        """The group in a bag whose turn it is, and who had arrived when its turn came, how many that had not were placed, and
        since when."""
        self._there = 0
        self._overtaken = 0
        self._overtaken_since = 0.0

    def enqueue(self, task: TaskUid, group: GroupKey, now: float) -> None:
        """Let ``task`` wait. Raises InvariantViolated if it waits already."""
        super().enqueue(task, group, now)
        self._sort_in(self._queue.group(group))

    def enqueue_many(self, tasks: Sequence[TaskUid], group: GroupKey, now: float) -> None:
        """Let ``tasks`` wait. Raises InvariantViolated if one waits already."""
        super().enqueue_many(tasks, group, now)
        if tasks:
            self._sort_in(self._queue.group(group))

    def occupy(self, placement: Placement, request: Request, tasks: Iterable[TaskUid] = (), *, service: bool = False) -> None:
        """Take exactly ``placement``, as it is read from the log. Raises InvariantViolated if it is not free."""
        super().occupy(placement, request, tasks, service=service)
        self._note_end(placement, 0.0, 0.0)

    def schedule(self, now: float, limit: int) -> list[Assignment]:
        """Open up to ``limit`` lanes, each with one task, and take what they hold. ``now`` is in seconds."""
        if self._strict:
            return super().schedule(now, limit)
        out: list[Assignment] = []
        if limit < 1:
            return out
        self._now = self._reservations.now = now
        self._serve_reservation(now, out)
        levels = sorted({*self._bags, *(group.order_base for group in self._apart.values())})
        for level in levels:
            self._place_apart(level, now, limit, out)
            self._note_released()
            if level in self._bags:
                self._fill(level, now, limit, level == levels[-1], out)
            if len(out) >= limit:
                break
        else:
            self._dirty.clear()
        if len(out) < limit and self._age(now):
            self._serve_reservation(now, out)
        self._backfill(now, limit, out)
        for assignment in out:
            self._note_end(assignment.placement, now, assignment.group.duration_s)
        if self._awaited and out and self._end_awaiting([lane.tasks[0] for lane in out]):
            out += self.schedule(now, limit - len(out))
        return out

    def _sort_in(self, group: Group) -> None:
        if self._strict:
            return
        if not self._is_compact(group.need):
            self._apart[group.key] = group
        else:
            if not group.bagged:
                self._bags.setdefault(group.order_base, Bag()).add(group)
            self._fresh[group.key] = group

    def _line_up(self, lead: Group) -> None:
        super()._line_up(lead)
        self._sort_in(lead)

    def _is_compact(self, need: Need) -> bool:
        """Tell whether its tasks go to one node each, whichever it is."""
        if need.gang or need.exclusive or need.follows or need.chosen or need.pinned or need.per_node not in (0, need.ranks):
            return False
        return any(need.capacity(shape) >= need.ranks for shape in self._limits.shapes)

    def _end_awaiting(self, tasks: Sequence[TaskUid]) -> bool:
        groups = [group for task in tasks for group in self._awaited.get(task, {}).values()]
        found = super()._end_awaiting(tasks)
        for group in groups:
            if group.live and group.stranded is None:
                self._sort_in(group)
        return found

    def _reconsider(self) -> None:
        super()._reconsider()
        self._apart.clear()
        for group in self._queue.groups.values():
            if group.live and group.stranded is None and (not group.bagged or not self._is_compact(group.need)):
                self._sort_in(group)
        for group in self._queue.groups.values():
            if group.bagged:
                self._fresh[group.key] = group

    def _note_released(self) -> None:
        releases = self._releases
        if releases.seen < releases.before:
            self._dirty = dict.fromkeys(range(len(self._ends)))
        else:
            self._dirty.update(dict.fromkeys(releases.nodes[releases.seen - releases.before :]))
        releases.seen = releases.end()

    def _place_apart(self, level: int, now: float, limit: int, out: list[Assignment]) -> None:
        """Place tasks that are in no bag, those first whose turn comes first."""
        groups = [group for group in self._apart.values() if group.order_base == level]
        waiting = [group for group in groups if group.live and group.stranded is None]
        if len(waiting) < len(groups):
            for group in groups:
                if not group.live or group.stranded is not None:
                    del self._apart[group.key]
        waiting.sort(key=lambda group: (self._reservations.is_walled(group), group.arrivals[0]))
        for group in islice(waiting, self._look_ahead):
            if len(out) >= limit:
                return
            if now > group.latest:
                self._set_aside(group, self._limits.too_late(group, now))
            elif group.refused_at < 0 or self._releases.may_help(group):
                placed = self._place(group, limit - len(out), _ALL, out)
                if group.stranded is not None:
                    self._note_stranded(group)
                if placed:
                    self._reservations.note_placed(group, placed, out)

    def _fill(self, level: int, now: float, limit: int, last: bool, out: list[Assignment]) -> None:
        """Fill nodes on which something came free, then others for groups that are new."""
        bag = self._bags[level]
        longest = bag.longest()
        if longest < 0.0:
            del self._bags[level]
            return
        wait = longest * _WAIT
        if self._unfinished >= 0:
            self._fill_node(bag, self._unfinished, now, wait, limit, out)
        for node in list(self._dirty):
            if len(out) >= limit:
                return
            self._fill_node(bag, node, now, wait, limit, out)
            if last:
                del self._dirty[node]
        for group in [group for group in self._fresh.values() if group.order_base == level]:
            while group.live and self._find_room(bag, group, now, wait, limit, out):
                pass
            if len(out) >= limit:
                return
            del self._fresh[group.key]

    def _find_room(self, bag: Bag, group: Group, now: float, wait: float, limit: int, out: list[Assignment]) -> bool:
        """Fill some of the nodes that have room for a task of this group; tell whether anything was placed."""
        pool, need = self._pool, group.need
        pool.refresh()
        certain, maybe = pool.index.masks(need.whole * need.ranks, need.memory * need.ranks)
        nodes = list(islice(pool.index.members(need.cores * need.ranks, certain | maybe, fullest=True), _NODES_AT_ONCE))
        before = len(out)
        for node in nodes:
            if len(out) < limit and group.live and pool.capacity(need, node) >= need.ranks:
                self._fill_node(bag, node, now, wait, limit, out)
        return len(out) > before

    def _fill_node(self, bag: Bag, node: int, now: float, wait: float, limit: int, out: list[Assignment]) -> None:
        pool = self._pool
        if pool.state[node] != OPEN or not pool.count[node]:
            if node == self._unfinished:
                self._unfinished = -1
            return
        if pool.is_idle(node):
            self._ends[node] = 0.0
        elif now < self._ends[node] <= now + wait and node != self._unfinished:
            return
        seed = node != self._unfinished
        while True:
            if len(out) >= limit:
                self._unfinished = node
                return
            shapes = bag.choose(pool, node, seed=seed)
            if not shapes:
                self._unfinished = -1
                return
            for shape in shapes[: limit - len(out)]:
                if shape.longest() < 0.0 or pool.capacity(shape.need, node) < shape.need.ranks:
                    continue
                group = shape.groups[-1][2]
                if now > group.latest:
                    self._set_aside(group, self._limits.too_late(group, now))
                    continue
                self._note_overtaking(group.arrivals[0], now)
                share = pool.carve(shape.need, node, shape.need.ranks)
                tasks = self._queue.take(group, 1, _ALL)
                self._placing.places.note(tasks, node)
                out.append(Assignment(group.key, tasks, (share,)))
                self._reservations.note_placed(group, 1, out)
            seed = False

    def _age(self, now: float) -> bool:
        """See to it that nobody starves; tell if the reservations changed by that.

        Groups in no bag are passed over by what is in bags. In a bag only those count that came when the turn of the first
        had come already: all others are a finite number.
        """
        queue, reservations = self._queue, self._reservations
        position = 0
        while (front := queue.peek(position)) is not None and reservations.is_walled(front):
            position += 1
        if front is None:
            return False
        current = reservations.current
        if current is not None:
            if current.group.order_base > front.order_base:
                reservations.end()
            return False
        apart = min(
            [
                group
                for group in self._apart.values()
                if group.live and group.stranded is None and not reservations.is_walled(group)
            ],
            key=lambda group: (group.order_base, group.arrivals[0]),
            default=None,
        )
        if apart is not None and apart.order_base == front.order_base and reservations.age(apart, now):
            return True
        if front is not self._front or front.overtaken_from < 0:
            self._front, self._there, self._overtaken = front, queue.arrived, 0
            front.overtaken_from = 0
        if front.bagged and self._overtaken:
            bag = self._bags.get(front.order_base)
            longest = 0.0 if bag is None else bag.longest()
            patience_s = max(self._patience_s, longest)
            if now - self._overtaken_since >= patience_s or (longest <= 0.0 and self._overtaken >= self._overtake_limit):
                return reservations.make(front)
        return False

    def _note_overtaking(self, arrival: int, now: float) -> None:
        """A task is placed that arrived as number ``arrival``."""
        if self._front is not None and arrival >= self._there:
            if not self._overtaken:
                self._overtaken_since = now
            self._overtaken += 1

    def _note_end(self, placement: Placement, now: float, duration_s: float) -> None:
        for share in placement:
            self._ends[share.node] = max(self._ends[share.node], now + duration_s if duration_s else math.inf)
