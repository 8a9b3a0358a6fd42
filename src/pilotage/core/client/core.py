"""``ClientCore``: one call takes an event, changes the state by facts alone, and says what is to be done.

How it decides:

- A task is bound when its manager has a pilot for it (see ``binding``), otherwise it waits, and the user is told once.
- A cancelled task that no pilot has is final at once; for one that a pilot has the pilot is asked, and its answer counts.
- A pilot that said goodbye holds nothing. What it did not answer for never began, so other pilots may have it.
- A pilot that is gone without a goodbye may have begun whatever was sent to it, unless its log says more. Such tasks are
  lost, unless they may run twice (``restartable``, or ``retries`` left) and there is another pilot.
- When the last pilot of a manager ends, all its tasks end: nothing waits for what will not come.
- A task that was submitted to run after others, or needs services, is bound when it may run (see ``holding``).
- A pilot with services takes other tasks once they are ready; it ends if one of them cannot be.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pilotage.core.client import actions, events, facts
from pilotage.core.client.actions import Action
from pilotage.core.client.binding import CHUNK_TASKS, deal, usable_pilots
from pilotage.core.client.events import Event
from pilotage.core.client.facts import Fact
from pilotage.core.client.holding import Holding, service_variables, verdict
from pilotage.core.client.state import NO_PILOT, ClientState, PilotRecord, TaskRecord, apply, queued_rows
from pilotage.errors import unreachable
from pilotage.model.ids import Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.states import AGENT_EXECUTING, CANCELED, FAILED, FINAL, PMGR_ACTIVE
from pilotage.model.workload import Batch


class Decision:
    """What one event led to: facts, already applied and to be logged before any of the actions is performed."""

    __slots__ = ("actions", "facts")

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self.actions: list[Action] = []


class ClientCore:
    """The decisions of a session. ``state`` is read by everyone and changed by ``handle`` alone."""

    def __init__(self, state: ClientState | None = None) -> None:
        self.state = state if state is not None else ClientState()
        self._warned: set[str] = set()
        self._decision = Decision()
        self._holding = Holding(self.state)
        self._news: list[TaskUid] = []
        """Tasks that became final in this step, and may have others waiting for them."""

    def handle(self, event: Event) -> Decision:
        """Take in an event, and return what it led to."""
        decision = self._decision = Decision()
        match event:
            case events.OutcomesArrived():
                self._outcomes_arrived(event)
            case events.TasksSubmitted():
                self._tasks_submitted(event)
            case events.LinkOpened():
                if self.state.pilots[event.pilot].outbox:
                    self._emit(facts.MessagesNumbered(event.pilot, event.number, 1))
                    decision.actions.append(actions.SendMessage(event.pilot, event.number))
            case events.AgentAcknowledged():
                self._delivered(self.state.pilots[event.pilot], event.durable)
            case events.TasksSeenRunning():
                self._seen_running(event)
            case events.ServicesSeen():
                self._services_seen(event)
            case events.EnvironmentAsked():
                self._emit(facts.EnvironmentAsked(event.time, event.pilot, event.name, event.spec))
                decision.actions.append(actions.OfferMessages(event.pilot))
            case events.CallbacksReturned():
                self._emit(facts.CallbacksMarked(event.tasks))
            case events.CancelRequested():
                self._cancel(event.time, event.tasks)
            case events.AgentGreeted():
                self._agent_greeted(event)
            case events.PilotSubmitted():
                self._emit(facts.PilotAccepted(event.time, event.manager, event.pilot, event.description, event.nodes))
                if event.services:
                    self._emit(facts.PilotServicesAwaited(event.pilot, list(event.services)))
                decision.actions += (self._tell(event.pilot), actions.StartPilot(event.pilot))
            case events.PilotProcessStarted():
                if not self._is_over(event.pilot):
                    launched = facts.PilotLaunched(event.time, event.pilot, event.pid, event.started_ticks, event.boot_id)
                    self._emit(launched)
                    decision.actions.append(self._tell(event.pilot))
            case events.PilotEndArrived():
                self._pilot_end_arrived(event)
            case events.PilotLost():
                self._pilot_lost(event)
            case events.PilotCancelRequested():
                self._end_pilots(event.time, event.pilots, event.drain)
            case events.PilotsAttached():
                manager = self.state.managers[event.manager]
                added = [uid for uid in event.pilots if uid not in manager.pilots]
                if added:
                    self._emit(facts.PilotsAdded(event.manager, added))
                    self._bind_waiting(event.time, event.manager)
            case events.PilotsDetached():
                self._emit(facts.PilotsRemoved(event.manager, event.pilots))
            case events.ManagerCreated():
                self._emit(facts.ManagerAdded(event.time, event.manager, event.kind))
            case events.SessionOpened():
                self._emit(facts.EpochBegun(event.time, event.epoch))
            case events.SessionClosing():
                self._session_closing(event.time)
            case _:
                unreachable(event)
        if self._news and not isinstance(event, events.LinkOpened):
            self._follow_up(event.time)
        return decision

    def _emit(self, fact: Fact, *, batch: Batch | None = None, outcomes: list[Outcome] | None = None) -> None:
        apply(self.state, fact, batch=batch, outcomes=outcomes)
        self._decision.facts.append(fact)

    def _tell(self, pilot: PilotUid) -> actions.TellPilot:
        return actions.TellPilot(self.state.pilots[pilot])

    def _tell_tasks(self, tasks: Iterable[TaskUid]) -> None:
        records = self.state.tasks
        self._decision.actions.append(actions.TellTasks([records[uid] for uid in tasks]))

    def _tell_waiting(self, manager: str) -> None:
        self._decision.actions.append(actions.TellWaiting(manager, len(self.state.managers[manager].waiting)))

    def _warn_once(self, topic: str, message: str) -> None:
        if topic not in self._warned:
            self._warned.add(topic)
            self._decision.actions.append(actions.Warn(message))

    def _is_over(self, pilot: PilotUid) -> bool:
        return self.state.pilots[pilot].state in FINAL

    # tasks

    def _tasks_submitted(self, event: events.TasksSubmitted) -> None:
        state, now = self.state, event.time
        manager = state.managers[event.manager]
        usable = usable_pilots(state, manager)
        chosen = NO_PILOT
        if event.held:
            pass
        elif event.pinned:
            chosen = event.pinned if state.pilots[event.pinned].usable else NO_PILOT
        elif len(usable) == 1 and not manager.waiting and not usable[0].awaited:
            chosen = usable[0].uid
        self._emit(facts.TasksAccepted(now, event.manager, event.pinned, chosen, event.encoded), batch=event.batch)
        if event.metadata:
            self._emit(facts.MetadataKept(event.metadata))
        self._tell_tasks(row.uid for row in event.batch.rows)
        if event.held:
            self._hold(now, event)
        elif chosen:
            self._decision.actions.append(actions.OfferMessages(chosen))
        elif event.pinned:
            self._refuse_pinned(now, event.pinned, [row.uid for row in event.batch.rows])
        elif not usable:
            self._warn_once(
                event.manager,
                f"the tasks of {event.manager} wait for a pilot: it has none that can take them; "
                "submit one and pass it to add_pilots()",
            )
            self._tell_waiting(event.manager)
        else:
            self._bind_waiting(now, event.manager)

    def _refuse_pinned(self, now: float, pinned: PilotUid, tasks: list[TaskUid]) -> None:
        pilot = self.state.pilots[pinned]
        ending = "is ending" if pilot.ending and not self._is_over(pinned) else f"has ended ({pilot.state})"
        message = f"pilot {pinned!r}, which the task asks for by name, {ending}; name another one or none"
        self._settle(now, Ending.LAUNCH_FAILED, message, tasks)

    # tasks that wait for others

    def _hold(self, now: float, event: events.TasksSubmitted) -> None:
        """Hold what has to wait, and bind what need not, or not any more."""
        self._emit(facts.TasksHeld(now, event.held))
        for uid, held in event.held.items():
            self._holding.hold(uid, held)
        free = [row.uid for row in event.batch.rows if row.uid not in event.held]
        self._bind_freed(now, free)
        self._judge(now, list(event.held))

    def _follow_up(self, now: float) -> None:
        """Judge those who wait for what became final, and those who wait for these if they end unrun, and so on."""
        while self._news:
            news, self._news = self._news, []
            if self.state.held:
                self._judge(now, dict.fromkeys(dependent for uid in news for dependent in self._holding.ended(uid)))
            for pilot in list(self.state.pilots.values()):
                failed = [uid for uid in pilot.awaited if uid in news]
                if failed and pilot.usable:
                    outcome = self.state.tasks[failed[0]].outcome
                    how = outcome.message if outcome is not None else ""
                    self._decision.actions.append(
                        actions.Warn(f"pilot {pilot.uid!r} ends: its service {failed[0]!r} ended before it was ready: {how}")
                    )
                    self._end_pilots(now, [pilot.uid], drain=False)

    def _judge(self, now: float, tasks: Iterable[TaskUid]) -> None:
        """Free held tasks that may run now, and settle those that never may."""
        state = self.state
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
            self._emit(facts.TasksFreed(now, freed, variables))
            self._bind_freed(now, freed)
        for refusal, group in never.items():
            self._settle(now, Ending.CANCELLED, refusal, group)

    def _bind_freed(self, now: float, tasks: list[TaskUid]) -> None:
        """Bind tasks that wait for a pilot: to the one that they ask for, or as their managers deal."""
        pinned: dict[PilotUid, list[TaskUid]] = {}
        managers: dict[str, None] = {}
        for uid in tasks:
            record = self.state.tasks[uid]
            if record.pinned:
                pinned.setdefault(record.pinned, []).append(uid)
            else:
                managers[record.manager] = None
        for name, group in pinned.items():
            pilot = self.state.pilots[name]
            if not pilot.usable:
                self._refuse_pinned(now, name, group)
                continue
            self._bind(now, pilot, group)
            self._tell_tasks(group)
            self._decision.actions.append(actions.OfferMessages(name))
        for manager in managers:
            if usable_pilots(self.state, self.state.managers[manager]):
                self._bind_waiting(now, manager)
            else:
                self._tell_waiting(manager)

    def _services_seen(self, event: events.ServicesSeen) -> None:
        tasks, known = self.state.tasks, self.state.service_info
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
        waited = [pilot.uid for pilot in self.state.pilots.values() if pilot.awaited]
        self._emit(facts.ServicesReady(event.time, told))
        self._tell_tasks(told)
        self._judge(event.time, dict.fromkeys(held for uid in news for held in self._holding.service_ready(uid)))
        if any(not self.state.pilots[uid].awaited for uid in waited):
            for name, manager in self.state.managers.items():
                if manager.waiting:
                    self._bind_waiting(event.time, name)

    def _bind_waiting(self, now: float, manager: str) -> None:
        shares = deal(self.state, self.state.managers[manager])
        for pilot, tasks in shares:
            for start in range(0, len(tasks), CHUNK_TASKS):
                self._bind(now, pilot, tasks[start : start + CHUNK_TASKS])
            self._tell_tasks(tasks)
            self._decision.actions.append(actions.OfferMessages(pilot.uid))
        if shares:
            self._tell_waiting(manager)

    def _bind(self, now: float, pilot: PilotRecord, tasks: list[TaskUid]) -> None:
        # A message has one binding; tasks that come from a pilot that ended have a higher one than new tasks.
        by_binding: dict[int, list[TaskUid]] = {}
        for uid in tasks:
            by_binding.setdefault(self.state.tasks[uid].binding + 1, []).append(uid)
        for binding, group in by_binding.items():
            self._emit(facts.TasksBound(now, pilot.uid, Binding(binding), group))

    def _settle(self, now: float, ending: Ending, message: str, tasks: list[TaskUid]) -> None:
        if not tasks:
            return
        held = self.state.held
        for uid in tasks:
            if uid in held:
                self._holding.drop(uid, held[uid])
        self._emit(facts.TasksSettled(now, ending, message, tasks))
        self._tell_tasks(tasks)
        self._news += tasks

    def _cancel(self, now: float, tasks: Iterable[TaskUid]) -> None:
        here: list[TaskUid] = []
        there: dict[PilotUid, list[tuple[TaskUid, Binding]]] = {}
        for uid in dict.fromkeys(tasks):
            record = self.state.tasks[uid]
            if record.outcome is not None or record.cancelling:
                continue
            if record.pilot:
                there.setdefault(record.pilot, []).append((uid, record.binding))
            else:
                here.append(uid)
        self._settle(now, Ending.CANCELLED, "cancelled before it was bound to a pilot", here)
        for pilot, requests in there.items():
            self._emit(facts.CancelAsked(now, pilot, requests))
            self._decision.actions.append(actions.OfferMessages(pilot))

    def _outcomes_arrived(self, event: events.OutcomesArrived) -> None:
        pilot = self.state.pilots[event.pilot]
        if event.number != pilot.received + 1 or pilot.state in FINAL:
            return
        self._take_outcomes(event.time, pilot, event.number, event.outcomes, event.encoded)
        for name, manager in self.state.managers.items():
            if manager.waiting and event.pilot in manager.pilots:
                self._bind_waiting(event.time, name)

    def _take_outcomes(
        self, now: float, pilot: PilotRecord, number: int, outcomes: list[Outcome], encoded: msgspec.Raw
    ) -> None:
        tasks = self.state.tasks
        # Whom this message ends has to be known before it is applied; one that was final before is not told again.
        ending = [record for outcome in outcomes if (record := tasks.get(outcome.task)) is not None and record.outcome is None]
        self._emit(facts.OutcomesReceived(now, pilot.uid, number, encoded), outcomes=outcomes)
        ended = [record for record in ending if record.outcome is not None]
        self._decision.actions.append(actions.TellTasks(ended))
        if self.state.held or any(other.awaited for other in self.state.pilots.values()):
            self._news += [record.row.uid for record in ended]

    def _seen_running(self, event: events.TasksSeenRunning) -> None:
        running: list[TaskUid] = []
        for uid, binding, _, _ in event.started:
            record = self.state.tasks.get(uid)
            if record is None or record.outcome is not None or record.binding != binding or record.pilot != event.pilot:
                continue
            if record.state != AGENT_EXECUTING:
                running.append(uid)
        if running:
            self._emit(facts.TasksStarted(event.time, running))
            self._tell_tasks(running)

    # pilots

    def _agent_greeted(self, event: events.AgentGreeted) -> None:
        pilot = self.state.pilots[event.pilot]
        if pilot.state in FINAL:
            return
        self._delivered(pilot, event.durable)
        if (pilot.state, pilot.incarnation, pilot.nodes) != (PMGR_ACTIVE, event.incarnation, event.nodes):
            self._emit(facts.PilotActivated(event.time, event.pilot, event.incarnation, event.nodes))
            self._decision.actions.append(self._tell(event.pilot))
        self._decision.actions.append(actions.OfferMessages(event.pilot))
        for name, manager in self.state.managers.items():
            if event.pilot in manager.pilots:
                self._bind_waiting(event.time, name)

    def _delivered(self, pilot: PilotRecord, durable: int) -> None:
        if durable > pilot.delivered and pilot.state not in FINAL:
            self._emit(facts.MessagesDelivered(pilot.uid, durable))

    def _end_pilots(self, now: float, pilots: Iterable[PilotUid], drain: bool) -> None:
        for uid in dict.fromkeys(pilots):
            pilot = self.state.pilots[uid]
            # One that drains may still be told to end at once.
            if pilot.state in FINAL or (pilot.ending and drain):
                continue
            self._emit(facts.PilotEndAsked(now, uid, drain))
            self._decision.actions.append(actions.OfferMessages(uid))

    def _pilot_end_arrived(self, event: events.PilotEndArrived) -> None:
        pilot = self.state.pilots[event.pilot]
        if event.number != pilot.received + 1 or pilot.state in FINAL:
            return
        orphans = self._unfinished(pilot)
        self._finish_pilot(event.time, pilot, event.number, event.state, event.reason)
        self._rehome(event.time, pilot, orphans, [])

    def _pilot_lost(self, event: events.PilotLost) -> None:
        pilot = self.state.pilots[event.pilot]
        if pilot.state in FINAL:
            return
        if event.outcomes:
            # They belong to messages that never came, and none will.
            self._take_outcomes(event.time, pilot, pilot.received, event.outcomes, event.encoded)
        received = event.received if event.received is not None else None if pilot.incarnation else 0
        unsent = {row.uid for row in queued_rows(pilot.outbox)}
        if received is not None:
            never_arrived = [message for number, message in pilot.unacknowledged.items() if number > received]
            unsent |= {row.uid for row in queued_rows(never_arrived)}
        unsent |= {uid for uid, binding in event.not_begun if uid in self.state.tasks and self._is_bound(uid, binding)}
        unfinished = self._unfinished(pilot)
        state = CANCELED if pilot.ending else FAILED
        self._finish_pilot(event.time, pilot, 0, state, event.reason)
        never_began = [uid for uid in unfinished if uid in unsent]
        self._rehome(event.time, pilot, never_began, [uid for uid in unfinished if uid not in unsent])

    def _is_bound(self, uid: TaskUid, binding: Binding) -> bool:
        return self.state.tasks[uid].binding == binding

    def _unfinished(self, pilot: PilotRecord) -> list[TaskUid]:
        if not pilot.load:
            return []
        return [uid for uid, record in self.state.tasks.items() if record.pilot == pilot.uid and record.outcome is None]

    def _finish_pilot(self, now: float, pilot: PilotRecord, number: int, state: str, reason: str) -> None:
        self._emit(facts.PilotEnded(now, pilot.uid, number, state, reason))
        self._decision.actions += (self._tell(pilot.uid), actions.DisconnectPilot(pilot.uid))

    def _rehome(self, now: float, pilot: PilotRecord, never_began: list[TaskUid], may_have_run: list[TaskUid]) -> None:
        """Decide what becomes of the unfinished tasks of a pilot that is over, and of those that waited for it."""
        tasks = self.state.tasks
        how = f"pilot {pilot.uid!r} ended ({pilot.state}{': ' if pilot.reason else ''}{pilot.reason})"
        cancelled = [uid for uid in (*never_began, *may_have_run) if tasks[uid].cancelling]
        self._settle(now, Ending.CANCELLED, f"cancelled; {how}", cancelled)
        again = [uid for uid in never_began if not tasks[uid].cancelling]
        lost: list[TaskUid] = []
        for uid in may_have_run:
            if not tasks[uid].cancelling:
                (again if self._may_run_again(tasks[uid]) else lost).append(uid)
        self._settle(now, Ending.LOST, f"{how} while it had the task, which may have run", lost)
        by_manager: dict[str, list[TaskUid]] = {}
        for uid in again:
            by_manager.setdefault(tasks[uid].manager, []).append(uid)
        for name, manager in self.state.managers.items():
            if pilot.uid in manager.pilots:
                by_manager.setdefault(name, [])
        ending = Ending.CANCELLED if pilot.state == CANCELED else Ending.LAUNCH_FAILED
        for name, group in by_manager.items():
            others = usable_pilots(self.state, self.state.managers[name]) and not self.state.ending
            if not others:
                waiting = [*self.state.managers[name].waiting, *self._held_of(name)]
                remedy = "" if pilot.state == CANCELED else "; submit the task again, with a pilot that lives longer"
                self._settle(now, ending, f"{how} before the task began{remedy}", [*group, *waiting])
                if waiting:
                    self._tell_waiting(name)
                continue
            pinned = [uid for uid in group if tasks[uid].pinned]
            self._settle(now, ending, f"{how} before the task, which asked for it by name, began", pinned)
            free = [uid for uid in group if not tasks[uid].pinned]
            if free:
                for uid in free:
                    if uid in self.state.service_info:
                        self._holding.service_gone(uid)
                self._emit(facts.TasksUnbound(now, free))
                self._tell_tasks(free)
            self._bind_waiting(now, name)

    def _held_of(self, manager: str) -> list[TaskUid]:
        return [uid for uid in self.state.held if self.state.tasks[uid].manager == manager]

    def _may_run_again(self, record: TaskRecord) -> bool:
        template = self.state.templates[record.row.template]
        return template.restartable or record.binding <= template.retries

    # session

    def _session_closing(self, now: float) -> None:
        if self.state.ending:
            return
        self._emit(facts.SessionEnding(now))
        for manager in self.state.managers.values():
            self._settle(now, Ending.CANCELLED, "the session was closed before a pilot had the task", list(manager.waiting))
        self._settle(now, Ending.CANCELLED, "the session was closed while the task waited for others", list(self.state.held))
        self._end_pilots(now, list(self.state.pilots), drain=False)
