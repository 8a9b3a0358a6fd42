"""How evenly a metascheduler deals: equal tasks over equal partitions take as many generations as they must, and no more."""

from __future__ import annotations

import pytest
from simulated_tasks import ONE, Tasks, launcher, machine, uids

from pilotage.model.ids import TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.model.workload import Row, Template
from pilotage.sim.model import IDEAL, Arrival, Launcher
from pilotage.sim.result import Result
from pilotage.sim.world import World

PARTITIONS, CORES, SECONDS = 64, 56, 180.0
NAMES = [f"part{index}" for index in range(PARTITIONS)]


def run(tasks: int, declared_s: float = 0.0) -> Result:
    return simulated(Tasks([SECONDS] * tasks, {ONE: Template(executable="/bin/true", duration_s=declared_s)}))


def simulated(workload: Tasks, launcher: Launcher | dict[str, Launcher] = IDEAL) -> Result:
    plan = [PartitionSpec(name=name, nodes=1) for name in NAMES]
    return World(machine(cores=CORES), workload, nodes=PARTITIONS, plan=plan, launcher=launcher).finish()


@pytest.mark.parametrize("declared_s", [0.0, SECONDS])
@pytest.mark.parametrize("generations", [1, 2, 3, 4])
def test_equal_partitions_get_equally_much(generations: int, declared_s: float) -> None:
    result = run(generations * PARTITIONS * CORES, declared_s)
    assert result.outcomes == {Ending.DONE: generations * PARTITIONS * CORES}
    assert {part.starts for part in result.partitions} == {generations * CORES}
    assert result.makespan_s == generations * SECONDS


def test_tasks_that_all_are_of_their_own_kind_are_dealt_as_evenly() -> None:
    count = 2 * PARTITIONS * CORES
    templates = {
        TemplateId(1 + index): Template(executable="/bin/true", environment={"NUMBER": str(index)}) for index in range(count)
    }
    arrival = Arrival(0.0, [Row(uid, TemplateId(1 + index)) for index, uid in enumerate(uids(count))])
    result = simulated(Tasks((), templates, [arrival], seconds=dict.fromkeys(uids(count), SECONDS)))
    assert {part.starts for part in result.partitions} == {2 * CORES}
    assert result.makespan_s == 2 * SECONDS


@pytest.mark.parametrize(("tasks", "generations"), [(4, 1), (6, 2), (8, 2)])
def test_what_waits_behind_long_tasks_that_were_thought_short_is_had_back(tasks: int, generations: int) -> None:
    """Two partitions of two cores; one of them was given more of the long ones than the other, ahead of time."""
    plan = [PartitionSpec(name=name, nodes=1) for name in ("a", "b")]
    workload = Tasks([0.1] * 200 + [1000.0] * tasks, {ONE: Template(executable="/bin/true")})
    result = World(machine(cores=2), workload, nodes=2, plan=plan).finish()
    assert result.outcomes == {Ending.DONE: 200 + tasks}
    assert generations * 1000.0 < result.makespan_s < generations * 1000.0 + 30.0


def test_partitions_that_come_later_find_their_part() -> None:
    """Those that are there from the begin do two generations while the others come up for one, and then do one."""
    launchers = {name: IDEAL if index % 2 else launcher(startup_s=SECONDS) for index, name in enumerate(NAMES)}
    result = simulated(Tasks([SECONDS] * (3 * PARTITIONS * CORES // 2)), launcher=launchers)
    assert {part.name: part.starts // CORES for part in result.partitions} == {
        name: 2 if index % 2 else 1 for index, name in enumerate(NAMES)
    }
    assert result.makespan_s == 2 * SECONDS


def test_what_does_not_come_out_even_takes_one_generation_more() -> None:
    result = run(3 * PARTITIONS * CORES + PARTITIONS // 2)
    assert result.makespan_s == 4 * SECONDS
