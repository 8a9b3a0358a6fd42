"""Messages as frames."""

from __future__ import annotations

import msgspec
import pytest

from pilotage.errors import ProtocolError
from pilotage.model.ids import Attempt, Binding, PilotUid, SessionUid, TaskUid
from pilotage.model.outcome import Ending, Outcome
from pilotage.model.partitions import Load
from pilotage.model.resources import Node, NodeShape
from pilotage.wire import codec
from pilotage.wire.codec import decode_from_agent, decode_from_client, encode
from pilotage.wire.messages import (
    Acknowledge,
    AgentHello,
    AskLoad,
    Cancel,
    ClientHello,
    EndPilot,
    FromAgent,
    FromClient,
    Heartbeat,
    Inspect,
    Inspection,
    Outcomes,
    PilotEnded,
    Progress,
    Refused,
    Submit,
)

TASK = TaskUid("task.000001")
OUTCOME = Outcome(TASK, Binding(1), Attempt(1), Ending.EXITED, 3)

FROM_CLIENT: list[FromClient] = [
    ClientHello(1, SessionUid("s"), 3, 17, observer=True),
    Heartbeat(),
    Acknowledge(5, 4),
    Cancel(3, [(TASK, Binding(1))]),
    EndPilot(4, drain=True),
    EndPilot(5, failure="service 'db' of the pilot ended before it was ready"),
    Inspect(1, TASK),
    AskLoad(0.5),
]
FROM_AGENT: list[FromAgent] = [
    AgentHello(1, SessionUid("s"), PilotUid("p"), 2, 9, [Node(0, "n0", NodeShape(4))], 1.5),
    Refused("no"),
    Heartbeat(),
    Acknowledge(5, 4),
    PilotEnded(9, "DONE", "drained"),
    Progress([(TASK, Binding(1), Attempt(1), 2.5)]),
    Progress([], unloading=[(TASK, Binding(1), Attempt(1))]),
    Progress([], load=Load(waiting=3, free_cores=5, running=7)),
    Inspection(1, {"state": "waiting", "cores": 3, "why": ["a", "b"]}),
]


@pytest.mark.parametrize("message", FROM_CLIENT, ids=lambda message: type(message).__name__)
def test_a_message_of_a_client_arrives_as_it_was(message: FromClient) -> None:
    assert decode_from_client(encode(message)) == message


@pytest.mark.parametrize("message", FROM_AGENT, ids=lambda message: type(message).__name__)
def test_a_message_of_an_agent_arrives_as_it_was(message: FromAgent) -> None:
    assert decode_from_agent(encode(message)) == message


def test_an_encoded_batch_passes_untouched() -> None:
    encoded = msgspec.msgpack.encode([OUTCOME])
    arrived = decode_from_agent(encode(Outcomes(7, msgspec.Raw(encoded))))
    assert isinstance(arrived, Outcomes)
    assert bytes(arrived.outcomes) == encoded
    assert msgspec.msgpack.decode(arrived.outcomes, type=list[Outcome]) == [OUTCOME]
    submitted = decode_from_client(encode(Submit(1, Binding(2), msgspec.Raw(encoded))))
    assert isinstance(submitted, Submit)
    assert bytes(submitted.batch) == encoded


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x92",
        encode(Heartbeat()) + b"\x00",
        encode(Refused("r")),
        b"\x91\x63",
        b"\x92\x0c\xa2\xff\xff",
        b"\x91" * 5000,
    ],
    ids=["empty", "reserved", "cut", "longer", "an agent's", "unknown tag", "no UTF-8", "deep"],
)
def test_what_is_no_message_of_a_client_is_named_so(frame: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"a frame of {len(frame)} bytes is no message of a client"):
        decode_from_client(frame)


def test_a_message_that_exceeds_a_frame_is_refused_by_its_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_FRAME_BYTES", 10)
    with pytest.raises(ProtocolError, match="exceeds the 10 bytes of a frame; send fewer tasks at once"):
        encode(Refused("a long story"))
