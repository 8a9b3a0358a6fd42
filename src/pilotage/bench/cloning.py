"""Components by themselves: one real task enters a component and is cloned there many times; what comes out is dropped.

So a component has all the load that it can bear, and nothing else of the system takes part: what is measured is the most that
it can do. The task is described and split into template and row as ``submit_tasks`` does it; its clones differ from it in the
uid alone. Each function returns how the component got on, as a ``Course``.

The scheduler, the client's core and the delivery of outcomes work on one thread, so their time is the CPU time of this process.
The executor and the stager, in ``cloned_runs``, have processes and threads of their own, so theirs is the time on the wall.
"""

from __future__ import annotations

import select
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

import pilotage as rp
from pilotage.bench.runs import MEMORY_FOLDER
from pilotage.client.serialization import pack_arguments, pack_function
from pilotage.client.templates import TemplateTable
from pilotage.core.agent import actions
from pilotage.core.agent.delivery import Delivery
from pilotage.core.agent.journal import Journal
from pilotage.core.agent.state import AgentState
from pilotage.core.client import events
from pilotage.core.client.binding import CHUNK_TASKS
from pilotage.core.client.core import ClientCore
from pilotage.core.scheduling import Assignment, GroupKey, Scheduler
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.resources import Node, NodeShape
from pilotage.model.sandboxes import SHARD_ENTRIES
from pilotage.model.workload import Batch, Row, Template
from pilotage.testing.runner_driver import default_settings
from pilotage.wire.messages import PROTOCOL, Acknowledge, AgentHello, ClientHello, Outcomes
from pilotage.wire.unix import UnixAgentChannel, UnixClientChannel

CORES_PER_NODE = 32
"""As on Blue Waters."""

AT_ONCE = 64
"""Clones that come to the scheduler together, and are placed by one call."""

_PILOT = PilotUid("pilot.0000")
_MANAGER = "tmgr.0000"
_SESSION = default_settings(Path()).session

Said = TypeVar("Said")
SaidBy = TypeVar("SaidBy", covariant=True)

_encode = msgspec.msgpack.Encoder().encode
_decode_outcomes = msgspec.msgpack.Decoder(list[Outcome]).decode


class Course(msgspec.Struct, frozen=True):
    """How a component got on: pairs of the seconds since the begin, and the clones that it was done with by then."""

    marks: list[tuple[float, int]]

    @property
    def clones(self) -> int:
        """How many it was done with at the end."""
        return self.marks[-1][1] if self.marks else 0

    @property
    def rate(self) -> float:
        """Clones in a second, over all."""
        return self.clones / self.marks[-1][0] if self.marks and self.marks[-1][0] > 0.0 else 0.0

    def rates(self, parts: int) -> list[tuple[float, float]]:
        """Return the rate in each of so many parts with equally many clones, with the seconds at which the part ended.

        Parts are cut at marks; there are fewer if there are fewer marks.
        """
        found: list[tuple[float, float]] = []
        begin, done = 0.0, 0
        for at, count in self.marks:
            if count >= self.clones * (len(found) + 1) / parts and at > begin:
                found.append((at, (count - done) / (at - begin)))
                begin, done = at, count
        return found


def one_task(**attributes: Any) -> tuple[Template, Row]:
    """Return a real task as it enters the components: described by a user, checked and split."""
    split = TemplateTable().split(
        [rp.TaskDescription(**{"executable": "/bin/true", **attributes})],
        pack_function=pack_function,
        pack_arguments=pack_arguments,
        pack_payload=lambda packed: packed,
        uid_of=lambda _: TaskUid("task.000000"),
    )
    (row,) = split.rows
    return split.templates[row.template], row


def clones_of(row: Row, count: int) -> list[Row]:
    """Return so many clones of a task."""
    return [
        msgspec.structs.replace(row, uid=TaskUid(f"{row.uid}.{number:06d}"), shard=number // SHARD_ENTRIES)
        for number in range(count)
    ]


def allocation(cores: int, clones: int = 10_000) -> Course:
    """Have the scheduler place clones on an empty pilot until it is full, or none is left; nothing is given back."""
    scheduler, group, names = _scheduler(cores, clones)
    marks: list[tuple[float, int]] = []
    done, begin = 0, time.process_time()
    while done < min(cores, clones):
        scheduler.enqueue_many(names[done : done + AT_ONCE], group, 0.0)
        done += len(scheduler.schedule(0.0, AT_ONCE))
        marks.append((time.process_time() - begin, done))
    return Course(marks)


def steady_state(cores: int, clones: int = 10_000) -> Course:
    """Have the scheduler place clones on a full pilot: for each that is placed, the one that is there the longest ends."""
    scheduler, group, names = _scheduler(cores, cores + clones)
    scheduler.enqueue_many(names[:cores], group, 0.0)
    running: deque[Assignment] = deque(scheduler.schedule(0.0, cores))
    marks: list[tuple[float, int]] = []
    done, begin = 0, time.process_time()
    while done < clones:
        some = names[cores + done : cores + done + AT_ONCE]
        scheduler.enqueue_many(some, group, 0.0)
        for _ in some:
            scheduler.release(running.popleft().placement, group.request)
        running += scheduler.schedule(0.0, AT_ONCE)
        done += len(some)
        marks.append((time.process_time() - begin, done))
    if len(running) != cores:
        raise RuntimeError(f"{len(running)} of {cores} cores are in use on a full pilot")
    return Course(marks)


def _scheduler(cores: int, clones: int) -> tuple[Scheduler, GroupKey, list[TaskUid]]:
    template, row = one_task()
    shape = NodeShape(CORES_PER_NODE)
    nodes = [Node(index, f"node{index}", shape) for index in range(-(-cores // CORES_PER_NODE))]
    return Scheduler(nodes), GroupKey("executable", template.request), [each.uid for each in clones_of(row, clones)]


def delivery(clones: int) -> Course:
    """Have outcomes numbered, encoded, sent over a socket, decoded, acknowledged and forgotten: agent and client in turns."""
    _, row = one_task()
    outcomes = [_outcome(each) for each in clones_of(row, clones)]
    journal = Journal(AgentState())
    component = Delivery(journal)
    marks: list[tuple[float, int]] = []
    with memory_folder() as folder:
        agent = UnixAgentChannel.bind(folder / "agent.sock")
        client = UnixClientChannel.connect(folder / "agent.sock")
        try:
            client.send(ClientHello(PROTOCOL, _SESSION, 1, 0))
            (peer,) = (who for who, said in _receive(agent) if isinstance(said, ClientHello))
            agent.send(peer, AgentHello(PROTOCOL, _SESSION, _PILOT, 1, 0, [], 0.0))
            _receive(client)
            done, begin = 0, time.process_time()
            journal.state.unsent.extend(outcomes)
            component.note(outcomes)
            while component.has_news:
                component.number(0.0)
                for action in journal.take().actions:
                    if not isinstance(action, actions.SendOutcomes):
                        raise RuntimeError(f"delivery asks for {action}")
                    agent.send(peer, Outcomes(action.number, msgspec.Raw(_encode(action.outcomes))))
                    while (got := _outcomes_in(client, agent)) is None:
                        pass
                    done += len(_decode_outcomes(got.outcomes))
                    client.send(Acknowledge(got.number, got.number))
                    for _, said in _receive(agent):
                        if isinstance(said, Acknowledge):
                            component.received(said.durable)
                marks.append((time.process_time() - begin, done))
        finally:
            client.close()
            agent.close()
    if component.under_way:
        raise RuntimeError(f"{len(component.under_way)} outcomes were not delivered")
    return Course(marks)


class _End(Protocol[SaidBy]):
    """One end of a channel."""

    def fileno(self) -> int: ...

    def receive(self) -> Sequence[SaidBy]: ...


def _outcomes_in(client: UnixClientChannel, agent: UnixAgentChannel) -> Outcomes | None:
    """Return what the client got, while both ends go on; a large message takes several turns."""
    agent.receive()
    for said in client.receive():
        if isinstance(said, Outcomes):
            return said
    return None


def _receive(end: _End[Said]) -> Sequence[Said]:
    while not (messages := end.receive()):
        select.select([end], [], [], 1.0)
    return messages


def client_core(clones: int) -> tuple[Course, Course]:
    """Have the client's core accept, bind and send clones, and take in their outcomes; return how it did with both."""
    template, row = one_task()
    rows = clones_of(row, clones)
    core = ClientCore()
    nodes = [Node(0, "node0", NodeShape(CORES_PER_NODE))]
    core.handle(events.SessionOpened(0.0, 1))
    core.handle(events.ManagerCreated(0.0, "pmgr.0000", "pilots"))
    core.handle(events.ManagerCreated(0.0, _MANAGER, "tasks"))
    core.handle(events.PilotSubmitted(0.0, "pmgr.0000", _PILOT, msgspec.Raw(_encode({})), nodes))
    core.handle(events.PilotsAttached(0.0, _MANAGER, [_PILOT]))
    core.handle(events.AgentGreeted(0.0, _PILOT, 1, 0, nodes))
    chunks = [rows[first : first + CHUNK_TASKS] for first in range(0, clones, CHUNK_TASKS)]
    batches = [Batch({row.template: template} if not number else {}, chunk) for number, chunk in enumerate(chunks)]
    encoded = [msgspec.Raw(_encode(batch)) for batch in batches]
    taken: list[tuple[float, int]] = []
    done, begin = 0, time.process_time()
    for number, (batch, frame) in enumerate(zip(batches, encoded, strict=True), 1):
        core.handle(events.TasksSubmitted(0.0, _MANAGER, PilotUid(""), batch, frame))
        core.handle(events.LinkOpened(_PILOT, number))
        core.handle(events.AgentAcknowledged(0.0, _PILOT, number))
        done += len(batch.rows)
        taken.append((time.process_time() - begin, done))
    ends = [[_outcome(each) for each in chunk] for chunk in chunks]
    frames = [msgspec.Raw(_encode(some)) for some in ends]
    told: list[tuple[float, int]] = []
    done, begin = 0, time.process_time()
    for number, (some, frame) in enumerate(zip(ends, frames, strict=True), 1):
        core.handle(events.OutcomesArrived(0.0, _PILOT, number, some, frame))
        done += len(some)
        told.append((time.process_time() - begin, done))
    final = sum(record.outcome is not None for record in core.state.tasks.values())
    if final != clones:
        raise RuntimeError(f"the client's core has an outcome for {final} of {clones} tasks")
    return Course(taken), Course(told)


def _outcome(row: Row) -> Outcome:
    return Outcome(row.uid, Binding(1), Attempt(1), Ending.DONE, 0)


@contextmanager
def memory_folder() -> Iterator[Path]:
    """Give a folder that costs no disk, where the machine has such a place, and that goes away."""
    folder = Path(tempfile.mkdtemp(prefix="pilotage-bench-", dir=MEMORY_FOLDER))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
