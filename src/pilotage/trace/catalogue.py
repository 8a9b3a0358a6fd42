"""The catalogue of events: what can be seen of a run, under which name, and which record of which log tells it.

An event's time is that of the clock of the process that knew it first: a start or an end is timed where the task runs, the
rest by the client or the agent that wrote the record. The two logs of a session are written by different clocks if client and
agent run on different machines.
"""

from __future__ import annotations

import msgspec


class EventKind(msgspec.Struct, frozen=True):
    """A kind of event. ``fact`` is ``client`` or ``agent``, a dot, and the name of the record that it is read from."""

    name: str
    entity: str
    fact: str
    meaning: str


class TraceEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that happened: ``name`` is in the catalogue, ``entity`` the uid of what it happened to.

    ``time`` in seconds since the epoch. ``attributes`` hold no payloads, arguments or environment.
    """

    time: float
    name: str
    entity: str
    attributes: dict[str, str | int | float] = {}


SESSION_OPENED = "session.opened"
SESSION_CLOSED = "session.closed"
PILOT_SUBMITTED = "pilot.submitted"
PILOT_LAUNCHED = "pilot.launched"
PILOT_JOB_NAMED = "pilot.job_named"
PILOT_QUEUED = "pilot.queued"
PILOT_JOB_TOLD = "pilot.job_told"
PILOT_ACTIVE = "pilot.active"
PILOT_END_ASKED = "pilot.end_asked"
PILOT_DRAINING = "pilot.draining"
PILOT_LOST_NODES = "pilot.lost_nodes"
PILOT_BEGUN_AGAIN = "pilot.begun_again"
PILOT_ENDING = "pilot.ending"
PILOT_ENDED = "pilot.ended"
PILOT_FINAL = "pilot.final"
TASK_SUBMITTED = "task.submitted"
TASK_HELD = "task.held"
TASK_FREED = "task.freed"
TASK_BOUND = "task.bound"
TASK_UNBOUND = "task.unbound"
TASK_ACCEPTED = "task.accepted"
TASK_INPUT_STAGED = "task.input_staged"
TASK_LAUNCHED = "task.launched"
TASK_STARTED = "task.started"
TASK_SEEN_RUNNING = "task.seen_running"
TASK_SEEN_UNLOADING = "task.seen_unloading"
TASK_RETURNED = "task.returned"
TASK_GIVEN_BACK = "task.given_back"
TASK_LEFT = "task.left"
TASK_REPEATED = "task.repeated"
TASK_CANCEL_ASKED = "task.cancel_asked"
TASK_END_ASKED = "task.end_asked"
TASK_READY = "task.ready"
TASK_OUTPUT_BEGUN = "task.output_begun"
TASK_ENDED = "task.ended"
TASK_COLLECTED = "task.collected"
TASK_FINAL = "task.final"
TASK_SETTLED = "task.settled"
ENVIRONMENT_ASKED = "environment.asked"
ENVIRONMENT_PREPARED = "environment.prepared"
OUTCOMES_NUMBERED = "outcomes.numbered"
OUTCOMES_DELIVERED = "outcomes.delivered"
RUNNER_ADDED = "runner.added"
RUNNER_IDENTIFIED = "runner.identified"
RUNNER_REMOVED = "runner.removed"
PARTITION_GREW = "partition.grew"
PARTITION_SHRANK = "partition.shrank"
PARTITION_LOST_NODES = "partition.lost_nodes"
LANE_OPENED = "lane.opened"
LANE_CLOSED = "lane.closed"

CATALOGUE = (
    EventKind(SESSION_OPENED, "session", "client.EpochBegun", "a process opened the session, or took it over"),
    EventKind(SESSION_CLOSED, "session", "client.SessionEnding", "the session was closed for good"),
    EventKind(PILOT_SUBMITTED, "pilot", "client.PilotAccepted", "the pilot is to be started"),
    EventKind(PILOT_LAUNCHED, "pilot", "client.PilotLaunched", "the pilot's bootstrap runs"),
    EventKind(PILOT_JOB_NAMED, "pilot", "client.JobSubmitting", "the pilot is about to be submitted as a job"),
    EventKind(PILOT_QUEUED, "pilot", "client.JobSubmitted", "the pilot's job is in the queue of its batch system"),
    EventKind(PILOT_JOB_TOLD, "pilot", "client.JobTold", "the batch system tells of the pilot's job what it did not before"),
    EventKind(PILOT_ACTIVE, "pilot", "client.PilotActivated", "client and agent speak; the pilot takes tasks"),
    EventKind(PILOT_END_ASKED, "pilot", "client.PilotEndAsked", "the client wants the pilot to end"),
    EventKind(PILOT_LOST_NODES, "pilot", "agent.NodesLost", "nodes of the pilot are gone for good"),
    EventKind(PILOT_BEGUN_AGAIN, "pilot", "agent.NodesRenewed", "the pilot's job was begun again, on other nodes"),
    EventKind(PILOT_DRAINING, "pilot", "agent.DrainBegun", "the pilot's time is nearly over; no task begins any more"),
    EventKind(PILOT_ENDING, "pilot", "agent.PilotEnding", "the agent takes no more tasks"),
    EventKind(PILOT_ENDED, "pilot", "agent.PilotEnded", "nothing is left to do for the agent"),
    EventKind(PILOT_FINAL, "pilot", "client.PilotEnded", "the client knows that the pilot is over"),
    EventKind(TASK_SUBMITTED, "task", "client.TasksAccepted", "the task is the session's"),
    EventKind(TASK_HELD, "task", "client.TasksHeld", "the task waits for others to end, or for services"),
    EventKind(TASK_FREED, "task", "client.TasksFreed", "what the task waited for is there; it waits for a pilot"),
    EventKind(TASK_BOUND, "task", "client.TasksBound", "a pilot was chosen; the task is on its way to it"),
    EventKind(TASK_UNBOUND, "task", "client.TasksUnbound", "the pilot is gone or full; the task waits for another"),
    EventKind(TASK_ACCEPTED, "task", "agent.TasksAccepted", "the agent has the task; it waits for its input, or for resources"),
    EventKind(TASK_INPUT_STAGED, "task", "agent.InputsStaged", "its input is where it wants it; the task waits for resources"),
    EventKind(TASK_LAUNCHED, "task", "agent.LaunchRequested", "resources were found; the task is handed to a runner"),
    EventKind(TASK_STARTED, "task", "agent.Started", "its process was spawned, or its function called"),
    EventKind(TASK_SEEN_RUNNING, "task", "client.TasksStarted", "the client knows that the task runs"),
    EventKind(TASK_SEEN_UNLOADING, "task", "client.OutputsBegun", "the client knows that the task's output is staged"),
    EventKind(TASK_RETURNED, "task", "agent.Returned", "a runner gave the task back unbegun; it waits again"),
    EventKind(TASK_GIVEN_BACK, "task", "agent.TasksGivenBack", "the partition gave the task back unbegun; another may run it"),
    EventKind(TASK_LEFT, "task", "agent.TasksLeft", "the pilot's time is over, and the task is the client's again"),
    EventKind(TASK_REPEATED, "task", "agent.Repeated", "an attempt failed or was lost; the task waits for another"),
    EventKind(TASK_CANCEL_ASKED, "task", "client.CancelAsked", "the user cancelled the task; its pilot is to be told"),
    EventKind(TASK_END_ASKED, "task", "agent.EndAsked", "the agent is about to end the task: cancelled, or out of time"),
    EventKind(TASK_READY, "task", "agent.ServiceReady", "the service answers; tasks that want it may begin"),
    EventKind(TASK_OUTPUT_BEGUN, "task", "agent.OutputsBegun", "an attempt is over; its output is being staged"),
    EventKind(TASK_ENDED, "task", "agent.Ended", "its process tree was gone, or its function had returned"),
    EventKind(TASK_COLLECTED, "task", "agent.Ended", "the agent has the outcome in its log"),
    EventKind(TASK_FINAL, "task", "client.OutcomesReceived", "the client has the outcome in its log"),
    EventKind(TASK_SETTLED, "task", "client.TasksSettled", "the client itself gave the task its outcome"),
    EventKind(ENVIRONMENT_ASKED, "environment", "agent.EnvironmentAsked", "the environment is to be prepared"),
    EventKind(ENVIRONMENT_PREPARED, "environment", "agent.EnvironmentPrepared", "the environment is there, or cannot be had"),
    EventKind(OUTCOMES_NUMBERED, "message", "agent.OutcomesNumbered", "outcomes go to the client in a message of this number"),
    EventKind(OUTCOMES_DELIVERED, "message", "agent.OutcomesDelivered", "the client has all messages up to this one on disk"),
    EventKind(RUNNER_ADDED, "runner", "agent.RunnerAdded", "a spawner or a function worker is about to be started"),
    EventKind(RUNNER_IDENTIFIED, "runner", "agent.RunnerIdentified", "the runner has said hello"),
    EventKind(RUNNER_REMOVED, "runner", "agent.RunnerRemoved", "the runner is gone"),
    EventKind(PARTITION_GREW, "partition", "agent.NodesGranted", "the metascheduler has given nodes to the partition"),
    EventKind(PARTITION_SHRANK, "partition", "agent.NodesReturned", "the partition has given nodes back"),
    EventKind(PARTITION_LOST_NODES, "partition", "agent.NodesLost", "nodes of the partition are gone for good"),
    EventKind(LANE_OPENED, "lane", "agent.LaunchRequested", "a placement is taken, for one task or a chain of short ones"),
    EventKind(LANE_CLOSED, "lane", "agent.LanesClosed", "the lane's resources are free"),
)

SILENT_FACTS = {
    "client.PilotSucceeded": "says whose place a pilot takes that was submitted just before",
    "agent.Rebound": "says under which binding a client that had forgotten them knows tasks",
    "client.ManagerAdded": "says how the client is organised",
    "client.PilotsAdded": "says which pilots a manager may use",
    "client.PilotsRemoved": "says which pilots a manager may no longer use",
    "client.MetadataKept": "holds what users noted down with their tasks, which is theirs",
    "client.DependenciesKept": "holds what tasks asked to wait for, beyond what task.held tells",
    "agent.NodesNumbered": "numbers messages; the nodes were given back before",
    "agent.TasksNumbered": "numbers messages; the tasks were given back before",
    "agent.GangOver": "says the same as task.ended of the first task of the gang that ended",
    "agent.ServiceOver": "says the same as task.ended of the service",
    "client.ServicesReady": "the agent's log has the same as task.ready",
    "client.EnvironmentAsked": "the agent's log has the same as environment.asked",
    "client.PartitionAsked": "says what the client wants of the pilot's head, whose log has what became of it",
    "client.RetirementAsked": "says the same of the end of a partition",
    "client.PilotServicesAwaited": "says what a pilot waits for before it takes tasks",
    "client.MessagesNumbered": "numbers messages; the tasks in them were bound before",
    "client.MessagesDelivered": "the agent's log has the same as task.accepted",
    "client.CallbacksMarked": "says that callbacks are not to be called again after a restart",
}
"""Records that tell of no event, and why."""


def render_catalogue() -> str:
    """Return the catalogue as a table for documentation, one line an event."""
    width = max(len(kind.name) for kind in CATALOGUE)
    source = max(len(kind.fact) for kind in CATALOGUE)
    rule = f"{'=' * width}  {'=' * source}  {'=' * 60}"
    lines = [f"{kind.name:<{width}}  {kind.fact:<{source}}  {kind.meaning}" for kind in CATALOGUE]
    return "\n".join([rule, f"{'event':<{width}}  {'record':<{source}}  meaning", rule, *lines, rule])


__doc__ = f"{__doc__}\n{render_catalogue()}\n"
