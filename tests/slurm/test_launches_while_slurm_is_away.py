"""Tasks whose launcher meets a controller that is away, or that has just come back: they begin when it can be."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_allocation import Allocation
from slurm_cluster import OpenSlurm, SlurmCluster
from slurm_spawner import JobSpawner

from pilotage.model.outcome import Ending
from pilotage.model.workload import ALL_RANKS, Hooks
from pilotage.spawner.relaunches import PAUSES_S
from pilotage.wire.runner_messages import EndTasks

COUNT = 6
TOO_MUCH_MIB = 64_000
"""No node has as much, so that it is refused in the same words each time."""


@pytest.fixture
def cluster(open_slurm: OpenSlurm) -> SlurmCluster:
    return open_slurm(nodes=2)


@pytest.fixture
def driver(cluster: SlurmCluster, tmp_path: Path) -> Iterator[JobSpawner]:
    """A spawner on the first node of a job of two."""
    driver = JobSpawner(Allocation(cluster, "--nodes=2", "--gres=gpu:4"), tmp_path / "agent")
    driver.start()
    driver.start_runner("pilotage.spawner.main", "spawner.0")
    yield driver
    driver.close()


def launchers(driver: JobSpawner) -> list[int]:
    """Return the processes of all launchers that run."""
    mark = b"--job-name=pilotage:"
    return [
        int(path.parent.name) for path in Path("/proc").glob("[0-9]*/cmdline") if mark in _read(path) and _is_of(driver, path)
    ]


def _is_of(driver: JobSpawner, path: Path) -> bool:
    return f"SLURM_CONF={driver.allocation.slurm.configuration}".encode() in _read(path.with_name("environ"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_tasks_that_are_launched_while_the_controller_is_away_begin_when_it_is_back(
    driver: JobSpawner, cluster: SlurmCluster
) -> None:
    cluster.kill("slurmctld", signal.SIGTERM)
    nodes = [[0, 1], [1], [0]]
    for number in range(COUNT):
        driver.shell(f"task.{number}", nodes[number % len(nodes)], "echo ran >>ran")
    driver.shell("hooked", [0, 1], "echo ran >>ran", hooks=Hooks(pre_exec=((ALL_RANKS, "echo before >>ran"),)))
    driver.wait_for(lambda: len(launchers(driver)) >= COUNT + 1, 60.0, "all launchers wait")
    cluster.start_controller()

    for number in range(COUNT):
        end = driver.end_of(f"task.{number}")
        assert end.ending is Ending.DONE, end
        ran = (driver.sandbox(f"task.{number}") / "ran").read_text()
        assert ran == "ran\n" * len(nodes[number % len(nodes)])
        # What the launchers said in vain is gone.
        assert not (driver.sandbox(f"task.{number}") / f"task.{number}.err").exists()
    end = driver.end_of("hooked")
    assert end.ending is Ending.DONE, end
    assert sorted((driver.sandbox("hooked") / "ran").read_text().split()) == ["before", "before", "ran", "ran"]
    assert driver.steps() == set()


def test_a_task_that_is_cancelled_before_the_next_try_is_over(driver: JobSpawner) -> None:
    driver.shell("much", [0, 1], "echo ran >>ran", memory_mib=TOO_MUCH_MIB)
    error = driver.sandbox("much") / "much.err"
    driver.wait_for(lambda: error.exists() and "not available" in error.read_text(), 60.0, "it is refused")
    driver.send(EndTasks([("much", 1)], Ending.CANCELLED, "cancelled"))
    end = driver.end_of("much")
    assert (end.ending, end.message) == (Ending.CANCELLED, "cancelled")
    assert not (driver.sandbox("much") / "ran").exists()


@pytest.mark.slow
def test_what_is_refused_again_and_again_fails_with_the_words_of_the_launcher(driver: JobSpawner) -> None:
    driver.shell("much", [0, 1], "echo ran >>ran", memory_mib=TOO_MUCH_MIB)
    end = driver.wait_for_end("much", 60.0 + sum(PAUSES_S))
    assert end.ending is Ending.LAUNCH_FAILED
    assert "Memory required by task is not available" in end.message
    assert not (driver.sandbox("much") / "ran").exists()
