"""What the client's core is told, in the past tense. Each event carries the time at which its shell took note of it."""

from __future__ import annotations

import msgspec

from pilotage.core.client.facts import Held, ManagerKind, TaskScheduler
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node
from pilotage.model.workload import Batch


class SessionOpened(msgspec.Struct, frozen=True):
    """A process took the session's lease with this epoch."""

    time: float
    epoch: int


class SessionClosing(msgspec.Struct, frozen=True):
    """The session ends for good: what is not bound is cancelled, and all pilots end."""

    time: float


class ManagerCreated(msgspec.Struct, frozen=True):
    """The user made a manager of pilots or of tasks; ``scheduler`` is how one of tasks chooses pilots."""

    time: float
    manager: str
    kind: ManagerKind
    scheduler: TaskScheduler = ""


class PilotSubmitted(msgspec.Struct, frozen=True):
    """The user asked for a pilot. ``description`` is encoded; ``nodes`` is what it will have, as far as that is known."""

    time: float
    manager: str
    pilot: PilotUid
    description: msgspec.Raw
    nodes: list[Node]
    services: tuple[TaskUid, ...] = ()
    """Tasks that follow, pinned to this pilot: it takes others once these are ready, and ends if one cannot be."""
    barrier: int = 0
    """It starts none before it has so many."""
    estimated: bool = False
    """Whether the nodes are only what they may turn out to be."""


class PilotProcessStarted(msgspec.Struct, frozen=True):
    """The bootstrap of a local pilot runs, as this process."""

    time: float
    pilot: PilotUid
    pid: int
    started_ticks: int
    boot_id: str


class JobPrepared(msgspec.Struct, frozen=True):
    """All is written that the pilot needs, and it is to be a job of this name in this batch system."""

    time: float
    pilot: PilotUid
    system: str
    name: str


class JobSubmitted(msgspec.Struct, frozen=True):
    """The batch system has the pilot's job, and calls it so."""

    time: float
    pilot: PilotUid
    job: str


class JobTold(msgspec.Struct, frozen=True):
    """The batch system tells of the pilot's job, or why nothing is known of it. ``over``: nothing of it runs any more.

    ``state`` is that of a ``JobStatus``, empty while it is not submitted; ``starts`` when it is expected to start (Unix time;
    0.0: not known). ``complete``: of a job that lost a node, that its first process ended before, so that nothing that it wrote
    is lost.
    """

    time: float
    pilot: PilotUid
    state: str
    reason: str = ""
    starts: float = 0.0
    over: bool = False
    complete: bool = False


class PilotLost(msgspec.Struct, frozen=True):
    """The pilot is gone for certain, without having said so: nothing of it runs any more.

    What its log tells, if it could be read: ``received``, the last message of this client that it had (0: it never came up;
    None: not known), ``outcomes`` that did not arrive (``encoded``: the same), and ``not_begun``, tasks that it certainly did
    not start.
    ``state``: the one in which it ended, if it did so in good order, for this ``reason``, and nobody was there to hear of it.
    ``with_node``: the machine that it shared with this client went down, and the end of the client's log, too: what that has
    as never sent may have been sent. ``tries``, ``out_of_time`` and ``folder`` are as in ``PilotEndArrived``.
    """

    time: float
    pilot: PilotUid
    reason: str
    received: int | None = None
    outcomes: list[Outcome] = []
    encoded: msgspec.Raw = msgspec.Raw(b"\x90")
    not_begun: list[tuple[TaskUid, Binding]] = []
    state: str = ""
    with_node: bool = False
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    out_of_time: bool = False
    folder: str = ""


class AgentGreeted(msgspec.Struct, frozen=True):
    """The pilot's agent answered. ``durable``: the last message of this client that it has on disk."""

    time: float
    pilot: PilotUid
    incarnation: int
    durable: int
    nodes: list[Node]


class AgentAcknowledged(msgspec.Struct, frozen=True):
    """The agent has all messages up to ``durable`` on disk."""

    time: float
    pilot: PilotUid
    durable: int


class LinkOpened(msgspec.Struct, frozen=True):
    """The link to the pilot takes another message, which has to carry ``number``."""

    pilot: PilotUid
    number: int


class PilotsAttached(msgspec.Struct, frozen=True):
    """The user added pilots to a manager of tasks."""

    time: float
    manager: str
    pilots: list[PilotUid]


class PilotsDetached(msgspec.Struct, frozen=True):
    """The user took pilots from a manager of tasks; what they already have they keep."""

    time: float
    manager: str
    pilots: list[PilotUid]


class TasksSubmitted(msgspec.Struct, frozen=True):
    """The user submitted new tasks. ``encoded`` is ``batch``; ``pinned`` names the pilot that they ask for, if any.

    ``metadata`` is pickled, of the tasks that have some. ``held`` has those that wait for others, all of which are known or
    in this batch, and for none that waits for it. ``asked``: what the descriptions say, where that is more.
    """

    time: float
    manager: str
    pinned: PilotUid
    batch: Batch
    encoded: msgspec.Raw
    metadata: dict[TaskUid, bytes] = {}
    held: dict[TaskUid, Held] = {}
    asked: dict[TaskUid, Held] = {}


class TasksSeenRunning(msgspec.Struct, frozen=True):
    """The pilot says that these tasks run: ``(task, binding, attempt, started)``."""

    time: float
    pilot: PilotUid
    started: list[tuple[TaskUid, Binding, Attempt, float]]


class OutputsSeenStaged(msgspec.Struct, frozen=True):
    """The pilot says that the output of these tasks is being staged: ``(task, binding, attempt)``."""

    time: float
    pilot: PilotUid
    tasks: list[tuple[TaskUid, Binding, Attempt]]


class ServicesSeen(msgspec.Struct, frozen=True):
    """The pilot says that these services are ready: ``(task, binding, attempt, info)``."""

    time: float
    pilot: PilotUid
    services: list[tuple[TaskUid, Binding, Attempt, str]]


class EnvironmentAsked(msgspec.Struct, frozen=True):
    """The user wants an environment of this name in the pilot; ``spec`` is an encoded ``EnvironmentSpec``."""

    time: float
    pilot: PilotUid
    name: str
    spec: msgspec.Raw


class PartitionAsked(msgspec.Struct, frozen=True):
    """The user wants a partition more in the pilot, which has some."""

    time: float
    pilot: PilotUid
    spec: PartitionSpec


class RetirementAsked(msgspec.Struct, frozen=True):
    """The user wants a partition of the pilot ended, after its tasks (``drain``) or now."""

    time: float
    pilot: PilotUid
    partition: str
    drain: bool


class OutcomesArrived(msgspec.Struct, frozen=True):
    """The pilot's message ``number`` brought final outcomes; ``encoded`` is ``outcomes``."""

    time: float
    pilot: PilotUid
    number: int
    outcomes: list[Outcome]
    encoded: msgspec.Raw


class PilotEndArrived(msgspec.Struct, frozen=True):
    """The pilot's message ``number`` said that it has ended, and holds no tasks.

    Tasks that had no outcome before never began, or are among the ``begun``, which may run again. ``tries``: of tasks that had
    attempts, the number of the last one, and how many failed. ``out_of_time``: it ended as its time was over; then what began
    and has ``tries`` was cut short for nothing else. ``folder`` is the pilot's.
    """

    time: float
    pilot: PilotUid
    number: int
    state: str
    reason: str
    begun: list[TaskUid] = []
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    out_of_time: bool = False
    folder: str = ""


class CancelRequested(msgspec.Struct, frozen=True):
    """The user wants these tasks cancelled; final ones are passed over."""

    time: float
    tasks: list[TaskUid]


class PilotCancelRequested(msgspec.Struct, frozen=True):
    """These pilots are wanted no more: they end after their tasks (``drain``) or at once.

    ``failure``: why they are of no use, if it is not the user who says so.
    """

    time: float
    pilots: list[PilotUid]
    drain: bool
    failure: str = ""


class CallbacksReturned(msgspec.Struct, frozen=True):
    """All callbacks have heard that these tasks are final."""

    time: float
    tasks: list[TaskUid]


Event = (
    SessionOpened
    | SessionClosing
    | ManagerCreated
    | PilotSubmitted
    | PilotProcessStarted
    | JobPrepared
    | JobSubmitted
    | JobTold
    | PilotLost
    | AgentGreeted
    | AgentAcknowledged
    | LinkOpened
    | PilotsAttached
    | PilotsDetached
    | TasksSubmitted
    | TasksSeenRunning
    | OutputsSeenStaged
    | ServicesSeen
    | EnvironmentAsked
    | PartitionAsked
    | RetirementAsked
    | OutcomesArrived
    | PilotEndArrived
    | CancelRequested
    | PilotCancelRequested
    | CallbacksReturned
)
