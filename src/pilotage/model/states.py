"""The states of pilots and tasks, and the order in which they are passed.

Names are those that users of RADICAL-Pilot know. A task moves forward only; a stage that has nothing to do is skipped and
made up, in order, for callbacks that registered. Three states are final, and from any other state a pilot or a task may go
to FAILED or CANCELED.
"""

from __future__ import annotations

from typing import Final

NEW: Final = "NEW"
DONE: Final = "DONE"
FAILED: Final = "FAILED"
CANCELED: Final = "CANCELED"
FINAL: Final = (DONE, FAILED, CANCELED)

PMGR_LAUNCHING_PENDING: Final = "PMGR_LAUNCHING_PENDING"
PMGR_LAUNCHING: Final = "PMGR_LAUNCHING"
PMGR_ACTIVE_PENDING: Final = "PMGR_ACTIVE_PENDING"
PMGR_ACTIVE: Final = "PMGR_ACTIVE"

TMGR_SCHEDULING_PENDING: Final = "TMGR_SCHEDULING_PENDING"
TMGR_SCHEDULING: Final = "TMGR_SCHEDULING"
TMGR_STAGING_INPUT_PENDING: Final = "TMGR_STAGING_INPUT_PENDING"
TMGR_STAGING_INPUT: Final = "TMGR_STAGING_INPUT"
AGENT_STAGING_INPUT_PENDING: Final = "AGENT_STAGING_INPUT_PENDING"
AGENT_STAGING_INPUT: Final = "AGENT_STAGING_INPUT"
AGENT_SCHEDULING_PENDING: Final = "AGENT_SCHEDULING_PENDING"
AGENT_SCHEDULING: Final = "AGENT_SCHEDULING"
AGENT_EXECUTING_PENDING: Final = "AGENT_EXECUTING_PENDING"
AGENT_EXECUTING: Final = "AGENT_EXECUTING"
AGENT_STAGING_OUTPUT_PENDING: Final = "AGENT_STAGING_OUTPUT_PENDING"
AGENT_STAGING_OUTPUT: Final = "AGENT_STAGING_OUTPUT"
TMGR_STAGING_OUTPUT_PENDING: Final = "TMGR_STAGING_OUTPUT_PENDING"
TMGR_STAGING_OUTPUT: Final = "TMGR_STAGING_OUTPUT"

PILOT_STATES: Final = (
    NEW,
    PMGR_LAUNCHING_PENDING,
    PMGR_LAUNCHING,
    PMGR_ACTIVE_PENDING,
    PMGR_ACTIVE,
)
"""The non-final states of a pilot, in order."""

TASK_STATES: Final = (
    NEW,
    TMGR_SCHEDULING_PENDING,
    TMGR_SCHEDULING,
    TMGR_STAGING_INPUT_PENDING,
    TMGR_STAGING_INPUT,
    AGENT_STAGING_INPUT_PENDING,
    AGENT_STAGING_INPUT,
    AGENT_SCHEDULING_PENDING,
    AGENT_SCHEDULING,
    AGENT_EXECUTING_PENDING,
    AGENT_EXECUTING,
    AGENT_STAGING_OUTPUT_PENDING,
    AGENT_STAGING_OUTPUT,
    TMGR_STAGING_OUTPUT_PENDING,
    TMGR_STAGING_OUTPUT,
)
"""The non-final states of a task, in order."""

_PILOT_RANK = {state: rank for rank, state in enumerate((*PILOT_STATES, *FINAL))}
_TASK_RANK = {state: rank for rank, state in enumerate((*TASK_STATES, *FINAL))}


def pilot_may_go(source: str, target: str) -> bool:
    """Tell whether a pilot may go from ``source`` to ``target`` (forward, or to a final state)."""
    return source not in FINAL and _PILOT_RANK[target] > _PILOT_RANK[source]


def task_may_go(source: str, target: str) -> bool:
    """Tell whether a task may go from ``source`` to ``target`` (forward, or to a final state)."""
    return source not in FINAL and _TASK_RANK[target] > _TASK_RANK[source]


def passed_states(source: str, target: str, *, pilot: bool = False) -> tuple[str, ...]:
    """Return the states passed on the way from ``source`` (left out) to ``target`` (included), for replay to callbacks.

    A task that is DONE has passed all stages; one that is FAILED or CANCELED goes straight there.

    >>> passed_states(NEW, TMGR_SCHEDULING)
    ('TMGR_SCHEDULING_PENDING', 'TMGR_SCHEDULING')
    >>> passed_states(TMGR_SCHEDULING, FAILED)
    ('FAILED',)
    """
    order = PILOT_STATES if pilot else TASK_STATES
    if target in (FAILED, CANCELED):
        return (target,)
    first = order.index(source) + 1
    if target == DONE:
        return (*order[first:], DONE)
    return order[first : order.index(target) + 1]
