"""What ``pilotage watch`` shows on a terminal."""

from __future__ import annotations

import io

import msgspec
from rich.console import Console

from pilotage.cli.watch import View
from pilotage.core.client.state import ClientState, JobRecord, PilotRecord
from pilotage.model.ids import PilotUid
from pilotage.model.resources import Node, NodeShape
from pilotage.model.states import PMGR_ACTIVE, PMGR_ACTIVE_PENDING


def shown(pilot: PilotRecord) -> str:
    screen = io.StringIO()
    Console(file=screen, width=120).print(View(ClientState(pilots={pilot.uid: pilot})).render("water"))
    return screen.getvalue()


def test_a_pilot_that_waits_in_a_queue_is_shown_with_what_the_queue_says() -> None:
    job = JobRecord("slurm", "pilotage.water", "12", "queued", "Resources")
    nodes = [Node(0, "node0", NodeShape(8, 0))]
    pilot = PilotRecord(PilotUid("p"), "pmgr.0000", msgspec.Raw(b"\x80"), nodes, PMGR_ACTIVE_PENDING, job=job)
    assert "p  PMGR_ACTIVE_PENDING  8 cores, 0 tasks on it\n  its job 12 is queued: Resources\n" in shown(pilot)
    pilot.state, job.state = PMGR_ACTIVE, "running"
    assert "its job" not in shown(pilot)
