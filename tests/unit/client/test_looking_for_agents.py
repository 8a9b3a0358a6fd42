"""How often the address of an agent is looked for that is to come up in a job."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.client.pilot_link import AT_FIRST, JOB_LOOK_S, OFTEN, QUEUE_LOOK_S, PilotLink
from pilotage.core.client.state import JobRecord, PilotRecord
from pilotage.model.ids import PilotUid, SessionUid


class NoPoll:
    """Nothing is connected, so nothing is polled."""


def link_to(folder: Path, state: str = "") -> PilotLink:
    pilot = PilotRecord(PilotUid("p"), "pmgr.0000", msgspec.Raw(b"\x80"), [], job=JobRecord("slurm", "name", "1", state))
    return PilotLink(SessionUid("s"), 1, pilot, folder, NoPoll(), -1, 0.0)  # type: ignore[arg-type]


def pauses(link: PilotLink, looks: int) -> list[float]:
    """Return how long it waits after each of so many looks in vain."""
    found = []
    for _ in range(looks):
        now = link.retry_at
        assert now is not None and not link.tick(now)
        assert link.retry_at is not None
        found.append(round(link.retry_at - now, 6))
    return found


@pytest.mark.parametrize("state", ["", "queued"])
def test_at_first_it_may_come_up_before_its_job_is_told_to_run(tmp_path: Path, state: str) -> None:
    link = link_to(tmp_path, state)

    assert pauses(link, AT_FIRST + 2) == [JOB_LOOK_S] * AT_FIRST + [QUEUE_LOOK_S] * 2


def test_while_its_job_runs_it_is_looked_for_often(tmp_path: Path) -> None:
    link = link_to(tmp_path, "queued")
    pauses(link, AT_FIRST + 1)
    job = link.pilot.job
    assert job is not None
    job.state = "running"

    assert pauses(link, OFTEN - AT_FIRST) == [JOB_LOOK_S] * (OFTEN - AT_FIRST)
    assert pauses(link, 10)[-1] > JOB_LOOK_S


def test_it_is_time_when_the_address_is_there(tmp_path: Path) -> None:
    link = link_to(tmp_path, "queued")
    pauses(link, 3)
    (tmp_path / CONNECTION_FILE).touch()

    assert link.retry_at is not None
    assert link.tick(link.retry_at)
