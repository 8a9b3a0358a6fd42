"""A host: some of the pilot's nodes, usually one, and who starts tasks there.

Each host has as many spawners as the pilot wants for each. When they do not come up others are started, less and less often
if some are there; what does so in vain for too often is given up by those who look after the runners.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container

from pilotage.model.ids import RunnerId
from pilotage.model.resources import Placement

RESPAWN_S = 0.5
"""At least this long between the starts of spawners, so that one that dies at once does not eat the machine."""

RESPAWN_MOST_S = 30.0
"""The longest pause while spawners do not come up, and others are there."""

SPAWNER_FAILURES = 5
"""When none is left, and so many spawners in a row never came up, the nodes that they served are lost."""

WORKER_FAILURES = 5
"""After so many function workers in a row that never came up, what the next was to run fails to launch; unless workers come up
on other hosts: then this one gets nothing for ``RESPAWN_MOST_S``. Each but the first of them was started after the one before
was lost: those that were coming up at the same time may have been lost together, with their host or spawner."""


class Host:
    """What is known of one host. ``nodes``: those of its nodes that are in use."""

    __slots__ = (
        "coming",
        "first_node",
        "idle",
        "last_start",
        "nodes",
        "number",
        "rests_until",
        "spawner_failures",
        "spawners",
        "untried",
        "worker_failures",
        "workers_came_up",
    )

    def __init__(self, number: int, nodes: Collection[int]) -> None:
        self.number = number
        self.nodes = list(nodes)
        self.first_node = min(nodes)
        self.spawners: dict[RunnerId, None] = {}
        """Those that are given lanes."""
        self.coming: dict[RunnerId, None] = {}
        """Those that are not given lanes as they are not up, or not heard of in this life of the agent."""
        self.idle: dict[str, dict[RunnerId, None]] = {}
        """Function workers without a lane, by their GPUs."""
        self.spawner_failures = self.worker_failures = 0
        """How many in a row were lost before they came up."""
        self.untried: set[RunnerId] = set()
        """Function workers that were started after the last one that counts as one that never came up."""
        self.workers_came_up = False
        self.last_start = -RESPAWN_MOST_S
        self.rests_until = -math.inf
        """Until then nothing is placed here."""

    @property
    def is_up(self) -> bool:
        """Whether tasks can be started here now."""
        return bool(self.spawners) and self.rests_until == -math.inf

    @property
    def next_start(self) -> float:
        """When missing spawners may be started (seconds since the epoch)."""
        in_vain = self.spawner_failures - SPAWNER_FAILURES
        return self.last_start + (min(RESPAWN_MOST_S, RESPAWN_S * 2.0 ** min(in_vain, 16)) if in_vain > 0 else RESPAWN_S)


def lies_on(placement: Placement, nodes: Container[int]) -> bool:
    """Tell whether some of a placement is on one of these nodes."""
    return any(share.node in nodes for share in placement)
