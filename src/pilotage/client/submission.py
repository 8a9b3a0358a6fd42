"""The way of descriptions into the session: checked, split into templates and rows, pickled, logged and bound.

A list is accepted as a whole or not at all: everything is checked and pickled before the first task is promised. Then it goes
out in messages of ``CHUNK_TASKS``, so that a pilot starts the first while the rest is encoded. A generator is read and
accepted chunk by chunk, so it may be longer than memory.

Large arguments are stored while the list is pickled, not after it: what has just been pickled is still in the processor's
cache, and its memory serves for what is pickled next. Fresh memory for all of it costs three times the pickling.

One lock serialises submissions, as the numbers of templates and of tasks run through the session. The engine never takes it.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from pilotage.client.descriptions import Description
from pilotage.client.interrupts import Uninterrupted
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.templates import TemplateTable, fingerprint, is_empty, located, says_the_same
from pilotage.core.client import events
from pilotage.core.client.binding import CHUNK_TASKS, infeasible, usable_pilots
from pilotage.core.client.state import PilotRecord, TaskRecord
from pilotage.errors import InvalidTask, SerializationError, nearest
from pilotage.log.blobs import BlobStore
from pilotage.model.ids import PilotUid, TaskUid, TemplateId
from pilotage.model.payload import INLINE_LIMIT_BYTES, Blob, Payload
from pilotage.model.resources import Node, NodeShape
from pilotage.model.workload import Batch, Row, Template

if TYPE_CHECKING:
    from pilotage.client.session import Session
    from pilotage.client.task_manager import TaskManager

_encode = msgspec.msgpack.Encoder().encode

STORE_BYTES = 1 << 19
"""Pickled arguments that are written to the store together."""

_TO_BE_NAMED = Blob("", 0)

Descriptions = TaskDescription | Mapping[str, Any] | Iterable[TaskDescription | Mapping[str, Any]]


class Submissions:
    """Takes the submissions of all managers of a session, and opens what came back."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._table = TemplateTable(session.state.templates)
        # Templates that the table knows and no message has brought yet: those of a submission that was refused late.
        self._unsent: dict[TemplateId, Template] = {}
        self._last_number = -1
        self._counted: dict[PilotUid, tuple[list[Node], Mapping[NodeShape, int]]] = {}

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
            large = _LargeArguments(self._session.blobs)

            def pack(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Payload:
                packed = pack_arguments(args, kwargs)
                return packed if len(packed) <= INLINE_LIMIT_BYTES else large.add(packed)

            new, rows = self._table.split(
                descriptions,
                pack_function=pack_function,
                pack_arguments=pack,
                pack_payload=self._session.blobs.pack,
                uid_of=uid_of,
            )
            self._unsent.update(new)
            rows = large.named(rows)
            doubles = self._doubles(rows, metadata, known) if known else set()
            self._require_feasible(manager, descriptions, rows, pins, doubles)
            start = 0
            while start < len(rows):
                end = start + 1
                while end < len(rows) and end - start < CHUNK_TASKS and pins[end] == pins[start]:
                    end += 1
                chunk = rows[start:end]
                if doubles:
                    chunk = [row for number, row in enumerate(chunk, start) if number not in doubles]
                if chunk:
                    noted = {}
                    if metadata:
                        kept = range(start, end)
                        noted = {rows[at].uid: metadata[at] for at in kept if at in metadata and at not in doubles}
                    self._send(manager, chunk, PilotUid(pins[start]), noted)
                start = end
            records = state.tasks
            return [Task(manager, records[row.uid], description) for row, description in zip(rows, descriptions, strict=True)]

    def _send(self, manager: TaskManager, rows: list[Row], pinned: PilotUid, metadata: dict[TaskUid, bytes]) -> None:
        batch = Batch(self._unsent, rows)
        event = events.TasksSubmitted(time.time(), manager.uid, pinned, batch, msgspec.Raw(_encode(batch)), metadata)
        engine = self._session.engine
        with Uninterrupted(), engine.lock:
            engine.handle(event)
        self._unsent = {}

    def _new_uid(self, given: set[str]) -> TaskUid:
        tasks = self._session.state.tasks
        while True:
            self._last_number += 1
            uid = TaskUid(f"task.{self._last_number:06d}")
            if uid not in tasks and uid not in given:
                return uid

    def _doubles(self, rows: list[Row], metadata: dict[int, bytes], known: list[tuple[TaskUid, int]]) -> set[int]:
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
                before, noted = record.row, state.metadata.get(uid)
            else:
                before, noted = rows[earlier[uid]], metadata.get(earlier[uid])
            mine = rows[position]
            if self._fingerprint(before) != self._fingerprint(mine) or not _same(noted, metadata.get(position)):
                raise InvalidTask(
                    f"task {uid!r}: there is a task of this uid with another description; "
                    "give each task a uid of its own, or leave uid out"
                )
            doubles.add(position)
        return doubles

    def _fingerprint(self, row: Row) -> bytes:
        template = self._unsent.get(row.template) or self._session.state.templates[row.template]
        if isinstance(row.payload, Blob):
            # Its name tells where it lies, not only what it is.
            row = msgspec.structs.replace(row, payload=self.load(row.payload))
        return fingerprint(template, row)

    def _require_feasible(
        self,
        manager: TaskManager,
        descriptions: list[TaskDescription],
        rows: list[Row],
        pins: list[str],
        doubles: set[int],
    ) -> None:
        """Refuse what could only be bound to pilots none of which can ever run it; one look per template, not per task.

        Raises:
            InvalidTask: says of which resource there is too little.
        """
        if not any(pins):
            asked: set[tuple[TemplateId, str]] = {(template, "") for template in {row.template for row in rows}}
        else:
            asked = {(row.template, pin) for row, pin in zip(rows, pins, strict=True)}
        state = self._session.state
        # Under the engine's lock a pilot's nodes and its state belong together.
        with self._session.engine.lock:
            usable = self._shapes_of(usable_pilots(state, state.managers[manager.uid]))
            for template, pin in sorted(asked):
                pilots = self._shapes_of([state.pilots[PilotUid(pin)]]) if pin else usable
                reason = infeasible((self._unsent.get(template) or state.templates[template]).request, pilots)
                if not reason:
                    continue
                for position, row in enumerate(rows):
                    if row.template == template and pins[position] == pin and position not in doubles:
                        raise located(InvalidTask(reason), descriptions[position], position, len(rows))

    def _shapes_of(self, pilots: Iterable[PilotRecord]) -> dict[PilotUid, Mapping[NodeShape, int]]:
        shapes: dict[PilotUid, Mapping[NodeShape, int]] = {}
        for pilot in pilots:
            nodes, counted = self._counted.get(pilot.uid, (None, {}))
            # A pilot of ten thousand nodes is counted once, not for each of the tasks that are submitted one by one.
            if nodes is not pilot.nodes:
                counted = Counter(node.shape for node in pilot.nodes)
                self._counted[pilot.uid] = (pilot.nodes, counted)
            shapes[pilot.uid] = counted
        return shapes

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


class _LargeArguments:
    """Arguments above the limit, on their way from pickling to the store, a batch at a time."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._packed: list[bytes] = []
        self._packed_bytes = 0
        self._names: list[Payload] = []

    def add(self, packed: bytes) -> Payload:
        """Take arguments, and return what stands for them in the row until ``named``."""
        self._packed.append(packed)
        self._packed_bytes += len(packed)
        if self._packed_bytes >= STORE_BYTES:
            self._store()
        return _TO_BE_NAMED

    def named(self, rows: list[Row]) -> list[Row]:
        """Return the rows with the names of what was added, in the order in which it was; all of it is stored then."""
        self._store()
        if not self._names:
            return rows
        names = iter(self._names)
        replace = msgspec.structs.replace
        return [replace(row, payload=next(names)) if row.payload is _TO_BE_NAMED else row for row in rows]

    def _store(self) -> None:
        self._names += self._blobs.put_many(self._packed)
        self._packed.clear()
        self._packed_bytes = 0


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
