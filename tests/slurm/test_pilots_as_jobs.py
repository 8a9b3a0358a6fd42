"""Pilots as jobs of a real Slurm, from a session's point of view."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster

from pilotage.client.pilot import Pilot
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager

PLATFORM = """
[cluster]
description = "the cluster of the tests"
batch = "slurm"
launch_methods = ["srun"]
emulated = true
cores_per_node = 8
gpus_per_node = 4
memory_per_node_mib = 16000
disk_per_node_mib = 16000
"""


@pytest.fixture
def session(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session on this machine, whose platform ``test.cluster`` is the cluster."""
    (tmp_path / "test.toml").write_text(PLATFORM)
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(tmp_path / "test.toml"))
    for name, value in slurm.variables.items():
        monkeypatch.setenv(name, value)
    with Session(base=tmp_path / "sessions") as session:
        yield session


def submit(session: Session, **attributes: Any) -> Pilot:
    """Submit a pilot of one node, or as told."""
    size = {} if attributes.keys() & {"nodes", "cores", "gpus"} else {"nodes": 1}
    manager = PilotManager(session)
    pilot: Pilot = manager.submit_pilots(PilotDescription({"resource": "test.cluster", "runtime": 10, **size, **attributes}))
    return pilot


def wait_until(there: Callable[[], object], shown: Callable[[], object]) -> None:
    """Return when something is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.05)


def test_tasks_run_on_the_four_nodes_of_a_pilot(session: Session, slurm: SlurmCluster) -> None:
    pilot = submit(session, nodes=4)
    tasks = TaskManager(session)
    tasks.add_pilots(pilot)
    handles = tasks.submit_tasks(
        [
            TaskDescription(executable="/bin/sh", arguments=["-c", "echo $PILOTAGE_NODE; sleep 0.5"], cores_per_rank=2)
            for _ in range(16)
        ]
    )
    tasks.wait_tasks(timeout=PATIENCE_S)
    assert {task.state for task in handles} == {"DONE"}, (pilot.state, pilot.reason)
    assert {task.stdout.strip() for task in handles} == set(slurm.node_names)
    assert pilot.job in slurm.jobs()
