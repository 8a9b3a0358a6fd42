"""The policy `torus`: a task of several nodes gets a compact block of an n-dimensional torus, as on Blue Gene/Q.

The nodes' indices are coordinates, the last dimension varying fastest: in a torus of (4, 4, 4) node 27 stands at (1, 2, 3).
Each dimension wraps around. A *block* is a box of neighbours; a task of 7 nodes gets 7 of a box of 8.

How it decides: all boxes for a number of nodes are listed once, those with the smallest surface first (links that leave the
box; a dimension that is taken whole has none), and the best ``_BOXES`` of them are looked for at every place. That is done
on bit masks of idle nodes, a few shifts for each dimension of each box.

What it guarantees beyond the contract of all policies:

* A task that needs several nodes runs on a block of idle nodes, the one with the smallest surface among these boxes that can
  be had at that moment; if none can, it runs where `continuous` would have it: side by side in the order of indices, or on
  the nodes with most free that are nearest to each other.
* Tasks of one node are placed as `continuous` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product

from pilotage.core.scheduling.index import NodeIndex
from pilotage.core.scheduling.need import Need
from pilotage.core.scheduling.pool import Pool
from pilotage.core.scheduling.search import Layout, Search

Box = tuple[int, ...]

_BOXES = 64
"""Boxes that are looked for, for one number of nodes."""

_SIZES_KEPT = 1024
"""Numbers of nodes for which the boxes are remembered."""


class Torus:
    """A grid of nodes whose ``dimensions`` wrap around."""

    def __init__(self, dimensions: Sequence[int]) -> None:
        self.dimensions = tuple(dimensions)
        self.size = math.prod(self.dimensions)
        self.strides = tuple(math.prod(self.dimensions[place + 1 :]) for place in range(len(self.dimensions)))
        self._boxes: dict[int, list[Box]] = {}
        self._rotations: dict[tuple[int, int], tuple[int, int, int, int]] = {}

    def block(self, idle: int, count: int) -> list[int] | None:
        """Return ``count`` nodes that form a compact block within the bit mask ``idle``, or None if no box is found there.

        >>> Torus((4, 4)).block(0b1001_1001, 4)
        [3, 0, 7, 4]
        """
        if idle.bit_count() < count:
            return None
        for box in self.boxes(count):
            places = self._places(idle, box, count)
            if places:
                return self._members((places & -places).bit_length() - 1, box, count)
        return None

    def boxes(self, count: int) -> list[Box]:
        """Return the boxes for so many nodes, the one with the smallest surface first.

        >>> Torus((4, 4, 4)).boxes(8)[:2]
        [(1, 2, 4), (1, 4, 2)]
        """
        found = self._boxes.get(count)
        if found is None:
            if len(self._boxes) >= _SIZES_KEPT:
                self._boxes.clear()
            boxes = self._minimal_boxes(count, self.dimensions)
            found = self._boxes[count] = sorted(boxes, key=lambda box: (self.surface(box), math.prod(box), box))[:_BOXES]
        return found

    def surface(self, box: Box) -> int:
        """Return how many links lead out of a box.

        >>> Torus((4, 4, 4)).surface((2, 2, 2)), Torus((4, 4, 4)).surface((1, 2, 4))
        (24, 24)
        """
        volume = math.prod(box)
        return sum(2 * volume // side for side, whole in zip(box, self.dimensions, strict=True) if side < whole)

    def _minimal_boxes(self, count: int, dimensions: Sequence[int]) -> Iterator[Box]:
        """Yield the boxes of at least ``count`` nodes that can't do with less along their last dimension."""
        first = dimensions[0]
        if len(dimensions) == 1:
            if count <= first:
                yield (count,)
            return
        rest = math.prod(dimensions[1:])
        for side in range(-(-count // rest), min(first, count) + 1):
            for box in self._minimal_boxes(-(-count // side), dimensions[1:]):
                yield (side, *box)

    def _places(self, idle: int, box: Box, count: int) -> int:
        """Return the nodes, as a bit mask, at which the first ``count`` nodes of such a box are all idle."""
        places = -1
        for offset, part in _parts(box, count):
            mask = idle
            for dimension, side in enumerate(part):
                have = 1
                while have < side and mask:
                    step = min(have, side - have)
                    mask &= self._rotated(mask, dimension, step)
                    have += step
            for dimension, step in enumerate(offset):
                if step:
                    mask = self._rotated(mask, dimension, step)
            places &= mask
            if not places:
                return 0
        return places

    def _rotated(self, mask: int, dimension: int, step: int) -> int:
        """Return the nodes whose neighbour ``step`` further along the dimension is in ``mask``."""
        found = self._rotations.get((dimension, step))
        if found is None:
            stride, length = self.strides[dimension], self.dimensions[dimension]
            period = stride * length
            every = ((1 << self.size) - 1) // ((1 << period) - 1)
            before = ((1 << (length - step) * stride) - 1) * every
            found = (step * stride, before, (length - step) * stride, ((1 << self.size) - 1) ^ before)
            self._rotations[dimension, step] = found
        down, before, up, behind = found
        return (mask >> down & before) | (mask << up & behind)

    def _members(self, corner: int, box: Box, count: int) -> list[int]:
        at = [corner // stride % length for stride, length in zip(self.strides, self.dimensions, strict=True)]
        sides = [
            [(begin + step) % length * stride for step in range(side)]
            for begin, side, length, stride in zip(at, box, self.dimensions, self.strides, strict=True)
        ]
        return [sum(steps) for steps, _ in zip(product(*sides), range(count), strict=False)]


def _parts(box: Box, count: int) -> list[tuple[tuple[int, ...], Box]]:
    """Return the first ``count`` nodes of a box as an offset and a box each: whole layers, whole rows of the next one, ...

    >>> _parts((2, 2, 2), 7)
    [((0, 0, 0), (1, 2, 2)), ((1, 0, 0), (1, 1, 2)), ((1, 1, 0), (1, 1, 1))]
    """
    if not box:
        return [((), ())]
    layers, rest = divmod(count, math.prod(box[1:]))
    parts: list[tuple[tuple[int, ...], Box]] = []
    if layers:
        parts.append(((0,) * len(box), (layers, *box[1:])))
    if rest:
        parts.extend(((layers, *offset), (1, *part)) for offset, part in _parts(box[1:], rest))
    return parts


class TorusSearch(Search):
    """Finds blocks of idle nodes for the ranks that need several."""

    def __init__(self, pool: Pool, bound: int, torus: Torus) -> None:
        super().__init__(pool, bound)
        self._torus = torus

    def _neighbours(self, need: Need, index: NodeIndex) -> Layout | None:
        for number, shape in enumerate(index.shapes):
            each = need.capacity(shape)
            if need.per_node:
                each = need.per_node if each >= need.per_node else 0
            if each:
                nodes = self._torus.block(index.idle(number), -(-need.ranks // each))
                if nodes is not None:
                    last = need.ranks - each * (len(nodes) - 1)
                    return [(node, each) for node in nodes[:-1]] + [(nodes[-1], last)]
        return super()._neighbours(need, index)
