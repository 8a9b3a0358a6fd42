"""The bootstrap's claim: of all bootstraps that were ever started for a pilot one has it, and who it is can be found."""

from __future__ import annotations

import os
from pathlib import Path

from pilotage.agent.bootstrap import CLAIM_FILE, claim
from pilotage.client.launcher import claimed_by
from pilotage.system.processes import boot_id, is_alive, started_ticks


def test_nobody_has_a_pilot_that_was_not_started(tmp_path: Path) -> None:
    assert claimed_by(tmp_path) is None


def test_who_claims_first_has_the_pilot(tmp_path: Path) -> None:
    assert claim(os.fspath(tmp_path))
    assert claimed_by(tmp_path) == (os.getpid(), started_ticks(os.getpid()), boot_id())
    assert is_alive(*claimed_by(tmp_path) or (0, 0, ""))


def test_who_comes_later_leaves_it_alone(tmp_path: Path) -> None:
    (tmp_path / CLAIM_FILE).write_text("1 2 another-boot\n")
    assert not claim(os.fspath(tmp_path))
    assert claimed_by(tmp_path) == (1, 2, "another-boot")
    assert os.listdir(tmp_path) == [CLAIM_FILE]
