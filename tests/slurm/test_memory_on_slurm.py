"""Jobs and steps that use up their memory on a real Slurm, which keeps them to it by cgroups and says ``OUT_OF_MEMORY``.

Where there are no cgroups of version 1 for us, what Slurm then says is known from a recording alone (``test_batch_parsing``,
``test_spawner_mpi``). Slurm's other way, to look at what programs use (``jobacct_gather/linux`` with ``OverMemoryKill``), ends
jobs as FAILED by signal 9, and steps with words of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster, missing_memory_cgroups, missing_slurm
from slurm_processes import processes_of

from pilotage.client.pilot import Pilot
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.model.outcome import Ending

TAKE = "import sys; taken = b'1' * (int(sys.argv[1]) << 20); print('has it', flush=True)"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster that keeps jobs and steps to their memory."""
    if reason := missing_slurm() or missing_memory_cgroups():
        pytest.skip(reason)
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), nodes=2, keeps_to_memory=True) as cluster:
        yield cluster


def submit(session: Session, **attributes: Any) -> tuple[Pilot, TaskManager]:
    pilot: Pilot = PilotManager(session).submit_pilots(
        PilotDescription({"resource": "test.cluster", "runtime": 10, **attributes})
    )
    manager = TaskManager(session)
    manager.add_pilots(pilot)
    return pilot, manager


def take(manager: TaskManager, mib: int, **attributes: Any) -> Task:
    """Submit a task each of whose ranks takes so much memory."""
    described = TaskDescription(executable="python3", arguments=["-c", TAKE, str(mib)], **attributes)
    task: Task = manager.submit_tasks(described)
    return task


def wait_until(there: Callable[[], object], shown: Callable[[], object]) -> None:
    deadline = time.monotonic() + 2 * PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, shown()
        time.sleep(0.05)


def test_a_job_whose_first_process_is_killed_for_memory_has_that_outcome(session: Session) -> None:
    pilot, manager = submit(session, nodes=1, extra_options="--mem=300")
    pilot.wait("PMGR_ACTIVE", timeout=2 * PATIENCE_S)
    # The kernel would take the largest.
    [bootstrap] = [process for process, line in processes_of(Path(pilot.sandbox)).items() if "agent.bootstrap" in line]
    Path(f"/proc/{bootstrap}/oom_score_adj").write_text("1000")
    task = take(manager, 600)
    wait_until(lambda: pilot.job_outcome and task.outcome, lambda: (pilot.state, pilot.reason, pilot.job_state, task.outcome))
    assert (pilot.state, pilot.job_outcome) == ("FAILED", "OUT_OF_MEMORY"), pilot.reason
    assert f"its job {pilot.job} ran out of memory (OutOfMemory)" in pilot.reason


def test_a_task_that_uses_up_the_memory_of_its_step_is_told_so_and_others_go_on(session: Session) -> None:
    pilot, manager = submit(session, nodes=2)
    much = take(manager, 400, ranks=2, ranks_per_node=1, use_mpi=True, mem_per_rank=100)
    little = take(manager, 10, ranks=2, ranks_per_node=1, use_mpi=True, mem_per_rank=100)
    wait_until(lambda: much.outcome and little.outcome, lambda: (pilot.state, pilot.reason, much.outcome, little.outcome))
    assert much.outcome is not None and little.outcome is not None
    assert (much.outcome.ending, much.outcome.exit_code) == (Ending.OUT_OF_MEMORY, -9), much.outcome
    assert "ask for more memory" in much.outcome.message
    assert little.outcome.ending is Ending.DONE, little.outcome
    assert pilot.state == "PMGR_ACTIVE"


def test_a_task_beside_its_agent_is_killed_for_the_memory_of_the_job(session: Session) -> None:
    pilot, manager = submit(session, nodes=1, extra_options="--mem=300")
    much, little = take(manager, 600), take(manager, 10)
    wait_until(lambda: much.outcome and little.outcome, lambda: (pilot.state, pilot.reason, much.outcome, little.outcome))
    assert much.outcome is not None and little.outcome is not None
    assert (much.outcome.ending, little.outcome.ending) == (Ending.OUT_OF_MEMORY, Ending.DONE), (much.outcome, little.outcome)
    assert pilot.state == "PMGR_ACTIVE"
