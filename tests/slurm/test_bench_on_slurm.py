"""What is measured on clusters, on a real one; and the script that starts one for those who have none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster, missing_slurm
from slurm_platform import platform_variables

from documentation_pages import ROOT
from pilotage.bench import cluster

SCRIPT = ROOT / "scripts" / "slurm-cluster"


@pytest.fixture
def platform(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a platform that is the cluster; sessions are in a folder of the test, of which none is left after it."""
    monkeypatch.setenv("PILOTAGE_HOME", str(tmp_path / "home"))
    for name, value in platform_variables(slurm, tmp_path).items():
        monkeypatch.setenv(name, value)
    yield "test.cluster"
    assert list((tmp_path / "home" / "sessions").iterdir()) == []
    assert slurm.jobs() == {}


def test_the_stages_of_a_start_follow_one_another(platform: str) -> None:
    known, *others = cluster.stages(platform)

    assert len(others) == len(cluster.STAGES) - 1
    assert others == sorted(others)
    assert 0.0 < known < others[-1]


def test_launches_are_those_of_one_job(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "medians", lambda rounds, *measures: [measure() for measure in measures])
    monkeypatch.setattr(cluster, "IN_FLIGHT", 4)

    (told,) = cluster.launches(True, platform)

    assert str(told["unit"]) == "tasks/s"
    assert float(str(told["value"])) > 0.0
    assert "a shell loop" in str(told["baseline"])


def test_a_command_runs_beside_a_cluster_of_its_own() -> None:
    if reason := missing_slurm():
        pytest.skip(reason)
    look = "sinfo --noheader --Node --partition=whole --format='%N %c %T'; echo $PILOTAGE_PLATFORMS; exit 3"

    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--nodes=2", "--cores=6", "sh", "-c", look],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )

    assert done.returncode == 3, done.stderr
    *nodes, described = done.stdout.splitlines()
    assert nodes == ["node1 6 idle", "node2 6 idle"]
    assert not Path(described.rpartition(":")[2]).exists()


def test_what_is_wrong_with_a_command_is_told() -> None:
    if reason := missing_slurm():
        pytest.skip(reason)

    done = subprocess.run([sys.executable, str(SCRIPT), "nonexistent-command"], capture_output=True, text=True)

    assert done.returncode == 127
    assert "nonexistent-command" in done.stderr
