"""The way of descriptions into the session: checked, split into templates and rows, pickled, logged and bound.

A list is accepted as a whole or not at all: everything is checked and pickled before the first task is promised. Then it goes
out in messages of ``CHUNK_TASKS``, so that a pilot starts the first while the rest is encoded. A generator is read and
accepted chunk by chunk, so it may be longer than memory.

Tasks that wait for others of their list go out after these, as the core has to know whom a task waits for.

One lock serialises submissions, as the numbers of templates and of tasks run through the session. The engine never takes it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.client.dependencies import Dependencies, in_order
from pilotage.client.descriptions import Description
from pilotage.client.feasibility import Feasibility
from pilotage.client.gangs import Gangs
from pilotage.client.interrupts import Uninterrupted
from pilotage.client.large_arguments import LargeArguments
from pilotage.client.named_environments import NamedEnvironments
from pilotage.client.surroundings import SessionSurroundings
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import TemplateTable, fingerprint, is_empty, says_the_same
from pilotage.core.client import events
from pilotage.core.client.binding import CHUNK_TASKS
from pilotage.core.client.facts import Held
from pilotage.core.client.state import TaskRecord
from pilotage.errors import InvalidTask, SerializationError, nearest
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.payload import INLINE_LIMIT_BYTES, Blob, Payload
from pilotage.model.sandboxes import SHARD_ENTRIES
from pilotage.model.workload import Batch, Row, Template

if TYPE_CHECKING:
    from pilotage.client.session import Session
    from pilotage.client.task_manager import TaskManager

_encode = msgspec.msgpack.Encoder().encode

Descriptions = TaskDescription | Mapping[str, Any] | Iterable[TaskDescription | Mapping[str, Any]]


class Submissions:
    """Takes the submissions of all managers of a session, and opens what came back."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._table = TemplateTable(session.state.templates, SessionSurroundings(session))
        self._feasibility = Feasibility(session)
        self._gangs = Gangs(session)
        self._environments = NamedEnvironments(session)
        self.dependencies = Dependencies(session)
        # Templates that the table knows and no message has brought yet: those of a submission that was refused late.
        self._unsent: dict[TemplateId, Template] = {}
        self._last_number = -1

    def submit(self, manager: TaskManager, descriptions: Descriptions, pilot: str = "") -> Task | list[Task]:
        """Accept tasks; one description gives one handle, several a list. ``pilot``: the one to bind to.

        Raises:
            InvalidTask, SerializationError: what is wrong with which task.
            SessionClosed, SessionForked, BackendError
        """
        self._session.engine.require_owner()
        self._session.engine.check()
        if isinstance(descriptions, (TaskDescription, Mapping)):
            return self._accept(manager, [_description(descriptions)], pilot)[0]
        if isinstance(descriptions, (str, bytes, Description)) or not isinstance(descriptions, Iterable):
            raise InvalidTask(
                f"submit_tasks takes a TaskDescription, a dict, or several of them, not {descriptions!r:.80} "
                f"({type(descriptions).__name__})"
            )
        if isinstance(descriptions, Iterator):
            handles: list[Task] = []
            while chunk := [_description(one) for one in islice(descriptions, CHUNK_TASKS)]:
                handles += self._accept(manager, chunk, pilot)
            return handles
        return self._accept(manager, [_description(one) for one in descriptions], pilot)

    def _accept(self, manager: TaskManager, descriptions: list[TaskDescription], pilot: str) -> list[Task]:
        from pilotage.client.serialization import pack_arguments, pack_function, pack_metadata

        pins = [pilot or description._values.get("pilot") or "" for description in descriptions]
        for pin in {*pins} - {""}:
            self._require_pilot(pin)
        state = self._session.state
        known: list[tuple[TaskUid, int]] = []
        given: set[str] = set()
        metadata: dict[int, bytes] = {}
        position = -1

        def uid_of(description: TaskDescription) -> TaskUid:
            nonlocal position
            position += 1
            values = description._values
            if "metadata" in values and not is_empty(values["metadata"]):
                metadata[position] = pack_metadata(values["metadata"])
            uid = values.get("uid")
            if not uid:
                return self._new_uid(given)
            if uid in state.tasks or uid in given:
                known.append((TaskUid(uid), position))
            given.add(uid)
            return TaskUid(uid)

        with self._lock:
            large = LargeArguments(self._session.blobs)

            def pack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
                packed = pack_arguments(args, kwargs)
                return packed if len(packed) <= INLINE_LIMIT_BYTES else large.add(packed)

            split = self._table.split(
                descriptions,
                pack_function=pack_function,
                pack_arguments=pack,
                pack_payload=self._session.blobs.pack,
                uid_of=uid_of,
                first=len(state.tasks),
            )
            self._unsent.update(split.templates)
            self._environments.learn(split.templates)
            self._gangs.learn(split.templates)
            rows = large.named(split.rows)
            doubles = self._doubles(rows, metadata, split.held, known) if known else set()
            order: Sequence[int] = range(len(rows))
            if doubles:
                order = [position for position in order if position not in doubles]
                for count, position in enumerate(order, len(state.tasks)):
                    rows[position] = msgspec.structs.replace(rows[position], shard=count // SHARD_ENTRIES)
            self._feasibility.require(manager.uid, descriptions, rows, pins, doubles, self._template)
            gangs = self._gangs.joined(manager.uid, descriptions, rows, pins, doubles)
            held: dict[TaskUid, Held] = {}
            asked: dict[TaskUid, Held] = {}
            if split.held:
                said = {position: one for position, one in split.held.items() if position not in doubles}
                held = self.dependencies.held(descriptions, rows, said, self._template)
                asked = {uid: one for at, one in said.items() if held.get(uid := rows[at].uid, Held()) != one}
                positions = {rows[position].uid: position for position in order}
                order = [positions[uid] for uid in in_order(list(positions), held)]
                self._gangs.require_no_order(gangs, held, rows, positions)
            self._gangs.keep(gangs)
            for chunk in _chunks(order, pins):
                mine = rows[chunk.start : chunk.stop] if isinstance(chunk, range) else [rows[position] for position in chunk]
                self._send(manager, mine, PilotUid(pins[chunk[0]]), chunk, metadata, held, asked)
            if self._environments.any:
                self._environments.warn(manager.uid, ((rows[position].template, pins[position]) for position in order))
            records = state.tasks
            return [Task(manager, records[row.uid], description) for row, description in zip(rows, descriptions, strict=True)]

    def _send(
        self,
        manager: TaskManager,
        rows: list[Row],
        pinned: PilotUid,
        positions: Sequence[int],
        metadata: Mapping[int, bytes],
        held: Mapping[TaskUid, Held],
        asked: Mapping[TaskUid, Held],
    ) -> None:
        batch = Batch(self._unsent, rows)
        noted, waiting, more = {}, {}, {}
        if metadata:
            noted = {row.uid: metadata[at] for row, at in zip(rows, positions, strict=True) if at in metadata}
        if held:
            waiting = {row.uid: held[row.uid] for row in rows if row.uid in held}
        if asked:
            more = {row.uid: asked[row.uid] for row in rows if row.uid in asked}
        encoded = msgspec.Raw(_encode(batch))
        event = events.TasksSubmitted(time.time(), manager.uid, pinned, batch, encoded, noted, waiting, more)
        engine = self._session.engine
        with Uninterrupted(), engine.lock:
            engine.handle(event)
        self._unsent = {}

    def _template(self, number: TemplateId) -> Template:
        return self._unsent.get(number) or self._session.state.templates[number]

    def _new_uid(self, given: set[str]) -> TaskUid:
        tasks = self._session.state.tasks
        while True:
            self._last_number += 1
            uid = TaskUid(f"task.{self._last_number:06d}")
            if uid not in tasks and uid not in given:
                return uid

    def _doubles(
        self, rows: list[Row], metadata: dict[int, bytes], held: dict[int, Held], known: list[tuple[TaskUid, int]]
    ) -> set[int]:
        """Return the positions of tasks that the session, or an earlier part of this list, has already.

        Raises:
            InvalidTask: one of them is described differently.
        """
        state = self._session.state
        earlier = {rows[position].uid: position for position in reversed(range(len(rows)))}
        doubles = set()
        for uid, position in known:
            record = state.tasks.get(uid)
            if record is not None:
                before, noted, asked = record.row, state.metadata.get(uid), state.asked.get(uid)
            else:
                before, noted, asked = rows[earlier[uid]], metadata.get(earlier[uid]), held.get(earlier[uid])
            mine = self._fingerprint(rows[position], held.get(position))
            if self._fingerprint(before, asked) != mine or not _same(noted, metadata.get(position)):
                raise InvalidTask(
                    f"task {uid!r}: there is a task of this uid with another description; "
                    "give each task a uid of its own, or leave uid out"
                )
            doubles.add(position)
        return doubles

    def _fingerprint(self, row: Row, asked: Held | None) -> bytes:
        if isinstance(row.payload, Blob):
            # Its name tells where it lies, not only what it is.
            row = msgspec.structs.replace(row, payload=self.load(row.payload))
        return fingerprint(self._template(row.template), row, asked=asked)

    def _require_pilot(self, uid: str) -> None:
        pilots = self._session.state.pilots
        if uid not in pilots:
            raise InvalidTask(f"pilot={uid!r}: session {self._session.uid} has no such pilot{nearest(uid, pilots)}")

    # what came back

    def metadata(self, uid: TaskUid) -> Any:
        """Return the metadata of a task. Raises ``SerializationError`` if it cannot be opened here."""
        from pilotage.client.serialization import open_metadata

        pickled = self._session.state.metadata.get(uid)
        return {} if pickled is None else open_metadata(pickled)

    def load(self, payload: Payload) -> bytes:
        """Return the bytes of a payload. Raises ``BackendError`` if its blob is gone."""
        return self._session.blobs.load(payload)

    def open_result(self, payload: Payload) -> Any:
        """Return a result. Raises ``SerializationError`` if it cannot be opened here."""
        from pilotage.client.serialization import open_result

        return open_result(self.load(payload))

    def resolve(self, future: Future[Any], record: TaskRecord) -> None:
        """Give a future the result, or the error, of a final task."""
        if not future.set_running_or_notify_cancel():
            return
        manager = self._session.get_task_managers(record.manager)
        try:
            result = Task(manager, record).result()
        except BaseException as error:  # whatever the task raised, or its opening: it belongs to who holds the future
            future.set_exception(error)
        else:
            future.set_result(result)


def _chunks(order: Sequence[int], pins: Sequence[str]) -> Iterator[Sequence[int]]:
    """Cut positions into messages: of tasks that ask for the same pilot, and not too many."""
    if not any(pins):
        yield from (order[start : start + CHUNK_TASKS] for start in range(0, len(order), CHUNK_TASKS))
        return
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and end - start < CHUNK_TASKS and pins[order[end]] == pins[order[start]]:
            end += 1
        yield order[start:end]
        start = end


def _same(metadata: bytes | None, other: bytes | None) -> bool:
    if metadata == other:
        return True
    if metadata is None or other is None:
        return False
    from pilotage.client.serialization import open_metadata

    # Equal values may be pickled in different ways: the order of a dict, what is shared in it.
    try:
        return says_the_same(open_metadata(metadata), open_metadata(other))
    except SerializationError:
        return False


def _description(given: object) -> TaskDescription:
    if isinstance(given, TaskDescription):
        return given
    if isinstance(given, Mapping):
        return TaskDescription(given)
    raise InvalidTask(f"a task is described by a TaskDescription or a dict, not {given!r:.80} ({type(given).__name__})")
