"""What a scheduling policy is given and what it must do, whatever its way of choosing.

A policy is a pure state machine: it holds the tasks that wait and the free resources of one partition, and time comes in
with each call. The same calls in the same order give the same answers, in every process and under every hash seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

import msgspec

from pilotage.model.ids import TaskUid
from pilotage.model.resources import Placement, Request

OVERTAKE = 1024
"""Arrivals by which a task may be younger than a waiting task of its rank and still be drawn onto a held lane."""


SERVICE = "service"
"""The ``lane_kind`` of tasks that do not end by themselves."""


class GroupKey(msgspec.Struct, frozen=True, gc=False, array_like=True, cache_hash=True):
    """Tasks of one group are interchangeable for matching.

    They have the same ``lane_kind``, ``request``, ``priority`` (higher first) and declared ``duration_s`` (0.0: none; see
    ``rounded_duration``).
    """

    lane_kind: str
    request: Request
    priority: int = 0
    duration_s: float = 0.0


class Assignment(msgspec.Struct, gc=False):
    """One lane opened: ``placement`` is taken for ``tasks`` of ``group``."""

    group: GroupKey
    tasks: list[TaskUid]
    placement: Placement


def rounded_duration(duration_s: float) -> float:
    """Return a duration rounded up to one of 64 values in each octave, so that tasks fall into few groups.

    >>> [rounded_duration(seconds) for seconds in (0.0, 0.1, 1.0, 600.0, 601.0, 900.0)]
    [0.0, 0.1005859375, 1.0, 600.0, 608.0, 904.0]
    """
    if duration_s <= 0.0:
        return 0.0
    mantissa, exponent = math.frexp(duration_s)
    return math.ldexp(math.ceil(mantissa * 128), exponent - 7)


@lru_cache(maxsize=1 << 12)
def shortest_duration(rounded_s: float) -> float:
    """Return what every duration exceeds that is rounded up to ``rounded_s``, which is not 0.

    >>> shortest_duration(608.0), shortest_duration(512.0)
    (600.0, 508.0)
    """
    mantissa, exponent = math.frexp(rounded_s)
    return rounded_s - math.ldexp(1.0, exponent - 7 - (mantissa == 0.5))


class FreeSummary(msgspec.Struct, frozen=True, gc=False):
    """What is free on all nodes together: ``gpu_shares`` in 64ths, ``memory`` and ``disk`` in blocks of 64 MiB."""

    nodes: int
    idle_nodes: int
    cores: int
    gpu_shares: int
    memory: int
    disk: int


class Demand(msgspec.Struct, frozen=True, gc=False):
    """What waits and can run, summed up: ``gpu_shares`` in 64ths; ``nodes``: how many the largest task needs at least."""

    tasks: int = 0
    cores: int = 0
    gpu_shares: int = 0
    nodes: int = 0


class Policy(Protocol):
    """Decides which waiting task is placed next, and where.

    Contract:

    * Resources are taken by ``schedule`` and ``occupy`` and come back only by ``release``, once for each placement. No core,
      64th of a GPU, block of memory or block of disk is ever held twice. A rank never spans nodes.
    * A task that was enqueued is handed out exactly once, by ``schedule`` or ``draw``, unless ``withdraw`` returned True.
    * A task whose ``refusal`` is None is placed in the end, if every placement is released in the end and tasks of higher
      priority do not keep coming.
    * Of the tasks that wait with the same ``gang`` in their requests none is placed unless ``gang_size`` are, in one
      ``schedule``; they are never drawn.
    * What groups of the ``lane_kind`` SERVICE hold may never be released. A task for which only that could make room waits
      without resources being kept for it.
    * A policy that breaks its own books raises ``InvariantViolated``; it never mends them in silence.
    """

    def refusal(self, request: Request) -> str | None:
        """Return why no set of the nodes can ever satisfy ``request`` (value, limit, remedy), or None if one can."""
        ...

    def enqueue(self, task: TaskUid, group: GroupKey, now: float) -> None:
        """Let ``task`` wait. The order of calls is the order of arrival; ``now`` is in seconds."""
        ...

    def enqueue_many(self, tasks: Sequence[TaskUid], group: GroupKey, now: float) -> None:
        """Let ``tasks`` wait, in their order."""
        ...

    def withdraw(self, task: TaskUid) -> bool:
        """Take a waiting task out; return False if it does not wait here."""
        ...

    def schedule(self, now: float, limit: int) -> list[Assignment]:
        """Open up to ``limit`` lanes, each with one task, and take what they hold; a gang is never cut by the limit."""
        ...

    def draw(self, group: GroupKey, count: int, node: int = -1) -> list[TaskUid]:
        """Return up to ``count`` waiting tasks of ``group`` to run on a lane already held, or none if others come first.

        ``node`` is the first one of the lane, so that other tasks can run beside these (-1: not known).
        """
        ...

    def release(self, placement: Placement, request: Request) -> None:
        """Give back what a lane held."""
        ...

    def occupy(self, placement: Placement, request: Request, tasks: Iterable[TaskUid] = (), *, service: bool = False) -> None:
        """Take exactly ``placement`` for these tasks, or for a service. Raises InvariantViolated if any part is not free."""
        ...

    def remember(self, places: Iterable[TaskUid | int]) -> None:
        """Know where tasks were placed, the oldest first: names of tasks, each run of them followed by their first node."""
        ...

    def remove_node(self, index: int) -> None:
        """Place nothing more on this node, which is lost; what is released on it later is dropped."""
        ...

    def suspend_nodes(self, indices: Iterable[int]) -> None:
        """Place nothing on these nodes, as far as they are in use, until they are resumed.

        What only they could take waits for them.
        """
        ...

    def resume_nodes(self, indices: Iterable[int]) -> None:
        """Use these nodes again, as far as they are suspended."""
        ...

    def suspended(self) -> list[int]:
        """Return the nodes that are suspended."""
        ...

    def name_of(self, index: int) -> str:
        """Return the name of a node."""
        ...

    def add_nodes(self, indices: Iterable[int]) -> None:
        """Use these nodes from now on: absent ones, which come idle, or closed ones. Raises InvariantViolated if it is lost."""
        ...

    def close_node(self, index: int) -> bool:
        """Place nothing more on this node; it is absent once nothing is held there. Return whether that is so now."""
        ...

    def closed_idle(self) -> list[int]:
        """Return the nodes that were closed while something was held there, and became absent since this was asked last."""
        ...

    def waiting(self) -> int:
        """Return how many tasks wait."""
        ...

    def waiting_in(self, group: GroupKey) -> int:
        """Return how many tasks of ``group`` wait."""
        ...

    def free(self) -> FreeSummary:
        """Return what is free now."""
        ...

    def demand(self) -> Demand:
        """Return what the tasks that wait ask for."""
        ...

    def stranded(self) -> list[tuple[list[TaskUid], str]]:
        """Return the tasks that wait but can run nowhere any more, with the reason; they wait until they are withdrawn."""
        ...

    def too_late_from(self) -> float:
        """Return from when on tasks that wait, of declared duration, would end too late; infinity if there are none."""
        ...

    def too_late(self, now: float) -> list[tuple[list[TaskUid], str]]:
        """Return, once, the tasks that wait and would end too late, with the reason; they wait until they are withdrawn.

        So are gangs that can never start, as their members fit one by one but not together.
        """
        ...

    def why(self, subject: TaskUid | GroupKey) -> str:
        """Return in a sentence why the task, or the first of the group, waits."""
        ...

    def check(self) -> None:
        """Raise InvariantViolated unless the books balance."""
        ...
