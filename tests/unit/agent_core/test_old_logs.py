"""Records and snapshots that were written before there were staging, environments, services and slots are still read."""

from __future__ import annotations

import msgspec
from agent_builders import end, ended, fresh_core, launched_by, outcomes_of

from pilotage.core.agent import facts
from pilotage.core.agent.state import AgentState, apply
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request

TEMPLATE = {"executable": "/bin/true", "request": [1, 1, 0, 0, 0, 0, "", False], "retries": 1}
ROW = ["a", 1, [], None, ""]
RECORD = [
    [3, 0.0, "spawner.0", None, 0, ""],
    [4, 0.5, "spawner.0", 100, 7, "boot"],
    [1, 1.0, 1, 1, [{1: TEMPLATE}, [ROW]]],
    [6, 1.0, [[1, "spawner.0", [[0, 1, b"\x01"]], [["a", 1]]]]],
    [8, 1.5, [["a", 1, 1.25]]],
]
SNAPSHOT = {
    "templates": {1: TEMPLATE},
    "tasks": {"a": [ROW, 1, 1.0, 1, 1, 1.0, 1.25, 0, None, ""]},
    "lanes": {1: ["spawner.0", [[0, 1, b"\x01"]], 1, {"a": None}]},
    "runners": {"spawner.0": [None, 0, "", 100, 7, "boot", 0]},
    "runners_added": 1,
    "last_lane": 1,
    "received": 1,
    "numbered": 0,
    "delivered": 0,
    "unsent": [],
    "undelivered": {},
    "outcomes": 0,
    "ending": None,
    "ended": 0,
}


def state_of_record() -> AgentState:
    state = AgentState()
    for fact in msgspec.msgpack.decode(msgspec.msgpack.encode(RECORD), type=list[facts.Fact]):
        apply(state, fact)
    return state


def test_an_old_record_and_an_old_snapshot_say_the_same() -> None:
    snapshot = msgspec.msgpack.decode(msgspec.msgpack.encode(SNAPSHOT), type=AgentState)
    # A snapshot that was written before places were noted has none.
    assert msgspec.structs.replace(state_of_record(), places=[]) == snapshot
    assert state_of_record().places == ["a", 0]
    assert snapshot.templates[1].request == Request()  # type: ignore[index]


def test_an_agent_goes_on_from_an_old_log() -> None:
    core = fresh_core(state=state_of_record())
    core.recover(5.0)
    core.start(5.0)
    assert launched_by(core.handle(ended("spawner.0", 1, end("a", ending=Ending.EXITED), at=6.0))) == [("a", 2)]
    assert outcomes_of(core.handle(ended("spawner.0", 2, end("a", 2), at=7.0))) == [("a", Ending.DONE)]
