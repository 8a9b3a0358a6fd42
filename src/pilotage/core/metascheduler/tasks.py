"""Tasks on their way: accepted, cancelled, leased and given back, final.

A partition's agent does the retries of a task itself. What comes back without an outcome goes on elsewhere: as it was if no
attempt was made there, or as a new attempt if its template allows one after a loss; else it ends as lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from pilotage.core.agent import events as agent_events
from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.endings import NOBODY
from pilotage.core.agent.needs import lacking
from pilotage.core.agent.retry import runs_again
from pilotage.core.metascheduler import actions, facts
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.groups import Group
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.state import NOWHERE, TaskRecord
from pilotage.model.ids import Attempt, Binding, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.workload import Batch

STOPPED = "stopped with its pilot"
_REMEDY = "Tasks with restartable=True, or with retries left, run again"

Released = tuple[TaskUid, Attempt, int]


class Tasks:
    """Decides what becomes of tasks."""

    def __init__(self, journal: Journal, queue: Queue, backlogs: Mapping[str, Backlog], delivery: Delivery) -> None:
        self._journal = journal
        self._state = journal.state
        self._queue = queue
        self._backlogs = backlogs
        self._delivery = delivery
        self.services: dict[TaskUid, None] = {}
        """Services that have no outcome."""
        self.unserved: dict[TaskUid, TaskUid] = {}
        """Tasks that wait for a service, such as this one, to be ready."""
        self.running: dict[TaskUid, tuple[Attempt, float]] = {}
        """Tasks that are known to run, the attempt and since when."""
        self.unloading: dict[TaskUid, Attempt] = {}
        """Tasks whose output is known to be staged."""
        self.gang_of: dict[TaskUid, str] = {}
        """Tasks that start together with others, and the names of their gangs."""
        self.gangs_ended: dict[str, str] = {}
        """Gangs of which one ended that no attempt was made of, just now, and how."""
        self._services_changed = True

    def recover(self) -> None:
        """Take over what the state says."""
        state = self._state
        waiting: dict[TemplateId, list[TaskUid]] = {}
        for uid, task in state.tasks.items():
            template = task.row.template
            if state.templates[template].service is not None:
                self.services[uid] = None
            if state.templates[template].request.gang:
                self.gang_of[uid] = state.templates[template].request.gang
            if task.partition:
                self._backlogs[task.partition].add(self._queue.group(template), 1)
            else:
                waiting.setdefault(template, []).append(uid)
        for template, uids in waiting.items():
            self._queue.enqueue(template, self._served(uids))

    # ------------------------------------------------------------------------------------------------------- from the client

    def submitted(self, event: agent_events.TasksSubmitted) -> None:
        """Take in the tasks of a message that is new."""
        state, now = self._state, event.time
        tasks, under_way = state.tasks, self._delivery.under_way
        rows, batch = event.batch.rows, event.batch
        known = {row.uid: None for row in rows if row.uid in tasks or (under_way and row.uid in under_way)}
        if known:
            rows = [row for row in rows if row.uid not in known]
            batch = Batch(batch.templates, rows)
        self._journal.emit(facts.TasksAccepted(now, event.number, event.binding, batch))
        if known:
            self._journal.stale += len(known)
            self._bind_again(now, event.binding, known)
        if state.ending is not None and state.ending.idle:
            # With the goodbye the client learns that none of these began.
            return
        if state.ending is not None:
            message = f"the pilot was ending when the task arrived: {state.ending.reason}"
            self.end(now, [row.uid for row in rows], Ending.CANCELLED, message)
            return
        by_template: dict[TemplateId, list[TaskUid]] = {}
        needy = False
        for row in rows:
            uids = by_template.get(row.template)
            if uids is None:
                uids = by_template[row.template] = []
            uids.append(row.uid)
            needy |= row.extra is not None
        for template, uids in by_template.items():
            if state.templates[template].service is not None:
                self.services.update(dict.fromkeys(uids))
            if (gang := state.templates[template].request.gang) and not self._join(now, gang, uids):
                continue
            self._enqueue(now, template, self._served(uids) if needy else uids)

    def _join(self, now: float, gang: str, uids: list[TaskUid]) -> bool:
        """Note that tasks of this gang came; tell whether it can still begin."""
        self._journal.emit(facts.GangJoined(now, gang, len(uids)))
        self.gang_of.update(dict.fromkeys(uids, gang))
        over = self._state.gangs_over.get(gang)
        if over is not None:
            self.end(now, uids, Ending.CANCELLED, over)
        return over is None

    def _bind_again(self, now: float, binding: Binding, known: Iterable[TaskUid]) -> None:
        """Let tasks that are here go by the binding that the client gives them now: it does not know the older one."""
        tasks, under_way = self._state.tasks, self._delivery.under_way
        older = [uid for uid in known if (tasks[uid].binding if uid in tasks else under_way[uid]) < binding]
        if older:
            self._journal.emit(facts.Rebound(now, binding, older))
            under_way.update((uid, binding) for uid in older if uid not in tasks)

    def _enqueue(self, now: float, template: TemplateId, uids: Iterable[TaskUid], *, first: bool = False) -> None:
        reason = self._queue.enqueue(template, uids, first=first)
        if reason:
            self.refuse(now, self._queue.group(template), reason)

    def refuse(self, now: float, group: Group, reason: str) -> None:
        """No task of this group can ever run."""
        self.end(now, self._queue.drop(group), Ending.INFEASIBLE, reason)

    def cancel(self, event: agent_events.CancelRequested) -> None:
        """Cancel tasks: here if no partition has them, else by asking the partition."""
        tasks = self._state.tasks
        known = dict.fromkeys(uid for uid, binding in event.tasks if uid in tasks and tasks[uid].binding == binding)
        self.ask(event.time, event.number, known, Ending.CANCELLED, "cancelled by the user")

    def ask(self, now: float, number: int, uids: Iterable[TaskUid], ending: Ending, message: str) -> list[str]:
        """End these tasks, wherever they are, and return the partitions that are asked to.

        ``number`` is that of the client's message that wants it, or 0.
        """
        tasks = self._state.tasks
        chosen = [uid for uid in uids if tasks[uid].ending is None]
        if not chosen and not number:
            return []
        self._journal.emit(facts.EndAsked(now, number, chosen, ending, message))
        self.end(now, [uid for uid in chosen if not tasks[uid].partition], ending, message)
        return list(dict.fromkeys(tasks[uid].partition for uid in chosen if uid in tasks))

    # --------------------------------------------------------------------------------------------------------------- services

    def service_ready(self, now: float, uid: TaskUid, attempt: Attempt, info: str) -> None:
        """A partition says that this service, which it has, is ready."""
        if self._state.services.get(uid) != info:
            self._journal.emit(facts.ServiceReady(now, uid, attempt, info))
            self._journal.act(actions.TellService(uid))
            self._services_changed = True

    def _served(self, uids: Iterable[TaskUid]) -> list[TaskUid]:
        """Return those of these tasks whose services are ready, or not of this pilot; note the others."""
        served = []
        for uid in uids:
            service = lacking(self._state, self._state.tasks[uid].row)
            if service is None:
                served.append(uid)
            else:
                self.unserved[uid] = service
        return served

    def serve(self, now: float) -> None:
        """Let tasks go on whose services are ready, and end those of which one is over."""
        state = self._state
        if not self._services_changed:
            return
        self._services_changed = False
        freed: dict[TemplateId, list[TaskUid]] = {}
        for uid, awaited in list(self.unserved.items()):
            service = lacking(state, state.tasks[uid].row)
            if service is None:
                del self.unserved[uid]
                freed.setdefault(state.tasks[uid].row.template, []).append(uid)
            elif service in state.services_over:
                message = f"cancelled: service {service!r}, which it needs, ended: {state.services_over[service]}"
                self.end(now, [uid], Ending.CANCELLED, message)
            elif service != awaited:
                self.unserved[uid] = service
        for template, uids in freed.items():
            self._enqueue(now, template, uids)

    def _note_services_over(self, now: float, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            if outcome.task in self.services:
                del self.services[outcome.task]
                message = outcome.message or outcome.ending.name.lower().replace("_", " ")
                self._journal.emit(facts.ServiceOver(now, outcome.task, message))
                self._services_changed = True

    # --------------------------------------------------------------------------------------------------------------- outcomes

    def take_outcomes(self, now: float, partition: str, number: int, outcomes: list[Outcome], encoded: msgspec.Raw) -> None:
        """Take what a partition says became of tasks."""
        journal, state, tasks = self._journal, self._state, self._state.tasks
        spent: dict[TemplateId, list[float]] = {}
        aside: list[Outcome] = []
        # One turn per task of the whole campaign: plain attribute access, no calls.
        for outcome in outcomes:
            task = tasks.get(outcome.task)
            if task is None or task.lease != outcome.binding or task.partition != partition:
                journal.stale += 1
                continue
            tally = spent.get(task.row.template)
            if tally is None:
                tally = spent[task.row.template] = [0, 0, 0.0]
            tally[0] += 1
            times = outcome.times
            if times.started:
                tally[1] += 1
                tally[2] += times.ended - times.started
            ending = outcome.ending
            if (ending is Ending.CANCELLED or ending is Ending.INFEASIBLE) and self._is_put_aside(partition, task, outcome):
                aside.append(outcome)
        first = len(state.unsent)
        put_aside = [outcome.task for outcome in aside]
        journal.emit_outcomes(facts.OutcomesTaken(now, partition, number, encoded, put_aside), outcomes)
        self._note_final(now, state.unsent[first:])
        self._note_spent(now, partition, spent)
        if aside:
            self._settle_aside(now, partition, aside)

    def _note_final(self, now: float, final: list[Outcome]) -> None:
        self._delivery.note(final)
        for known in (self.running, self.unloading, self.unserved):
            if known:
                for outcome in final:
                    known.pop(outcome.task, None)
        if self.services:
            self._note_services_over(now, final)
        if self.gang_of:
            self._note_gangs_over(now, final)

    def _note_gangs_over(self, now: float, outcomes: Iterable[Outcome]) -> None:
        for outcome in outcomes:
            gang = self.gang_of.pop(outcome.task, None)
            if gang is not None and not outcome.attempt and gang not in self._state.gangs_over:
                message = f"its gang {gang!r} cannot begin, as task {outcome.task!r} ended before: {outcome.message}"
                self._journal.emit(facts.GangOver(now, gang, message))
                self.gangs_ended[gang] = message

    def _note_spent(self, now: float, partition: str, spent: Mapping[TemplateId, list[float]]) -> None:
        backlog = self._backlogs[partition]
        ended = 0
        for template, (count, ran, seconds) in spent.items():
            group = self._queue.group(template)
            backlog.remove(template, int(count), now)
            ended += int(count)
            if ran and not group.is_service:
                mean = max(0.0, seconds / ran)
                group.seconds = mean if group.seconds is None else 0.75 * group.seconds + 0.25 * mean
        backlog.note_ended(ended, now)

    def _is_put_aside(self, partition: str, task: TaskRecord, outcome: Outcome) -> bool:
        """Tell whether this is not the end of the task that the client is told: it goes on, or ended for another reason."""
        if task.ending not in (None, Ending.CANCELLED):
            return True
        if task.ending is not None or self.is_cancelling:
            return False
        if task.row.uid in self.gang_of and self._state.partitions[partition].life == "active":
            # It ended with its gang, which has been there as a whole.
            return False
        if outcome.ending is Ending.INFEASIBLE:
            # Its nodes are not what they were thought to be; others may do.
            group = self._queue.group(task.row.template)
            self._queue.note_refused(group, partition)
            return not self._queue.is_hopeless(group)
        extra, over = task.row.extra, self._state.services_over
        if extra is not None and any(uid in over for uid in extra.services.values()):
            return False
        if task.row.uid in self.services and self._state.partitions[partition].life == "retiring":
            return outcome.attempt <= task.attempt
        # Nobody cancelled it: the partition ended, for reasons of its own or because it was to.
        return True

    @property
    def is_cancelling(self) -> bool:
        """Whether the pilot ends now, with all its tasks."""
        ending = self._state.ending
        return ending is not None and not ending.drain and not ending.idle

    def _settle_aside(self, now: float, partition: str, outcomes: list[Outcome]) -> None:
        tasks = self._state.tasks
        as_it_was: list[TaskUid] = []
        may_have_run: dict[TaskUid, tuple[Attempt, int]] = {}
        tries: dict[TaskUid, tuple[Attempt, int]] = {}
        for outcome in outcomes:
            uid, task = outcome.task, tasks[outcome.task]
            if task.ending is not None:
                self._conclude(now, [msgspec.structs.replace(
                    outcome, binding=task.binding, ending=task.ending, message=task.ending_message, result=None
                )])  # fmt: skip
            elif outcome.attempt <= task.attempt:
                as_it_was.append(uid)
            elif outcome.ending is Ending.INFEASIBLE:
                # It was to run again there, as its attempts had failed, and found no place any more.
                as_it_was.append(uid)
                tries[uid] = (outcome.attempt, task.failures + outcome.attempt - task.attempt)
            else:
                may_have_run[uid] = (outcome.attempt, task.failures)
        record = self._state.partitions[partition]
        # What the agent knows is that somebody had it end.
        because = record.reason if record.life == "retiring" else outcomes[0].message
        why = f"partition {partition!r} ended it: {because}"
        self.go_on(now, as_it_was, may_have_run, tries, why)

    # ----------------------------------------------------------------------------------------------------------- given back

    def go_on(
        self,
        now: float,
        never_began: Iterable[TaskUid],
        may_have_run: Mapping[TaskUid, tuple[Attempt, int]],
        tries: Mapping[TaskUid, tuple[Attempt, int]],
        how: str,
    ) -> None:
        """Decide about tasks that a partition has no more, without an outcome: who runs elsewhere, and who is lost.

        ``tries`` and the values of ``may_have_run`` have the number of the last attempt, and how many failed before it.
        ``how`` says why the partition does not have them.
        """
        state, tasks = self._state, self._state.tasks
        again: list[Released] = []
        gone: dict[tuple[Ending, str], list[TaskUid]] = {}
        for uid in never_began:
            task = tasks[uid]
            if task.ending is not None:
                gone.setdefault((task.ending, f"{task.ending_message}; {how}"), []).append(uid)
            else:
                attempt, failures = tries.get(uid, (Attempt(task.attempt), task.failures))
                again.append((uid, attempt, failures))
        for uid, (attempt, failures) in may_have_run.items():
            task = tasks[uid]
            if task.ending is not None:
                gone.setdefault((task.ending, f"{task.ending_message}; {how}"), []).append(uid)
            elif runs_again(state.templates[task.row.template], failures, Ending.LOST, None):
                again.append((uid, attempt, failures + 1))
            else:
                gone.setdefault((Ending.LOST, f"{how}; it may have run. {_REMEDY}"), []).append(uid)
        for (ending, message), uids in gone.items():
            self.end(now, uids, ending, message)
        if self.gang_of:
            again = self._without_left_behind(now, again, how)
        if not again:
            return
        self._journal.emit(facts.TasksReleased(now, again))
        by_template: dict[TemplateId, list[TaskUid]] = {}
        for uid, _, _ in again:
            self.running.pop(uid, None)
            self.unloading.pop(uid, None)
            by_template.setdefault(tasks[uid].row.template, []).append(uid)
        if self.is_cancelling:
            self.end(now, [uid for uid, _, _ in again], Ending.CANCELLED, f"the pilot was ending; {how}")
            return
        if state.ending is not None and not any(each.hires for each in state.partitions.values()):
            self.give_up(now, [uid for uid, _, _ in again], how)
            return
        for template, uids in by_template.items():
            self._enqueue(now, template, self._served(uids), first=True)

    def _without_left_behind(self, now: float, again: list[Released], how: str) -> list[Released]:
        """End those of these tasks whose gang has begun without them, or never will; return the others."""
        present = Counter(self.gang_of.values())
        left: dict[str, list[TaskUid]] = {}
        for uid, _, _ in again:
            gang = self.gang_of.get(uid)
            if gang is not None and present[gang] < self._state.gangs[gang]:
                left.setdefault(gang, []).append(uid)
        for gang, uids in left.items():
            message = f"its gang {gang!r} began, or ended, without it; {how}"
            self.end(now, uids, Ending.CANCELLED, message)
        return [each for each in again if each[0] in self._state.tasks]

    def give_up(self, now: float, uids: Iterable[TaskUid], how: str) -> None:
        """Leave tasks that no partition has to the client: nobody is left to run them. ``how`` says why."""
        tasks, ending = self._state.tasks, self._state.ending
        asked: dict[tuple[Ending, str], list[TaskUid]] = {}
        left: list[TaskUid] = []
        for uid in uids:
            task = tasks[uid]
            if task.ending is not None:
                asked.setdefault((task.ending, f"{task.ending_message}; {how}"), []).append(uid)
            elif uid in self.services and ending is not None and ending.drain:
                asked.setdefault((Ending.CANCELLED, f"{STOPPED}: {ending.reason}; {how}"), []).append(uid)
            else:
                left.append(uid)
        for (each, message), some in asked.items():
            self.end(now, some, each, message)
        for uid in left:
            self._queue.withdraw(uid, tasks[uid].row.template)
            self.unserved.pop(uid, None)
            self.services.pop(uid, None)
            self.gang_of.pop(uid, None)
        if left:
            self._journal.emit(facts.TasksGivenUp(now, left))

    def end(self, now: float, uids: Iterable[TaskUid], ending: Ending, message: str) -> None:
        """End tasks of which no partition will say more."""
        outcomes = []
        for uid in uids:
            task = self._state.tasks[uid]
            times = Times(accepted=task.accepted, ended=now)
            outcomes.append(Outcome(uid, task.binding, Attempt(task.attempt), ending, message=message, times=times))
        self._conclude(now, outcomes)

    def _conclude(self, now: float, outcomes: list[Outcome]) -> None:
        if not outcomes:
            return
        for outcome in outcomes:
            task = self._state.tasks[outcome.task]
            if task.partition == NOWHERE:
                self._queue.withdraw(outcome.task, task.row.template)
        self._queue.note_placed(outcome.task for outcome in outcomes)
        self._journal.emit(facts.Ended(now, NOBODY, 0, outcomes))
        self._note_final(now, outcomes)

    def note_number(self, now: float, number: int) -> None:
        """The client's message of this number is known, and changes nothing."""
        self._journal.emit(facts.EndAsked(now, number, [], Ending.CANCELLED, ""))

    def leased_to(self, partition: str) -> list[TaskUid]:
        """Return the tasks that a partition has."""
        return [uid for uid, task in self._state.tasks.items() if task.partition == partition]
