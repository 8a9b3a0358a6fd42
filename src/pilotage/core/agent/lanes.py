"""How many tasks are handed to a lane ahead of time.

A lane holds a placement. Tasks that last a second are handed over one at a time; tasks of a microsecond in hundreds, for
then the messages between agent and runner, not the tasks, would use up the machine. ``Pace`` watches how long the tasks of
a group last and says how deep their lanes may be filled: about ``HORIZON_S`` of work, and never more than ``DEEPEST`` tasks.
A group of which nothing has ended yet is taken to be slow; the first that ends sets its pace.
"""

from __future__ import annotations

import msgspec

from pilotage.core.scheduling.policy import SERVICE, GroupKey, rounded_duration
from pilotage.model.workload import Template

HORIZON_S = 0.05
"""Work that is handed to a lane ahead of time. Longer than a round trip between agent and runner under load."""

DEEPEST = 512
"""Tasks in one lane at the most; more per message makes them no cheaper."""

EXECUTABLE = "executable"
FUNCTION = "function"
FUNCTION_ALONE = "function alone"
"""Functions with a time limit: one at a time, as their worker is killed when the time is over."""


SPAWNED = (EXECUTABLE, SERVICE)
"""Lanes that a spawner takes; the others are function workers'."""


def group_of(template: Template) -> GroupKey:
    """Return the scheduling group of the tasks that follow this template."""
    if template.service is not None:
        kind = SERVICE
    elif not template.in_worker:
        kind = EXECUTABLE
    else:
        kind = FUNCTION_ALONE if template.timeout_s else FUNCTION
    return GroupKey(kind, template.request, template.priority, rounded_duration(template.duration_s))


class Pace(msgspec.Struct):
    """How long the tasks of one group last, and the lanes they have."""

    group: GroupKey
    mean_s: float | None = None
    lanes: int = 0
    """How many are open."""
    depth: int = 1
    """How many tasks a lane may hold; 1 means no chaining."""

    def note(self, total_s: float, count: int) -> None:
        """Take into account ``count`` tasks that lasted ``total_s`` seconds together."""
        mean, before = total_s / count, self.mean_s
        # Slower tasks count at once, faster ones gradually: too shallow a lane costs little, too deep a one delays tasks.
        if before is not None and mean <= before:
            mean = 0.5 * (before + mean)
        self.mean_s = mean
        if mean > HORIZON_S or self.group.lane_kind in (FUNCTION_ALONE, SERVICE):
            self.depth = 1
        else:
            self.depth = min(DEEPEST, int(HORIZON_S / max(mean, 1e-6)))
