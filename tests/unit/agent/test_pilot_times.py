"""When a pilot began and ends, by the clock of the machine on which it runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pilotage.agent import startup
from pilotage.agent.bootstrap import CLAIM_FILE, claim
from pilotage.agent.settings import SETTINGS_FILE, PilotSettings, write_settings
from pilotage.model.ids import PilotUid, SessionUid

LONG_AGO_S = 1_000_000.0
RUNTIME_S = 600.0


@pytest.fixture
def settings(tmp_path: Path) -> PilotSettings:
    """Settings of a pilot that were written long ago, if the clock of whoever wrote them is to be believed."""
    folder = str(tmp_path)
    made = PilotSettings(
        session=SessionUid("s"),
        pilot=PilotUid("p"),
        session_folder=folder,
        pilot_folder=folder,
        blob_folder=folder,
        nodes=[],
        runtime_s=RUNTIME_S,
    )
    write_settings(made)
    os.utime(tmp_path / SETTINGS_FILE, (LONG_AGO_S, LONG_AGO_S))
    return made


def test_a_pilot_begins_with_its_bootstrap_whatever_the_clock_of_its_files_shows(
    settings: PilotSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert claim(str(tmp_path))
    now, since_boot = 5000.0, time.clock_gettime(time.CLOCK_BOOTTIME)
    monkeypatch.setattr(startup.time, "time", lambda: now)
    monkeypatch.setattr(startup.time, "clock_gettime", lambda clock: since_boot)
    began, deadline = startup.times_of(settings)
    # This process, which has the claim, began before now, and after the machine.
    assert now - since_boot <= began <= now
    assert deadline == began + RUNTIME_S
    since_boot, now = since_boot + 100.0, now + 100.0
    assert startup.times_of(settings) == (pytest.approx(began), pytest.approx(deadline))


@pytest.mark.parametrize("text", [None, "1 2 another-boot\n", ""])
def test_without_a_bootstrap_on_this_machine_its_files_tell(settings: PilotSettings, tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / CLAIM_FILE).write_text(text)
    assert startup.times_of(settings) == (LONG_AGO_S, LONG_AGO_S + RUNTIME_S)
