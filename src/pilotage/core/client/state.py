"""The state of a session, and ``apply``, the only function that changes it.

A task is here from its acceptance to the end of the session, as the user may ask for its outcome at any time. What is to be
told to a pilot goes through two stations: its *outbox*, in order and without numbers, and from the moment a link takes it,
under a number, ``unacknowledged``, until the agent has it on disk. So what is in the outbox was certainly never sent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from pilotage.core.client import facts
from pilotage.core.client.facts import Fact, Held, ManagerKind, TaskScheduler
from pilotage.errors import InvariantViolated, unreachable
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times, state_of
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node, Request
from pilotage.model.states import (
    AGENT_EXECUTING,
    AGENT_STAGING_INPUT_PENDING,
    AGENT_STAGING_OUTPUT,
    FINAL,
    PMGR_ACTIVE,
    PMGR_ACTIVE_PENDING,
    PMGR_LAUNCHING,
    PMGR_LAUNCHING_PENDING,
    TMGR_SCHEDULING,
)
from pilotage.model.workload import Batch, Extra, Row, Template

NO_PILOT = PilotUid("")
RATE_INTERVAL_S = 1.0
"""The time over which a pilot's throughput is counted."""

_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode
_STATES = tuple(state_of(Ending(number)) for number in range(len(Ending)))
"""By the number of the ending: members of an enumeration are slow keys."""


class TaskRecord(msgspec.Struct, array_like=True, gc=False):
    """A task. ``binding`` counts its pilots, ``outcome`` is None until it is final, ``marked``: callbacks have heard of it."""

    row: Row
    manager: str
    pilot: PilotUid = NO_PILOT
    binding: Binding = Binding(0)
    state: str = TMGR_SCHEDULING
    outcome: Outcome | None = None
    pinned: PilotUid = NO_PILOT
    cancelling: bool = False
    marked: bool = False
    excused: int = 0
    """Bindings that ended for no fault of its own, with the time of their pilot."""


class QueuedTasks(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """Tasks for a pilot; ``batch`` is encoded and has all templates that the pilot has not seen."""

    binding: Binding
    batch: msgspec.Raw


class QueuedCancel(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A request to cancel tasks."""

    tasks: list[tuple[TaskUid, Binding]]


class QueuedEnd(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A request to end the pilot; ``failure``: why it is of no use, if that is the reason."""

    drain: bool
    failure: str = ""


class QueuedEnvironment(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A request to prepare an environment."""

    name: str
    spec: msgspec.Raw


class QueuedPartition(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A request to add a partition."""

    spec: PartitionSpec


class QueuedRetirement(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A request to end a partition."""

    partition: str
    drain: bool


Queued = QueuedTasks | QueuedCancel | QueuedEnd | QueuedEnvironment | QueuedPartition | QueuedRetirement


class JobRecord(msgspec.Struct):
    """A pilot's job. ``name`` is its own among all jobs; ``id`` is what the batch system calls it, empty until it has it.

    ``state``, ``reason`` and ``starts`` are what was told last: the value of a ``JobState``, empty before; why it waits or how
    it ended, or why it is not submitted; when it is expected to start (Unix time; 0.0: not known). ``complete``: see
    ``events.JobTold``.
    """

    system: str
    name: str
    id: str = ""
    state: str = ""
    reason: str = ""
    starts: float = 0.0
    complete: bool = False


class PilotRecord(msgspec.Struct):
    """A pilot. ``load``: unfinished tasks bound to it."""

    uid: PilotUid
    manager: str
    description: msgspec.Raw
    nodes: list[Node]
    state: str = PMGR_LAUNCHING_PENDING
    reason: str = ""
    submitted: float = 0.0
    active_since: float = 0.0
    ended: float = 0.0
    ending: bool = False
    pid: int = 0
    started_ticks: int = 0
    boot_id: str = ""
    incarnation: int = 0
    outbox: list[Queued] = []
    unacknowledged: dict[int, Queued] = {}
    numbered: int = 0
    delivered: int = 0
    received: int = 0
    known_templates: set[TemplateId] = set()
    load: int = 0
    interval_start: float = 0.0
    interval_outcomes: int = 0
    throughput: int = 0
    """Outcomes in the busiest of the last two whole intervals of ``RATE_INTERVAL_S``."""
    awaited: list[TaskUid] = []
    """Its services that are not ready yet; until they are, it takes no other tasks."""
    environments: dict[str, msgspec.Raw] = {}
    """The environments that it was asked to prepare."""
    failure: str = ""
    """Why it was told to end as one that failed, whatever its agent lives to say of it."""
    wide: dict[TemplateId, int] = {}
    """Of the unfinished tasks bound to it those that ask for more than a core, by template."""
    barrier: int = 0
    """It starts no task before it has so many."""
    outcomes: int = 0
    """Tasks that came to their end in it."""
    first: PilotUid = NO_PILOT
    """The pilot that it follows, itself or after others; empty: none."""
    generation: int = 0
    """How many pilots were before it, of which each is the successor of the last."""
    fruitless: int = 0
    """In how many of these, in a row up to the last, no task came to its end."""
    added: dict[str, PartitionSpec] = {}
    """Partitions that it was asked to add, beside those of its description, and not to retire since."""
    estimated: bool = False
    """Whether its nodes are only what they may turn out to be."""
    job: JobRecord | None = None
    """Of a pilot on a platform with a batch system, from when it is to be submitted."""
    withdrawn: bool = False
    """Whether messages in its outbox have tasks that it is not to have any more."""

    @property
    def cores(self) -> int:
        """Cores of all its nodes."""
        return sum(node.shape.cores for node in self.nodes)

    @property
    def known_nodes(self) -> list[Node]:
        """Its nodes, as far as it is certain what they are."""
        return [] if self.estimated else self.nodes

    @property
    def drains(self) -> bool:
        """Whether it is to end after its tasks and not at once, as far as it does not know that yet."""
        messages = (*self.unacknowledged.values(), *self.outbox)
        return self.ending and all(message.drain for message in messages if isinstance(message, QueuedEnd))

    @property
    def takes_back(self) -> bool:
        """Whether tasks can be taken from it: it was sent nothing so far, and counts no tasks as they come."""
        return not self.incarnation and not self.numbered and not self.barrier

    @property
    def usable(self) -> bool:
        """Whether it takes tasks, now or when it becomes active."""
        return not self.ending and self.state not in FINAL


class ManagerRecord(msgspec.Struct):
    """A manager. One of tasks has ``pilots`` to use, and ``waiting`` tasks, in order."""

    kind: ManagerKind
    pilots: list[PilotUid] = []
    waiting: dict[TaskUid, None] = {}
    scheduler: TaskScheduler = ""
    dealt: dict[PilotUid, int] = {}
    """Tasks that were dealt to each pilot in turn; one that comes later begins with as many as the least of the others."""


class ClientState(msgspec.Struct):
    """All that the client knows for certain; encodable, as the log's snapshots hold it."""

    epoch: int = 0
    opened: float = 0.0
    ending: bool = False
    templates: dict[TemplateId, Template] = {}
    tasks: dict[TaskUid, TaskRecord] = {}
    pilots: dict[PilotUid, PilotRecord] = {}
    managers: dict[str, ManagerRecord] = {}
    metadata: dict[TaskUid, bytes] = {}
    held: dict[TaskUid, Held] = {}
    """Tasks that wait for others; neither bound nor waiting for a pilot."""
    asked: dict[TaskUid, Held] = {}
    """What the descriptions of tasks say that they wait for, for good; of those alone that say something."""
    service_info: dict[TaskUid, str] = {}
    """What the services that are ready are known by."""
    stale_outcomes: int = 0
    """Outcomes of executions that no longer counted, or of unknown tasks."""
    gang_templates: dict[TemplateId, str] = {}
    """The templates of tasks that start together with others, and the names of their gangs."""

    def __post_init__(self) -> None:
        # Snapshots of before this was kept tell it of the tasks that still wait.
        for uid, held in self.held.items():
            self.asked.setdefault(uid, held)


def apply(state: ClientState, fact: Fact, *, batch: Batch | None = None, outcomes: list[Outcome] | None = None) -> None:
    """Fold one fact into the state. ``batch`` and ``outcomes``: what the fact holds encoded, if it is at hand decoded."""
    match fact:
        case facts.OutcomesReceived():
            _apply_outcomes(state, fact, _decode_outcomes(fact.outcomes) if outcomes is None else outcomes)
        case facts.TasksAccepted():
            _apply_accepted(state, fact, _decode_batch(fact.batch) if batch is None else batch)
        case facts.MessagesNumbered():
            pilot = state.pilots[fact.pilot]
            for number in range(fact.first, fact.first + fact.count):
                queued = pilot.outbox.pop(0)
                pilot.unacknowledged[number] = _without_withdrawn(state, pilot, queued) if pilot.withdrawn else queued
                pilot.numbered = number
            pilot.withdrawn = pilot.withdrawn and bool(pilot.outbox)
        case facts.MessagesDelivered():
            pilot = state.pilots[fact.pilot]
            for number in [number for number in pilot.unacknowledged if number <= fact.number]:
                del pilot.unacknowledged[number]
            pilot.delivered = fact.number
            pilot.numbered = max(pilot.numbered, fact.number)
        case facts.CallbacksMarked():
            for uid in fact.tasks:
                state.tasks[uid].marked = True
        case facts.TasksStarted():
            for uid in fact.tasks:
                state.tasks[uid].state = AGENT_EXECUTING
        case facts.OutputsBegun():
            for uid in fact.tasks:
                state.tasks[uid].state = AGENT_STAGING_OUTPUT
        case facts.MetadataKept():
            state.metadata.update(fact.metadata)
        case facts.DependenciesKept():
            state.asked.update(fact.asked)
        case facts.TasksBound():
            _apply_bound(state, fact)
        case facts.TasksHeld():
            for uid, held in fact.tasks.items():
                state.held[uid] = held
                state.asked.setdefault(uid, held)
                state.managers[state.tasks[uid].manager].waiting.pop(uid, None)
        case facts.TasksFreed():
            _apply_freed(state, fact)
        case facts.ServicesReady():
            state.service_info.update(fact.services)
            for pilot in state.pilots.values():
                if pilot.awaited:
                    pilot.awaited = [uid for uid in pilot.awaited if uid not in fact.services]
        case facts.EnvironmentAsked():
            state.pilots[fact.pilot].environments[fact.name] = fact.spec
            state.pilots[fact.pilot].outbox.append(QueuedEnvironment(fact.name, fact.spec))
        case facts.PartitionAsked():
            pilot = state.pilots[fact.pilot]
            pilot.added[fact.spec.name] = fact.spec
            pilot.outbox.append(QueuedPartition(fact.spec))
        case facts.RetirementAsked():
            pilot = state.pilots[fact.pilot]
            pilot.added.pop(fact.partition, None)
            pilot.outbox.append(QueuedRetirement(fact.partition, fact.drain))
        case facts.PilotServicesAwaited():
            state.pilots[fact.pilot].awaited = list(fact.services)
        case facts.TasksUnbound():
            _apply_unbound(state, fact)
        case facts.PilotSucceeded():
            _apply_succeeded(state, fact)
        case facts.TasksSettled():
            _apply_settled(state, fact)
        case facts.CancelAsked():
            for uid, _ in fact.tasks:
                state.tasks[uid].cancelling = True
            state.pilots[fact.pilot].outbox.append(QueuedCancel(fact.tasks))
        case facts.ManagerAdded():
            state.managers[fact.manager] = ManagerRecord(fact.kind, scheduler=fact.scheduler)
        case facts.PilotsAdded():
            manager = state.managers[fact.manager]
            if manager.scheduler == "round_robin":
                least = min((manager.dealt.get(uid, 0) for uid in manager.pilots if state.pilots[uid].usable), default=0)
                manager.dealt.update(dict.fromkeys(fact.pilots, least))
            manager.pilots.extend(fact.pilots)
        case facts.PilotsRemoved():
            manager = state.managers[fact.manager]
            manager.pilots = [uid for uid in manager.pilots if uid not in fact.pilots]
        case facts.EpochBegun():
            # Who resumes a session that was closed for good goes on with it, and may close it again.
            state.epoch, state.opened, state.ending = fact.epoch, fact.time, False
        case facts.SessionEnding():
            state.ending = True
        case (
            facts.PilotAccepted() | facts.PilotLaunched() | facts.PilotActivated() | facts.PilotEndAsked() | facts.PilotEnded()
        ):
            _apply_pilot(state, fact)
        case facts.JobSubmitting() | facts.JobSubmitted() | facts.JobTold():
            _apply_job(state.pilots[fact.pilot], fact)
        case _:
            unreachable(fact)


def queued_rows(queued: Iterable[Queued]) -> list[Row]:
    """Return the rows of all tasks in these messages."""
    return [row for message in queued if isinstance(message, QueuedTasks) for row in _decode_batch(message.batch).rows]


def _without_withdrawn(state: ClientState, pilot: PilotRecord, queued: Queued) -> Queued:
    """Return a message without the tasks that were taken from the pilot before it was sent; what it may know stays."""
    if not isinstance(queued, QueuedTasks):
        return queued
    batch = _decode_batch(queued.batch)
    bound = pilot.uid, queued.binding
    rows = [row for row in batch.rows if (state.tasks[row.uid].pilot, state.tasks[row.uid].binding) == bound]
    if len(rows) == len(batch.rows):
        return queued
    return QueuedTasks(queued.binding, msgspec.Raw(_encode(Batch(batch.templates, rows))))


def _apply_pilot(
    state: ClientState,
    fact: facts.PilotAccepted | facts.PilotLaunched | facts.PilotActivated | facts.PilotEndAsked | facts.PilotEnded,
) -> None:
    if isinstance(fact, facts.PilotAccepted):
        state.pilots[fact.pilot] = PilotRecord(
            fact.pilot,
            fact.manager,
            fact.description,
            fact.nodes,
            submitted=fact.time,
            barrier=fact.barrier,
            estimated=fact.estimated,
        )
        return
    pilot = state.pilots[fact.pilot]
    if isinstance(fact, facts.PilotLaunched):
        pilot.pid, pilot.started_ticks, pilot.boot_id = fact.pid, fact.started_ticks, fact.boot_id
        pilot.state = PMGR_ACTIVE_PENDING
    elif isinstance(fact, facts.PilotActivated):
        pilot.incarnation, pilot.nodes, pilot.estimated = fact.incarnation, fact.nodes, False
        pilot.active_since = pilot.active_since or fact.time
        pilot.state = PMGR_ACTIVE
    elif isinstance(fact, facts.PilotEndAsked):
        pilot.ending = True
        pilot.failure = pilot.failure or fact.failure
        pilot.outbox.append(QueuedEnd(fact.drain, fact.failure))
    else:
        pilot.received = max(pilot.received, fact.number)
        pilot.state, pilot.reason, pilot.ended = fact.state, fact.reason, fact.time
        pilot.outbox.clear()
        pilot.unacknowledged.clear()


def _apply_job(pilot: PilotRecord, fact: facts.JobSubmitting | facts.JobSubmitted | facts.JobTold) -> None:
    if isinstance(fact, facts.JobSubmitting):
        pilot.job = JobRecord(fact.system, fact.name)
        pilot.state = PMGR_LAUNCHING
    elif pilot.job is None:
        raise InvariantViolated(f"pilot {pilot.uid} has no job, and {fact!r:.200} tells of it")
    elif isinstance(fact, facts.JobSubmitted):
        pilot.job.id, pilot.job.reason = fact.job, ""
        if pilot.state == PMGR_LAUNCHING:
            pilot.state = PMGR_ACTIVE_PENDING
    else:
        pilot.job.state, pilot.job.reason = fact.state, fact.reason
        pilot.job.starts, pilot.job.complete = fact.starts, fact.complete


def _apply_accepted(state: ClientState, fact: facts.TasksAccepted, batch: Batch) -> None:
    state.templates.update(batch.templates)
    for number, template in batch.templates.items():
        if template.request.gang:
            state.gang_templates[number] = template.request.gang
    tasks, manager, pinned, uid = state.tasks, fact.manager, fact.pinned, fact.pilot
    if not uid:
        waiting = state.managers[manager].waiting
        for row in batch.rows:
            tasks[row.uid] = TaskRecord(row, manager, pinned=pinned)
            waiting[row.uid] = None
        return
    binding, task_state = Binding(1), AGENT_STAGING_INPUT_PENDING
    for row in batch.rows:
        tasks[row.uid] = TaskRecord(row, manager, uid, binding, task_state, None, pinned)
    pilot = state.pilots[uid]
    used = {row.template for row in batch.rows}
    _put_on(state, pilot, batch.rows, used)
    if not pinned:
        _count_dealt(state.managers[manager], uid, len(batch.rows))
    if used <= pilot.known_templates or used - pilot.known_templates <= batch.templates.keys():
        # The common case: the bytes that are in the log travel as they are.
        pilot.outbox.append(QueuedTasks(binding, fact.batch))
        pilot.known_templates.update(batch.templates)
    else:
        _queue_rows(state, pilot, binding, batch.rows)


def _apply_freed(state: ClientState, fact: facts.TasksFreed) -> None:
    for uid in fact.tasks:
        del state.held[uid]
        record = state.tasks[uid]
        state.managers[record.manager].waiting[uid] = None
        variables = fact.variables.get(uid)
        if variables:
            extra = record.row.extra or Extra()
            extra = msgspec.structs.replace(extra, variables={**extra.variables, **variables})
            record.row = msgspec.structs.replace(record.row, extra=extra)


def _apply_unbound(state: ClientState, fact: facts.TasksUnbound) -> None:
    for uid in fact.tasks:
        record = state.tasks[uid]
        pilot = state.pilots[record.pilot]
        _take_off(pilot, record)
        pilot.withdrawn = pilot.withdrawn or bool(pilot.outbox)
        record.pilot, record.state = NO_PILOT, TMGR_SCHEDULING
        state.service_info.pop(uid, None)
        state.managers[record.manager].waiting[uid] = None
        if uid in fact.tries:
            attempts, failures = fact.tries[uid]
            extra = msgspec.structs.replace(record.row.extra or Extra(), attempts=attempts, failures=failures)
            sandbox = extra.sandbox or fact.sandboxes.get(uid, "")
            record.row = msgspec.structs.replace(record.row, extra=msgspec.structs.replace(extra, sandbox=sandbox))
    for uid in fact.excused:
        state.tasks[uid].excused += 1


def _apply_succeeded(state: ClientState, fact: facts.PilotSucceeded) -> None:
    pilot, successor = state.pilots[fact.pilot], state.pilots[fact.successor]
    successor.first = pilot.first or pilot.uid
    successor.generation, successor.fruitless = pilot.generation + 1, fact.fruitless
    for record in state.tasks.values():
        if record.pinned == fact.pilot and record.outcome is None:
            record.pinned = fact.successor


def _apply_bound(state: ClientState, fact: facts.TasksBound) -> None:
    pilot = state.pilots[fact.pilot]
    rows = []
    for uid in fact.tasks:
        record = state.tasks[uid]
        record.pilot, record.binding, record.state = fact.pilot, fact.binding, AGENT_STAGING_INPUT_PENDING
        state.managers[record.manager].waiting.pop(uid, None)
        if record.row.extra is not None and record.row.extra.services:
            record.row = _told(state, record.row)
        rows.append(record.row)
        if not record.pinned:
            _count_dealt(state.managers[record.manager], fact.pilot, 1)
    _put_on(state, pilot, rows, {row.template for row in rows})
    _queue_rows(state, pilot, fact.binding, rows)


def is_wide(request: Request) -> bool:
    """Tell whether a task that asks for this takes more of a pilot than one core."""
    sizes = (request.ranks * request.cores - 1, request.gpu_shares, request.memory, request.disk, request.exclusive)
    return any(sizes)


def _put_on(state: ClientState, pilot: PilotRecord, rows: list[Row], used: set[TemplateId]) -> None:
    pilot.load += len(rows)
    if any(is_wide(state.templates[template].request) for template in used):
        for template, count in Counter([row.template for row in rows]).items():
            if is_wide(state.templates[template].request):
                pilot.wide[template] = pilot.wide.get(template, 0) + count


def _take_off(pilot: PilotRecord, record: TaskRecord) -> None:
    pilot.load -= 1
    if record.row.template in pilot.wide:
        _take_off_wide(pilot.wide, record.row.template)


def _take_off_wide(wide: dict[TemplateId, int], template: TemplateId, count: int = 1) -> None:
    wide[template] -= count
    if not wide[template]:
        del wide[template]


def _count_dealt(manager: ManagerRecord, pilot: PilotUid, count: int) -> None:
    if manager.scheduler == "round_robin":
        manager.dealt[pilot] = manager.dealt.get(pilot, 0) + count


def _told(state: ClientState, row: Row) -> Row:
    """Return a row with what is known now of the services that it needs: they may be elsewhere than when it was freed."""
    extra = row.extra or Extra()
    news = {name: state.service_info[uid] for name, uid in extra.services.items() if uid in state.service_info}
    return msgspec.structs.replace(row, extra=msgspec.structs.replace(extra, variables={**extra.variables, **news}))


def _queue_rows(state: ClientState, pilot: PilotRecord, binding: Binding, rows: list[Row]) -> None:
    missing = sorted({row.template for row in rows} - pilot.known_templates)
    batch = Batch({template: state.templates[template] for template in missing}, rows)
    pilot.outbox.append(QueuedTasks(binding, msgspec.Raw(_encode(batch))))
    pilot.known_templates.update(missing)


def _apply_outcomes(state: ClientState, fact: facts.OutcomesReceived, outcomes: Sequence[Outcome]) -> None:
    # One turn per task of the whole campaign: plain attribute access, no calls.
    tasks, states, wide = state.tasks, _STATES, state.pilots[fact.pilot].wide
    counted = 0
    ended: list[TemplateId] = []
    for outcome in outcomes:
        record = tasks.get(outcome.task)
        if record is None or record.outcome is not None or record.binding != outcome.binding:
            state.stale_outcomes += 1
            continue
        record.outcome = outcome
        record.state = states[outcome.ending]
        counted += 1
        if wide:
            ended.append(record.row.template)
    for template, count in Counter(ended).items():
        if template in wide:
            _take_off_wide(wide, template, count)
    if state.service_info:
        for outcome in outcomes:
            if (record := tasks.get(outcome.task)) is not None and record.outcome is not None:
                state.service_info.pop(outcome.task, None)
    pilot = state.pilots[fact.pilot]
    pilot.received = fact.number
    pilot.load -= counted
    pilot.outcomes += counted
    elapsed = fact.time - pilot.interval_start
    if elapsed >= RATE_INTERVAL_S:
        pilot.throughput = pilot.interval_outcomes if elapsed < 2 * RATE_INTERVAL_S else 0
        pilot.interval_start, pilot.interval_outcomes = fact.time, 0
    pilot.interval_outcomes += counted


def _apply_settled(state: ClientState, fact: facts.TasksSettled) -> None:
    times = Times(ended=fact.time)
    for uid in fact.tasks:
        record = state.tasks[uid]
        if record.outcome is not None:
            raise InvariantViolated(f"task {uid} is {record.state} already and cannot end again: {fact.message}")
        attempt = fact.attempts.get(uid, Attempt(0))
        record.outcome = Outcome(uid, record.binding, attempt, fact.ending, message=fact.message, times=times)
        record.state = _STATES[fact.ending]
        state.service_info.pop(uid, None)
        if record.pilot:
            _take_off(state.pilots[record.pilot], record)
        elif state.held.pop(uid, None) is None:
            state.managers[record.manager].waiting.pop(uid, None)
