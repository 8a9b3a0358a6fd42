"""Gangs that can't begin any more: when one member ends before, all do.

That members start together is the policy's doing (see ``core.scheduling.gangs``); they are launched by one record of the log,
so that a gang has begun as a whole or not at all, whatever happens. Until then a member that is cancelled or refused, or whose
input can't be staged, is the end of its gang (``GangOver``), and of those that come later. Once it has begun its tasks are on
their own: one that its runner gave back is started alone.

A gang of which not all have come when the pilot is about to end has come to its end, too, as nobody comes any more.
"""

from __future__ import annotations

from pilotage.core.agent.endings import Endings
from pilotage.core.agent.journal import Journal
from pilotage.model.ids import TaskUid
from pilotage.model.outcome import Ending


class Gangs:
    """Ends the members of gangs that are over."""

    def __init__(self, journal: Journal, endings: Endings) -> None:
        self._state = journal.state
        self._endings = endings
        self._nobody_comes = False

    def recover(self) -> None:
        """Go on with what a crash may have cut short."""
        self._endings.gangs_over.update(self._state.gangs_over)

    def settle(self, now: float) -> None:
        """End the tasks of gangs that are over since this was last called."""
        if self._endings.gangs_over:
            over, self._endings.gangs_over = self._endings.gangs_over, {}
            for gang, uids in self._not_begun().items():
                if gang in over:
                    self._endings.ask(now, 0, uids, Ending.CANCELLED, over[gang])
        if self._state.ending is not None and not self._nobody_comes:
            self._nobody_comes = True
            self._end_incomplete(now)

    def _end_incomplete(self, now: float) -> None:
        tasks, templates = self._state.tasks, self._state.templates
        for gang, uids in self._not_begun().items():
            size = templates[tasks[uids[0]].row.template].request.gang_size
            if len(uids) < size:
                message = (
                    f"gang {gang!r} never began: {size - len(uids):,} of its {size:,} tasks had not come when the pilot was to "
                    "end; submit all of them, or say a smaller gang_size"
                )
                self._endings.ask(now, 0, uids, Ending.INFEASIBLE, message)

    def _not_begun(self) -> dict[str, list[TaskUid]]:
        """Return the tasks that are here and wait for their gang, by its name."""
        found: dict[str, list[TaskUid]] = {}
        templates = self._state.templates
        for uid, task in self._state.tasks.items():
            gang = templates[task.row.template].request.gang
            if gang and not task.attempt and uid not in self._state.outputs:
                found.setdefault(gang, []).append(uid)
        return found
