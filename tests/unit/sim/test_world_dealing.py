"""How evenly a metascheduler deals: equal tasks over equal partitions take as many generations as they must, and no more."""

from __future__ import annotations

import pytest
from simulated_tasks import ONE, Tasks, machine

from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.model.workload import Template
from pilotage.sim.result import Result
from pilotage.sim.world import simulate

PARTITIONS, CORES, SECONDS = 64, 56, 180.0


def run(tasks: int, declared_s: float = 0.0) -> Result:
    plan = [PartitionSpec(name=f"part{index}", nodes=1) for index in range(PARTITIONS)]
    templates = {ONE: Template(executable="/bin/true", duration_s=declared_s)}
    return simulate(machine(cores=CORES), Tasks([SECONDS] * tasks, templates), nodes=PARTITIONS, plan=plan)


@pytest.mark.parametrize("declared_s", [0.0, SECONDS])
@pytest.mark.parametrize("generations", [1, 2, 3, 4])
def test_equal_partitions_get_equally_much(generations: int, declared_s: float) -> None:
    result = run(generations * PARTITIONS * CORES, declared_s)
    assert result.outcomes == {Ending.DONE: generations * PARTITIONS * CORES}
    assert {part.starts for part in result.partitions} == {generations * CORES}
    assert result.makespan_s == generations * SECONDS


def test_what_does_not_come_out_even_takes_one_generation_more() -> None:
    result = run(3 * PARTITIONS * CORES + PARTITIONS // 2)
    assert result.makespan_s == 4 * SECONDS
