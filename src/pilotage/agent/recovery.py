"""What an agent's log holds: the state that it left, and the tasks that it was last busy with."""

from __future__ import annotations

from pathlib import Path

import msgspec

from pilotage.core.agent import facts
from pilotage.core.agent.state import AgentState, apply
from pilotage.log.reader import recover
from pilotage.model.ids import TaskUid


def recover_state(folder: Path) -> tuple[AgentState, int]:
    """Return the state that the log in ``folder`` holds, and the number of its last record.

    Raises:
        LogCorrupted: history cannot be trusted.
    """
    recovered = recover(folder)
    state = AgentState()
    if recovered.snapshot is not None:
        state = msgspec.msgpack.decode(recovered.snapshot, type=AgentState)
    decoder = msgspec.msgpack.Decoder(list[facts.Fact])
    for _, record in recovered.records:
        for fact in decoder.decode(record):
            apply(state, fact)
    return state, recovered.last


def tasks_of_last_record(folder: Path) -> list[TaskUid]:
    """Return the tasks that the last record of the log in ``folder`` names; none if a snapshot stands in its place."""
    last: list[facts.Fact] = []
    decoder = msgspec.msgpack.Decoder(list[facts.Fact])
    for number, record in (recovered := recover(folder)).records:
        if number == recovered.last:
            last = decoder.decode(record)
    return [uid for fact in last for uid in facts.tasks_named(fact)]
