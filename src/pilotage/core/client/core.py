"""``ClientCore``: one call takes an event, changes the state by facts alone, and says what is to be done.

How it decides:

- A task is bound when its manager has a pilot for it (see ``binding``), otherwise it waits, and the user is told once.
- A cancelled task that no pilot has is final at once, and so is one of a pilot that was sent nothing so far, which may wait
  in a queue for days; for one that a pilot has the pilot is asked, and its answer counts.
- A pilot that said goodbye holds nothing. What it did not answer for never began, so other pilots may have it; or it says that
  it has begun, as far as it came (its partitions were lost), and then it may run twice or is lost.
- A pilot that is gone without a goodbye may have begun whatever was sent to it, unless its log says more. Such tasks are
  lost, unless they may run twice (``restartable``, or ``retries`` left and ``retry_on`` has it) and
  there is another pilot.
- When the last pilot of a manager ends, all its tasks end: nothing waits for what will not come.
- A task that was submitted to run after others, or needs services, is bound when it may run (see ``holding``).
- A pilot on a platform with a batch system is a job there: submitted under a name of its own, so that it is found by who
  comes after a crash, and watched. That it runs says nothing; the pilot is active when its agent answers. Until then it is
  ended by cancelling its job; afterwards its agent is told, and its job cancelled only if that does not help.
- A pilot with services takes other tasks once they are ready; it ends as FAILED if one of them cannot be.
"""

from __future__ import annotations

from pilotage.core.client import actions, events, facts
from pilotage.core.client.dependents import Dependents
from pilotage.core.client.events import Event
from pilotage.core.client.holding import Holding
from pilotage.core.client.journal import Decision, Journal
from pilotage.core.client.pilots import Pilots
from pilotage.core.client.state import ClientState
from pilotage.core.client.tasks import Tasks
from pilotage.errors import unreachable
from pilotage.model.states import FINAL

__all__ = ["ClientCore", "Decision"]


class ClientCore:
    """The decisions of a session. ``state`` is read by everyone and changed by ``handle`` alone."""

    def __init__(self, state: ClientState | None = None) -> None:
        self.state = state if state is not None else ClientState()
        self._journal = journal = Journal(self.state)
        self._holding = holding = Holding(self.state)
        self._tasks = Tasks(journal, holding)
        self._dependents = Dependents(journal, holding, self._tasks)
        self._pilots = Pilots(journal, holding, self._tasks)

    def handle(self, event: Event) -> Decision:
        """Take in an event, and return what it led to."""
        journal, state = self._journal, self.state
        decision = journal.begin()
        match event:
            case events.OutcomesArrived():
                self._outcomes_arrived(event)
            case events.TasksSubmitted():
                self._tasks.submitted(event)
                if event.held:
                    self._dependents.hold(event.time, event)
            case events.LinkOpened():
                if state.pilots[event.pilot].outbox:
                    journal.emit(facts.MessagesNumbered(event.pilot, event.number, 1))
                    journal.act(actions.SendMessage(event.pilot, event.number))
            case events.AgentAcknowledged():
                self._pilots.delivered(state.pilots[event.pilot], event.durable)
            case events.TasksSeenRunning():
                self._tasks.seen_running(event)
            case events.OutputsSeenStaged():
                self._tasks.seen_unloading(event)
            case events.ServicesSeen():
                self._dependents.services_seen(event)
            case events.EnvironmentAsked():
                journal.emit(facts.EnvironmentAsked(event.time, event.pilot, event.name, event.spec))
                journal.act(actions.OfferMessages(event.pilot))
            case events.PartitionAsked():
                journal.emit(facts.PartitionAsked(event.time, event.pilot, event.spec))
                journal.act(actions.OfferMessages(event.pilot))
            case events.RetirementAsked():
                journal.emit(facts.RetirementAsked(event.time, event.pilot, event.partition, event.drain))
                journal.act(actions.OfferMessages(event.pilot))
            case events.CallbacksReturned():
                journal.emit(facts.CallbacksMarked(event.tasks))
            case events.CancelRequested():
                self._tasks.cancel(event.time, event.tasks)
            case events.AgentGreeted():
                self._pilots.greeted(event)
            case events.PilotSubmitted():
                journal.emit(_accepted(event))
                if event.services:
                    journal.emit(facts.PilotServicesAwaited(event.pilot, list(event.services)))
                journal.tell_pilot(event.pilot)
                journal.act(actions.StartPilot(event.pilot))
            case events.PilotProcessStarted():
                if state.pilots[event.pilot].state not in FINAL:
                    launched = facts.PilotLaunched(event.time, event.pilot, event.pid, event.started_ticks, event.boot_id)
                    journal.emit(launched)
                    journal.tell_pilot(event.pilot)
            case events.JobPrepared():
                self._pilots.job_prepared(event)
            case events.JobSubmitted():
                self._pilots.job_submitted(event)
            case events.JobTold():
                self._pilots.job_told(event)
            case events.PilotEndArrived():
                self._pilots.said_goodbye(event)
            case events.PilotLost():
                self._pilots.lost(event)
            case events.PilotCancelRequested():
                self._pilots.end(event.time, event.pilots, event.drain, event.failure)
            case events.PilotsAttached():
                manager = state.managers[event.manager]
                added = [uid for uid in event.pilots if uid not in manager.pilots]
                if added:
                    journal.emit(facts.PilotsAdded(event.manager, added))
                    self._tasks.bind_waiting(event.time, event.manager)
            case events.PilotsDetached():
                journal.emit(facts.PilotsRemoved(event.manager, event.pilots))
            case events.ManagerCreated():
                journal.emit(facts.ManagerAdded(event.time, event.manager, event.kind, event.scheduler))
            case events.SessionOpened():
                journal.emit(facts.EpochBegun(event.time, event.epoch))
            case events.SessionClosing():
                self._pilots.session_closing(event.time)
            case _:
                unreachable(event)
        if journal.ended and not isinstance(event, events.LinkOpened):
            self._follow_up(event.time)
        return decision

    def _outcomes_arrived(self, event: events.OutcomesArrived) -> None:
        pilot = self.state.pilots[event.pilot]
        if event.number != pilot.received + 1 or pilot.state in FINAL:
            return
        self._tasks.take_outcomes(event.time, pilot, event.number, event.outcomes, event.encoded)
        for name, manager in self.state.managers.items():
            if manager.waiting and event.pilot in manager.pilots:
                self._tasks.bind_waiting(event.time, name)

    def _follow_up(self, now: float) -> None:
        """What became final concerns tasks that wait for it, and pilots whose service it was."""
        while self._journal.ended:
            for pilot, service in self._dependents.follow_up(now):
                failure = f"service {service!r} of the pilot ended before it was ready"
                outcome = self.state.tasks[service].outcome
                if outcome is not None:
                    failure += f": {outcome.message or outcome.ending.name.lower().replace('_', ' ')}"
                self._journal.act(actions.Warn(f"pilot {pilot!r} ends: {failure}"))
                self._pilots.end(now, [pilot], drain=False, failure=failure)


def _accepted(event: events.PilotSubmitted) -> facts.PilotAccepted:
    return facts.PilotAccepted(
        event.time, event.manager, event.pilot, event.description, event.nodes, event.barrier, event.estimated
    )
