"""The state of an agent, and ``apply``, the only function that changes it.

A task is here from its acceptance to its final outcome; an outcome is here until the client has it on disk. A task without a
lane waits; one in a lane has been handed to the lane's runner. What the scheduler knows (queues, free resources) follows
from this state and is rebuilt from it after a restart.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent.facts import (
    EndAsked,
    Ended,
    Fact,
    LanesClosed,
    LaunchRequested,
    OutcomesDelivered,
    OutcomesNumbered,
    PilotEnded,
    PilotEnding,
    Repeated,
    Returned,
    RunnerAdded,
    RunnerIdentified,
    RunnerRemoved,
    Started,
    TasksAccepted,
)
from pilotage.errors import InvariantViolated, unreachable
from pilotage.model.ids import Attempt, Binding, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Placement
from pilotage.model.workload import Row, Template

NO_LANE = LaneId(0)


class TaskRecord(msgspec.Struct, array_like=True, gc=False):
    """A task that has no final outcome yet."""

    row: Row
    binding: Binding
    accepted: float
    attempt: Attempt = Attempt(0)
    lane: LaneId = NO_LANE
    launched: float = 0.0
    started: float = 0.0
    failures: int = 0
    """Attempts that failed or were lost."""
    ending: Ending | None = None
    """The ending that was asked for: cancelled, or out of time."""
    ending_message: str = ""


class LaneRecord(msgspec.Struct, array_like=True):
    """A placement and the tasks that use it one after another; the keys of ``tasks`` are in the order of their turns."""

    runner: RunnerId
    placement: Placement
    template: TemplateId
    tasks: dict[TaskUid, None]


class RunnerRecord(msgspec.Struct, array_like=True):
    """A spawner or a function worker that was started."""

    beside: RunnerId | None
    node: int
    gpus: str = ""
    pid: int = 0
    started_ticks: int = 0
    boot_id: str = ""
    released: int = 0
    """Number of its last message of endings that is in the log."""


class EndingPilot(msgspec.Struct, array_like=True, frozen=True):
    """Why and how the pilot ends."""

    since: float
    drain: bool
    state: str
    reason: str


class AgentState(msgspec.Struct):
    """All that the agent knows for certain; encodable, as the log's snapshots hold it."""

    templates: dict[TemplateId, Template] = {}
    tasks: dict[TaskUid, TaskRecord] = {}
    lanes: dict[LaneId, LaneRecord] = {}
    runners: dict[RunnerId, RunnerRecord] = {}
    runners_added: int = 0
    last_lane: LaneId = NO_LANE
    received: int = 0
    """Number of the client's last message that is in the log."""
    numbered: int = 0
    """Number of the last message to the client."""
    delivered: int = 0
    """Number of the last message that the client has on disk."""
    unsent: list[Outcome] = []
    """Outcomes that belong to no message yet."""
    undelivered: dict[int, list[Outcome]] = {}
    """Outcomes by the message that carries them, until the client has it on disk."""
    outcomes: int = 0
    """Final outcomes so far."""
    ending: EndingPilot | None = None
    ended: int = 0
    """Number of the message that ends the pilot; 0: none yet."""


def apply(state: AgentState, fact: Fact) -> None:
    """Fold one fact into the state."""
    match fact:
        case Ended():
            _apply_ended(state, fact)
        case LaunchRequested():
            _apply_launch(state, fact)
        case TasksAccepted():
            state.received = fact.number
            state.templates.update(fact.batch.templates)
            tasks, binding, now = state.tasks, fact.binding, fact.time
            for row in fact.batch.rows:
                tasks[row.uid] = TaskRecord(row, binding, now)
        case LanesClosed():
            for lane in fact.lanes:
                if state.lanes.pop(lane).tasks:
                    raise InvariantViolated(f"lane {lane} was closed while it held tasks")
        case OutcomesNumbered():
            state.undelivered[fact.number] = state.unsent[: fact.count]
            del state.unsent[: fact.count]
            state.numbered = fact.number
        case OutcomesDelivered():
            for number in range(state.delivered + 1, fact.number + 1):
                state.undelivered.pop(number, None)
            state.delivered = fact.number
        case Started():
            for uid, attempt, at in fact.started:
                task = state.tasks.get(uid)
                if task is not None and task.attempt == attempt:
                    task.started = at
        case Returned():
            for uid in fact.tasks:
                _leave_lane(state, uid)
        case Repeated():
            if fact.runner in state.runners:
                state.runners[fact.runner].released = max(state.runners[fact.runner].released, fact.number)
            for uid in fact.tasks:
                task = _leave_lane(state, uid)
                task.failures += 1
                task.ending, task.ending_message = None, ""
        case EndAsked():
            if fact.number:
                state.received = fact.number
            for uid in fact.tasks:
                task = state.tasks[uid]
                task.ending, task.ending_message = fact.ending, fact.message
        case RunnerAdded():
            state.runners_added += 1
            state.runners[fact.runner] = RunnerRecord(fact.beside, fact.node, fact.gpus)
        case RunnerIdentified():
            runner = state.runners[fact.runner]
            runner.pid, runner.started_ticks, runner.boot_id = fact.pid, fact.started_ticks, fact.boot_id
        case RunnerRemoved():
            del state.runners[fact.runner]
        case PilotEnding():
            if fact.number:
                state.received = fact.number
            state.ending = EndingPilot(fact.time, fact.drain, fact.state, fact.reason)
        case PilotEnded():
            state.numbered = state.ended = fact.number
        case _:
            unreachable(fact)


def _apply_launch(state: AgentState, fact: LaunchRequested) -> None:
    tasks, lanes, now = state.tasks, state.lanes, fact.time
    for launch in fact.lanes:
        if launch.placement is not None:
            template = tasks[launch.tasks[0][0]].row.template
            lanes[launch.lane] = LaneRecord(launch.runner, launch.placement, template, {})
            state.last_lane = max(state.last_lane, launch.lane)
        queue = lanes[launch.lane].tasks
        for uid, attempt in launch.tasks:
            task = tasks[uid]
            task.attempt = attempt
            task.lane = launch.lane
            task.launched = now
            queue[uid] = None


def _apply_ended(state: AgentState, fact: Ended) -> None:
    if fact.number and fact.runner in state.runners:
        state.runners[fact.runner].released = fact.number
    tasks, lanes = state.tasks, state.lanes
    for outcome in fact.outcomes:
        task = tasks.pop(outcome.task)
        if task.lane:
            del lanes[task.lane].tasks[outcome.task]
    state.outcomes += len(fact.outcomes)
    state.unsent.extend(fact.outcomes)


def _leave_lane(state: AgentState, uid: TaskUid) -> TaskRecord:
    task = state.tasks[uid]
    del state.lanes[task.lane].tasks[uid]
    task.lane = NO_LANE
    task.started = 0.0
    return task
