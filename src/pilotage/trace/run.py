"""A run as columns: one row a task, one row an attempt, one row a lane.

A hundred thousand tasks are as many rows, not objects; columns of times are arrays that numpy takes over without a copy. A
time is in seconds since the epoch, 0.0 when the station was not passed (or is not known).
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from pilotage.model.ids import Binding, LaneId, PilotUid, RunnerId, TaskUid
from pilotage.model.outcome import Ending, state_of
from pilotage.model.resources import GPU_SHARES, Node, Placement
from pilotage.model.states import (
    AGENT_EXECUTING,
    AGENT_EXECUTING_PENDING,
    AGENT_SCHEDULING,
    AGENT_STAGING_INPUT,
    AGENT_STAGING_INPUT_PENDING,
    AGENT_STAGING_OUTPUT,
    TMGR_SCHEDULING,
    TMGR_SCHEDULING_PENDING,
)

STATIONS = (
    "submitted",
    "freed",
    "bound",
    "accepted",
    "staged_in",
    "launched",
    "started",
    "ended",
    "collected",
    "staged_out",
    "final",
)
"""The stations of a task in the order in which they are passed; each is a column of times.

Few pass ``freed`` (they waited for other tasks), ``staged_in`` and ``staged_out`` (they have files to stage).
"""

HELD = "held"
STAGING_IN = "staging in"
STAGING_OUT = "staging out"
_ASIDE_STATES = {HELD: TMGR_SCHEDULING_PENDING, STAGING_IN: AGENT_STAGING_INPUT, STAGING_OUT: AGENT_STAGING_OUTPUT}


class TaskTrace(msgspec.Struct, frozen=True):
    """One task: a row of ``Tasks``.

    ``cores``, ``gpus`` and ``memory_mib`` are of all ranks; ``node`` is its first, -1 before it has one. ``message`` names the
    cause of a failure, ``error_line`` is the last line of its stderr or traceback.
    """

    uid: TaskUid
    name: str
    kind: str
    state: str
    pilot: PilotUid
    cores: int
    gpus: float
    ranks: int
    memory_mib: int
    node: int
    lane: LaneId
    attempt: int
    submitted: float
    freed: float
    bound: float
    accepted: float
    staged_in: float
    launched: float
    started: float
    ended: float
    collected: float
    staged_out: float
    final: float
    ending: Ending | None
    exit_code: int | None
    message: str
    error_line: str


class Shape(NamedTuple):
    """What tasks that follow one template have in common; ``cores``, ``gpus`` and ``memory_mib`` of all ranks."""

    kind: str
    cores: int
    gpus: float = 0.0
    ranks: int = 1
    memory_mib: int = 0


class Tasks:
    """The tasks of a run. Columns have one value a task, in the order of submission.

    ``collected``: the agent had the end in its log. ``final``: the client had the outcome in its own, which is the delivery.
    The columns show a task's last binding and attempt; ``Attempts`` has those before.
    """

    def __init__(self) -> None:
        self.index: dict[TaskUid, int] = {}
        self.uid: list[TaskUid] = []
        self.name: list[str] = []
        self.kind: list[str] = []
        self.pilot: list[PilotUid] = []
        self.binding: list[Binding] = []
        self.cores = array("q")
        self.gpus = array("d")
        self.ranks = array("q")
        self.memory_mib = array("q")
        self.node = array("q")
        self.lane = array("q")
        self.attempt = array("q")
        self.submitted = array("d")
        self.freed = array("d")
        self.bound = array("d")
        self.accepted = array("d")
        self.staged_in = array("d")
        self.launched = array("d")
        self.started = array("d")
        self.ended = array("d")
        self.collected = array("d")
        self.staged_out = array("d")
        self.final = array("d")
        self.ending: list[Ending | None] = []
        self.exit_code: list[int | None] = []
        self.message: list[str] = []
        self.error_line: list[str] = []
        self.aside: dict[int, str] = {}
        """Tasks that are where few pass, by their row: held back by other tasks, or with files on their way."""

    def __len__(self) -> int:
        return len(self.uid)

    def extend(self, rows: list[tuple[TaskUid, str, Shape]]) -> None:
        """Append tasks, none of which is known, as (uid, name, shape)."""
        first, count = len(self.uid), len(rows)
        self.index.update(zip([row[0] for row in rows], range(first, first + count), strict=True))
        self.uid += [row[0] for row in rows]
        self.name += [row[1] for row in rows]
        shapes = [row[2] for row in rows]
        self.kind += [shape.kind for shape in shapes]
        self.cores.extend([shape.cores for shape in shapes])
        self.gpus.extend([shape.gpus for shape in shapes])
        self.ranks.extend([shape.ranks for shape in shapes])
        self.memory_mib.extend([shape.memory_mib for shape in shapes])
        self.pilot += [PilotUid("")] * count
        self.binding += [Binding(0)] * count
        self.ending += [None] * count
        self.exit_code += [None] * count
        self.message += [""] * count
        self.error_line += [""] * count
        self.node.extend([-1] * count)
        for column in (self.lane, self.attempt):
            column.frombytes(bytes(8 * count))
        for station in STATIONS:
            getattr(self, station).frombytes(bytes(8 * count))

    def state(self, index: int) -> str:
        """Return the state that the task had reached when the logs were read."""
        ending = self.ending[index]
        if ending is not None:
            return state_of(ending)
        if index in self.aside:
            return _ASIDE_STATES[self.aside[index]]
        if self.started[index]:
            return AGENT_EXECUTING
        if self.launched[index]:
            return AGENT_EXECUTING_PENDING
        if self.accepted[index]:
            return AGENT_SCHEDULING
        return AGENT_STAGING_INPUT_PENDING if self.pilot[index] else TMGR_SCHEDULING

    def row(self, index: int) -> TaskTrace:
        """Return one task."""
        return TaskTrace(
            self.uid[index],
            self.name[index],
            self.kind[index],
            self.state(index),
            self.pilot[index],
            self.cores[index],
            self.gpus[index],
            self.ranks[index],
            self.memory_mib[index],
            self.node[index],
            LaneId(self.lane[index]),
            self.attempt[index],
            self.submitted[index],
            self.freed[index],
            self.bound[index],
            self.accepted[index],
            self.staged_in[index],
            self.launched[index],
            self.started[index],
            self.ended[index],
            self.collected[index],
            self.staged_out[index],
            self.final[index],
            self.ending[index],
            self.exit_code[index],
            self.message[index],
            self.error_line[index],
        )

    def __iter__(self) -> Iterator[TaskTrace]:
        return (self.row(index) for index in range(len(self)))


class Attempts:
    """All attempts that a pilot made, in the order of their launches. ``task`` is a row of ``Tasks``, ``lane`` of ``Lanes``.

    ``started`` is 0.0 for one that did not begin (or of which that is not known), ``ended`` for one that is not over.
    """

    def __init__(self) -> None:
        self.task = array("q")
        self.lane = array("q")
        self.launched = array("d")
        self.started = array("d")
        self.ended = array("d")

    def __len__(self) -> int:
        return len(self.task)

    def add(self, task: int, lane: int, launched: float) -> int:
        """Append an attempt and return its row."""
        self.task.append(task)
        self.lane.append(lane)
        self.launched.append(launched)
        self.started.append(0.0)
        self.ended.append(0.0)
        return len(self.task) - 1


class Lanes:
    """All placements that a pilot made. ``gpu_shares`` in 64ths of a GPU; ``first_core`` and ``node`` are those of rank 0,
    ``placement`` has all.

    ``closed`` is 0.0 for one that was open when the log was read, or when the pilot was lost.
    """

    def __init__(self) -> None:
        self.uid: list[LaneId] = []
        self.runner: list[RunnerId] = []
        self.placement: list[Placement] = []
        self.nodes: list[int] = []
        self.node = array("q")
        self.first_core = array("q")
        self.cores = array("q")
        self.gpu_shares = array("q")
        self.opened = array("d")
        self.closed = array("d")

    def __len__(self) -> int:
        return len(self.uid)


class Waits:
    """When tasks waited at a pilot for resources: from their acceptance, or the end of an attempt, to the next launch.

    ``task`` is a row of ``Tasks``; ``until`` is 0.0 where the wait was not over when the log was read, or the pilot was lost.
    """

    def __init__(self) -> None:
        self.task = array("q")
        self.since = array("d")
        self.until = array("d")

    def __len__(self) -> int:
        return len(self.task)

    def add(self, task: int, since: float) -> int:
        """Append a wait and return its row."""
        self.task.append(task)
        self.since.append(since)
        self.until.append(0.0)
        return len(self.task) - 1


class RunnerTrace(msgspec.Struct):
    """A spawner or a function worker: when it was added, said hello, and was gone (0.0: not yet)."""

    uid: RunnerId
    node: int
    added: float
    identified: float = 0.0
    removed: float = 0.0
    reason: str = ""


class PilotTrace:
    """A pilot and what it did.

    ``state`` is what the client knows; what the agent says of its end, where no client has taken that yet.
    ``submitted``, ``launched``, ``active`` and ``final`` are the client's times, ``ready`` (its first runner said hello),
    ``ending`` and ``ended`` those of the agent; ``first`` and ``last`` are the first and last times in the agent's log.
    """

    def __init__(self, uid: PilotUid) -> None:
        self.uid = uid
        self.resource = ""
        """The platform, as the user named it; empty if only the agent's log is there."""
        self.nodes: list[Node] = []
        self.state = ""
        self.reason = ""
        self.is_job = False
        """Whether it is a job of a batch system; ``launched`` is then when it came into the queue."""
        self.submitted = 0.0
        self.launched = 0.0
        self.active = 0.0
        self.final = 0.0
        self.first = 0.0
        self.ready = 0.0
        self.ending = 0.0
        self.ended = 0.0
        self.last = 0.0
        self.runners: dict[RunnerId, RunnerTrace] = {}
        self.lanes = Lanes()
        self.attempts = Attempts()
        self.waits = Waits()

    @property
    def cores(self) -> int:
        """Cores of all its nodes."""
        return sum(node.shape.cores for node in self.nodes)

    @property
    def gpus(self) -> int:
        """GPUs of all its nodes."""
        return sum(node.shape.gpus for node in self.nodes)

    @property
    def gpu_shares(self) -> int:
        """GPUs of all its nodes in 64ths."""
        return self.gpus * GPU_SHARES

    @property
    def begin(self) -> float:
        """When it began to hold its resources, as far as the logs know: its bootstrap was started; 0.0 if it never was.

        One that is a job holds nothing while it is in the queue: it begins with its agent, and one without ends as it begins.
        """
        if self.is_job:
            return self.first or max(self.final, self.launched)
        return self.launched or self.submitted or self.first

    @property
    def end(self) -> float:
        """When it gave its resources back; the last time in the logs if it has not, or nobody saw it."""
        return max(self.final, self.ended) or max(self.last, self.active, self.begin)


class Run:
    """What the logs of a session tell. ``remarks`` says what could not be read, and why."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.opened = 0.0
        self.closed = 0.0
        self.pilots: dict[PilotUid, PilotTrace] = {}
        self.tasks = Tasks()
        self.remarks: list[str] = []

    def pilot(self, uid: PilotUid) -> PilotTrace:
        """Return the pilot of this name, made if it is new."""
        found = self.pilots.get(uid)
        if found is None:
            found = self.pilots[uid] = PilotTrace(uid)
        return found
