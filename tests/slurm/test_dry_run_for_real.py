"""What submitting a pilot would come to, asked of a real Slurm, which has no job then."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster

from pilotage.batch.commands import LocalRunner
from pilotage.client.dry_run import DryRun, dry_run
from pilotage.client.pilot_description import PilotDescription
from pilotage.platforms.platform import Platform


def tried(slurm: SlurmCluster, folder: Path, **attributes: object) -> DryRun:
    on = Platform(name="test.cluster", batch="slurm", queue="whole", cores_per_node=8, sandbox=str(folder / "pilots"))
    description = PilotDescription({"resource": on.name, "nodes": 2, "runtime": 10, **attributes})
    return dry_run(on, description, runner=LocalRunner(slurm.environment))


def test_an_idle_cluster_would_begin_at_once(slurm: SlurmCluster, tmp_path: Path) -> None:
    made = tried(slurm, tmp_path)
    assert made.refused == ""
    assert made.start_s is not None and abs(made.start_s - time.time()) < 600
    assert "node-hours at most" in made.text()
    assert slurm.jobs() == {}
    assert [*tmp_path.iterdir()] == []


def test_a_busy_one_begins_when_there_is_room(slurm: SlurmCluster, tmp_path: Path) -> None:
    job = slurm.submit("--nodes=4", "--time=30", "--wrap=exec sleep infinity")
    slurm.wait_for_job(job, "RUNNING")
    begun = time.time()
    made = tried(slurm, tmp_path)
    assert made.start_s is not None and made.start_s > begun + 600
    assert set(slurm.jobs()) == {job}


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"queue": "nowhere"}, "(queue): "),
        ({"nodes": 40}, "(limit): "),
        ({"constraints": ["diamond"]}, "(limit): "),
    ],
)
def test_what_it_would_refuse_is_told_in_its_words(
    slurm: SlurmCluster, tmp_path: Path, attributes: dict[str, object], said: str
) -> None:
    made = tried(slurm, tmp_path, **attributes)
    assert made.start_s is None
    assert said in made.refused
    assert "would refuse it: " in made.text()
