"""Partitions as they come and go, and what passes between them and the metascheduler beside tasks.

A partition is *starting* until its agent has answered, *active* while it takes tasks, *retiring* once it was told to end, and
then *ended* or *lost*. What it leaves behind goes to the others; its nodes are free.

One that loses a node goes on with fewer. With its last node it is lost: it is told to end, unless it may be given nodes; so is
one that has no node from the beginning, as too few came. Tasks that nobody else can run any more are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

from pilotage.core.client.state import QueuedTasks, queued_rows
from pilotage.core.metascheduler import actions, events, facts
from pilotage.core.metascheduler.backlogs import Backlog
from pilotage.core.metascheduler.fitting import Fitting
from pilotage.core.metascheduler.journal import Journal
from pilotage.core.metascheduler.plan import divide, shares
from pilotage.core.metascheduler.queue import Queue
from pilotage.core.metascheduler.state import PartitionRecord
from pilotage.core.metascheduler.tasks import Tasks
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node
from pilotage.model.states import FAILED

NO_NODE_LEFT = "its last node was lost"


class Partitions:
    """Decides what becomes of partitions, and hears what they say."""

    def __init__(
        self,
        journal: Journal,
        nodes: Sequence[Node],
        fitting: Fitting,
        queue: Queue,
        backlogs: dict[str, Backlog],
        tasks: Tasks,
        missing: int,
    ) -> None:
        self._journal = journal
        self._state = journal.state
        self._nodes = nodes
        self._missing = missing
        self._fitting = fitting
        self._queue = queue
        self._backlogs = backlogs
        self._tasks = tasks
        self._known = 0

    # ------------------------------------------------------------------------------------------------------- begin and end

    def recover(self, now: float) -> None:
        """Take over what the state says."""
        for name, record in self._state.partitions.items():
            self._known += 1
            if record.living:
                self._backlogs[name] = Backlog(name, self._known, record, self._fitting, now)

    def begin(self, now: float, plan: Sequence[PartitionSpec]) -> None:
        """Begin as the plan says, or go on with what is there; see to it that the agents of all partitions run."""
        if not self._state.partitions:
            self._journal.emit(facts.PilotBegun(now, [node.index for node in self._nodes]))
            wanted = shares(plan, len(self._nodes) + self._missing)
            for spec, nodes, size in zip(plan, divide(plan, self._nodes), wanted, strict=True):
                if nodes:
                    self.add(now, 0, spec.name, spec, nodes)
                else:
                    self._add_lost(now, spec)
                if len(nodes) < size:
                    told = f"begins with {len(nodes)} of {size} nodes" if nodes else "is lost"
                    self._journal.act(actions.TellUser(f"partition {spec.name!r} {told}: {self._not_come}"))
            return
        for name, record in self._state.partitions.items():
            if record.living:
                self._journal.act(actions.StartPartition(name))

    def add(self, now: float, number: int, name: str, spec: PartitionSpec, nodes: list[int]) -> None:
        """Start a partition of this name on these nodes, which are free."""
        self._journal.emit(facts.PartitionAdded(now, number, name, spec, nodes))
        self._known += 1
        self._backlogs[name] = Backlog(name, self._known, self._state.partitions[name], self._fitting, now)
        self._queue.is_stale = True
        self._journal.act(actions.StartPartition(name))

    def _add_lost(self, now: float, spec: PartitionSpec) -> None:
        """Note a partition of the plan for which no node is left."""
        self._journal.emit(facts.PartitionAdded(now, 0, spec.name, spec, []))
        self._journal.emit(facts.PartitionOver(now, 0, spec.name, "lost", f"no node is left for it: {self._not_come}", [], now))
        self._queue.is_stale = True

    @property
    def _not_come(self) -> str:
        asked = len(self._nodes) + self._missing
        return f"{self._missing} of the pilot's {asked} nodes did not come"

    def retire(self, now: float, number: int, name: str, drain: bool, reason: str, *, released: bool = False) -> bool:
        """Tell a partition to end; one that drains may still be told to end at once. Return whether it was told."""
        record = self._state.partitions.get(name)
        if record is None or not record.living or (drain and not record.hires):
            return False
        self._journal.emit(facts.PartitionEnding(now, number, name, drain, reason, released))
        self._journal.act(actions.OfferMessages(name))
        self._queue.is_stale = True
        return True

    def retire_all(self, now: float, drain: bool, reason: str) -> None:
        """Tell all partitions to end."""
        for name in list(self._backlogs):
            self.retire(now, 0, name, drain, reason)

    def offer_all(self) -> None:
        """Messages for some partitions may have come to wait."""
        for name, backlog in self._backlogs.items():
            if backlog.record.outbox:
                self._journal.act(actions.OfferMessages(name))

    def said_goodbye(self, event: events.PartitionEndArrived) -> None:
        """The partition has ended in good order, and holds nothing. What it did not answer for never began."""
        record = self._living(event.partition)
        if record is None or event.number != record.received + 1:
            self._journal.stale += 1
            return
        how: facts.Over = "ended" if record.life == "retiring" and record.nodes else "lost"
        # Why it was told to end is known better here than there; how its last node was lost is not.
        knows_better = record.reason == NO_NODE_LEFT and event.state == FAILED
        reason = record.reason if record.life == "retiring" and not knows_better else event.reason
        words = f"partition {event.partition!r} ended ({event.state}{': ' if reason else ''}{reason})"
        self._tasks.go_on(event.time, self._tasks.leased_to(event.partition), {}, event.tries, words)
        self._is_over(event.time, event.number, event.partition, how, reason, [])

    def lost(self, event: events.PartitionLost) -> None:
        """The partition is gone for certain, without having said so."""
        record = self._living(event.partition)
        if record is None:
            self._journal.stale += 1
            return
        now, name, state = event.time, event.partition, self._state
        if event.outcomes:
            # They belong to messages that never came, and none will.
            self._tasks.take_outcomes(now, name, record.received, event.outcomes, event.encoded)
        received = event.received if event.received is not None else None if record.incarnation else 0
        unsent = {row.uid for row in queued_rows(each for each in record.outbox if isinstance(each, QueuedTasks))}
        if received is not None:
            under_way = [message for number, message in record.unacknowledged.items() if number > received]
            unsent |= {row.uid for row in queued_rows(each for each in under_way if isinstance(each, QueuedTasks))}
        unsent |= {uid for uid, lease in event.not_begun if uid in state.tasks and state.tasks[uid].lease == lease}
        never_began: list[TaskUid] = []
        may_have_run: dict[TaskUid, tuple[Attempt, int]] = {}
        for uid in self._tasks.leased_to(name):
            if uid in unsent:
                never_began.append(uid)
            else:
                task = state.tasks[uid]
                may_have_run[uid] = event.tries.get(uid, (Attempt(task.attempt + 1), task.failures))
        how = f"partition {name!r} was lost: {event.reason}"
        self._tasks.go_on(now, never_began, may_have_run, event.tries, how)
        self._is_over(now, 0, name, "lost", event.reason, event.lost_nodes)

    def _is_over(self, now: float, number: int, name: str, how: facts.Over, reason: str, lost_nodes: list[int]) -> None:
        backlog = self._backlogs.pop(name)
        idle_since = min(now, backlog.idle_since) if how == "ended" else now
        self._journal.emit(facts.PartitionOver(now, number, name, how, reason, lost_nodes, idle_since))
        self._journal.act(actions.DisconnectPartition(name))
        self._queue.is_stale = True

    def _living(self, name: str) -> PartitionRecord | None:
        record = self._state.partitions.get(name)
        return record if record is not None and record.living else None

    # --------------------------------------------------------------------------------------------------------- what they say

    def greeted(self, event: events.PartitionGreeted) -> None:
        """The partition's agent answered: it is active, and takes what waits."""
        record = self._living(event.partition)
        if record is None:
            self._journal.stale += 1
            return
        self._delivered(event.partition, record, event.durable)
        if record.incarnation != event.incarnation or record.life == "starting":
            self._journal.emit(facts.PartitionActivated(event.time, event.partition, event.incarnation))
            backlog = self._backlogs[event.partition]
            # What an earlier incarnation told of itself may not hold any more; this one will tell.
            backlog.told = None
            if not backlog.count:
                backlog.idle_since = event.time
        self._journal.act(actions.OfferMessages(event.partition))

    def acknowledged(self, event: events.PartitionAcknowledged) -> None:
        """The partition has messages on disk."""
        record = self._living(event.partition)
        if record is not None:
            self._delivered(event.partition, record, event.durable)

    def _delivered(self, name: str, record: PartitionRecord, durable: int) -> None:
        if durable > record.delivered:
            self._journal.emit(facts.MessagesDelivered(name, durable))

    def link_opened(self, event: events.PartitionLinkOpened) -> None:
        """Send the next message, if there is one."""
        record = self._living(event.partition)
        if record is not None and record.outbox:
            self._journal.emit(facts.MessagesNumbered(event.partition, event.number, 1))
            self._journal.act(actions.SendMessage(event.partition, event.number))

    def outcomes_arrived(self, event: events.OutcomesArrived) -> None:
        """Take in a partition's message, unless it is known."""
        record = self._living(event.partition)
        if record is None or event.number != record.received + 1:
            self._journal.stale += 1
        else:
            self._tasks.take_outcomes(event.time, event.partition, event.number, event.outcomes, event.encoded)

    def nodes_returned(self, event: events.NodesReturned) -> None:
        """Nodes that were asked back are free, as far as they could be had; or nodes are lost."""
        record = self._living(event.partition)
        if record is None or event.number != record.received + 1:
            self._journal.stale += 1
            return
        self._journal.emit(facts.NodesTaken(event.time, event.partition, event.number, event.reclaim, event.nodes))
        self.nodes_changed(event.partition)
        if not record.nodes and not record.spec.most_nodes:
            self.retire(event.time, 0, event.partition, True, NO_NODE_LEFT)

    def tasks_given_back(self, event: events.TasksGivenBack) -> bool:
        """Tasks that were asked back wait here again, or end, if that was asked for; return whether the answer counts."""
        record = self._living(event.partition)
        if record is None or event.number != record.received + 1:
            self._journal.stale += 1
            return False
        tasks, name, now = self._state.tasks, event.partition, event.time
        tries: dict[TaskUid, tuple[Attempt, int]] = {}
        for uid, lease, attempt, failures in event.tasks:
            task = tasks.get(uid)
            if task is None or task.partition != name or task.lease != lease:
                self._journal.stale += 1
                continue
            tries[uid] = (attempt, failures)
            self._backlogs[name].remove(task.row.template, 1, now)
        self._journal.emit(facts.RecallAnswered(now, name, event.number, event.recall, list(tries)))
        self._tasks.go_on(now, list(tries), {}, tries, f"partition {name!r} gave it back")
        return True

    def nodes_changed(self, name: str) -> None:
        """The partition has other nodes than before, or was asked for some."""
        self._backlogs[name].refresh()
        self._queue.is_stale = True

    def told_progress(self, event: events.ProgressTold) -> None:
        """Hand on to the client what a partition tells of its tasks, and take note of its load."""
        if self._living(event.partition) is None:
            return
        tasks, known = self._state.tasks, self._tasks

        def leased(uid: TaskUid, lease: int) -> bool:
            task = tasks.get(uid)
            return task is not None and task.partition == event.partition and task.lease == lease

        started = [(uid, attempt, at) for uid, lease, attempt, at in event.started if leased(uid, lease)]
        if started:
            known.running.update((uid, (attempt, at)) for uid, attempt, at in started)
            self._journal.act(actions.TellStarted(started))
        unloading = [(uid, attempt) for uid, lease, attempt in event.unloading if leased(uid, lease)]
        if unloading:
            known.unloading.update(unloading)
            self._journal.act(actions.TellUnloading(unloading))
        for uid, lease, attempt, info in event.services:
            if leased(uid, lease):
                known.service_ready(event.time, uid, attempt, info)
        if event.load is not None:
            self._backlogs[event.partition].note_told(event.load, event.time)
