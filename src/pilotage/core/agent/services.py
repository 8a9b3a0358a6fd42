"""Services: watched while they run, known as ready or unwell, stopped when nothing else is left to do.

Which services are to be watched follows from the state: those that run and are not being ended. In each step what is watched
is compared with that, for the services that the step's facts name; and what is told of them with what tasks were told that
need them. A task whose service is not ready any more, or somewhere else, is taken back from where it waits to begin, and waits
until the service is ready; it ends if the service is over.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from pilotage.core.agent import actions, events, facts
from pilotage.core.agent.dispatch import Dispatch
from pilotage.core.agent.endings import OF_AN_ATTEMPT, Endings
from pilotage.core.agent.facts import tasks_named
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.needs import information
from pilotage.core.agent.waiting import Waiting
from pilotage.model.ids import Attempt, RunnerId, TaskUid
from pilotage.model.outcome import Ending

NOT_WATCHED = Attempt(0)
STOPPED = "stopped with its pilot"


class Services:
    """Looks after tasks that are services, and after those that need them."""

    def __init__(self, journal: Journal, waiting: Waiting, dispatch: Dispatch, endings: Endings) -> None:
        self._journal = journal
        self._state = journal.state
        self._waiting = waiting
        self._dispatch = dispatch
        self._endings = endings
        self._watched: dict[TaskUid, Attempt] = {}
        """The services that have no outcome, and the attempt of each that is watched."""
        self._unsettled: dict[TaskUid, None] = {}
        """Services that are to be looked at, though no fact of this step names them."""
        self._told: dict[TaskUid, str] = {}
        """What tasks that are placed are told of the services that are ready."""

    def recover(self) -> None:
        """Take over what the state says; what runs is watched again."""
        for uid, task in self._state.tasks.items():
            if self._state.templates[task.row.template].service is not None:
                self._watched[uid] = NOT_WATCHED
                info = information(self._state, uid)
                if info is not None:
                    self._told[uid] = info
        self._unsettled.update(dict.fromkeys(self._watched))
        self._waiting.has_services = bool(self._watched or self._state.services_over)

    def add(self, uids: Iterable[TaskUid]) -> None:
        """These were accepted, and are services."""
        self._watched.update(dict.fromkeys(uids, NOT_WATCHED))
        self._waiting.has_services = True

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

    def settle(self, now: float) -> None:
        """Watch what runs now, and watch no longer what does not; let tasks that need a service wait, go on, or end."""
        journal, seen = self._journal, 0
        while self._watched or self._waiting.forsaken:
            self._end_forsaken(now)
            new_facts, seen = journal.new_facts[seen:], len(journal.new_facts)
            named = dict.fromkeys(uid for fact in new_facts for uid in tasks_named(fact) if uid in self._watched)
            if self._unsettled:
                named |= self._unsettled
                self._unsettled.clear()
            if not named:
                return
            changed: dict[TaskUid, None] = {}
            for uid in named:
                self._look_at(uid)
                if self._has_changed(now, uid):
                    changed[uid] = None
            if changed:
                self._take_back(now, changed)
            self._go_on(now, [uid for uid in named if uid in self._told])

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

    # ---------------------------------------------------------------------------------------------- those that need them

    def _has_changed(self, now: float, service: TaskUid) -> bool:
        """Note how the service is now; tell whether what those that need it were told of it holds no longer."""
        before, info = self._told.pop(service, None), information(self._state, service)
        if info is not None:
            self._told[service] = info
        if service not in self._state.tasks:
            del self._watched[service]
            self._journal.emit(facts.ServiceOver(now, service, self._how_it_ended(service)))
            return True
        return before is not None and info != before

    def _take_back(self, now: float, services: Container[TaskUid]) -> None:
        """Those that need one of these services and have not begun wait anew."""
        state = self._state
        waiting: list[TaskUid] = []
        handed: list[TaskUid] = []
        for uid in self._dependents(services):
            if state.tasks[uid].lane:
                handed.append(uid)
            elif self._waiting.dequeue(uid):
                waiting.append(uid)
        self._dispatch.recall(handed)
        self._waiting.enqueue_each(waiting, now)

    def _dependents(self, services: Container[TaskUid]) -> list[TaskUid]:
        # Seldom asked for, so there is no index of them that would have to be kept; but asked once for all of a step, as a
        # spawner that is lost takes many services along.
        return [
            uid
            for uid, task in self._state.tasks.items()
            if (extra := task.row.extra) is not None
            and extra.services
            and not task.started
            and any(service in services for service in extra.services.values())
        ]

    def _go_on(self, now: float, services: Iterable[TaskUid]) -> None:
        """Those that wait for one of these services, which are ready, wait no longer for it."""
        self._waiting.enqueue_each([uid for service in services for uid in self._waiting.take_unserved(service)], now)

    def mistrust(self, runner: RunnerId) -> None:
        """Take back what this runner has not begun and needs services: it may not have heard that it is to give it back."""
        state = self._state
        if self._waiting.has_services:
            self._dispatch.recall(
                uid
                for lane in state.lanes.values()
                if lane.runner == runner
                for uid in lane.tasks
                if (extra := state.tasks[uid].row.extra) is not None and extra.services and not state.tasks[uid].started
            )

    def _end_forsaken(self, now: float) -> None:
        for uid, service in self._waiting.take_forsaken().items():
            how = self._state.services_over[service]
            message = f"cancelled: service {service!r}, which it needs, ended: {how}"
            self._endings.finish(now, [uid], Ending.CANCELLED, message)

    def _how_it_ended(self, service: TaskUid) -> str:
        outcomes = [outcome for fact in self._journal.new_facts if isinstance(fact, facts.Ended) for outcome in fact.outcomes]
        outcome = next((outcome for outcome in outcomes if outcome.task == service), None)
        if outcome is None:
            return "it did not begin before the time of its pilot was over"
        return outcome.message or outcome.ending.name.lower().replace("_", " ")
