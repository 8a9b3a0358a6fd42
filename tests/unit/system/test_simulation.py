"""Large machines in virtual time, through the real cores and scheduler: all tasks end, and all that was held is free again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulated_campaign import SHAPE, campaign

from pilotage.core.scheduling import Scheduler
from pilotage.model.outcome import Ending
from pilotage.model.resources import GPU_SHARES
from pilotage.sim.result import Result
from pilotage.sim.world import World


def check_end(world: World, result: Result, nodes: int, tasks: int) -> None:
    assert result.outcomes == {Ending.DONE: tasks}
    (pilot,) = world.pilots.values()
    assert isinstance(pilot.policy, Scheduler)
    pilot.policy.check([])
    free = pilot.policy.free()
    assert free.idle_nodes == nodes
    assert (free.cores, free.gpu_shares) == (nodes * SHAPE.cores, nodes * SHAPE.gpus * GPU_SHARES)
    assert (free.memory, free.disk) == (nodes * SHAPE.memory, nodes * SHAPE.disk)
    assert pilot.core is not None
    state = pilot.core.state
    assert not state.tasks and not state.lanes and not state.unsent
    assert 0.0 < result.utilization <= 1.0


def test_a_campaign_of_all_kinds_of_tasks_on_two_thousand_nodes() -> None:
    world, result = campaign(2000, 20_000)
    check_end(world, result, 2000, 20_000)
    assert result.utilization > 0.5, "more than half of all cores are in use, the tail included"


@pytest.mark.slow
def test_a_hundred_thousand_tasks_on_ten_thousand_nodes() -> None:
    world, result = campaign(10_000, 100_000)
    check_end(world, result, 10_000, 100_000)


def test_the_same_campaign_has_the_same_history_under_every_hash_seed() -> None:
    program = "from simulated_campaign import campaign; print(campaign(50, 1000)[1].history)"
    histories = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert histories == {campaign(50, 1000)[1].history + "\n"}
