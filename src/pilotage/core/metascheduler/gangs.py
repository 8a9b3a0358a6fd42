"""Gangs in a pilot with partitions: all members go to one partition, which starts them together; if one ends, all do.

The partition sees to it while it has all members (see ``core.agent.gangs``). Here the same is done for those that are not all
in one yet: when one ends that no attempt was made of, the others are ended, wherever they are. A gang of which not all have
come when the pilot is about to end can't begin any more.
"""

from __future__ import annotations

from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.partitions import Partitions
from pilotage.core.metascheduler.tasks import Tasks
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending


class Gangs:
    """Ends the members of gangs that can't begin any more."""

    def __init__(self, journal: Journal, tasks: Tasks, partitions: Partitions) -> None:
        self._state = journal.state
        self._tasks = tasks
        self._partitions = partitions
        self._nobody_comes = False

    def look(self, now: float) -> None:
        """End those whose gang is over since this was last called."""
        for gang in list(self._tasks.gangs_ended):
            message = self._tasks.gangs_ended.pop(gang)
            self._end(now, self._members().get(gang, []), Ending.CANCELLED, message)
        if self._state.ending is not None and not self._nobody_comes:
            self._nobody_comes = True
            self._end_incomplete(now)

    def _end_incomplete(self, now: float) -> None:
        tasks, templates = self._state.tasks, self._state.templates
        for gang, uids in self._members().items():
            size, came = templates[tasks[uids[0]].row.template].request.gang_size, self._state.gangs[gang]
            if came < size:
                message = (
                    f"gang {gang!r} never began: {size - came:,} of its {size:,} tasks had not come when the pilot was to end; "
                    "submit all of them, or say a smaller gang_size"
                )
                self._end(now, uids, Ending.INFEASIBLE, message)

    def _end(self, now: float, uids: list[TaskUid], ending: Ending, message: str) -> None:
        if uids:
            self._tasks.ask(now, 0, uids, ending, message)
            self._partitions.offer_all()

    def _members(self) -> dict[str, list[TaskUid]]:
        found: dict[str, list[TaskUid]] = {}
        for uid, gang in self._tasks.gang_of.items():
            found.setdefault(gang, []).append(uid)
        return found
