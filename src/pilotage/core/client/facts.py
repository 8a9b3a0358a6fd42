"""What the client's core has taken as true: the records of its log.

``applying.apply`` folds them, and nothing else changes the client's state, so recovery is to apply the log. Large lists stay
encoded, as they came from the encoder or from the wire: the log, the wire and memory share the same bytes. Tags are never
reused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node

ManagerKind = Literal["pilots", "tasks"]
AfterPolicy = Literal["ok", "any", "notok"]
TaskScheduler = Literal["", "round_robin", "backfilling"]
"""How a manager chooses pilots for its tasks; empty: as its number of pilots suggests (see ``binding``)."""


class EpochBegun(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A process took the session over; agents refuse those with a lower epoch."""

    time: float
    epoch: int


class SessionEnding(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The session was closed for good; it takes no more tasks or pilots."""

    time: float


class ManagerAdded(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """There is a manager of this name; ``scheduler`` is of those of tasks."""

    time: float
    manager: str
    kind: ManagerKind
    scheduler: TaskScheduler = ""


class PilotAccepted(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A pilot is to be started; it starts no task before it has ``barrier`` of them.

    ``estimated``: its nodes are what they may turn out to be.
    """

    time: float
    manager: str
    pilot: PilotUid
    description: msgspec.Raw
    nodes: list[Node]
    barrier: int = 0
    estimated: bool = False


class PilotLaunched(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The pilot's bootstrap is this process."""

    time: float
    pilot: PilotUid
    pid: int
    started_ticks: int
    boot_id: str


class PilotActivated(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The pilot's agent, in this incarnation, takes tasks; ``nodes`` is what it has."""

    time: float
    pilot: PilotUid
    incarnation: int
    nodes: list[Node]


class PilotEndAsked(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """The pilot is to be told to end. ``failure``: why it is of no use; empty: somebody wants it to end."""

    time: float
    pilot: PilotUid
    drain: bool
    failure: str = ""


class PilotEnded(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """The pilot is over: it said so in its message ``number``, or (0) it is gone for certain."""

    time: float
    pilot: PilotUid
    number: int
    state: str
    reason: str


class PilotsAdded(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A manager of tasks may use these pilots."""

    manager: str
    pilots: list[PilotUid]


class PilotsRemoved(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """A manager of tasks gives these pilots no more tasks."""

    manager: str
    pilots: list[PilotUid]


class TasksAccepted(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """These tasks are the session's. ``batch`` is an encoded ``Batch``.

    ``pilot`` is empty for tasks that wait; otherwise they are bound to it, with binding 1. ``pinned`` is the pilot that they
    asked for by name, if any.
    """

    time: float
    manager: str
    pinned: PilotUid
    pilot: PilotUid
    batch: msgspec.Raw


class TasksBound(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """Waiting tasks are bound to this pilot."""

    time: float
    pilot: PilotUid
    binding: Binding
    tasks: list[TaskUid]


class TasksUnbound(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The binding of these tasks is over: they wait for another.

    ``tries``: of those that had attempts, the number of the last one, and how many failed. ``sandboxes``: of those that go on
    where they were, the folder (absolute). ``excused``: those for which this binding is no failure.
    """

    time: float
    tasks: list[TaskUid]
    tries: dict[TaskUid, tuple[Attempt, int]] = {}
    sandboxes: dict[TaskUid, str] = {}
    excused: list[TaskUid] = []


class TasksStarted(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """These tasks run."""

    time: float
    tasks: list[TaskUid]


class OutcomesReceived(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """The pilot's message ``number``. ``outcomes`` is an encoded ``list[Outcome]``; the first outcome of a task counts."""

    time: float
    pilot: PilotUid
    number: int
    outcomes: msgspec.Raw


class TasksSettled(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The client itself gives these tasks their outcome: no pilot has them, or the one that had them is gone.

    ``attempts``: the last one at each of them that had any, as far as that is known.
    """

    time: float
    ending: Ending
    message: str
    tasks: list[TaskUid]
    attempts: dict[TaskUid, Attempt] = {}


class CancelAsked(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """The pilot is to be told to cancel these tasks."""

    time: float
    pilot: PilotUid
    tasks: list[tuple[TaskUid, Binding]]


class MessagesDelivered(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """The agent has all messages up to ``number`` on disk. May reach the log late, or never: the agent says it again."""

    pilot: PilotUid
    number: int


class MessagesNumbered(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The oldest ``count`` messages in the pilot's outbox get the numbers from ``first`` on, and are about to be sent."""

    pilot: PilotUid
    first: int
    count: int


class CallbacksMarked(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """All callbacks have heard of the final state of these tasks."""

    tasks: list[TaskUid]


class MetadataKept(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """What users noted down with their tasks, pickled; it stays with the client and means nothing to it."""

    metadata: dict[TaskUid, bytes]


class Held(msgspec.Struct, frozen=True, array_like=True):
    """What a task waits for before it is bound: the end of tasks, by ``policy``, and services that are ready.

    ``ok``: all are DONE, else it can never run. ``any``: all are final. ``notok``: all are final and one is not DONE.
    """

    after: tuple[TaskUid, ...] = ()
    policy: AfterPolicy = "ok"
    services: tuple[TaskUid, ...] = ()


class TasksHeld(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """These tasks wait for others."""

    time: float
    tasks: dict[TaskUid, Held]


class TasksFreed(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """These tasks wait for others no more, but for a pilot. ``variables``: the services that they are told of."""

    time: float
    tasks: list[TaskUid]
    variables: dict[TaskUid, dict[str, str]] = {}


class ServicesReady(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """These services are ready; tasks that need one are told its information."""

    time: float
    services: dict[TaskUid, str]


class EnvironmentAsked(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """The pilot is to be told to prepare an environment; ``spec`` is an encoded ``EnvironmentSpec``."""

    time: float
    pilot: PilotUid
    name: str
    spec: msgspec.Raw


class PilotServicesAwaited(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """The pilot takes no other tasks before these, which are pinned to it, are ready."""

    pilot: PilotUid
    services: list[TaskUid]


class DependenciesKept(msgspec.Struct, frozen=True, array_like=True, tag=27):
    """What tasks asked to wait for, where it is more than they are held for: services that run elsewhere."""

    asked: dict[TaskUid, Held]


class OutputsBegun(msgspec.Struct, frozen=True, array_like=True, tag=28):
    """These tasks have run, and their output is being staged."""

    time: float
    tasks: list[TaskUid]


class PartitionAsked(msgspec.Struct, frozen=True, array_like=True, tag=29):
    """The pilot is to be told to add a partition."""

    time: float
    pilot: PilotUid
    spec: PartitionSpec


class RetirementAsked(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """The pilot is to be told to end a partition, after its tasks (``drain``) or now."""

    time: float
    pilot: PilotUid
    partition: str
    drain: bool


class JobSubmitting(msgspec.Struct, frozen=True, array_like=True, tag=31):
    """The pilot is about to be submitted to this batch system, as a job of this name, which no other job has."""

    time: float
    pilot: PilotUid
    system: str
    name: str


class JobSubmitted(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """The batch system knows the pilot's job by this id."""

    time: float
    pilot: PilotUid
    job: str


class JobTold(msgspec.Struct, frozen=True, array_like=True, tag=33):
    """What the batch system tells of the pilot's job: see ``state.JobRecord``."""

    time: float
    pilot: PilotUid
    state: str
    reason: str
    starts: float = 0.0
    complete: bool = False


class PilotSucceeded(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """The pilot is over, and the successor, accepted just before, takes its place.

    ``fruitless``: in how many pilots in a row up to this one no task came to its end.
    """

    time: float
    pilot: PilotUid
    successor: PilotUid
    fruitless: int


Fact = (
    EpochBegun
    | SessionEnding
    | ManagerAdded
    | PilotAccepted
    | PilotLaunched
    | PilotActivated
    | PilotEndAsked
    | PilotEnded
    | PilotsAdded
    | PilotsRemoved
    | TasksAccepted
    | MetadataKept
    | TasksBound
    | TasksUnbound
    | TasksStarted
    | OutcomesReceived
    | TasksSettled
    | CancelAsked
    | MessagesNumbered
    | MessagesDelivered
    | CallbacksMarked
    | TasksHeld
    | TasksFreed
    | ServicesReady
    | EnvironmentAsked
    | PilotServicesAwaited
    | DependenciesKept
    | OutputsBegun
    | PartitionAsked
    | RetirementAsked
    | JobSubmitting
    | JobSubmitted
    | JobTold
    | PilotSucceeded
)

LATE_FACTS = (MessagesDelivered,)
"""Facts that need not be in the log before anyone acts on them; they travel with the next record."""
