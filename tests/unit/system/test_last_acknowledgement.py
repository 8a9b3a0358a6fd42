"""A pilot has said goodbye, and the connection breaks before the client's last acknowledgement."""

from __future__ import annotations

from pathlib import Path

import msgspec
from virtual_parts import NoPoll

from pilotage.client.pilot_link import PilotLink
from pilotage.core.client.state import PilotRecord, QueuedEnd
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.states import DONE
from pilotage.wire.messages import PROTOCOL, AgentHello


def test_a_link_to_an_ended_pilot_connects_again_and_sends_nothing_again() -> None:
    pilot = PilotRecord(PilotUid("p"), "pmgr.0000", msgspec.Raw(b"\x80"), [], numbered=1, unacknowledged={1: QueuedEnd(False)})
    link = PilotLink(SessionUid("s"), 1, pilot, Path("/nowhere"), NoPoll(), -1, 0.0)  # type: ignore[arg-type]
    pilot.state = DONE
    pilot.unacknowledged.clear()
    link.greeted(AgentHello(PROTOCOL, SessionUid("s"), PilotUid("p"), 1, 0, [], 0.0))
    assert link.is_open
