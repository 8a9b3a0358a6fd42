"""Services: watched while they run, known as ready or unwell, stopped when nothing else is left to do.

Which services are to be watched follows from the state: those that run and are not being ended. After each step what is
watched is compared with that, for the services that the step's facts name.
"""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.endings import OF_AN_ATTEMPT, Endings
from pilotage.core.agent.facts import Fact, tasks_named
from pilotage.core.agent.journal import Journal
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Ending

NOT_WATCHED = Attempt(0)
STOPPED = "stopped with its pilot"


class Services:
    """Looks after tasks that are services."""

    def __init__(self, journal: Journal, endings: Endings) -> None:
        self._journal = journal
        self._state = journal.state
        self._endings = endings
        self._watched: dict[TaskUid, Attempt] = {}
        """The services that have no outcome, and the attempt of each that is watched."""
        self._unsettled: dict[TaskUid, None] = {}
        """Services that are to be looked at, though no fact of this step names them."""

    def recover(self) -> None:
        """Take over what the state says; what runs is watched again."""
        for uid, task in self._state.tasks.items():
            if self._state.templates[task.row.template].service is not None:
                self._watched[uid] = NOT_WATCHED
        self._unsettled.update(dict.fromkeys(self._watched))

    def add(self, uids: Iterable[TaskUid]) -> None:
        """These were accepted, and are services."""
        self._watched.update(dict.fromkeys(uids, NOT_WATCHED))

    def ready(self, event: events.ServiceReady) -> None:
        """Note what is told of a service, for those who want it."""
        uid = event.service
        if not self._is_attended(uid, event.attempt):
            self._journal.stale += 1
        elif self._state.services.get(uid) != event.info:
            self._journal.emit(facts.ServiceReady(event.time, uid, event.attempt, event.info))
            self._journal.act(actions.TellService(uid))

    def unwell(self, event: events.ServiceUnwell) -> None:
        """End the attempt; its template says whether there is another."""
        uid = event.service
        if self._is_attended(uid, event.attempt):
            ending = Ending.EXITED if uid in self._state.services else Ending.TIMED_OUT
            self._endings.ask(event.time, 0, [uid], ending, event.message)
        else:
            self._journal.stale += 1

    def _is_attended(self, uid: TaskUid, attempt: Attempt) -> bool:
        return uid in self._watched and self._state.runs(uid, attempt) and self._state.tasks[uid].ending is None

    def stop(self, now: float) -> None:
        """End the services of a pilot that ends: at once, or as there is nothing else left in it.

        What served has done what it was for; what did not is cancelled.
        """
        state, ending = self._state, self._state.ending
        if ending is None or not self._watched or (ending.drain and len(self._living()) < len(state.tasks)):
            return
        serving: list[TaskUid] = []
        others: list[TaskUid] = []
        for uid in self._living():
            task = state.tasks[uid]
            if (task.ending is None or task.ending in OF_AN_ATTEMPT) and uid not in state.outputs:
                serves = bool(task.started) if ending.drain else uid in state.services
                (serving if serves else others).append(uid)
        self._endings.ask(now, 0, serving, Ending.DONE, STOPPED)
        self._endings.ask(now, 0, others, Ending.CANCELLED, f"{STOPPED}: {ending.reason}")

    def _living(self) -> list[TaskUid]:
        return [uid for uid in self._watched if uid in self._state.tasks]

    def look(self, new_facts: Iterable[Fact]) -> None:
        """Watch what runs now, and watch no longer what does not."""
        if not self._watched:
            return
        named = dict.fromkeys(uid for fact in new_facts for uid in tasks_named(fact) if uid in self._watched)
        if self._unsettled:
            named |= self._unsettled
            self._unsettled.clear()
        for uid in named:
            self._look_at(uid)

    def _look_at(self, uid: TaskUid) -> None:
        state, watched = self._state, self._watched[uid]
        task = state.tasks.get(uid)
        wanted = task.attempt if task is not None and task.lane and task.started and task.ending is None else NOT_WATCHED
        if wanted != watched:
            if watched:
                self._journal.act(actions.UnwatchService(uid))
            service = None if task is None else state.templates[task.row.template].service
            if wanted and task is not None and service is not None:
                node = state.lanes[task.lane].placement[0].node
                self._journal.act(actions.WatchService(wanted, task.row, service, node, uid in state.services))
            self._watched[uid] = wanted
        if task is None:
            del self._watched[uid]
