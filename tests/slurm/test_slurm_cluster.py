"""The clusters that the tests start: they come up, they leave nothing behind however a test run ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import OpenSlurm, SlurmCluster, missing_slurm
from slurm_processes import processes_of

HOLDER = """
import sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from slurm_cluster import OpenSlurm, SlurmCluster

cluster = SlurmCluster(Path(sys.argv[2]), nodes=1)
cluster.start()
job = cluster.submit(sys.argv[3])
cluster.wait_until(lambda: "started" in cluster.job_output(job), "the job runs")
client = cluster.popen("srun", "--nodes=1", "sleep", "infinity")
print("up", flush=True)
sys.stdin.read()
"""
DAEMON_JOB = (
    "--wrap=setsid sleep infinity & (setsid sh -c 'sleep infinity; true' &) ; echo started; srun --overlap sleep infinity"
)


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where there is nothing yet; a short path, as sockets lie below it."""
    return tmp_path_factory.mktemp("c") / "c"


def test_a_cluster_leaves_neither_processes_nor_ports(open_slurm: OpenSlurm) -> None:
    cluster = open_slurm(nodes=2)
    ports = [held.getsockname()[1] for held in cluster._held_ports]
    job = cluster.submit(DAEMON_JOB)
    cluster.wait_until(lambda: "started" in cluster.job_output(job) and cluster.steps(job), "the job runs")
    client = cluster.popen("srun", "--nodes=1", "sleep", "infinity")
    before = processes_of(cluster.folder)
    assert sum("sleep infinity" in line for line in before.values()) >= 2, before

    cluster.stop()

    assert processes_of(cluster.folder) == {}
    assert client.returncode is not None
    for port in ports:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_test_run_that_is_killed_leaves_nothing(slurm: SlurmCluster, folder: Path, how: signal.Signals) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(Path(__file__).parent), str(folder), DAEMON_JOB],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={name: value for name, value in os.environ.items() if str(folder) not in value},
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "up\n"
    assert len(processes_of(folder)) > 5

    holder.send_signal(how)
    holder.communicate()

    slurm.wait_until(lambda: not processes_of(folder), lambda: f"nothing is left; there is {processes_of(folder)}")


def test_a_failed_start_leaves_nothing_and_tells_why(folder: Path) -> None:
    cluster = SlurmCluster(folder, nodes=1, extra="NoSuchParameter=1")

    with pytest.raises(AssertionError, match="NoSuchParameter"):
        cluster.start()

    assert processes_of(cluster.folder) == {}


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="TMPDIR"):
        SlurmCluster(tmp_path / ("x" * 80)).start()


def test_clusters_beside_each_other_know_only_their_own_jobs(slurm: SlurmCluster, open_slurm: OpenSlurm) -> None:
    other = open_slurm(nodes=1, cores=2, gpus=0)
    jobs = [cluster.submit("--wrap=sleep infinity", "--job-name=mine") for cluster in (slurm, other)]
    for cluster, job in zip((slurm, other), jobs, strict=True):
        assert cluster.wait_for_job(job, "RUNNING")["JobName"] == "mine"

    other.output("scancel", "--name=mine")

    other.wait_for_job(jobs[1], "CANCELLED")
    assert slurm.job(jobs[0])["JobState"] == "RUNNING"


def test_who_has_not_the_key_of_a_cluster_is_not_heard(slurm: SlurmCluster, open_slurm: OpenSlurm) -> None:
    other = open_slurm(nodes=1)
    stranger = slurm.folder / "stranger.conf"
    stranger.write_text(other.configuration.read_text().replace(f"{other.folder}/munge", f"{slurm.folder}/munge"))

    refused = slurm.run("sbatch", "--wrap=true", environment={"SLURM_CONF": str(stranger)})

    assert refused.returncode != 0
    assert "job submission failed" in refused.stderr
    assert other.jobs() == {}


def test_what_slurm_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slurm_cluster._PATH", "/nonexistent")

    assert "slurmctld" in missing_slurm() and "scripts/get-slurm" in missing_slurm()


def test_who_is_not_known_to_slurm_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2**31)

    assert "/etc/passwd" in missing_slurm() and str(2**31) in missing_slurm()
