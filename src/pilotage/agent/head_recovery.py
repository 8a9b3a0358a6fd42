"""What a head's log holds: the metascheduler's state, and the tasks that it was last busy with."""

from __future__ import annotations

from pathlib import Path

from pilotage.agent.recovery import recover_any, tasks_named_last
from pilotage.core.metascheduler import facts
from pilotage.core.metascheduler.state import MetaschedulerState, apply
from pilotage.model.ids import TaskUid


def recover_head(folder: Path) -> MetaschedulerState:
    """Return the state that the log in ``folder`` holds.

    Raises:
        LogCorrupted: history cannot be trusted.
    """
    return recover_any(folder, MetaschedulerState, facts.Fact, apply)[0]


def tasks_of_last_head_record(folder: Path) -> list[TaskUid]:
    """Return the tasks that the last record of the log in ``folder`` names; none if a snapshot stands in its place."""
    return tasks_named_last(folder, facts.Fact, _tasks_named)


def _tasks_named(fact: facts.Fact) -> list[TaskUid]:
    match fact:
        case facts.TasksAccepted():
            return [row.uid for row in fact.batch.rows]
        case facts.TasksLeased() | facts.EndAsked() | facts.Rebound():
            return list(fact.tasks)
        case facts.TasksReleased():
            return [uid for uid, _, _ in fact.tasks]
        case facts.Ended():
            return [outcome.task for outcome in fact.outcomes]
        case facts.ServiceReady() | facts.ServiceOver():
            return [fact.service]
        case _:
            return []
