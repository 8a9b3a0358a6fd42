"""Messages between a client and the agent of a pilot: one versioned, closed union.

A metascheduler is the agent of its pilot and the client of its partitions, whose leases take the place of bindings. Nodes move
between partitions by messages of their own, as do tasks that wait in one while another is idle; and the client adds and
retires partitions.

Two kinds. *Numbered* messages change what must survive (tasks, cancellations, outcomes, the end of the pilot). Each
direction numbers them from 1 over the life of the pilot; the sender's log owns them until the receiver has acknowledged them
as durable, gaps are sent again after a reconnect and doubles are dropped. *Plain* messages (hello, heartbeat, progress,
acknowledgement, inspection, the questions for the load and for partitions) may be lost.

A connection opens with ``ClientHello``, answered by ``AgentHello`` or ``Refused``. Both hellos carry the number of the last
message durably received, so each side knows where to go on.
"""

from __future__ import annotations

import msgspec

from pilotage.model.ids import Attempt, Binding, PilotUid, SessionUid, TaskUid
from pilotage.model.partitions import Load, PartitionSpec, PartitionStatus
from pilotage.model.resources import Node

PROTOCOL = 1
"""Version of these messages; a peer of another version is refused by name."""


class ClientHello(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The client opens the connection. A lower ``client_epoch`` than one seen before is refused."""

    protocol: int
    session: SessionUid
    client_epoch: int
    durable: int
    """Number of the last message from the agent that this client has durably."""
    observer: bool = False
    """Only looks and asks (the command line): it neither submits nor counts as the client whose loss matters."""


class AgentHello(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The agent's answer. ``incarnation`` counts the agent's starts in this pilot."""

    protocol: int
    session: SessionUid
    pilot: PilotUid
    incarnation: int
    durable: int
    """Number of the last message from the client that the agent has durably."""
    nodes: list[Node]
    active_since: float
    """Seconds since the epoch."""


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The agent will not talk to this peer; ``reason`` says why and what to do."""

    reason: str


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The sender is alive."""


class Acknowledge(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """How far the sender of this has come with the other's numbered messages.

    ``received``: read from the channel, which gives the other side credit to send more. ``durable``: on disk, so that the
    other side may forget them.
    """

    received: int
    durable: int


class Submit(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """Tasks bound to this pilot. ``batch`` is an encoded ``Batch``, logged by both sides as it stands."""

    number: int
    binding: Binding
    batch: msgspec.Raw


class Cancel(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """Cancel these tasks; those that are final or not known under this binding are passed over.

    ``number`` is 0 when an observer asks.
    """

    number: int
    tasks: list[tuple[TaskUid, Binding]]


class EndPilot(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """End the pilot: after its tasks (``drain``), or now, cancelling them.

    ``failure``: why the pilot is of no use, so that it ends as FAILED; empty: the user wants it to end.
    """

    number: int
    drain: bool = False
    failure: str = ""


class Outcomes(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Final outcomes. ``outcomes`` is an encoded ``list[Outcome]``, logged by both sides as it stands."""

    number: int
    outcomes: msgspec.Raw


class PilotEnded(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The last numbered message of a pilot: it holds no more tasks. ``state`` is final; ``reason`` is for people.

    Tasks that had no outcome before never began, or are among the ``begun``, which may run again. ``tries``: of tasks that had
    attempts, the number of the last one, and how many failed. ``out_of_time``: it ended as its time was over; then what began
    and has ``tries`` was cut short for nothing else.
    """

    number: int
    state: str
    reason: str
    begun: list[TaskUid] = []
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    out_of_time: bool = False


class Progress(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Tasks that were seen running for a while: ``(task, binding, attempt, started)``. May be late, or left out.

    ``services`` that are ready, ``(task, binding, attempt, info)``: told when they become so, and again after each hello.
    ``notice``: what the user should know of the pilot, such as that its disk is full; empty: nothing. ``unloading``: tasks
    whose attempts are over and whose output is being staged, ``(task, binding, attempt)``. ``load``: how busy the pilot is, if
    that was asked for.
    """

    started: list[tuple[TaskUid, Binding, Attempt, float]]
    services: list[tuple[TaskUid, Binding, Attempt, str]] = []
    notice: str = ""
    unloading: list[tuple[TaskUid, Binding, Attempt]] = []
    load: Load | None = None


class Inspect(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A question: what does this task wait for or do, or (``task`` empty) how is the pilot? ``question`` comes back."""

    question: int
    task: TaskUid


class Inspection(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The answer: for a task ``{"state":, "why":, ...}``, for the pilot counts by state and what is free."""

    question: int
    answer: dict[str, str | int | float | list[str]]


class PrepareEnvironment(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """Prepare an environment of this name; ``spec`` is an encoded ``model.environments.EnvironmentSpec``."""

    number: int
    name: str
    spec: msgspec.Raw


class GrantNodes(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """These nodes of the pilot, by index, are the partition's from now on."""

    number: int
    nodes: list[int]


class ReclaimNodes(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """Give back up to ``count`` nodes that are idle now.

    ``reclaim`` names the request in ``NodesReturned``. It is answered at once, if need be with no nodes.
    """

    number: int
    reclaim: int
    count: int


class NodesReturned(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """These nodes, which were asked for in ``reclaim``, are no longer the partition's; ``LOST_NODES``: they are lost."""

    number: int
    reclaim: int
    nodes: list[int]


class RecallTasks(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """Give back those of these tasks, ``(task, lease)``, that wait and have not been handed to a runner; the others stay.

    ``recall`` names the request in ``TasksReturned``. It is answered at once, if need be with no tasks.
    """

    number: int
    recall: int
    tasks: list[tuple[TaskUid, Binding]]


class TasksReturned(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """These tasks, which were asked for in ``recall``, are no longer the partition's, and nothing of them runs there.

    Each is ``(task, lease, number of its last attempt, failed attempts)``.
    """

    number: int
    recall: int
    tasks: list[tuple[TaskUid, Binding, Attempt, int]]


class AskLoad(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """Tell the load in ``Progress``: now, and from now on when it has changed, ``every_s`` at the most (0.0: not again).

    It holds for this connection.
    """

    every_s: float = 0.0


class ShareLaunches(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """The launches that the pilot may have under way at once are divided ``among`` so many partitions from now on.

    It holds for this agent, and is told again after each hello.
    """

    among: int


class AddPartition(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Add a partition to the pilot, which has some: at once, or when it has nodes for it."""

    number: int
    spec: PartitionSpec


class RetirePartition(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """End a partition for good: after the tasks that it has (``drain``), or now."""

    number: int
    partition: str
    drain: bool = True


class AskPartitions(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """A question: how are the partitions? And could this one be added, or that one be retired? ``question`` comes back."""

    question: int
    add: PartitionSpec | None = None
    retire: str = ""
    drain: bool = True


class PartitionsTold(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """The answer. ``refusal``: why what was asked about cannot be; empty: it can."""

    question: int
    partitions: list[PartitionStatus]
    refusal: str = ""


class JobEnds(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """An agent of a partition has learned that the batch system ends the pilot's job, and why.

    ``end_s``: when, if that is known, in seconds since the epoch by the batch system's clock.
    """

    reason: str
    end_s: float | None = None


ToPartition = GrantNodes | ReclaimNodes | RecallTasks
FromPartition = NodesReturned | TasksReturned
ToHead = AddPartition | RetirePartition
FromClient = (
    ClientHello
    | Heartbeat
    | Acknowledge
    | Submit
    | Cancel
    | EndPilot
    | PrepareEnvironment
    | Inspect
    | AskLoad
    | ShareLaunches
    | ToPartition
    | ToHead
    | AskPartitions
)
FromAgent = (
    AgentHello
    | Refused
    | Heartbeat
    | Acknowledge
    | Outcomes
    | PilotEnded
    | Progress
    | Inspection
    | FromPartition
    | PartitionsTold
    | JobEnds
)
Numbered = Submit | Cancel | EndPilot | PrepareEnvironment | ToPartition | ToHead | Outcomes | PilotEnded | FromPartition
