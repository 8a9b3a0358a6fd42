"""The log of a process, in memory: what it decided, as it would lie on disk. Only ``apply`` reads it back."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

_SNAPSHOT_BYTES = 32 << 20

_encode = msgspec.msgpack.Encoder().encode


class Digest:
    """A digest of all facts of all processes, in the order in which they were decided; of nothing, if it is not wanted."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self._hash = hashlib.sha256()

    def note(self, some: object) -> None:
        """Take these facts in."""
        if self.wanted:
            self._hash.update(_encode(some))

    @property
    def text(self) -> str:
        """The digest, in hexadecimal; empty if it is not wanted."""
        return self._hash.hexdigest() if self.wanted else ""


State = TypeVar("State", bound=msgspec.Struct)
Fact = TypeVar("Fact")


class Log(Generic[State, Fact]):
    """Records of facts. ``kept`` False: nobody will ever read them back, so they are not kept."""

    def __init__(self, state: type[State], fact: Any, apply: Callable[[State, Fact], None], kept: bool) -> None:
        self.kept = kept
        self._apply = apply
        self._decode_state = msgspec.msgpack.Decoder(state).decode
        self._decode_facts = msgspec.msgpack.Decoder(list[fact]).decode
        self._snapshot = _encode(state())
        self._records: list[bytes] = []
        self._bytes = 0

    def append(self, record: list[Fact], state: State) -> None:
        """Write a record, whose facts ``state`` has in it."""
        if not self.kept:
            return
        encoded = _encode(record)
        self._records.append(encoded)
        self._bytes += len(encoded)
        if self._bytes > _SNAPSHOT_BYTES:
            self._snapshot, self._bytes = _encode(state), 0
            self._records.clear()

    def recover(self) -> State:
        """Return the state that the log holds."""
        state = self._decode_state(self._snapshot)
        for record in self._records:
            for fact in self._decode_facts(record):
                self._apply(state, fact)
        return state
