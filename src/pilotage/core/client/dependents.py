"""Tasks that wait for others: held, freed when they may run, settled when they never may; and services that become ready."""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.client import events, facts
from pilotage.core.client.holding import Holding, service_variables, verdict
from pilotage.core.client.journal import Journal
from pilotage.core.client.tasks import Tasks
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.outcome import Ending


class Dependents:
    """Decides what becomes of tasks that wait for tasks or services."""

    def __init__(self, journal: Journal, holding: Holding, tasks: Tasks) -> None:
        self._journal = journal
        self._state = journal.state
        self._holding = holding
        self._tasks = tasks

    def hold(self, now: float, event: events.TasksSubmitted) -> None:
        """Hold what has to wait, and bind what need not, or not any more."""
        self._journal.emit(facts.TasksHeld(now, event.held))
        for uid, held in event.held.items():
            self._holding.hold(uid, held)
        free = [row.uid for row in event.batch.rows if row.uid not in event.held]
        self._tasks.bind_freed(now, free)
        self._judge(now, list(event.held))

    def follow_up(self, now: float) -> list[tuple[PilotUid, TaskUid]]:
        """Judge those who wait for what became final, and those who wait for these if they end unrun, and so on.

        Returns the pilots that cannot be had, as one of their services ended before it was ready.
        """
        failed: list[tuple[PilotUid, TaskUid]] = []
        journal, state = self._journal, self._state
        while journal.ended:
            ended, journal.ended = journal.ended, []
            if state.held:
                self._judge(now, dict.fromkeys(dependent for uid in ended for dependent in self._holding.ended(uid)))
            for pilot in state.pilots.values():
                if pilot.awaited and pilot.usable:
                    failed += [(pilot.uid, uid) for uid in pilot.awaited if uid in ended]
        return failed

    def _judge(self, now: float, tasks: Iterable[TaskUid]) -> None:
        """Free held tasks that may run now, and settle those that never may."""
        state = self._state
        freed: list[TaskUid] = []
        never: dict[str, list[TaskUid]] = {}
        for uid in tasks:
            held = state.held.get(uid)
            if held is None:
                continue
            refusal = verdict(held, state.tasks, is_open=self._holding.is_open(uid))
            if refusal is None:
                continue
            self._holding.drop(uid, held)
            if refusal:
                never.setdefault(refusal, []).append(uid)
            else:
                freed.append(uid)
        if freed:
            variables = {uid: told for uid in freed if (told := service_variables(state, state.held[uid].services))}
            self._journal.emit(facts.TasksFreed(now, freed, variables))
            self._tasks.bind_freed(now, freed)
        for refusal, group in never.items():
            self._tasks.settle(now, Ending.CANCELLED, refusal, group)

    def services_seen(self, event: events.ServicesSeen) -> None:
        """The pilot says that these services are ready: whoever waited for the last of them may run."""
        tasks, known = self._state.tasks, self._state.service_info
        told: dict[TaskUid, str] = {}
        for uid, binding, _, info in event.services:
            record = tasks.get(uid)
            if record is None or record.outcome is not None or record.binding != binding or record.pilot != event.pilot:
                continue
            if known.get(uid) != info:
                told[uid] = info
        if not told:
            return
        news = [uid for uid in told if uid not in known]
        waited = [pilot.uid for pilot in self._state.pilots.values() if pilot.awaited]
        self._journal.emit(facts.ServicesReady(event.time, told))
        self._journal.tell_tasks(told)
        self._judge(event.time, dict.fromkeys(held for uid in news for held in self._holding.service_ready(uid)))
        if any(not self._state.pilots[uid].awaited for uid in waited):
            for name, manager in self._state.managers.items():
                if manager.waiting:
                    self._tasks.bind_waiting(event.time, name)
