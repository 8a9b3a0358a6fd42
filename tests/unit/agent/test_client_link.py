"""The agent's end of the link to its client: whether a client that is gone is noticed."""

from __future__ import annotations

from pathlib import Path

from pilotage.agent.client_link import ClientLink
from pilotage.agent.settings import PilotSettings
from pilotage.core.agent.state import AgentState
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.wire.channel import Peer
from pilotage.wire.messages import PROTOCOL, ClientHello, FromAgent, Heartbeat


class Wire:
    """A channel whose peers may be gone, which is found out when something is sent."""

    def __init__(self) -> None:
        self.gone = False

    def send(self, peer: Peer, message: FromAgent | bytes) -> bool:
        return not self.gone

    def drop(self, peer: Peer) -> None:
        self.gone = True


def make_link(folder: Path) -> ClientLink:
    settings = PilotSettings(
        session=SessionUid("session"),
        pilot=PilotUid("pilot.0000"),
        session_folder=str(folder),
        pilot_folder=str(folder),
        blob_folder=str(folder),
        nodes=[],
    )
    return ClientLink(settings, AgentState(), 1, 0.0, lambda: None)


def test_a_client_that_is_lost_while_something_is_sent_is_noted_at_the_next_tick_which_is_due_at_once(tmp_path: Path) -> None:
    link, wire = make_link(tmp_path), Wire()
    assert link.next_event() == 0.0, "none has come yet"
    link.tick(5.0)
    assert (link.lost_since, link.next_event()) == (5.0, None)
    assert link.hello(6.0, wire, Peer(b"client"), ClientHello(PROTOCOL, SessionUid("session"), 1, 0))  # type: ignore[arg-type]
    assert link.lost_since is None and (link.next_event() or 0.0) > 6.0
    wire.gone = True
    link.send(Heartbeat())
    assert not link.connected
    assert link.next_event() == 0.0
    link.tick(7.0)
    assert (link.lost_since, link.next_event()) == (7.0, None)
