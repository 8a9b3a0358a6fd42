"""What a task was promised by an agent that died is kept by the next one: its timeout, and where it ran."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, outcome_of, shell

import pilotage as rp
from pilotage.agent.settings import CONNECTION_FILE
from pilotage.model.outcome import Ending
from pilotage.wire.keys import read_connection


def kill_agent(pilot: rp.Pilot) -> None:
    os.kill(read_connection(Path(pilot.sandbox) / CONNECTION_FILE).pid, signal.SIGKILL)


def hang(reached: str) -> None:
    Path(reached).write_text("reached\n")
    time.sleep(1000)


@pytest.mark.parametrize("mode", ["executable", "function"])
def test_a_timeout_is_kept_by_the_next_agent(fresh: Campaign, tmp_path: Path, mode: str) -> None:
    pilot = fresh.start()
    reached = tmp_path / "reached"
    os.mkfifo(reached)
    if mode == "executable":
        described = shell(f"echo reached > {reached}; sleep 1000", timeout=4.0)
    else:
        described = rp.TaskDescription(function=hang, args=[str(reached)], timeout=4.0)
    task = fresh.tasks.submit_tasks(described)
    assert reached.read_text() == "reached\n"
    kill_agent(pilot)
    assert task.wait(timeout=PATIENCE_S) == rp.FAILED
    assert outcome_of(task).ending is Ending.TIMED_OUT


def test_a_task_finds_the_node_of_one_that_ran_under_an_agent_that_died(fresh: Campaign, tmp_path: Path) -> None:
    pilot = fresh.start(resource="local.emulated", nodes=4, cores_per_node=1)
    # All of them run at the same time, so each on a node of its own.
    together = f"touch {tmp_path}/$RP_TASK_ID; while [ $(ls {tmp_path} | wc -l) -lt 4 ]; do sleep 0.02; done"
    where = "echo $PILOTAGE_NODE"
    earlier = fresh.tasks.submit_tasks([shell(f"{together}; {where}") for _ in range(4)])
    fresh.tasks.wait_tasks(timeout=PATIENCE_S)
    assert len({task.stdout for task in earlier}) == 4
    kill_agent(pilot)
    for task in earlier:
        assert fresh.shell(where, tags={"task": task.uid}).stdout == task.stdout
