"""The state of a metascheduler, and ``apply``, the only function that changes it.

A task is here from its acceptance to its final outcome; an outcome is here until the client has it on disk. A task without a
partition waits. What is to be told to a partition goes through two stations, as in the client: its *outbox*, in order and
without numbers, and from the moment a link takes it, under a number, ``unacknowledged``, until the partition's agent has it on
disk. So what is in the outbox was certainly never sent.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent.client_side import ClientSide, apply_to_client_side, take_outcomes, tell_again
from pilotage.core.agent.needs import told
from pilotage.core.client.state import QueuedCancel, QueuedEnd, QueuedEnvironment, QueuedTasks
from pilotage.core.metascheduler import facts
from pilotage.core.metascheduler.records import (
    HIRING,
    LIVING,
    NOWHERE,
    Life,
    PartitionRecord,
    Queued,
    QueuedGrant,
    QueuedRecall,
    QueuedReclaim,
    TaskRecord,
)
from pilotage.errors import InvariantViolated, unreachable
from pilotage.model.ids import Attempt, Binding, TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import LOST_NODES
from pilotage.model.workload import Batch, Extra, Row, Template

__all__ = [
    "HIRING",
    "LIVING",
    "NOWHERE",
    "Life",
    "MetaschedulerState",
    "PartitionRecord",
    "Queued",
    "QueuedGrant",
    "QueuedRecall",
    "QueuedReclaim",
    "TaskRecord",
    "apply",
]

PLACES_KEPT = 1 << 16
"""As many placements as the policies of partitions remember."""

_encode = msgspec.msgpack.Encoder().encode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


class MetaschedulerState(ClientSide):
    """All that the metascheduler knows for certain; encodable, as the log's snapshots hold it."""

    templates: dict[TemplateId, Template] = {}
    tasks: dict[TaskUid, TaskRecord] = {}
    begun: float = 0.0
    partitions: dict[str, PartitionRecord] = {}
    free_nodes: dict[int, float] = {}
    """Nodes that no partition owns, and since when."""
    lost_nodes: dict[int, None] = {}
    """Nodes that are gone for good, and go to nobody any more."""
    reclaims: int = 0
    """Requests for nodes so far."""
    recalls: int = 0
    """Requests for tasks so far."""
    environments: dict[str, msgspec.Raw] = {}
    services: dict[TaskUid, str] = {}
    """Services that are ready, and what tasks are told of them."""
    services_over: dict[TaskUid, str] = {}
    """Services that have ended for good, and how."""
    anchors: dict[str, str] = {}
    """Groups of tasks that share a node (``colocate``) or start together (``gang``), and the partition that has them."""
    places: dict[TaskUid, str] = {}
    """Tasks beside which others want to run, and the partitions that have or had them; those that wait have none."""
    recent: dict[TaskUid, str] = {}
    """The partitions in which the last tasks ended, of ``PLACES_KEPT`` at least."""
    late: dict[TaskUid, Binding] = {}
    """Tasks that go back to the client: nobody is left to run them, or they arrived when the idle pilot had begun to end."""
    idle_node_s: float = 0.0
    """Seconds for which nodes, taken together, had nothing to do before their partition gave them back."""
    free_node_s: float = 0.0
    """Seconds for which nodes, taken together, were no partition's before they became one's again."""
    gangs: dict[str, int] = {}
    """How many tasks of each gang came, whatever became of them."""
    gangs_over: dict[str, str] = {}
    """Gangs that can't begin any more, and why."""

    def dormant(self) -> dict[str, PartitionRecord]:
        """Return the partitions that may come: awaited, or ended for want of tasks and without successor; by their specs."""
        found: dict[str, PartitionRecord] = {}
        for record in self.partitions.values():
            if record.may_come:
                found[record.spec.name] = record
            else:
                found.pop(record.spec.name, None)
        return found

    @property
    def is_bereft(self) -> bool:
        """Whether so much was lost that no task can run any more, however long it waits."""
        partitions = self.partitions.values()
        if any(each.hires and each.nodes for each in partitions):
            return False
        if not self.lost_nodes and not any(each.life == "lost" for each in partitions):
            return False
        # Who has no nodes may get some, and who may come may be started.
        nodes = bool(self.free_nodes) or any(each.nodes for each in partitions)
        return not (nodes and any((each.hires and each.spec.most_nodes) or each.may_come for each in partitions))

    @property
    def busy(self) -> bool:
        """Whether there are tasks, or partitions that live."""
        return bool(self.tasks) or any(partition.living for partition in self.partitions.values())


def apply(state: MetaschedulerState, fact: facts.Fact, *, outcomes: list[Outcome] | None = None) -> None:
    """Fold one fact into the state. ``outcomes``: what the fact holds encoded, if it is at hand decoded."""
    match fact:
        case facts.OutcomesTaken():
            _apply_outcomes(state, fact, _decode_outcomes(fact.outcomes) if outcomes is None else outcomes)
        case facts.TasksAccepted():
            state.received = fact.number
            if state.ending is not None and state.ending.idle:
                state.late.update((row.uid, fact.binding) for row in fact.batch.rows)
                return
            state.templates.update(fact.batch.templates)
            tasks, binding, now = state.tasks, fact.binding, fact.time
            for row in fact.batch.rows:
                tasks[row.uid] = TaskRecord(row, binding, now)
            for template in fact.batch.templates.values():
                beside = TaskUid(template.request.beside)
                if beside in tasks:
                    state.places[beside] = tasks[beside].partition
                elif beside in state.recent:
                    state.places[beside] = state.recent[beside]
        case facts.TasksLeased():
            _apply_leased(state, fact)
        case facts.OutcomesNumbered() | facts.OutcomesDelivered() | facts.PilotEnding() | facts.PilotEnded():
            apply_to_client_side(state, fact)
        case facts.TasksReleased():
            for uid, attempt, failures in fact.tasks:
                task = _leave(state, uid)
                task.attempt, task.failures = attempt, failures
        case facts.Ended():
            for outcome in fact.outcomes:
                _leave(state, outcome.task)
                del state.tasks[outcome.task]
                state.places.pop(outcome.task, None)
            take_outcomes(state, fact.outcomes)
        case facts.EndAsked():
            _apply_end_asked(state, fact)
        case facts.Rebound():
            over = [uid for uid in fact.tasks if uid not in state.tasks]
            for uid in fact.tasks:
                if uid in state.tasks:
                    state.tasks[uid].binding = fact.binding
            if over:
                tell_again(state, fact, over)
        case facts.EnvironmentAsked():
            state.received = fact.number
            state.environments[fact.name] = fact.spec
            for partition in state.partitions.values():
                if partition.hires:
                    partition.outbox.append(QueuedEnvironment(fact.name, fact.spec))
        case facts.ServiceReady():
            state.services[fact.service] = fact.info
        case facts.ServiceOver():
            state.services_over[fact.service] = fact.message
        case facts.GangOver():
            state.gangs_over[fact.gang] = fact.message
        case facts.GangJoined():
            state.gangs[fact.gang] = state.gangs.get(fact.gang, 0) + fact.count
        case facts.MessagesNumbered():
            partition = state.partitions[fact.partition]
            for number in range(fact.first, fact.first + fact.count):
                partition.unacknowledged[number] = partition.outbox.pop(0)
                partition.numbered = number
        case facts.MessagesDelivered():
            partition = state.partitions[fact.partition]
            for number in [number for number in partition.unacknowledged if number <= fact.number]:
                del partition.unacknowledged[number]
            partition.delivered = fact.number
            partition.numbered = max(partition.numbered, fact.number)
        case facts.PilotBegun():
            state.begun = fact.time
            state.free_nodes = dict.fromkeys(fact.nodes, fact.time)
        case facts.PartitionAdded() | facts.PartitionActivated() | facts.PartitionEnding() | facts.PartitionOver():
            _apply_partition(state, fact)
        case facts.PartitionAwaited() | facts.PartitionRefused() | facts.PartitionDismissed():
            _apply_asked(state, fact)
        case facts.NodesGranted() | facts.NodesReclaimed() | facts.NodesTaken():
            _apply_nodes(state, fact)
        case facts.TasksRecalled():
            state.recalls = fact.recall
            partition = state.partitions[fact.partition]
            partition.recalls[fact.recall] = len(fact.tasks)
            asked = [(uid, Binding(state.tasks[uid].lease)) for uid in fact.tasks]
            partition.outbox.append(QueuedRecall(fact.recall, asked))
        case facts.TasksGivenUp():
            for uid in fact.tasks:
                task = state.tasks.pop(uid)
                state.late[uid] = task.binding
                state.places.pop(uid, None)
                if task.attempt:
                    state.begun_tasks.append(uid)
                    state.tries[uid] = (Attempt(task.attempt), task.failures)
        case facts.RecallAnswered():
            partition = state.partitions[fact.partition]
            partition.received = fact.number
            partition.recalls.pop(fact.recall, None)
            for uid in fact.tasks:
                state.tasks[uid].recalls += 1
        case _:
            unreachable(fact)


def _apply_leased(state: MetaschedulerState, fact: facts.TasksLeased) -> None:
    name, lease, now, tasks = fact.partition, fact.lease, fact.time, state.tasks
    partition = state.partitions[name]
    rows = []
    for uid in fact.tasks:
        task = tasks[uid]
        task.partition, task.lease, task.leased = name, lease, now
        row = task.row
        if task.attempt or row.extra is not None:
            row = _with_past(state, task)
        rows.append(row)
    if state.places:
        state.places.update((uid, name) for uid in fact.tasks if uid in state.places)
    partition.leased += len(rows)
    used = dict.fromkeys(row.template for row in rows)
    for template in used:
        tag = state.templates[template].request.party
        if tag:
            state.anchors[tag] = name
    missing = [template for template in used if template not in partition.known_templates]
    batch = Batch({template: state.templates[template] for template in missing}, rows)
    partition.outbox.append(QueuedTasks(Binding(lease), msgspec.Raw(_encode(batch))))
    partition.known_templates.update(dict.fromkeys(missing))


def _with_past(state: MetaschedulerState, task: TaskRecord) -> Row:
    """Return a task's row with the attempts that were made elsewhere, and what is known now of the services that it needs."""
    row = told(state, task.row)
    if not task.attempt:
        return row
    extra = msgspec.structs.replace(row.extra or Extra(), attempts=task.attempt, failures=task.failures)
    return msgspec.structs.replace(row, extra=extra)


def _apply_outcomes(state: MetaschedulerState, fact: facts.OutcomesTaken, outcomes: list[Outcome]) -> None:
    # One turn per task of the whole campaign: plain attribute access, no calls.
    name, tasks, recent = fact.partition, state.tasks, state.recent
    partition = state.partitions[name]
    aside = dict.fromkeys(fact.put_aside)
    final: list[Outcome] = []
    for outcome in outcomes:
        uid = outcome.task
        task = tasks.get(uid)
        if task is None or task.lease != outcome.binding or task.partition != name or uid in aside:
            continue
        del tasks[uid]
        if outcome.binding != task.binding:
            outcome = msgspec.structs.replace(outcome, binding=task.binding)
        final.append(outcome)
        recent[uid] = name
    if len(recent) > 2 * PLACES_KEPT:
        state.recent = dict(list(recent.items())[PLACES_KEPT:])
    if state.services:
        for outcome in final:
            state.services.pop(outcome.task, None)
    partition.received = max(partition.received, fact.number)
    partition.leased -= len(final)
    take_outcomes(state, final)


def _leave(state: MetaschedulerState, uid: TaskUid) -> TaskRecord:
    task = state.tasks[uid]
    if task.partition:
        state.partitions[task.partition].leased -= 1
        task.partition = NOWHERE
        state.services.pop(uid, None)
        if uid in state.places:
            state.places[uid] = NOWHERE
    return task


def _apply_end_asked(state: MetaschedulerState, fact: facts.EndAsked) -> None:
    if fact.number:
        state.received = fact.number
    there: dict[str, list[tuple[TaskUid, Binding]]] = {}
    for uid in fact.tasks:
        task = state.tasks[uid]
        task.ending, task.ending_message = fact.ending, fact.message
        if task.partition:
            there.setdefault(task.partition, []).append((uid, Binding(task.lease)))
    for name, tasks in there.items():
        state.partitions[name].outbox.append(QueuedCancel(tasks))


def _apply_partition(
    state: MetaschedulerState,
    fact: facts.PartitionAdded | facts.PartitionActivated | facts.PartitionEnding | facts.PartitionOver,
) -> None:
    if isinstance(fact, facts.PartitionAdded):
        _apply_added(state, fact)
        return
    partition = state.partitions[fact.partition]
    if isinstance(fact, facts.PartitionActivated):
        partition.incarnation = fact.incarnation
        if partition.life == "starting":
            partition.life = "active"
    elif isinstance(fact, facts.PartitionEnding):
        if fact.number:
            state.received = fact.number
        partition.life, partition.reason, partition.released = "retiring", fact.reason, fact.released
        partition.outbox.append(QueuedEnd(fact.drain))
    else:
        if partition.leased:
            raise InvariantViolated(
                f"partition {fact.partition!r} is over while it has {partition.leased} tasks: {fact.reason}"
            )
        partition.received = max(partition.received, fact.number)
        partition.life, partition.reason = fact.how, fact.reason
        lost = dict.fromkeys(fact.lost_nodes)
        for node in partition.nodes:
            if node in lost:
                state.lost_nodes[node] = None
            else:
                state.free_nodes[node] = fact.time
        state.idle_node_s += len(partition.nodes) * max(0.0, fact.time - fact.idle_since)
        partition.nodes.clear()
        partition.outbox.clear()
        partition.unacknowledged.clear()
        partition.reclaims.clear()
        partition.recalls.clear()
        partition.known_templates.clear()
        state.anchors = {tag: name for tag, name in state.anchors.items() if name != fact.partition}
        state.places = {uid: name for uid, name in state.places.items() if name != fact.partition}
        state.recent = {uid: name for uid, name in state.recent.items() if name != fact.partition}


def _apply_added(state: MetaschedulerState, fact: facts.PartitionAdded) -> None:
    if fact.number:
        state.received = fact.number
    record = PartitionRecord(fact.spec, dict.fromkeys(fact.nodes), fact.time, gained=fact.time, size=len(fact.nodes))
    before = state.dormant().get(fact.spec.name)
    if before is not None:
        # It takes the place of one that was let go. That one's own predecessor is long forgotten by everyone.
        record.number = before.number + 1
        before.released = False
        state.partitions = {
            name: each
            for name, each in state.partitions.items()
            if each is before or each.life != "ended" or each.spec.name != fact.spec.name
        }
    record.outbox = [QueuedEnvironment(name, spec) for name, spec in state.environments.items()]
    state.partitions[fact.partition] = record
    _take_free(state, fact.nodes, fact.time)


def _apply_asked(
    state: MetaschedulerState, fact: facts.PartitionAwaited | facts.PartitionRefused | facts.PartitionDismissed
) -> None:
    if fact.number:
        state.received = fact.number
    if isinstance(fact, facts.PartitionAwaited):
        record = PartitionRecord(fact.spec, {}, fact.time, life="awaited", size=fact.nodes, number=0)
        state.partitions[fact.spec.name] = record
    elif isinstance(fact, facts.PartitionRefused):
        name = fact.spec.name
        # The name may be that of a partition that is there: it was refused for that.
        replaced = ("refused",) if fact.number else ("refused", "awaited")
        if all(each.life in replaced for each in state.partitions.values() if each.spec.name == name):
            state.partitions[name] = PartitionRecord(fact.spec, {}, fact.time, life="refused", reason=fact.reason)
    elif state.partitions[fact.partition].life == "awaited":
        del state.partitions[fact.partition]
    else:
        state.partitions[fact.partition].released = False


def _apply_nodes(state: MetaschedulerState, fact: facts.NodesGranted | facts.NodesReclaimed | facts.NodesTaken) -> None:
    partition = state.partitions[fact.partition]
    match fact:
        case facts.NodesGranted():
            _take_free(state, fact.nodes, fact.time)
            partition.nodes.update(dict.fromkeys(fact.nodes))
            partition.gained = fact.time
            partition.outbox.append(QueuedGrant(fact.nodes))
        case facts.NodesReclaimed():
            state.reclaims = fact.reclaim
            partition.reclaims[fact.reclaim] = fact.count
            partition.outbox.append(QueuedReclaim(fact.reclaim, fact.count))
        case facts.NodesTaken():
            partition.received = fact.number
            partition.reclaims.pop(fact.reclaim, None)
            for node in fact.nodes:
                del partition.nodes[node]
                if fact.reclaim == LOST_NODES:
                    state.lost_nodes[node] = None
                else:
                    state.free_nodes[node] = fact.time


def _take_free(state: MetaschedulerState, nodes: list[int], now: float) -> None:
    for node in nodes:
        state.free_node_s += max(0.0, now - state.free_nodes.pop(node))
