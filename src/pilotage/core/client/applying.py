"""``apply``, the only function that changes the state of a session: it folds one fact into it.

A fact always leads from a state to the same next one, now and when the log is read again; so nothing is decided here. What
makes no sense in a state raises ``InvariantViolated``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from pilotage.core.client import facts
from pilotage.core.client.bound_load import put_on, take_off, take_off_wide
from pilotage.core.client.facts import Fact
from pilotage.core.client.state import (
    NO_PILOT,
    ClientState,
    JobRecord,
    ManagerRecord,
    PilotRecord,
    Queued,
    QueuedCancel,
    QueuedEnd,
    QueuedEnvironment,
    QueuedPartition,
    QueuedRetirement,
    QueuedTasks,
    TaskRecord,
)
from pilotage.errors import InvariantViolated, unreachable
from pilotage.model.ids import Attempt, Binding, PilotUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times, state_of
from pilotage.model.states import (
    AGENT_EXECUTING,
    AGENT_STAGING_INPUT_PENDING,
    AGENT_STAGING_OUTPUT,
    PMGR_ACTIVE,
    PMGR_ACTIVE_PENDING,
    PMGR_LAUNCHING,
    TMGR_SCHEDULING,
)
from pilotage.model.workload import Batch, Extra, Row

RATE_INTERVAL_S = 1.0
"""The time over which a pilot's throughput is counted."""

_encode = msgspec.msgpack.Encoder().encode
_decode_batch = msgspec.msgpack.Decoder(Batch).decode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode
_STATES = tuple(state_of(Ending(number)) for number in range(len(Ending)))
"""By the number of the ending: members of an enumeration are slow keys."""


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
    put_on(state, pilot, batch.rows, used)
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
        take_off(pilot, record)
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
    put_on(state, pilot, rows, {row.template for row in rows})
    _queue_rows(state, pilot, fact.binding, rows)


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
            take_off_wide(wide, template, count)
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
            take_off(state.pilots[record.pilot], record)
        elif state.held.pop(uid, None) is None:
            state.managers[record.manager].waiting.pop(uid, None)
