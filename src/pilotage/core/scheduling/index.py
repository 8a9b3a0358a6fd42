"""Nodes grouped by what they have free, so that finding one costs by the number of groups, not of nodes.

A node with free cores stands in one *bucket*, named by its *level* (whole GPUs free and size class of free memory) and by
its number of free cores. Two kinds of bit masks tell which buckets hold nodes: ``levels`` has a bit for each level in use,
``counts_at[level]`` one for each number of cores. A node is found by two looks at masks, and moved by swapping it with the
last of its bucket. Levels ascend with GPUs and memory, so the lowest one that fits leaves the most for others.

Size classes of memory have four steps to the octave. A node in a higher class than the request's has enough for
certain; one in the same class only may have, so those levels must be looked through.

Nodes that are entirely idle are also kept as one long bit mask for each shape, in which runs of neighbours are found by
shifting. It is brought up to date only when it is read, as most workloads never do.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from pilotage.model.resources import NodeShape

_FLIPS = 8192
"""Notes of nodes that became idle or busy, above which the masks of idle nodes are brought up to date."""


@lru_cache(maxsize=1 << 16)
def memory_class(blocks: int) -> int:
    """Return the size class of an amount of memory: exact below 8 blocks, then four classes to each octave.

    >>> [memory_class(n) for n in (0, 7, 8, 9, 10, 15, 16)]
    [0, 7, 8, 8, 9, 11, 12]
    """
    if blocks < 8:
        return blocks
    exponent = blocks.bit_length()
    return 4 * (exponent - 2) + ((blocks >> (exponent - 3)) & 3)


@lru_cache(maxsize=16)
def memory_classes(most: int) -> tuple[int, ...]:
    """Return the size classes of all amounts of memory up to ``most``: to look one up there is quicker."""
    return tuple([memory_class(blocks) for blocks in range(most + 1)])


def class_floor(size_class: int) -> int:
    """Return the least amount of memory in a size class."""
    if size_class < 8:
        return size_class
    exponent, step = divmod(size_class, 4)
    return (4 + step) << (exponent - 1)


class NodeIndex:
    """The nodes on which something may be placed, by what they have free.

    ``shapes`` are those of all nodes. A *view* is an index of some nodes ``only``, with the same buckets, and costs by these.
    """

    def __init__(self, shapes: Sequence[NodeShape], only: Iterable[int] | None = None) -> None:
        self.width = max(shape.cores for shape in shapes) + 1
        self.class_of = memory_classes(max(shape.memory for shape in shapes))
        self.classes = self.class_of[-1] + 1
        self.gpus = max(shape.gpus for shape in shapes)
        self.levels = 0
        self.only = None if only is None else frozenset(only)
        """The nodes of a view; None: all."""
        self._buckets: dict[int, list[int]] = {}
        self.shapes = list(dict.fromkeys(shapes))
        numbers = {shape: number for number, shape in enumerate(self.shapes)}
        self._idle = [0] * len(self.shapes)
        self._flips: list[int] = []
        self.counts_at: list[int] | dict[int, int]
        self.bucket_of: list[int] | dict[int, int]
        self._slot: list[int] | dict[int, int]
        self.shape_number: list[int] | dict[int, int]
        self.idle_bucket: list[int] | dict[int, int]
        if self.only is None:
            self.counts_at = [0] * (self.classes * (self.gpus + 1))
            self.bucket_of = [-1] * len(shapes)
            self._slot = [0] * len(shapes)
            self.shape_number = [numbers[shape] for shape in shapes]
            self.idle_bucket = [self.base(shape.gpus, shape.memory) + shape.cores for shape in shapes]
            # The last of a bucket is taken first: put in backwards, the first node is used first.
            self.move_all(reversed(range(len(shapes))), reversed(self.idle_bucket))
        else:
            self.counts_at = defaultdict(int)
            self.bucket_of = dict.fromkeys(self.only, -1)
            self._slot = dict.fromkeys(self.only, 0)
            self.shape_number = {node: numbers[shapes[node]] for node in self.only}
            self.idle_bucket = {
                node: self.base(shapes[node].gpus, shapes[node].memory) + shapes[node].cores for node in self.only
            }

    def base(self, whole_gpus: int, memory: int) -> int:
        """Return the bucket of nodes with so many GPUs and blocks free, and no core; the number of free cores is added."""
        return (whole_gpus * self.classes + self.class_of[memory]) * self.width

    def move(self, node: int, bucket: int) -> None:
        """Put ``node`` in ``bucket``; -1 takes it out."""
        self.move_all((node,), (bucket,))

    def move_all(self, nodes: Iterable[int], buckets: Iterable[int]) -> None:
        """Put each of ``nodes`` in the one of ``buckets`` that stands at its place; -1 takes it out."""
        width, members_of, counts_at = self.width, self._buckets, self.counts_at
        bucket_of, slot_of, idle_bucket, flips = self.bucket_of, self._slot, self.idle_bucket, self._flips
        for node, bucket in zip(nodes, buckets):  # noqa: B905 - the keyword is costly here
            old = bucket_of[node]
            if old == bucket:
                continue
            if old >= 0:
                members = members_of[old]
                last = members.pop()
                if last != node:
                    slot = slot_of[node]
                    members[slot] = last
                    slot_of[last] = slot
                elif not members:
                    level = old // width
                    counts = counts_at[level] ^ (1 << (old - level * width))
                    counts_at[level] = counts
                    if not counts:
                        self.levels ^= 1 << level
            if bucket >= 0:
                found = members_of.get(bucket)
                if found is None:
                    found = members_of[bucket] = []
                if not found:
                    level = bucket // width
                    counts_at[level] |= 1 << (bucket - level * width)
                    self.levels |= 1 << level
                slot_of[node] = len(found)
                found.append(node)
            bucket_of[node] = bucket
            idle = idle_bucket[node]
            if old == idle or bucket == idle:
                flips.append(node)
        if len(flips) > _FLIPS:
            self._catch_up()

    def masks(self, whole_gpus: int, memory: int) -> tuple[int, int]:
        """Return the levels whose nodes have enough GPUs and memory for certain, and those whose nodes may have."""
        if not whole_gpus and not memory:
            return -1, 0
        size_class = memory_class(memory)
        surely = size_class if memory == class_floor(size_class) else size_class + 1
        row = (1 << self.classes) - 1
        certain = maybe = 0
        for gpus in range(whole_gpus, self.gpus + 1):
            certain |= (row >> surely << surely) << gpus * self.classes
            if surely > size_class and size_class < self.classes:
                maybe |= 1 << (gpus * self.classes + size_class)
        return certain, maybe

    def first(self, cores: int, mask: int) -> int:
        """Return a node with at least ``cores`` free in the lowest of the levels ``mask``, or -1."""
        levels = self.levels & mask
        while levels:
            lowest = levels & -levels
            level = lowest.bit_length() - 1
            counts = self.counts_at[level] >> cores
            if counts:
                return self._buckets[level * self.width + cores + (counts & -counts).bit_length() - 1][-1]
            levels ^= lowest
        return -1

    def last(self, cores: int, mask: int) -> int:
        """Return a node with most cores free, at least ``cores``, in the levels ``mask`` (highest first), or -1."""
        best = most = -1
        for level in reversed(_set_bits(self.levels & mask)):
            count = self.counts_at[level].bit_length() - 1
            if count > most and count >= cores:
                most = count
                best = self._buckets[level * self.width + count][-1]
        return best

    def members(self, cores: int, mask: int, *, fullest: bool) -> Iterator[int]:
        """Yield all nodes with at least ``cores`` free in the levels ``mask``: those with least free first, or with most."""
        levels = _set_bits(self.levels & mask)
        for level in levels if fullest else reversed(levels):
            counts = _set_bits(self.counts_at[level] >> cores << cores)
            for count in counts if fullest else reversed(counts):
                yield from self._buckets[level * self.width + count]

    def idle(self, shape_number: int) -> int:
        """Return the bit mask of the idle nodes of one of ``shapes``."""
        if self._flips:
            self._catch_up()
        return self._idle[shape_number]

    def _catch_up(self) -> None:
        odd: dict[int, bool] = {}
        for node in self._flips:
            odd[node] = self.bucket_of[node] == self.idle_bucket[node]
        self._flips.clear()
        for node, idle in odd.items():
            number = self.shape_number[node]
            mask = self._idle[number]
            if (mask >> node & 1) != idle:
                self._idle[number] = mask ^ (1 << node)

    def _places(self) -> Iterable[tuple[int, int]]:
        return enumerate(self.bucket_of) if isinstance(self.bucket_of, list) else self.bucket_of.items()

    def faults(self) -> list[str]:
        """Return what is inconsistent in the index itself (test aid)."""
        faults = []
        seen = {node: bucket for bucket, members in self._buckets.items() for node in members}
        places = list(self._places())
        for node, bucket in places:
            if seen.get(node, -1) != bucket:
                faults.append(f"node {node} is noted in bucket {bucket} but stands in {seen.get(node, -1)}")
        in_use = {bucket for bucket, members in self._buckets.items() if members}
        counts_at = list(enumerate(self.counts_at) if isinstance(self.counts_at, list) else self.counts_at.items())
        marked = {level * self.width + count for level, counts in counts_at for count in _set_bits(counts)}
        if in_use != marked:
            faults.append(f"buckets in use {sorted(in_use)} are marked as {sorted(marked)}")
        if self.levels != sum(1 << level for level, counts in counts_at if counts):
            faults.append(f"levels {self.levels:b} do not match the counts")
        for number in range(len(self.shapes)):
            expected = sum(
                1 << node for node, bucket in places if bucket == self.idle_bucket[node] and self.shape_number[node] == number
            )
            if self.idle(number) != expected:
                faults.append(f"idle nodes of shape {number} are {expected:b} but noted as {self.idle(number):b}")
        return faults


def _set_bits(mask: int) -> list[int]:
    bits = []
    while mask:
        lowest = mask & -mask
        bits.append(lowest.bit_length() - 1)
        mask ^= lowest
    return bits


def lowest_run(mask: int, length: int) -> int:
    """Return the index of the first run of ``length`` set bits, or -1.

    >>> lowest_run(0b1110110, 2), lowest_run(0b1110110, 3), lowest_run(0b1110110, 4)
    (1, 4, -1)
    """
    have = 1
    while mask and have < length:
        step = min(have, length - have)
        mask &= mask >> step
        have += step
    return (mask & -mask).bit_length() - 1
