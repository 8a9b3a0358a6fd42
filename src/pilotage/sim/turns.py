"""Who has the launcher's turn: so many tasks at once, and so many of them on a node. The others wait, in their order.

A task that waits for a node keeps nobody waiting who is behind it and goes to others.
"""

from __future__ import annotations

import math
from collections import Counter, deque

from pilotage.sim.jobs import WAITING, Job


class Turns:
    """The turns of one launcher; infinity is no limit."""

    def __init__(self, most_at_once: float, most_per_node: float) -> None:
        self._most_at_once = most_at_once
        self._most_per_node = most_per_node
        self._waiting: deque[Job] = deque()
        self._waiting_for_node: dict[int, deque[Job]] = {}
        """By a node that has as many as can run there."""
        self._taken = 0
        self._taken_on: Counter[int] = Counter()
        """By node; unless nodes have no limit."""

    def wait(self, job: Job) -> None:
        """Let it wait for its turn."""
        job.stage = WAITING
        self._waiting.append(job)

    def take(self) -> Job | None:
        """Return the next one that has its turn now, or None. What does not wait any more is passed over."""
        while self._waiting and self._taken < self._most_at_once:
            job = self._waiting.popleft()
            if job.stage == WAITING and self._has_room(job):
                self._taken += 1
                job.has_turn = True
                return job
        return None

    def _has_room(self, job: Job) -> bool:
        """Take room for it on its nodes; if one of them has none, it waits there."""
        if math.isinf(self._most_per_node):
            return True
        for share in job.placement:
            if self._taken_on[share.node] >= self._most_per_node:
                self._waiting_for_node.setdefault(share.node, deque()).append(job)
                return False
        self._taken_on.update([share.node for share in job.placement])
        return True

    def give_up(self, job: Job) -> None:
        """The launcher is done with it; that may be one that never had its turn."""
        if not job.has_turn:
            return
        job.has_turn = False
        self._taken -= 1
        if not math.isinf(self._most_per_node):
            for share in job.placement:
                self._taken_on[share.node] -= 1
                self._waiting.extendleft(reversed(self._waiting_for_node.pop(share.node, ())))

    def forget(self) -> None:
        """Nobody waits any more."""
        self._waiting.clear()
        self._waiting_for_node.clear()
