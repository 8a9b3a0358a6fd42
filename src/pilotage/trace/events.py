"""The events of a run, one by one, in the order of the logs: for tools that follow what happened to one task or pilot.

For figures over many tasks use ``read_session``, whose columns cost a tenth of as many events.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from pilotage.core.agent import facts as agent
from pilotage.core.agent.state import AgentState
from pilotage.core.client import facts as client
from pilotage.core.client.state import ClientState
from pilotage.model.ids import Binding, TaskUid
from pilotage.trace import catalogue as names
from pilotage.trace.catalogue import TraceEvent
from pilotage.trace.partition_folds import head_facts
from pilotage.trace.reader import agent_folders
from pilotage.trace.records import (
    CLIENT_LOG,
    PILOT_LOG,
    agent_facts,
    client_facts,
    decode_batch,
    decode_outcomes,
    partition_folders,
    read_log,
)


def read_pilot(folder: Path | str, remarks: list[str] | None = None) -> Iterator[TraceEvent]:
    """Iterate over the events in the log of the agent in a pilot's folder, in the order in which they were logged.

    Where the pilot has partitions the logs of their agents are merged with it; what they tell names the pilot as
    ``pilot/partition``.

    Events that replaced records would tell are left out. What cannot be read is appended to ``remarks``. Records of numbers
    of messages have no time; their events have that of the record before.
    """
    folder = Path(folder)
    remarks = [] if remarks is None else remarks
    partitions = partition_folders(folder)
    logs = [_read_log(each / PILOT_LOG, f"{folder.name}/{each.name}", agent_facts, remarks) for each in partitions]
    own = _read_log(folder / PILOT_LOG, folder.name, head_facts if partitions else agent_facts, remarks)
    yield from heapq.merge(own, *logs, key=lambda event: event.time) if logs else own


def _read_log(
    folder: Path, pilot: str, decoder: msgspec.msgpack.Decoder[list[Any]], remarks: list[str]
) -> Iterator[TraceEvent]:
    _, records = read_log(folder, AgentState, decoder, remarks)
    time = 0.0
    for record in records:
        for fact in record:
            time = getattr(fact, "time", time)
            yield from _agent_events(fact, pilot, time)


def read_client(folder: Path | str, remarks: list[str] | None = None) -> Iterator[TraceEvent]:
    """Iterate over the events in the client's log in a session's folder, in the order in which they were logged."""
    folder = Path(folder)
    state, records = read_log(folder / CLIENT_LOG, ClientState, client_facts, [] if remarks is None else remarks)
    known = state.tasks.items() if state is not None else ()
    bindings = {uid: task.binding for uid, task in known if task.outcome is None}
    for record in records:
        for fact in record:
            yield from _client_events(fact, folder.name, bindings)


def read_events(folder: Path | str, remarks: list[str] | None = None) -> Iterator[TraceEvent]:
    """Iterate over the events of all logs of a session, the logs merged by the time of their events.

    Of one log they stay in its order: starts and ends come when the log tells of them, with the earlier time that they had.
    """
    folder = Path(folder)
    logs = [read_client(folder, remarks), *(read_pilot(each, remarks) for each in agent_folders(folder))]
    yield from heapq.merge(*logs, key=lambda event: event.time)


def _agent_events(fact: agent.Fact, pilot: str, time: float) -> Iterator[TraceEvent]:
    match fact:
        case agent.TasksAccepted():
            for row in fact.batch.rows:
                yield TraceEvent(time, names.TASK_ACCEPTED, row.uid, {"pilot": pilot, "binding": fact.binding})
        case agent.LaunchRequested():
            for launch in fact.lanes:
                yield from _launch_events(launch, pilot, time)
        case agent.Started():
            for uid, attempt, at in fact.started:
                yield TraceEvent(at, names.TASK_STARTED, uid, {"pilot": pilot, "attempt": attempt})
        case agent.Returned():
            for uid in fact.tasks:
                yield TraceEvent(time, names.TASK_RETURNED, uid, {"pilot": pilot})
        case agent.TasksGivenBack():
            for uid, *_ in fact.tasks:
                yield TraceEvent(time, names.TASK_GIVEN_BACK, uid, {"pilot": pilot})
        case agent.TasksLeft():
            for uid in agent.tasks_named(fact):
                yield TraceEvent(time, names.TASK_LEFT, uid, {"pilot": pilot})
        case agent.Repeated():
            for uid in fact.tasks:
                yield TraceEvent(time, names.TASK_REPEATED, uid, {"pilot": pilot, "runner": fact.runner})
        case agent.EndAsked():
            for uid in fact.tasks:
                yield TraceEvent(time, names.TASK_END_ASKED, uid, {"pilot": pilot, "ending": fact.ending.name})
        case agent.Ended():
            for outcome in fact.outcomes:
                how: dict[str, str | int | float] = {"pilot": pilot, "attempt": outcome.attempt, "ending": outcome.ending.name}
                if outcome.exit_code is not None:
                    how["exit_code"] = outcome.exit_code
                if outcome.times.started:
                    how["started"] = outcome.times.started
                yield TraceEvent(outcome.times.ended or time, names.TASK_ENDED, outcome.task, how)
                yield TraceEvent(time, names.TASK_COLLECTED, outcome.task, {"pilot": pilot})
        case agent.InputsStaged():
            for uid in fact.tasks:
                yield TraceEvent(time, names.TASK_INPUT_STAGED, uid, {"pilot": pilot})
        case agent.OutputsBegun():
            for outcome in fact.outcomes:
                how = {"pilot": pilot, "attempt": outcome.attempt, "ending": outcome.ending.name}
                yield TraceEvent(time, names.TASK_OUTPUT_BEGUN, outcome.task, how)
        case agent.ServiceReady():
            yield TraceEvent(time, names.TASK_READY, fact.service, {"pilot": pilot, "attempt": fact.attempt})
        case agent.EnvironmentAsked():
            yield TraceEvent(time, names.ENVIRONMENT_ASKED, f"{pilot}/{fact.name}")
        case agent.EnvironmentPrepared():
            yield TraceEvent(time, names.ENVIRONMENT_PREPARED, f"{pilot}/{fact.name}", {"error": fact.error})
        case agent.LanesClosed():
            for lane in fact.lanes:
                yield TraceEvent(time, names.LANE_CLOSED, f"{pilot}/lane.{lane}")
        case agent.OutcomesNumbered():
            yield TraceEvent(time, names.OUTCOMES_NUMBERED, f"{pilot}/message.{fact.number}", {"count": fact.count})
        case agent.OutcomesDelivered():
            yield TraceEvent(time, names.OUTCOMES_DELIVERED, f"{pilot}/message.{fact.number}")
        case agent.RunnerAdded():
            yield TraceEvent(time, names.RUNNER_ADDED, f"{pilot}/{fact.runner}", {"node": fact.node})
        case agent.RunnerIdentified():
            yield TraceEvent(time, names.RUNNER_IDENTIFIED, f"{pilot}/{fact.runner}", {"pid": fact.pid})
        case agent.RunnerRemoved():
            yield TraceEvent(time, names.RUNNER_REMOVED, f"{pilot}/{fact.runner}", {"reason": fact.reason})
        case agent.NodesGranted():
            yield TraceEvent(time, names.PARTITION_GREW, pilot, {"nodes": len(fact.nodes)})
        case agent.NodesReturned():
            yield TraceEvent(time, names.PARTITION_SHRANK, pilot, {"nodes": len(fact.nodes)})
        case agent.NodesLost():
            kind = names.PARTITION_LOST_NODES if fact.partition else names.PILOT_LOST_NODES
            yield TraceEvent(time, kind, pilot, {"nodes": len(fact.nodes), "reason": fact.reason})
        case agent.NodesRenewed():
            yield TraceEvent(time, names.PILOT_BEGUN_AGAIN, pilot, {"reason": fact.reason})
        case agent.DrainBegun():
            yield TraceEvent(time, names.PILOT_DRAINING, pilot)
        case agent.PilotEnding():
            yield TraceEvent(time, names.PILOT_ENDING, pilot, {"reason": fact.reason, "drain": int(fact.drain)})
        case agent.PilotEnded():
            yield TraceEvent(time, names.PILOT_ENDED, pilot)


def _launch_events(launch: agent.LaneLaunch, pilot: str, time: float) -> Iterator[TraceEvent]:
    if launch.placement is not None:
        cores = sum(int.from_bytes(share.cores, "little").bit_count() for share in launch.placement)
        where: dict[str, str | int | float] = {
            "runner": launch.runner,
            "cores": cores,
            "nodes": len(launch.placement),
            "node": launch.placement[0].node,
        }
        yield TraceEvent(time, names.LANE_OPENED, f"{pilot}/lane.{launch.lane}", where)
    for uid, attempt in launch.tasks:
        yield TraceEvent(time, names.TASK_LAUNCHED, uid, {"pilot": pilot, "attempt": attempt, "lane": launch.lane})


def _client_events(fact: client.Fact, session: str, bindings: dict[TaskUid, Binding]) -> Iterator[TraceEvent]:
    """Return the events of a fact. ``bindings``: those of the tasks that are not final."""
    match fact:
        case client.TasksAccepted():
            for row in decode_batch(fact.batch).rows:
                bindings[row.uid] = Binding(1 if fact.pilot else 0)
                yield TraceEvent(fact.time, names.TASK_SUBMITTED, row.uid, {"manager": fact.manager})
                if fact.pilot:
                    yield TraceEvent(fact.time, names.TASK_BOUND, row.uid, {"pilot": fact.pilot, "binding": 1})
        case client.TasksHeld():
            for uid, held in fact.tasks.items():
                yield TraceEvent(fact.time, names.TASK_HELD, uid, {"after": len(held.after), "services": len(held.services)})
        case client.TasksFreed():
            for uid in fact.tasks:
                yield TraceEvent(fact.time, names.TASK_FREED, uid)
        case client.TasksBound():
            for uid in fact.tasks:
                bindings[uid] = fact.binding
                yield TraceEvent(fact.time, names.TASK_BOUND, uid, {"pilot": fact.pilot, "binding": fact.binding})
        case client.TasksUnbound():
            for uid in fact.tasks:
                yield TraceEvent(fact.time, names.TASK_UNBOUND, uid)
        case client.TasksStarted():
            for uid in fact.tasks:
                yield TraceEvent(fact.time, names.TASK_SEEN_RUNNING, uid)
        case client.OutputsBegun():
            for uid in fact.tasks:
                yield TraceEvent(fact.time, names.TASK_SEEN_UNLOADING, uid)
        case client.CancelAsked():
            for uid, _ in fact.tasks:
                yield TraceEvent(fact.time, names.TASK_CANCEL_ASKED, uid, {"pilot": fact.pilot})
        case client.OutcomesReceived():
            for outcome in decode_outcomes(fact.outcomes):
                # The first outcome under a task's last binding counts; one from a pilot thought lost says nothing new.
                if bindings.get(outcome.task) == outcome.binding:
                    del bindings[outcome.task]
                    how: dict[str, str | int | float] = {"pilot": fact.pilot, "ending": outcome.ending.name}
                    yield TraceEvent(fact.time, names.TASK_FINAL, outcome.task, how)
        case client.TasksSettled():
            for uid in fact.tasks:
                bindings.pop(uid, None)
                yield TraceEvent(fact.time, names.TASK_SETTLED, uid, {"ending": fact.ending.name})
        case client.EpochBegun():
            yield TraceEvent(fact.time, names.SESSION_OPENED, session, {"epoch": fact.epoch})
        case client.SessionEnding():
            yield TraceEvent(fact.time, names.SESSION_CLOSED, session)
        case client.PilotAccepted():
            yield TraceEvent(fact.time, names.PILOT_SUBMITTED, fact.pilot, {"nodes": len(fact.nodes)})
        case client.PilotLaunched():
            yield TraceEvent(fact.time, names.PILOT_LAUNCHED, fact.pilot, {"pid": fact.pid})
        case client.JobSubmitting():
            yield TraceEvent(fact.time, names.PILOT_JOB_NAMED, fact.pilot, {"system": fact.system, "job_name": fact.name})
        case client.JobSubmitted():
            yield TraceEvent(fact.time, names.PILOT_QUEUED, fact.pilot, {"job": fact.job})
        case client.JobTold():
            yield TraceEvent(fact.time, names.PILOT_JOB_TOLD, fact.pilot, {"state": fact.state, "reason": fact.reason})
        case client.PilotActivated():
            how = {"nodes": len(fact.nodes), "incarnation": fact.incarnation}
            yield TraceEvent(fact.time, names.PILOT_ACTIVE, fact.pilot, how)
        case client.PilotEndAsked():
            yield TraceEvent(fact.time, names.PILOT_END_ASKED, fact.pilot, {"drain": int(fact.drain)})
        case client.PilotEnded():
            yield TraceEvent(fact.time, names.PILOT_FINAL, fact.pilot, {"state": fact.state, "reason": fact.reason})
