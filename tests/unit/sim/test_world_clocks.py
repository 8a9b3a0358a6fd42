"""Clocks that differ, between a client, its agents and their runners: nothing ends before its time, or after it."""

from __future__ import annotations

import random

import pytest
from simulated_tasks import Tasks, machine, uids

from pilotage.model.ids import TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.model.workload import Row, Template
from pilotage.sim.model import Arrival, Faults
from pilotage.sim.result import Result
from pilotage.sim.world import World

PILOT = "pilot.0000"
SKEWS = pytest.mark.parametrize("skew_s", [0.0, 0.5, 30.0, 4000.0])
PLAN = [PartitionSpec(name="left", nodes=2), PartitionSpec(name="right", nodes=2)]


def with_timeouts(seed: int) -> Tasks:
    """Tasks of which some last longer than their timeout, and some may try again; no two times are equal."""
    chance = random.Random(seed)
    templates = {
        TemplateId(1): Template(executable="/bin/true", timeout_s=20.0),
        TemplateId(2): Template(executable="/bin/true", timeout_s=7.0, retries=1),
        TemplateId(3): Template(executable="/bin/true"),
    }
    names = uids(60)
    tasks = [Row(uid, TemplateId(chance.choice((1, 2, 3)))) for uid in names]
    seconds = {uid: chance.choice((3.0, 6.5, 19.5, 20.5, 50.0)) + chance.random() / 4 for uid in names}
    return Tasks((), templates, [Arrival(0.0, tasks)], seconds=seconds)


def run(workload: Tasks, skew_s: float, **more: object) -> Result:
    faults = Faults(clock_skew_s=skew_s, **more.pop("faults", {}))  # type: ignore[arg-type]
    return World(machine(), workload, nodes=4, faults=faults, **more).finish()  # type: ignore[arg-type]


@SKEWS
@pytest.mark.parametrize("plan", [(), PLAN], ids=["pilot", "partitions"])
def test_timeouts_are_counted_from_the_start_whatever_clocks_show(skew_s: float, plan: list[PartitionSpec]) -> None:
    plain = run(with_timeouts(3), 0.0, plan=plan)
    skewed = run(with_timeouts(3), skew_s, plan=plan)
    assert plain.outcomes[Ending.TIMED_OUT] > 5
    assert (skewed.outcomes, skewed.starts) == (plain.outcomes, plain.starts)
    assert skewed.makespan_s == pytest.approx(plain.makespan_s, abs=1e-3)


@SKEWS
def test_an_agent_with_another_clock_than_the_one_before_it_counts_on(skew_s: float) -> None:
    """A task of 50 s that may take 20, on one core; agents die at 6, 12 and 18 s, and none is there for 2 s each time."""
    templates = {TemplateId(1): Template(executable="/bin/true", timeout_s=20.0)}
    workload = Tasks([50.0], templates)
    deaths = tuple((at, PILOT) for at in (6.0, 12.0, 16.0))
    result = run(workload, skew_s, faults={"kill_agents_at_s": deaths, "restart_s": 2.0})
    assert result.agent_deaths == 3
    assert result.outcomes == {Ending.TIMED_OUT: 1}
    assert result.makespan_s == pytest.approx(20.0, abs=1e-3)


@SKEWS
@pytest.mark.parametrize("plan", [(), PLAN], ids=["pilot", "partitions"])
def test_the_walltime_ends_a_pilot_in_time_whatever_clocks_show(skew_s: float, plan: list[PartitionSpec]) -> None:
    result = run(Tasks([10.0] * 12), skew_s, walltime_s=25.0, plan=plan)
    assert result.outcomes == {Ending.DONE: 8, Ending.OUT_OF_WALLTIME: 4}
    assert result.makespan_s == pytest.approx(25.0, abs=1e-3)


@SKEWS
@pytest.mark.parametrize("plan", [(), PLAN], ids=["pilot", "partitions"])
def test_what_would_end_after_the_walltime_is_not_begun_whatever_clocks_show(skew_s: float, plan: list[PartitionSpec]) -> None:
    """Four cores: the second round of 10 s begins at 10 s, the third would begin at 20 s, and end after 25 s."""
    templates = {TemplateId(1): Template(executable="/bin/true", duration_s=10.0)}
    result = run(Tasks([10.0] * 12, templates), skew_s, walltime_s=25.0, plan=plan)
    assert result.outcomes == {Ending.DONE: 8, Ending.INFEASIBLE: 4}
    assert result.starts == 8


def test_clocks_that_differ_are_nothing_to_who_has_no_timeout() -> None:
    plain, skewed = (run(Tasks([float(n % 7 + 1) for n in range(100)]), skew_s) for skew_s in (0.0, 30.0))
    assert (skewed.outcomes, skewed.starts, skewed.makespan_s) == (plain.outcomes, plain.starts, plain.makespan_s)
    assert plain.outcomes == {Ending.DONE: 100}
