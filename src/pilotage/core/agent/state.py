"""The state of an agent, and ``apply``, the only function that changes it.

A task is here from its acceptance to its final outcome; an outcome is here until the client has it on disk. A task without a
lane waits, unless its input or its output is being staged; one in a lane has been handed to the lane's runner. What the
scheduler knows (queues, free resources) follows from this state and is rebuilt from it after a restart.
"""

from __future__ import annotations

import msgspec

from pilotage.core.agent.client_side import ClientSide, apply_to_client_side, take_outcomes, tell_again
from pilotage.core.agent.facts import (
    DrainBegun,
    EndAsked,
    Ended,
    EnvironmentAsked,
    EnvironmentPrepared,
    Fact,
    GangOver,
    GivenBack,
    InputsStaged,
    LanesClosed,
    LaunchRequested,
    NodesGranted,
    NodesLost,
    NodesNumbered,
    NodesRenewed,
    NodesReturned,
    OutcomesDelivered,
    OutcomesNumbered,
    OutputsBegun,
    PilotEnded,
    PilotEnding,
    Rebound,
    Repeated,
    Returned,
    RunnerAdded,
    RunnerIdentified,
    RunnerRemoved,
    ServiceOver,
    ServiceReady,
    Started,
    TasksAccepted,
    TasksGivenBack,
    TasksLeft,
    TasksNumbered,
)
from pilotage.core.scheduling.tags import PLACES_KEPT
from pilotage.errors import InvariantViolated, unreachable
from pilotage.model.ids import Attempt, Binding, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.partitions import LOST_NODES
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


class EnvironmentRecord(msgspec.Struct, array_like=True):
    """A named environment that the client asked for; in preparation until it is ``prepared``, or there is an ``error``."""

    spec: msgspec.Raw
    prepared: bool = False
    error: str = ""


class AgentState(ClientSide):
    """All that the agent knows for certain; encodable, as the log's snapshots hold it."""

    templates: dict[TemplateId, Template] = {}
    tasks: dict[TaskUid, TaskRecord] = {}
    lanes: dict[LaneId, LaneRecord] = {}
    runners: dict[RunnerId, RunnerRecord] = {}
    runners_added: int = 0
    last_lane: LaneId = NO_LANE
    inputs: dict[TaskUid, None] = {}
    """Tasks whose input is being staged."""
    outputs: dict[TaskUid, Outcome] = {}
    """Outcomes of attempts that are over, and whose output is being staged."""
    environments: dict[str, EnvironmentRecord] = {}
    services: dict[TaskUid, str] = {}
    """Services that are ready, and what tasks are told of them."""
    services_over: dict[TaskUid, str] = {}
    """Services that have ended for good, and how."""
    late: dict[TaskUid, Binding] = {}
    """Tasks that arrived when the pilot, as it was idle, had begun to end, or for which no time was left: nothing of them is
    under way, and most never began."""
    granted: dict[int, None] = {}
    """Nodes that a partition got after it began."""
    parted: dict[int, None] = {}
    """Nodes that a partition began with, and gave back."""
    lost_nodes: dict[int, None] = {}
    """Nodes of the pilot, or those that were the partition's own, that are lost."""
    unsent_nodes: list[tuple[int, list[int]]] = []
    """Nodes given back, or lost, in no message yet, with the request that they answer (``LOST_NODES``: they are lost)."""
    undelivered_nodes: dict[int, tuple[int, list[int]]] = {}
    """The same by the message that says so, until the metascheduler has it on disk."""
    unsent_tasks: list[tuple[int, list[GivenBack]]] = []
    """Tasks given back, in no message yet, with the request that they answer."""
    undelivered_tasks: dict[int, tuple[int, list[GivenBack]]] = {}
    """The same by the message that says so, until the metascheduler has it on disk."""
    places: list[TaskUid | int] = []
    """Where the last tasks were placed, so that others can run beside them: names, each run of them followed by a node."""
    gangs_over: dict[str, str] = {}
    """Gangs that can't begin any more, and why."""
    draining: float = 0.0
    """Since when no task begins any more, as the pilot's time is nearly over; 0.0: they do."""

    @property
    def busy(self) -> bool:
        """Whether there are tasks."""
        return bool(self.tasks)

    def runs(self, uid: TaskUid, attempt: Attempt) -> bool:
        """Tell whether this is the present attempt of a task, and in the hands of a runner."""
        task = self.tasks.get(uid)
        return task is not None and task.attempt == attempt and bool(task.lane)


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
            if state.ending is not None and state.ending.idle:
                state.late.update((row.uid, binding) for row in fact.batch.rows)
                return
            for row in fact.batch.rows:
                record = tasks[row.uid] = TaskRecord(row, binding, now)
                extra = row.extra
                if extra is not None:
                    record.attempt, record.failures = Attempt(extra.attempts), extra.failures
                    if extra.input_staging and not extra.sandbox:
                        state.inputs[row.uid] = None
        case LanesClosed():
            lanes = state.lanes
            for lane in fact.lanes:
                if lanes.pop(lane).tasks:
                    raise InvariantViolated(f"lane {lane} was closed while it held tasks")
        case OutcomesDelivered():
            if state.undelivered_nodes or state.undelivered_tasks:
                for number in range(state.delivered + 1, fact.number + 1):
                    state.undelivered_nodes.pop(number, None)
                    state.undelivered_tasks.pop(number, None)
            apply_to_client_side(state, fact)
        case OutcomesNumbered() | PilotEnding() | PilotEnded():
            apply_to_client_side(state, fact)
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
                task = state.tasks[uid]
                if task.lane:
                    _leave_lane(state, uid)
                elif uid in state.outputs:
                    # Its output could not be staged. Where that happened to its input, it is staged once more.
                    del state.outputs[uid]
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
        case InputsStaged():
            for uid in fact.tasks:
                del state.inputs[uid]
        case OutputsBegun():
            _apply_outputs(state, fact)
        case EnvironmentAsked():
            state.received = fact.number
            known = state.environments.get(fact.name)
            if known is None or known.error:
                state.environments[fact.name] = EnvironmentRecord(fact.spec)
        case EnvironmentPrepared():
            environment = state.environments[fact.name]
            environment.prepared, environment.error = not fact.error, fact.error
        case Rebound():
            _apply_rebound(state, fact)
        case ServiceReady():
            state.services[fact.service] = fact.info
        case ServiceOver():
            state.services_over[fact.service] = fact.message
        case GangOver():
            state.gangs_over[fact.gang] = fact.message
        case DrainBegun():
            state.draining = fact.time
        case TasksLeft():
            _apply_left(state, fact)
        case NodesGranted() | NodesReturned() | NodesNumbered() | NodesLost() | NodesRenewed():
            _apply_nodes(state, fact)
        case TasksGivenBack():
            state.received = fact.number
            for uid, *_ in fact.tasks:
                del state.tasks[uid]
            state.unsent_tasks.append((fact.recall, list(fact.tasks)))
        case TasksNumbered():
            state.undelivered_tasks[fact.number] = state.unsent_tasks.pop(0)
            state.numbered = fact.number
        case _:
            unreachable(fact)


def _apply_nodes(state: AgentState, fact: NodesGranted | NodesReturned | NodesNumbered | NodesLost | NodesRenewed) -> None:
    match fact:
        case NodesGranted():
            state.received = fact.number
            for node in fact.nodes:
                if node in state.parted:
                    del state.parted[node]
                else:
                    state.granted[node] = None
        case NodesReturned():
            state.received = fact.number
            for node in fact.nodes:
                if node in state.granted:
                    del state.granted[node]
                else:
                    state.parted[node] = None
            state.unsent_nodes.append((fact.reclaim, list(fact.nodes)))
        case NodesLost():
            state.lost_nodes.update(dict.fromkeys(fact.nodes))
            if fact.partition:
                state.unsent_nodes.append((LOST_NODES, list(fact.nodes)))
        case NodesRenewed():
            state.lost_nodes.clear()
            state.places.clear()
        case NodesNumbered():
            state.undelivered_nodes[fact.number] = state.unsent_nodes.pop(0)
            state.numbered = fact.number


def _apply_launch(state: AgentState, fact: LaunchRequested) -> None:
    tasks, lanes, now, places, last = state.tasks, state.lanes, fact.time, state.places, state.last_lane
    for launch in fact.lanes:
        lane_id, placement = launch.lane, launch.placement
        if placement is None:
            lane = lanes[lane_id]
            placement = lane.placement
        else:
            lane = lanes[lane_id] = LaneRecord(launch.runner, placement, tasks[launch.tasks[0][0]].row.template, {})
            if lane_id > last:
                last = lane_id
        queue = lane.tasks
        for uid, attempt in launch.tasks:
            task = tasks[uid]
            task.attempt = attempt
            task.lane = lane_id
            task.launched = now
            queue[uid] = None
            places.append(uid)
        places.append(placement[0].node)
    state.last_lane = last
    if len(places) > 4 * PLACES_KEPT:
        del places[: len(places) - 2 * PLACES_KEPT]


def _apply_ended(state: AgentState, fact: Ended) -> None:
    if fact.number and fact.runner in state.runners:
        state.runners[fact.runner].released = fact.number
    tasks, lanes = state.tasks, state.lanes
    for outcome in fact.outcomes:
        task = tasks.pop(outcome.task)
        if task.lane:
            del lanes[task.lane].tasks[outcome.task]
    for some in (state.inputs, state.outputs, state.services):
        if some:
            for outcome in fact.outcomes:
                some.pop(outcome.task, None)
    take_outcomes(state, fact.outcomes)


def _apply_left(state: AgentState, fact: TasksLeft) -> None:
    if fact.number and fact.runner in state.runners:
        state.runners[fact.runner].released = fact.number
    for uid in fact.waiting:
        task = state.tasks.pop(uid)
        state.inputs.pop(uid, None)
        state.late[uid] = task.binding
        if task.attempt:
            state.tries[uid] = (task.attempt, task.failures)
    for uid, failures in fact.begun:
        task = state.tasks.pop(uid)
        if task.lane:
            del state.lanes[task.lane].tasks[uid]
        state.outputs.pop(uid, None)
        state.services.pop(uid, None)
        state.begun_tasks.append(uid)
        state.tries[uid] = (task.attempt, failures)


def _apply_outputs(state: AgentState, fact: OutputsBegun) -> None:
    if fact.number and fact.runner in state.runners:
        state.runners[fact.runner].released = fact.number
    for outcome in fact.outcomes:
        task = state.tasks[outcome.task]
        if task.lane:
            _leave_lane(state, outcome.task)
        # What is asked from here on is about its output.
        task.ending, task.ending_message = None, ""
        state.inputs.pop(outcome.task, None)
        state.outputs[outcome.task] = outcome


def _apply_rebound(state: AgentState, fact: Rebound) -> None:
    over: list[TaskUid] = []
    for uid in fact.tasks:
        task = state.tasks.get(uid)
        if task is None:
            over.append(uid)
            continue
        task.binding = fact.binding
        if uid in state.outputs:
            state.outputs[uid] = msgspec.structs.replace(state.outputs[uid], binding=fact.binding)
    if over:
        tell_again(state, fact, over)


def _leave_lane(state: AgentState, uid: TaskUid) -> TaskRecord:
    task = state.tasks[uid]
    del state.lanes[task.lane].tasks[uid]
    task.lane = NO_LANE
    task.started = 0.0
    state.services.pop(uid, None)
    return task
