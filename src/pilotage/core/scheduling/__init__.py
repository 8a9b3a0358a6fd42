"""Which waiting task runs next, and where: the policies and the books of free resources they share.

``scheduler`` says whose turn it is. It leans on ``queue`` (who waits, in which order), ``releases`` (who is worth another
try) and ``reservation`` (large tasks do not starve). ``placing`` finds nodes for the tasks whose turn it is, with ``need``
(what a request asks for, made ready for matching), ``pool`` (what each node has free), ``index`` (nodes grouped by what they
have free) and ``search`` (nodes for a need). ``waits`` and ``report`` tell of it. ``policy`` holds the protocol that every
policy fulfils.
"""

from pilotage.core.scheduling.policies import make_policy
from pilotage.core.scheduling.policy import (
    OVERTAKE,
    Assignment,
    Demand,
    FreeSummary,
    GroupKey,
    Policy,
    rounded_duration,
)
from pilotage.core.scheduling.scheduler import Scheduler

__all__ = [
    "OVERTAKE",
    "Assignment",
    "Demand",
    "FreeSummary",
    "GroupKey",
    "Policy",
    "Scheduler",
    "make_policy",
    "rounded_duration",
]
