"""The whole campaign on a real pilot, with so few steps that its numbers mean nothing but its course is the same."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

np = pytest.importorskip("numpy", reason="the demo needs numpy")
pytest.importorskip("openmm", reason="the demo's molecular dynamics needs openmm")
pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
rp = pytest.importorskip("pilotage")

import analysis  # noqa: E402

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not hasattr(rp, "Session"), reason="this installation of pilotage has no Session")
def test_the_campaign_adapts_draws_and_accounts_for_its_time(demo_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, demo_folder / "campaign.py", "--steps", "100", "--molecules", "150"]
    done = subprocess.run(
        [*map(str, command), "--output", str(tmp_path)], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "results.json").read_text())

    first, second = ([analysis.ReplicaSummary(**one) for one in replicas] for replicas in results["rounds"])
    assert sorted({one.temperature_kelvin for one in first}) == [280.0, 325.0, 370.0]
    chosen = analysis.choose_temperatures(first, range(275, 371, 5), len(second))
    assert [one.temperature_kelvin for one in second] == chosen, "round 2 samples where round 1's results say"
    assert len({one.seed for one in [*first, *second]}) == len(first) + len(second)
    assert len(results["lipids"]) == 7

    for figure in ("water.png", "lipids.png", "utilisation.png"):
        assert (tmp_path / figure).read_bytes().startswith(PNG)
    spent = results["core_seconds"]
    assert all(spent[stage] > 0.0 for stage in ("round 1", "round 2", "lipids", "analysis", "startup"))
    assert sum(spent.values()) == pytest.approx(results["pilot_cores"] * results["pilot_seconds"], rel=0.01)
    assert done.stdout.splitlines()[-1].endswith(str(tmp_path))
