"""What the metascheduler's core has taken as true: the records of its log.

What it has to do with its client it says in the facts of an agent, tags and all; its own begin at 40. Tags are never reused.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from pilotage.core.agent import facts as agent_facts
from pilotage.core.agent.facts import (
    EndAsked,
    Ended,
    EnvironmentAsked,
    GangOver,
    OutcomesDelivered,
    OutcomesNumbered,
    PilotEnded,
    PilotEnding,
    Rebound,
    ServiceOver,
    ServiceReady,
    TasksAccepted,
)
from pilotage.model.ids import Attempt, TaskUid
from pilotage.model.outcome import Outcome
from pilotage.model.partitions import PartitionSpec

_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode

Over = Literal["ended", "lost"]

__all__ = [
    "EndAsked",
    "Ended",
    "EnvironmentAsked",
    "GangOver",
    "Fact",
    "MessagesDelivered",
    "MessagesNumbered",
    "NodesGranted",
    "NodesReclaimed",
    "NodesTaken",
    "OutcomesDelivered",
    "OutcomesNumbered",
    "OutcomesTaken",
    "PartitionActivated",
    "PartitionAdded",
    "PartitionAwaited",
    "PartitionDismissed",
    "PartitionEnding",
    "PartitionOver",
    "PartitionRefused",
    "PilotBegun",
    "PilotEnded",
    "PilotEnding",
    "Rebound",
    "RecallAnswered",
    "ServiceOver",
    "ServiceReady",
    "TasksAccepted",
    "TasksGivenUp",
    "TasksLeased",
    "TasksRecalled",
    "TasksReleased",
    "UNTIMED",
    "tasks_named",
]


class PartitionAdded(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """There is a partition of this name, which begins with these nodes. ``number``: of the client's message, or 0."""

    time: float
    number: int
    partition: str
    spec: PartitionSpec
    nodes: list[int]


class PartitionActivated(msgspec.Struct, frozen=True, array_like=True, tag=41):
    """The partition's agent, in this incarnation, takes tasks."""

    time: float
    partition: str
    incarnation: int


class TasksLeased(msgspec.Struct, frozen=True, array_like=True, tag=42):
    """These tasks, which waited, are the partition's, each for its ``lease``-th time in any partition."""

    time: float
    partition: str
    lease: int
    tasks: list[TaskUid]


class TasksReleased(msgspec.Struct, frozen=True, array_like=True, tag=43):
    """These tasks are no partition's any more, and wait: ``(task, number of its last attempt, failed attempts)``."""

    time: float
    tasks: list[tuple[TaskUid, Attempt, int]]


class OutcomesTaken(msgspec.Struct, frozen=True, array_like=True, tag=44):
    """The partition's message ``number``. ``outcomes`` is an encoded ``list[Outcome]``; those of ``put_aside`` do not count.

    Outcomes of leases that are over do not count either. With the number of the message before they were read from its log.
    """

    time: float
    partition: str
    number: int
    outcomes: msgspec.Raw
    put_aside: list[TaskUid]


class PartitionEnding(msgspec.Struct, frozen=True, array_like=True, tag=45):
    """The partition is to end, after its tasks (``drain``) or now; it gets no more. ``number``: of a client's message, or 0."""

    time: float
    number: int
    partition: str
    drain: bool
    reason: str
    released: bool = False
    """It has had nothing to do, and may be started again under another name."""


class PartitionOver(msgspec.Struct, frozen=True, array_like=True, tag=46):
    """The partition is over, as its message ``number`` said, or (0) as is known of it; its nodes are free, it holds nothing.

    It *ended* if it was told to, or else is *lost*. ``lost_nodes`` cannot be used again. ``idle_since``: from then on the
    nodes had nothing to do.
    """

    time: float
    number: int
    partition: str
    how: Over
    reason: str
    lost_nodes: list[int]
    idle_since: float


class MessagesNumbered(msgspec.Struct, frozen=True, array_like=True, tag=47):
    """The oldest ``count`` messages in the partition's outbox get the numbers from ``first`` on, and are about to be sent."""

    partition: str
    first: int
    count: int


class MessagesDelivered(msgspec.Struct, frozen=True, array_like=True, tag=48):
    """The partition has all messages up to ``number`` on disk."""

    partition: str
    number: int


class NodesGranted(msgspec.Struct, frozen=True, array_like=True, tag=49):
    """These nodes, which were free, are the partition's."""

    time: float
    partition: str
    nodes: list[int]


class NodesReclaimed(msgspec.Struct, frozen=True, array_like=True, tag=50):
    """The partition is asked, by this request, to give back up to ``count`` idle nodes."""

    time: float
    partition: str
    reclaim: int
    count: int


class NodesTaken(msgspec.Struct, frozen=True, array_like=True, tag=51):
    """The partition's message ``number`` answers a request: these nodes are free; ``LOST_NODES``: they are lost."""

    time: float
    partition: str
    number: int
    reclaim: int
    nodes: list[int]


class TasksRecalled(msgspec.Struct, frozen=True, array_like=True, tag=53):
    """The partition is asked, by this request, to give back those of these tasks, which are its own, that wait there."""

    time: float
    partition: str
    recall: int
    tasks: list[TaskUid]


class RecallAnswered(msgspec.Struct, frozen=True, array_like=True, tag=54):
    """The partition's message ``number`` answers a request for tasks: it gave back these, and what becomes of them follows."""

    time: float
    partition: str
    number: int
    recall: int
    tasks: list[TaskUid]


class TasksGivenUp(msgspec.Struct, frozen=True, array_like=True, tag=55):
    """These tasks, which no partition has, cannot run in this pilot any more, and go back to the client with its goodbye."""

    time: float
    tasks: list[TaskUid]


class PilotBegun(msgspec.Struct, frozen=True, array_like=True, tag=52):
    """The pilot has these nodes, which are free."""

    time: float
    nodes: list[int]


class PartitionAwaited(msgspec.Struct, frozen=True, array_like=True, tag=60):
    """The client's message ``number`` asks for a partition, which is added when it has ``nodes`` nodes."""

    time: float
    number: int
    spec: PartitionSpec
    nodes: int


class PartitionRefused(msgspec.Struct, frozen=True, array_like=True, tag=61):
    """A partition that was asked for, by the client's message ``number`` (0: before), cannot be had."""

    time: float
    number: int
    spec: PartitionSpec
    reason: str


class PartitionDismissed(msgspec.Struct, frozen=True, array_like=True, tag=62):
    """The client's message ``number`` retires a partition that is not there, or ends: it does not come, or not again."""

    time: float
    number: int
    partition: str


class GangJoined(msgspec.Struct, frozen=True, array_like=True, tag=63):
    """So many tasks of this gang came."""

    time: float
    gang: str
    count: int


Fact = (
    TasksAccepted
    | TasksLeased
    | OutcomesTaken
    | Ended
    | OutcomesNumbered
    | OutcomesDelivered
    | MessagesNumbered
    | MessagesDelivered
    | TasksReleased
    | EndAsked
    | Rebound
    | EnvironmentAsked
    | ServiceReady
    | ServiceOver
    | PartitionAdded
    | PartitionAwaited
    | PartitionRefused
    | PartitionDismissed
    | PartitionActivated
    | PartitionEnding
    | PartitionOver
    | NodesGranted
    | NodesReclaimed
    | NodesTaken
    | TasksRecalled
    | RecallAnswered
    | TasksGivenUp
    | GangJoined
    | GangOver
    | PilotBegun
    | PilotEnding
    | PilotEnded
)


def tasks_named(fact: Fact) -> list[TaskUid]:
    """Return the tasks that the fact is about, in its order."""
    match fact:
        case OutcomesTaken():
            return [outcome.task for outcome in _decode_outcomes(fact.outcomes)]
        case TasksLeased() | TasksRecalled() | RecallAnswered() | TasksGivenUp():
            return list(fact.tasks)
        case TasksReleased():
            return [uid for uid, _, _ in fact.tasks]
        case TasksAccepted() | EndAsked() | Ended() | ServiceReady() | ServiceOver() | Rebound():
            return agent_facts.tasks_named(fact)
        case _:
            return []


UNTIMED = (OutcomesNumbered, OutcomesDelivered, MessagesNumbered, MessagesDelivered)
"""Facts that are about numbers alone, and have no time."""
