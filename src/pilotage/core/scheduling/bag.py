"""Tasks that run on one node each, and which of them fill a node best.

They are kept by *shape*, which is what one task takes of a node, and within a shape by declared duration. A node is filled
with the longest that fits (of several, the largest); then with those that fill it exactly, one or two at a time, the longest
there are; and when nothing does, with what leaves least. So tasks on a node end at about the same time, and the short ones
remain for the end, where they even out what is left.

At most ``_WINDOW`` shapes are looked at; others follow in the order of their arrival, as shapes are used up.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque

from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.queue import Group
from pilotage.model.resources import GPU_SHARES, NodeShape, Request

_WINDOW = 512
"""Shapes that are chosen from."""

_TRIED = 32
"""Shapes that are tried together with others when nothing fills a node exactly."""

Size = tuple[int, int]


class Shape:
    """What tasks of one request take of a node: cores, 64ths of GPUs, blocks of memory and disk; and the groups of them."""

    __slots__ = ("cores", "disk", "gpus", "groups", "memory", "need", "size")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.cores = need.cores * need.ranks
        self.gpus = (need.whole * GPU_SHARES or need.share) * need.ranks
        self.memory = need.memory * need.ranks
        self.disk = need.disk * need.ranks
        self.size: Size = (self.cores, self.gpus)
        self.groups: list[tuple[float, int, Group]] = []
        """The shortest first. Among equals the group that came last, so that the oldest is taken first."""

    def longest(self) -> float:
        """Return the declared duration of the longest task, or -1.0 if there is none."""
        groups = self.groups
        while groups:
            duration, _, group = groups[-1]
            if group.live and group.stranded is None:
                return duration
            group.bagged = False
            groups.pop()
        return -1.0

    def next_longest(self) -> float:
        """Return the declared duration of the longest task but one, or -1.0 if there is only one."""
        if len(self.groups) and self.groups[-1][2].live > 1:
            return self.groups[-1][0]
        for duration, _, group in reversed(self.groups[:-1]):
            if group.live and group.stranded is None:
                return duration
        return -1.0


Entry = tuple[float, Shape]
"""A shape, and the declared duration of its longest task."""


class Bag:
    """The groups of one priority whose tasks run on one node each."""

    def __init__(self) -> None:
        self._shapes: dict[Request, Shape] = {}
        self._later: deque[Group] = deque()
        self._number = 0

    def add(self, group: Group) -> None:
        """Take in a group with tasks that is not in any bag."""
        group.bagged = True
        shape = self._shapes.get(group.key.request)
        if shape is None:
            if len(self._shapes) >= _WINDOW:
                self._later.append(group)
                return
            shape = self._shapes[group.key.request] = Shape(group.need)
        self._number += 1
        insort(shape.groups, (group.key.duration_s, -self._number, group))

    def longest(self) -> float:
        """Return the declared duration of the longest task that is looked at, -1.0 if there is none; forget who is gone."""
        durations = {request: shape.longest() for request, shape in self._shapes.items()}
        for request, duration in durations.items():
            if duration < 0.0:
                del self._shapes[request]
        while self._later and len(self._shapes) < _WINDOW:
            group = self._later.popleft()
            group.bagged = False
            if group.live and group.stranded is None:
                self.add(group)
                durations[group.key.request] = group.key.duration_s
        return max(durations.values(), default=-1.0)

    def choose(self, pool: Pool, node: int, *, seed: bool) -> list[Shape]:
        """Return the shapes of which a task each is to be placed on the node next; none if nothing fits.

        ``seed``: the first one for a node that is to be filled anew.
        """
        cores, memory, disk = pool.count[node], pool.memory[node], pool.disk[node]
        gpus = sum(pool.gpus[node])
        wanted = False
        fits: list[Entry] = []
        for shape in self._shapes.values():
            wanted = wanted or shape.gpus > 0
            if shape.cores <= cores and shape.gpus <= gpus and shape.memory <= memory and shape.disk <= disk:
                duration = shape.longest()
                if duration >= 0.0 and pool.capacity(shape.need, node) >= shape.need.ranks:
                    fits.append((duration, shape))
        if not fits:
            return []
        if seed:
            return [max(fits, key=_duration_and_size)[1]]
        if not wanted:
            gpus = 0
        return _exactly(fits, cores, gpus, memory, disk) or _tightly(fits, cores, gpus, memory, disk, pool.shape[node])


def _duration_and_size(entry: Entry) -> tuple[float, Size]:
    return entry[0], entry[1].size


def _exactly(fits: list[Entry], cores: int, gpus: int, memory: int, disk: int) -> list[Shape]:
    """Return one shape, or two, that take all cores and GPUs, those with the longest tasks; or the first of three."""
    by_size: dict[Size, list[Entry]] = {}
    for entry in fits:
        by_size.setdefault(entry[1].size, []).append(entry)
    best: list[Shape] = []
    longest = -1.0
    for duration, shape in fits:
        rest = cores - shape.cores, gpus - shape.gpus
        if rest == (0, 0):
            if duration > longest:
                longest, best = duration, [shape]
            continue
        if duration <= longest:
            continue
        for duration_b, other in by_size.get(rest, ()):
            if other is shape:
                duration_b = shape.next_longest()
            both = min(duration, duration_b)
            if both > longest and shape.memory + other.memory <= memory and shape.disk + other.disk <= disk:
                longest, best = both, [shape, other]
    if best or len(fits) < 3:
        return best
    for _, shape in sorted(fits, key=_duration_and_size, reverse=True)[:_TRIED]:
        rest_cores, rest_gpus = cores - shape.cores, gpus - shape.gpus
        for _, other in fits:
            if (rest_cores - other.cores, rest_gpus - other.gpus) in by_size and other.cores < rest_cores:
                return [shape]
    return []


def _tightly(fits: list[Entry], cores: int, gpus: int, memory: int, disk: int, whole: NodeShape) -> list[Shape]:
    """Return one shape, or two, that leave the least of cores and GPUs."""

    def left(cores: int, gpus: int) -> float:
        return cores / whole.cores + (gpus / (GPU_SHARES * whole.gpus) if gpus else 0.0)

    tried = sorted(fits, key=_duration_and_size, reverse=True)[:_TRIED]
    best: list[Shape] = []
    least = math.inf
    for _, shape in tried:
        rest_cores, rest_gpus = cores - shape.cores, gpus - min(gpus, shape.gpus)
        if left(rest_cores, rest_gpus) < least:
            least, best = left(rest_cores, rest_gpus), [shape]
        for _, other in tried:
            if (
                other.cores <= rest_cores
                and other.gpus <= rest_gpus
                and shape.memory + other.memory <= memory
                and shape.disk + other.disk <= disk
                and left(rest_cores - other.cores, rest_gpus - other.gpus) < least
                and (other is not shape or shape.next_longest() >= 0.0)
            ):
                least, best = left(rest_cores - other.cores, rest_gpus - other.gpus), [shape, other]
    return best
