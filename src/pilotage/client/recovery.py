"""What a client's log holds: the state of a session, as the last program that had it left it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotage.core.client import facts
from pilotage.core.client.applying import apply
from pilotage.core.client.state import ClientState
from pilotage.log.reader import recover


def recover_state(folder: Path) -> ClientState:
    """Return the state that the client's log in ``folder`` holds.

    Raises:
        LogCorrupted: history cannot be trusted.
    """
    return recover_state_and_last(folder)[0]


def recover_state_and_last(folder: Path) -> tuple[ClientState, int]:
    """Return the same, and the number of the log's last record, for who follows it from there on."""
    recovered = recover(folder)
    state = ClientState()
    if recovered.snapshot is not None:
        state = msgspec.msgpack.decode(recovered.snapshot, type=ClientState)
    decoder = msgspec.msgpack.Decoder(list[facts.Fact])
    for _, record in recovered.records:
        for fact in decoder.decode(record):
            apply(state, fact)
    return state, recovered.last
