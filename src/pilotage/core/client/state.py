"""The state of a session: its tasks, pilots and managers. Only ``apply`` changes it (``core.client.applying``).

A task is here from its acceptance to the end of the session, as the user may ask for its outcome at any time. What is to be
told to a pilot goes through two stations: its *outbox*, in order and without numbers, and from the moment a link takes it,
under a number, ``unacknowledged``, until the agent has it on disk. So what is in the outbox was certainly never sent.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pilotage.core.client.facts import Held, ManagerKind, TaskScheduler
from pilotage.model.ids import Binding, PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import PartitionSpec
from pilotage.model.resources import Node
from pilotage.model.states import (
    FINAL,
    PMGR_LAUNCHING_PENDING,
    TMGR_SCHEDULING,
)
from pilotage.model.workload import Batch, Row, Template

NO_PILOT = PilotUid("")

_decode_batch = msgspec.msgpack.Decoder(Batch).decode


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
    """Outcomes in the busiest of the last two whole intervals of ``applying.RATE_INTERVAL_S``."""
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


def queued_rows(queued: Iterable[Queued]) -> list[Row]:
    """Return the rows of all tasks in these messages."""
    return [row for message in queued if isinstance(message, QueuedTasks) for row in _decode_batch(message.batch).rows]
