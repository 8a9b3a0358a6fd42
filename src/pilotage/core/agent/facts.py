"""What the agent's core has taken as true: the records of its log.

``state.apply`` folds them, and nothing else changes the agent's state, so recovery is to apply the log. A fact holds the
decision (the placement, the attempt, the outcome), never the grounds for it: a later version may decide otherwise, but
it cannot rewrite history. Tags are never reused.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from pilotage.model.ids import Attempt, Binding, LaneId, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Placement
from pilotage.model.workload import Batch


class TasksAccepted(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The tasks of the client's message ``number`` are this pilot's."""

    time: float
    number: int
    binding: Binding
    batch: Batch


class EndAsked(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """These tasks are to end with this ending (cancelled by the client's message ``number``, or out of time)."""

    time: float
    number: int
    tasks: list[TaskUid]
    ending: Ending
    message: str


class RunnerAdded(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A runner is about to be started. ``beside``: the spawner that starts this function worker, None for a spawner.

    ``node``: the first of a spawner's host, or the one for which a worker is started; so it tells which host it is.
    ``gpus``: a worker's GPUs are fixed when it starts, as ``"node:index,index"``.
    """

    time: float
    runner: RunnerId
    beside: RunnerId | None
    node: int
    gpus: str = ""


class RunnerIdentified(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """The process of a runner, as it named itself."""

    time: float
    runner: RunnerId
    pid: int
    started_ticks: int
    boot_id: str


class RunnerRemoved(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The runner is gone; what it held has been decided before."""

    time: float
    runner: RunnerId
    reason: str


class LaneLaunch(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Attempts handed to one lane; ``placement`` opens the lane."""

    lane: LaneId
    runner: RunnerId
    placement: Placement | None
    tasks: list[tuple[TaskUid, Attempt]]


class LaunchRequested(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """These attempts are about to be handed to their runners. From here on an attempt may have begun."""

    time: float
    lanes: list[LaneLaunch]


class LanesClosed(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """These lanes have no more tasks; their resources are free."""

    time: float
    lanes: list[LaneId]


class Started(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """These attempts began, at these times."""

    time: float
    started: list[tuple[TaskUid, Attempt, float]]


class Returned(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """These attempts never began, and will not: their tasks wait again."""

    time: float
    tasks: list[TaskUid]


class Repeated(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """These attempts failed or were lost, and their tasks wait for another attempt."""

    time: float
    runner: RunnerId
    number: int
    tasks: list[TaskUid]


class Ended(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """Final outcomes. ``runner`` and ``number`` say which message of a runner brought them ('' and 0: none did)."""

    time: float
    runner: RunnerId
    number: int
    outcomes: list[Outcome]


class OutcomesNumbered(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The next ``count`` outcomes that were not sent yet are the client's message ``number``."""

    number: int
    count: int


class OutcomesDelivered(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """The client has everything up to ``number`` on disk."""

    number: int


class PilotEnding(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """The pilot takes no more tasks. ``drain``: it ends after those it has.

    ``idle``: nobody asked for it, there was nothing left to do. Tasks that arrive from here on are none of its tasks: they are
    neither run nor answered for, so that the client binds them elsewhere.
    """

    time: float
    number: int
    drain: bool
    state: str
    reason: str
    idle: bool = False
    out_of_time: bool = False
    """Its time is over: tasks that have no outcome are the client's again."""


class PilotEnded(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Nothing is left to do; the client's message ``number`` says so."""

    time: float
    number: int


class InputsStaged(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The input of these tasks is where they want it; they wait for resources."""

    time: float
    tasks: list[TaskUid]


class OutputsBegun(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """These attempts are over and hold no resources; their outcomes wait for their output to be staged.

    ``runner`` and ``number`` are as in ``Ended``.
    """

    time: float
    runner: RunnerId
    number: int
    outcomes: list[Outcome]


class EnvironmentAsked(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """The client's message ``number`` wants this environment prepared."""

    time: float
    number: int
    name: str
    spec: msgspec.Raw


class EnvironmentPrepared(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """The environment is there; or (``error``) it cannot be had, and tasks that want it fail."""

    time: float
    name: str
    error: str


class ServiceReady(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """The service answers; tasks are told ``info`` of it."""

    time: float
    service: TaskUid
    attempt: Attempt
    info: str


class ServiceOver(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """The service has ended for good, as ``message`` says: a task that needs it can never begin."""

    time: float
    service: TaskUid
    message: str


class Rebound(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """The client, which had forgotten that these are here, submitted them again: it knows them under this binding.

    Of those that are over it is told the outcome once more.
    """

    time: float
    binding: Binding
    tasks: list[TaskUid]


class NodesGranted(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """The metascheduler's message ``number`` gives these nodes to this partition."""

    time: float
    number: int
    nodes: list[int]


class NodesReturned(msgspec.Struct, frozen=True, array_like=True, tag=24):
    """The metascheduler's message ``number`` wants nodes back, by a request ``reclaim``: these are the partition's no more."""

    time: float
    number: int
    reclaim: int
    nodes: list[int]


class NodesNumbered(msgspec.Struct, frozen=True, array_like=True, tag=25):
    """What was given back first, and was not told yet, is message ``number``."""

    number: int


class NodesLost(msgspec.Struct, frozen=True, array_like=True, tag=26):
    """These nodes of the pilot, or of the partition, are gone for good, and so are its own no more.

    ``partition``: so that its metascheduler is told.
    """

    time: float
    nodes: list[int]
    reason: str = ""
    partition: bool = True


GivenBack: TypeAlias = tuple[TaskUid, Binding, Attempt, int]
"""A task that is its metascheduler's again: its lease, the number of its last attempt, and how many failed."""


class TasksGivenBack(msgspec.Struct, frozen=True, array_like=True, tag=27):
    """The metascheduler's message ``number`` wants tasks back, by a request ``recall``: these are the partition's no more."""

    time: float
    number: int
    recall: int
    tasks: list[GivenBack]


class TasksNumbered(msgspec.Struct, frozen=True, array_like=True, tag=28):
    """The tasks that were given back first, and were not told yet, are message ``number``."""

    number: int


class GangOver(msgspec.Struct, frozen=True, array_like=True, tag=29):
    """A task of the gang ended before this began, as ``message`` says: it can't begin any more."""

    time: float
    gang: str
    message: str


class NodesRenewed(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """The pilot has other nodes from now on, numbered anew: nothing that was said of those before holds."""

    time: float
    reason: str


class DrainBegun(msgspec.Struct, frozen=True, array_like=True, tag=31):
    """The pilot's time is nearly over: no task begins any more, and those that run are told."""

    time: float


class TasksLeft(msgspec.Struct, frozen=True, array_like=True, tag=32):
    """The pilot's time is over: these tasks, which have no outcome, are the client's again.

    Nothing of those ``waiting`` is under way. An attempt of those ``begun`` was cut short, and they may have another; beside
    each stands how many failed so far. ``runner`` and ``number`` are as in ``Ended``.
    """

    time: float
    runner: RunnerId
    number: int
    waiting: list[TaskUid]
    begun: list[tuple[TaskUid, int]]


def tasks_named(fact: Fact) -> list[TaskUid]:
    """Return the tasks that the fact is about, in its order."""
    match fact:
        case TasksAccepted():
            return [row.uid for row in fact.batch.rows]
        case LaunchRequested():
            return [uid for launch in fact.lanes for uid, _ in launch.tasks]
        case Started():
            return [uid for uid, _, _ in fact.started]
        case Ended() | OutputsBegun():
            return [outcome.task for outcome in fact.outcomes]
        case TasksGivenBack():
            return [uid for uid, *_ in fact.tasks]
        case EndAsked() | Returned() | Repeated() | InputsStaged() | Rebound():
            return list(fact.tasks)
        case TasksLeft():
            return [*fact.waiting, *(uid for uid, _ in fact.begun)]
        case ServiceReady() | ServiceOver():
            return [fact.service]
        case _:
            return []


Fact = (
    TasksAccepted
    | EndAsked
    | RunnerAdded
    | RunnerIdentified
    | RunnerRemoved
    | LaunchRequested
    | LanesClosed
    | Started
    | Returned
    | Repeated
    | Ended
    | OutcomesNumbered
    | OutcomesDelivered
    | PilotEnding
    | PilotEnded
    | InputsStaged
    | OutputsBegun
    | EnvironmentAsked
    | EnvironmentPrepared
    | ServiceReady
    | ServiceOver
    | Rebound
    | NodesGranted
    | NodesReturned
    | NodesNumbered
    | NodesLost
    | TasksGivenBack
    | TasksNumbered
    | GangOver
    | NodesRenewed
    | DrainBegun
    | TasksLeft
)
