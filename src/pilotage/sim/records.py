"""The log of an agent, in memory: what it decided, as it would lie on disk. Only ``apply`` reads it back."""

from __future__ import annotations

import hashlib

import msgspec

from pilotage.core.agent import facts
from pilotage.core.agent.state import AgentState, apply

_SNAPSHOT_BYTES = 32 << 20

_encode = msgspec.msgpack.Encoder().encode
_decode_facts = msgspec.msgpack.Decoder(list[facts.Fact]).decode
_decode_state = msgspec.msgpack.Decoder(AgentState).decode


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


class AgentLog:
    """Records of facts; ``kept`` False: nobody will ever read them back, so they are not kept."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept
        self._snapshot = _encode(AgentState())
        self._records: list[bytes] = []
        self._bytes = 0

    def append(self, record: list[facts.Fact], state: AgentState) -> None:
        """Write a record, whose facts ``state`` has in it."""
        if not self.kept:
            return
        encoded = _encode(record)
        self._records.append(encoded)
        self._bytes += len(encoded)
        if self._bytes > _SNAPSHOT_BYTES:
            self._snapshot, self._bytes = _encode(state), 0
            self._records.clear()

    def recover(self) -> AgentState:
        """Return the state that the log holds."""
        state = _decode_state(self._snapshot)
        for record in self._records:
            for fact in _decode_facts(record):
                apply(state, fact)
        return state
