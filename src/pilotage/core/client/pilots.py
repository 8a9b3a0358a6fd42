"""Pilots as they come and go, and what becomes of the tasks that one leaves behind."""

from __future__ import annotations

from collections.abc import Iterable

from pilotage.core.agent.retry import is_excused, runs_again
from pilotage.core.client import actions, events, facts
from pilotage.core.client.binding import usable_pilots
from pilotage.core.client.holding import Holding
from pilotage.core.client.journal import Journal
from pilotage.core.client.state import PilotRecord, TaskRecord, queued_rows
from pilotage.core.client.successors import Successors
from pilotage.core.client.tasks import Tasks
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.sandboxes import sandbox_of
from pilotage.model.states import CANCELED, FAILED, FINAL, PMGR_ACTIVE

_ENDINGS_OF_JOBS = {
    "timed_out": Ending.OUT_OF_WALLTIME,
    "preempted": Ending.PREEMPTED,
    "node_failed": Ending.NODE_FAILED,
}
"""What became of the tasks of a pilot whose job ended so, which is not for the pilot's own fault."""


class Pilots:
    """Decides what becomes of pilots, and of tasks whose pilot is over."""

    def __init__(self, journal: Journal, holding: Holding, tasks: Tasks) -> None:
        self._journal = journal
        self._state = journal.state
        self._holding = holding
        self._tasks = tasks
        self._successors = Successors(journal)

    def greeted(self, event: events.AgentGreeted) -> None:
        """The agent answered: it is active, and takes what waits."""
        pilot = self._state.pilots[event.pilot]
        if pilot.state in FINAL:
            return
        self.delivered(pilot, event.durable)
        if (pilot.state, pilot.incarnation, pilot.nodes) != (PMGR_ACTIVE, event.incarnation, event.nodes):
            self._journal.emit(facts.PilotActivated(event.time, event.pilot, event.incarnation, event.nodes))
            self._journal.tell_pilot(event.pilot)
        self._journal.act(actions.OfferMessages(event.pilot))
        for name, manager in self._state.managers.items():
            if event.pilot in manager.pilots:
                self._tasks.bind_waiting(event.time, name)

    def delivered(self, pilot: PilotRecord, durable: int) -> None:
        """The agent has all messages up to this one on disk."""
        if durable > pilot.delivered and pilot.state not in FINAL:
            self._journal.emit(facts.MessagesDelivered(pilot.uid, durable))

    def end(self, now: float, pilots: Iterable[PilotUid], drain: bool, failure: str = "") -> None:
        """Tell these pilots to end: after their tasks (``drain``), or at once; as FAILED if there is a ``failure`` to tell."""
        for uid in dict.fromkeys(pilots):
            pilot = self._state.pilots[uid]
            # One that drains may still be told to end at once.
            if pilot.state in FINAL or (pilot.ending and drain):
                continue
            self._journal.emit(facts.PilotEndAsked(now, uid, drain, failure))
            self._journal.act(actions.OfferMessages(uid))
            self._end_job(pilot, drain)

    def _end_job(self, pilot: PilotRecord, drain: bool) -> None:
        """Have the job of a pilot cancelled that is to end, where its agent cannot do that, or may not."""
        if pilot.job is None:
            return
        if not pilot.incarnation and not (drain and pilot.load):
            self._journal.act(actions.CancelJob(pilot.uid, at_once=True))
        elif not drain:
            self._journal.act(actions.CancelJob(pilot.uid, at_once=False))

    def job_prepared(self, event: events.JobPrepared) -> None:
        """The pilot is to be submitted."""
        if self._state.pilots[event.pilot].state not in FINAL:
            self._journal.emit(facts.JobSubmitting(event.time, event.pilot, event.system, event.name))
            self._journal.tell_pilot(event.pilot)
            self._journal.act(actions.SubmitJob(event.pilot))

    def job_submitted(self, event: events.JobSubmitted) -> None:
        """The pilot's job is in the queue."""
        pilot = self._state.pilots[event.pilot]
        if pilot.job is None or pilot.job.id:
            return
        self._journal.emit(facts.JobSubmitted(event.time, event.pilot, event.job))
        if pilot.state in FINAL:
            # It was given up, or it was faster than the answer.
            self._journal.act(actions.CancelJob(event.pilot, at_once=not pilot.incarnation))
        else:
            self._journal.tell_pilot(event.pilot)
        self._journal.act(actions.WatchJob(event.pilot))
        if pilot.ending and pilot.state not in FINAL:
            self._end_job(pilot, drain=pilot.drains)

    def job_told(self, event: events.JobTold) -> None:
        """The batch system tells of the pilot's job."""
        pilot = self._state.pilots[event.pilot]
        if pilot.job is None:
            return
        told = event.state, event.reason, event.starts
        if told != (pilot.job.state, pilot.job.reason, pilot.job.starts):
            self._journal.emit(facts.JobTold(event.time, event.pilot, *told, event.complete))
        if event.over:
            self._journal.act(actions.FencePilot(event.pilot))

    def said_goodbye(self, event: events.PilotEndArrived) -> None:
        """The pilot has ended in good order, and holds nothing."""
        pilot = self._state.pilots[event.pilot]
        if event.number != pilot.received + 1 or pilot.state in FINAL:
            return
        orphans, begun = self._unfinished(pilot), frozenset(event.begun)
        self._finish_pilot(event.time, pilot, event.number, event.state, event.reason)
        never_began = [uid for uid in orphans if uid not in begun]
        self._rehome(event, pilot, never_began, [uid for uid in orphans if uid in begun])

    def lost(self, event: events.PilotLost) -> None:
        """The pilot is gone for certain, without having said so."""
        pilot = self._state.pilots[event.pilot]
        if pilot.state in FINAL:
            return
        if event.outcomes:
            # They belong to messages that never came, and none will.
            self._tasks.take_outcomes(event.time, pilot, pilot.received, event.outcomes, event.encoded)
        unsent = set() if event.with_node else {row.uid for row in queued_rows(pilot.outbox)}
        if event.received is not None:
            never_arrived = [message for number, message in pilot.unacknowledged.items() if number > event.received]
            unsent |= {row.uid for row in queued_rows(never_arrived)}
        unsent |= {uid for uid, binding in event.not_begun if uid in self._state.tasks and self._is_bound(uid, binding)}
        unfinished = self._unfinished(pilot)
        state = event.state or (CANCELED if pilot.ending else FAILED)
        self._finish_pilot(event.time, pilot, 0, state, event.reason)
        never_began = [uid for uid in unfinished if uid in unsent]
        self._rehome(event, pilot, never_began, [uid for uid in unfinished if uid not in unsent])

    def _is_bound(self, uid: TaskUid, binding: Binding) -> bool:
        return self._state.tasks[uid].binding == binding

    def _unfinished(self, pilot: PilotRecord) -> list[TaskUid]:
        if not pilot.load:
            return []
        return [uid for uid, record in self._state.tasks.items() if record.pilot == pilot.uid and record.outcome is None]

    def _finish_pilot(self, now: float, pilot: PilotRecord, number: int, state: str, reason: str) -> None:
        if pilot.failure:
            # Its agent may have ended for a reason of its own before it heard of this one, or without hearing of it.
            more = "" if not reason or pilot.failure in reason else f"; {reason}"
            state, reason = FAILED, f"{pilot.failure}{more}"
        self._journal.emit(facts.PilotEnded(now, pilot.uid, number, state, reason))
        self._journal.tell_pilot(pilot.uid)
        self._journal.act(actions.DisconnectPilot(pilot.uid))

    def _rehome(
        self,
        event: events.PilotEndArrived | events.PilotLost,
        pilot: PilotRecord,
        never_began: list[TaskUid],
        may_have_run: list[TaskUid],
    ) -> None:
        """Decide what becomes of the unfinished tasks of a pilot that is over, and of those that waited for it."""
        tasks, now = self._state.tasks, event.time
        how = f"pilot {pilot.uid!r} ended ({pilot.state}{': ' if pilot.reason else ''}{pilot.reason})"
        cancelled = [uid for uid in (*never_began, *may_have_run) if tasks[uid].cancelling]
        self._tasks.settle(now, Ending.CANCELLED, f"cancelled; {how}", cancelled, event.tries)
        again = [uid for uid in never_began if not tasks[uid].cancelling]
        lost: list[TaskUid] = []
        # Of what was cut short in good order the pilot has said that it may begin again, and how often it failed.
        cut_short = {uid for uid in may_have_run if event.out_of_time and uid in event.tries}
        begun = {*may_have_run} - cut_short
        loss = _ENDINGS_OF_JOBS.get(pilot.job.state if pilot.job is not None else "", Ending.LOST)
        for uid in may_have_run:
            if not tasks[uid].cancelling:
                (again if uid in cut_short or self._may_run_again(tasks[uid], loss) else lost).append(uid)
        may_have = f"{how} while it had the task, which may have run"
        self._tasks.settle(now, loss, may_have, lost, event.tries)
        again = self._tasks.without_left_behind(now, again, how)
        if event.out_of_time or loss is not Ending.LOST:
            self._successors.follow(now, pilot, again, [uid for uid in again if uid in begun or uid in cut_short])
        by_manager: dict[str, list[TaskUid]] = {}
        for uid in again:
            by_manager.setdefault(tasks[uid].manager, []).append(uid)
        for name, manager in self._state.managers.items():
            if pilot.uid in manager.pilots:
                by_manager.setdefault(name, [])
        ending = Ending.CANCELLED if pilot.state == CANCELED else Ending.LAUNCH_FAILED
        if event.out_of_time:
            ending = Ending.OUT_OF_WALLTIME
        for name, group in by_manager.items():
            others = usable_pilots(self._state, self._state.managers[name]) and not self._state.ending
            if not others:
                self._tasks.settle(now, loss, may_have, [uid for uid in group if uid in begun], event.tries)
                group = [uid for uid in group if uid not in begun]
                self._settle_cut_short(event, pilot, [uid for uid in group if uid in cut_short])
                group = [uid for uid in group if uid not in cut_short]
                waiting = [*self._state.managers[name].waiting, *self._held_of(name)]
                remedy = "" if pilot.state == CANCELED else f"; submit the task again, with a pilot {_better(pilot)}"
                self._tasks.settle(now, ending, f"{how} before the task began{remedy}", [*group, *waiting])
                if waiting:
                    self._journal.tell_waiting(name)
                continue
            pinned = [uid for uid in group if tasks[uid].pinned == pilot.uid]
            self._tasks.settle(now, loss, may_have, [uid for uid in pinned if uid in begun], event.tries)
            self._settle_cut_short(event, pilot, [uid for uid in pinned if uid in cut_short])
            pinned = [uid for uid in pinned if uid not in begun and uid not in cut_short]
            self._tasks.settle(now, ending, f"{how} before the task, which asked for it by name, began", pinned)
            free = [uid for uid in group if tasks[uid].pinned != pilot.uid]
            if free:
                for uid in free:
                    if uid in self._state.service_info:
                        self._holding.service_gone(uid)
                self._journal.emit(self._unbound(event, free, begun, cut_short, loss))
                self._journal.tell_tasks(free)
                self._tasks.bind_freed(now, [uid for uid in free if tasks[uid].pinned])
            self._tasks.bind_waiting(now, name)

    def _settle_cut_short(
        self, event: events.PilotEndArrived | events.PilotLost, pilot: PilotRecord, tasks: list[TaskUid]
    ) -> None:
        message = f"the time of pilot {pilot.uid!r} was over before the task was, and there is no other pilot to go on in"
        self._tasks.settle(event.time, Ending.OUT_OF_WALLTIME, message, tasks, event.tries)

    def _unbound(
        self,
        event: events.PilotEndArrived | events.PilotLost,
        tasks: list[TaskUid],
        begun: set[TaskUid],
        cut_short: set[TaskUid],
        loss: Ending,
    ) -> facts.TasksUnbound:
        """Return the fact that these tasks wait for another pilot, with their past in this one as far as it is known."""
        if not event.out_of_time and loss is Ending.LOST:
            return facts.TasksUnbound(event.time, tasks)
        tries: dict[TaskUid, tuple[Attempt, int]] = {}
        sandboxes: dict[TaskUid, str] = {}
        for uid in tasks:
            row = self._state.tasks[uid].row
            template = self._state.templates[row.template]
            if uid in event.tries:
                attempt, failures = event.tries[uid]
                counts = uid in begun and not is_excused(template, loss)
                tries[uid] = (attempt, failures + counts)
            sandbox = sandbox_of(template, row)
            if (uid in begun or uid in cut_short) and template.restart == "continue" and sandbox is not None:
                sandboxes[uid] = sandbox if sandbox.startswith("/") else f"{event.folder}/{sandbox}"
        return facts.TasksUnbound(event.time, tasks, tries, sandboxes, tasks)

    def _held_of(self, manager: str) -> list[TaskUid]:
        return [uid for uid in self._state.held if self._state.tasks[uid].manager == manager]

    def _may_run_again(self, record: TaskRecord, loss: Ending) -> bool:
        failures = record.binding - 1 - record.excused
        if record.row.extra is not None:
            failures += record.row.extra.failures
        return runs_again(self._state.templates[record.row.template], failures, loss, None)

    def session_closing(self, now: float) -> None:
        """The session ends for good: unbound tasks are cancelled, pilots end."""
        if self._state.ending:
            return
        self._journal.emit(facts.SessionEnding(now))
        closed = "the session was closed"
        for manager in self._state.managers.values():
            self._tasks.settle(now, Ending.CANCELLED, f"{closed} before a pilot had the task", list(manager.waiting))
        self._tasks.settle(now, Ending.CANCELLED, f"{closed} while the task waited for others", list(self._state.held))
        self.end(now, list(self._state.pilots), drain=False)


def _better(pilot: PilotRecord) -> str:
    if pilot.failure and pilot.incarnation:
        return "whose services can start"
    return "that lives longer" if pilot.incarnation else "that starts"
