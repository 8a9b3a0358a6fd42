"""What an agent's log holds: the state that it left, and the tasks that it was last busy with."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pilotage.core.agent import events, facts
from pilotage.core.agent.core import AgentCore
from pilotage.core.agent.state import AgentState, apply
from pilotage.core.scheduling import make_policy
from pilotage.log.reader import recover
from pilotage.model.ids import TaskUid
from pilotage.model.partitions import PolicySpec
from pilotage.model.resources import Node

State = TypeVar("State")


def recover_state(folder: Path) -> tuple[AgentState, int]:
    """Return the state that the log in ``folder`` holds, and the number of its last record.

    Raises:
        LogCorrupted: history cannot be trusted.
    """
    return recover_any(folder, AgentState, facts.Fact, apply)


def recover_any(folder: Path, kind: type[State], fact: Any, fold: Callable[[State, Any], None]) -> tuple[State, int]:
    """Do the same for a log of another kind: of states ``kind``, which facts of the union ``fact`` change by ``fold``."""
    recovered = recover(folder)
    state = kind() if recovered.snapshot is None else msgspec.msgpack.decode(recovered.snapshot, type=kind)
    decoder = msgspec.msgpack.Decoder(list[fact])
    for _, record in recovered.records:
        for each in decoder.decode(record):
            fold(state, each)
    return state, recovered.last


def tasks_of_last_record(folder: Path) -> list[TaskUid]:
    """Return the tasks that the last record of the log in ``folder`` names; none if a snapshot stands in its place."""
    return tasks_named_last(folder, facts.Fact, facts.tasks_named)


def tasks_named_last(folder: Path, fact: Any, named: Callable[[Any], Iterable[TaskUid]]) -> list[TaskUid]:
    """Do the same for a log of another kind; ``named`` returns the tasks that a fact names."""
    last: list[Any] = []
    decoder = msgspec.msgpack.Decoder(list[fact])
    for number, record in (recovered := recover(folder)).records:
        if number == recovered.last:
            last = decoder.decode(record)
    return [uid for each in last for uid in named(each)]


def leave_nodes(
    state: AgentState, scheduler: PolicySpec, nodes: Sequence[Node], hosts: Sequence[int], reason: str
) -> list[facts.Fact]:
    """Note, in this recovered state too, that all runners are gone that were on these nodes, which the pilot has no more.

    Tasks that may run again do so, as after the loss of any runner. The facts have to be in the log before anything is placed
    on the nodes that it has now.
    """
    now = time.time()
    core = AgentCore(make_policy(scheduler, nodes), state=state, hosts=hosts)
    core.recover(now)
    # Nothing is placed here; and all that is to be done follows from the state, for the core that has the new nodes.
    noted = list(core.handle(events.StorageFilled(now, reason)).facts)
    for runner in list(state.runners):
        noted += core.handle(events.RunnerLost(now, runner, reason, None, None, [])).facts
    renewed = facts.NodesRenewed(now, reason)
    apply(state, renewed)
    return [*noted, renewed]
