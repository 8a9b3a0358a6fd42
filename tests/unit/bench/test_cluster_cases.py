"""Cases of clusters: what they want of a platform, and the loop that launches are compared with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pilotage.bench import cluster
from pilotage.bench.cases import CASES, CLUSTER_CASES
from pilotage.cli import bench
from pilotage.errors import InvalidRequest


def looped(folder: Path, count: int, most: int, line: str) -> int:
    """Run a line of shell so often, and return the exit code of the loop."""
    command = ["sh", "-c", cluster.SHELL_LOOP, "sh", str(count), str(most), "sh", "-c", line]
    return subprocess.run(command, cwd=folder, capture_output=True).returncode


def test_cases_of_clusters_have_names_of_their_own():
    assert not CASES.keys() & CLUSTER_CASES.keys()


@pytest.mark.parametrize("name", CLUSTER_CASES)
def test_a_platform_without_a_batch_system_is_refused(name):
    with pytest.raises(InvalidRequest, match=r"local\.localhost has no batch system; name one that has"):
        bench.load_cluster_cases("local.localhost")[name](True)


def test_launches_are_compared_with_srun_alone(tmp_path, monkeypatch):
    (tmp_path / "lab.toml").write_text('[green]\ndescription = "x"\nbatch = "pbspro"\nlaunch_methods = ["mpiexec"]\n')
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(tmp_path))

    with pytest.raises(InvalidRequest, match=r"lab\.green does not launch by srun"):
        cluster.launches(True, "lab.green")


def test_the_loop_runs_its_command_so_often(tmp_path):
    assert looped(tmp_path, 7, 3, "echo >$$.ran") == 0
    assert len(list(tmp_path.glob("*.ran"))) == 7


def test_the_loop_keeps_as_many_going_at_a_time(tmp_path):
    # Each waits for two others: were there fewer at a time, none would end.
    meet = 'touch $$.here; until [ "$(ls *.here | wc -l)" -ge 3 ]; do sleep 0.01; done'

    assert looped(tmp_path, 3, 3, meet) == 0


def test_the_loop_fails_with_its_command(tmp_path):
    assert looped(tmp_path, 3, 1, "exit 1") != 0
