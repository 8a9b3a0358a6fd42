"""Tasks on their way between the user and pilots: accepted, bound, cancelled, final."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from pilotage.core.client import actions, events, facts
from pilotage.core.client.binding import CHUNK_TASKS, Dealer, only_pilot, usable_pilots
from pilotage.core.client.holding import Holding
from pilotage.core.client.journal import Journal
from pilotage.core.client.state import NO_PILOT, ManagerRecord, PilotRecord
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.states import AGENT_EXECUTING, AGENT_STAGING_OUTPUT, FINAL


class Tasks:
    """Decides what becomes of tasks that no other task has to be asked for."""

    def __init__(self, journal: Journal, holding: Holding) -> None:
        self._journal = journal
        self._state = journal.state
        self._holding = holding
        self._dealer = Dealer(journal.state)

    def submitted(self, event: events.TasksSubmitted) -> None:
        """Accept tasks, and bind them if there is a pilot to choose; what is held is the business of ``Dependents``."""
        state, now = self._state, event.time
        manager = state.managers[event.manager]
        usable = usable_pilots(state, manager)
        chosen = NO_PILOT
        if event.held:
            pass
        elif event.pinned:
            chosen = event.pinned if state.pilots[event.pinned].usable else NO_PILOT
        elif not manager.waiting and (only := only_pilot(state, manager)) is not None:
            chosen = only.uid
        self._journal.emit(facts.TasksAccepted(now, event.manager, event.pinned, chosen, event.encoded), batch=event.batch)
        if event.metadata:
            self._journal.emit(facts.MetadataKept(event.metadata))
        if event.asked:
            self._journal.emit(facts.DependenciesKept(event.asked))
        self._journal.tell_tasks(row.uid for row in event.batch.rows)
        if event.held:
            return
        if chosen:
            self._journal.act(actions.OfferMessages(chosen))
        elif event.pinned:
            self._refuse_pinned(now, event.pinned, [row.uid for row in event.batch.rows])
        elif not usable:
            self._journal.warn_once(
                event.manager,
                f"the tasks of {event.manager} wait for a pilot: it has none that can take them{self._last_end(manager)}; "
                "submit one and pass it to add_pilots()",
            )
            self._journal.tell_waiting(event.manager)
        else:
            self.bind_waiting(now, event.manager)

    def _last_end(self, manager: ManagerRecord) -> str:
        """Return in words how the last of a manager's pilots that have ended has; empty if none has."""
        ended = [self._state.pilots[uid] for uid in manager.pilots if self._state.pilots[uid].state in FINAL]
        return f", as {ended[-1].uid} is {ended[-1].state}: {ended[-1].reason}" if ended else ""

    def bind_freed(self, now: float, tasks: list[TaskUid]) -> None:
        """Bind tasks that wait for a pilot: to the one that they ask for, or as their managers deal."""
        pinned: dict[PilotUid, list[TaskUid]] = {}
        managers: dict[str, None] = {}
        for uid in tasks:
            record = self._state.tasks[uid]
            if record.pinned:
                pinned.setdefault(record.pinned, []).append(uid)
            else:
                managers[record.manager] = None
        for name, group in pinned.items():
            pilot = self._state.pilots[name]
            if not pilot.usable:
                self._refuse_pinned(now, name, group)
                continue
            self._bind(now, pilot, group)
            self._journal.tell_tasks(group)
            self._journal.act(actions.OfferMessages(name))
        for manager in managers:
            if usable_pilots(self._state, self._state.managers[manager]):
                self.bind_waiting(now, manager)
            else:
                self._journal.tell_waiting(manager)

    def bind_waiting(self, now: float, manager: str) -> None:
        """Give the waiting tasks of a manager to its pilots, as far as these have room."""
        shares = self._dealer.deal(self._state.managers[manager])
        for pilot, tasks in shares:
            for start in range(0, len(tasks), CHUNK_TASKS):
                self._bind(now, pilot, tasks[start : start + CHUNK_TASKS])
            self._journal.tell_tasks(tasks)
            self._journal.act(actions.OfferMessages(pilot.uid))
        if shares:
            self._journal.tell_waiting(manager)

    def _bind(self, now: float, pilot: PilotRecord, tasks: list[TaskUid]) -> None:
        # A message has one binding; tasks that come from a pilot that ended have a higher one than new tasks.
        by_binding: dict[int, list[TaskUid]] = {}
        for uid in tasks:
            by_binding.setdefault(self._state.tasks[uid].binding + 1, []).append(uid)
        for binding, group in by_binding.items():
            self._journal.emit(facts.TasksBound(now, pilot.uid, Binding(binding), group))

    def _refuse_pinned(self, now: float, pinned: PilotUid, tasks: list[TaskUid]) -> None:
        pilot = self._state.pilots[pinned]
        ending = "is ending" if pilot.ending and pilot.state not in FINAL else f"has ended ({pilot.state})"
        message = f"pilot {pinned!r}, which the task asks for by name, {ending}; name another one or none"
        self.settle(now, Ending.LAUNCH_FAILED, message, tasks)

    def settle(
        self,
        now: float,
        ending: Ending,
        message: str,
        tasks: list[TaskUid],
        tries: Mapping[TaskUid, tuple[Attempt, int]] | None = None,
    ) -> None:
        """Give these tasks, which no pilot has, their outcome; ``tries``: see ``PilotLost``."""
        if not tasks:
            return
        held = self._state.held
        for uid in tasks:
            if uid in held:
                self._holding.drop(uid, held[uid])
        attempts = {uid: tries[uid][0] for uid in tasks if uid in tries} if tries else {}
        self._journal.emit(facts.TasksSettled(now, ending, message, tasks, attempts))
        self._journal.tell_tasks(tasks)
        self._journal.ended += tasks
        self._end_gangs(now, tasks)

    def _end_gangs(self, now: float, ended: list[TaskUid]) -> None:
        """End the gangs of which one of these, which no pilot has, was to be part: they can't begin any more."""
        state = self._state
        names = state.gang_templates
        over: dict[str, TaskUid] = {}
        for uid in ended if names else ():
            gang = names.get(state.tasks[uid].row.template)
            if gang is not None and not state.tasks[uid].pilot:
                over.setdefault(gang, uid)
        if not over:
            return
        here: dict[str, list[TaskUid]] = {}
        there: list[TaskUid] = []
        for uid, record in state.tasks.items():
            gang = names.get(record.row.template)
            if gang in over and record.outcome is None:
                if record.pilot:
                    there.append(uid)
                else:
                    here.setdefault(gang, []).append(uid)
        for gang, uids in here.items():
            first = state.tasks[over[gang]].outcome
            why = first.message if first is not None else ""
            message = f"its gang {gang!r} cannot begin, as task {over[gang]!r} ended before: {why}"
            self.settle(now, Ending.CANCELLED, message, uids)
        self.cancel(now, there)

    def without_left_behind(self, now: float, tasks: list[TaskUid], how: str) -> list[TaskUid]:
        """End those of these tasks, which a pilot has no more, whose gang began or ended without them; return the others."""
        state = self._state
        names = state.gang_templates
        if not names:
            return tasks
        over = {names.get(record.row.template) for record in state.tasks.values() if record.outcome is not None} - {None}
        left = [uid for uid in tasks if names.get(state.tasks[uid].row.template) in over]
        self.settle(now, Ending.CANCELLED, f"its gang began, or ended, without it; {how}", left)
        return [uid for uid in tasks if state.tasks[uid].outcome is None]

    def cancel(self, now: float, tasks: Iterable[TaskUid]) -> None:
        """Cancel tasks: here if no pilot has them, or one that was sent nothing so far, else by asking the pilot."""
        here: list[TaskUid] = []
        unsent: list[TaskUid] = []
        there: dict[PilotUid, list[tuple[TaskUid, Binding]]] = {}
        for uid in dict.fromkeys(tasks):
            record = self._state.tasks[uid]
            if record.outcome is not None or record.cancelling:
                continue
            if not record.pilot:
                here.append(uid)
            elif self._state.pilots[record.pilot].takes_back:
                unsent.append(uid)
            else:
                there.setdefault(record.pilot, []).append((uid, record.binding))
        self.settle(now, Ending.CANCELLED, "cancelled before it was bound to a pilot", here)
        if unsent:
            self._journal.emit(facts.TasksUnbound(now, unsent))
            self.settle(now, Ending.CANCELLED, "cancelled before its pilot was active", unsent)
        for pilot, requests in there.items():
            self._journal.emit(facts.CancelAsked(now, pilot, requests))
            self._journal.act(actions.OfferMessages(pilot))

    def take_outcomes(self, now: float, pilot: PilotRecord, number: int, outcomes: list[Outcome], encoded: msgspec.Raw) -> None:
        """Take what a pilot says became of tasks; the first outcome of a task counts."""
        tasks = self._state.tasks
        # Whom this message ends has to be known before it is applied; one that was final before is not told again.
        ending = [record for outcome in outcomes if (record := tasks.get(outcome.task)) is not None and record.outcome is None]
        self._journal.emit(facts.OutcomesReceived(now, pilot.uid, number, encoded), outcomes=outcomes)
        ended = [record for record in ending if record.outcome is not None]
        self._journal.act(actions.TellTasks(ended))
        if self._state.held or any(other.awaited for other in self._state.pilots.values()):
            self._journal.ended += [record.row.uid for record in ended]

    def seen_running(self, event: events.TasksSeenRunning) -> None:
        """The pilot says that these tasks run; one whose output could not be staged may run again."""
        running = self._not_yet(AGENT_EXECUTING, event.pilot, [(uid, binding) for uid, binding, *_ in event.started])
        if running:
            self._journal.emit(facts.TasksStarted(event.time, running))
            self._journal.tell_tasks(running)

    def seen_unloading(self, event: events.OutputsSeenStaged) -> None:
        """The pilot says that the output of these tasks is being staged."""
        unloading = self._not_yet(AGENT_STAGING_OUTPUT, event.pilot, [(uid, binding) for uid, binding, _ in event.tasks])
        if unloading:
            self._journal.emit(facts.OutputsBegun(event.time, unloading))
            self._journal.tell_tasks(unloading)

    def _not_yet(self, state: str, pilot: PilotUid, seen: Iterable[tuple[TaskUid, Binding]]) -> list[TaskUid]:
        """Return those of the tasks that are the pilot's, not final, and not known to be in this state."""
        found: list[TaskUid] = []
        for uid, binding in seen:
            record = self._state.tasks.get(uid)
            if record is None or record.outcome is not None or record.binding != binding or record.pilot != pilot:
                continue
            if record.state != state:
                found.append(uid)
        return found
