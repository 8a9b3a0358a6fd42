"""Simulated experiments whose numbers can be worked out by hand."""

from __future__ import annotations

import pytest

from pilotage.experiments import special, titan
from pilotage.experiments.definition import Findings
from pilotage.experiments.registry import EXPERIMENTS
from pilotage.experiments.simulations import (
    WORDS_2018,
    WORDS_2021_SUMMIT,
    WORDS_2021_TITAN,
    changed,
    for_fewer,
    overhead_s,
    run,
    shares,
    workload,
)
from pilotage.sim.files import read_workload
from pilotage.sim.model import Quantity
from pilotage.sim.result import ResourceTime, Result

FIXED = {"count_per_core": 0.0, "duration_s": 100.0}


def launcher(**seconds: float):
    nothing = {"schedules_per_s": None, "starts_per_s": None, "prepare_s": None, "acknowledge_s": None}
    return changed(
        "orte", "by hand", **{**nothing, **{name: Quantity(value=one, source="test") for name, one in seconds.items()}}
    )


def test_a_generation_by_an_ideal_launcher_takes_as_long_as_its_tasks():
    result = run("titan", workload("sleep", count=64, **FIXED), nodes=4)

    assert result.makespan_s == pytest.approx(100.0)
    assert result.utilization == pytest.approx(1.0)


def test_two_generations_take_twice_as_long():
    # The published example of an ideal time to completion: 128 tasks of one core and ten minutes on 64 cores.
    result = run("titan", workload("sleep", count=128, count_per_core=0.0, duration_s=600.0), nodes=4)

    assert result.makespan_s == pytest.approx(1200.0)


def test_parts_of_core_time_are_what_the_launcher_says():
    # 10 s of startup, 20 s of preparation, 30 s of acknowledgement around 100 s: 160 s on all cores.
    result = run(
        "titan",
        workload("sleep", count=64, **FIXED),
        nodes=4,
        launcher=launcher(startup_s=10.0, prepare_s=20.0, acknowledge_s=30.0),
    )

    assert result.makespan_s == pytest.approx(160.0)
    parts = shares(result, "", "modelled", WORDS_2021_TITAN).parts
    assert parts == pytest.approx({"Workload": 100 / 160, "RP": 10 / 160, "ORTE": 50 / 160, "Idle": 0.0})
    parts = shares(result, "", "modelled", WORDS_2018).parts
    assert parts == pytest.approx({"Workload Execution": 100 / 160, "RP Overhead": 60 / 160, "RP Idle": 0.0})
    assert overhead_s(result, 64) == pytest.approx(10.0)


def test_a_slow_scheduler_holds_cores_until_it_has_got_to_them():
    # Two tasks a second for 8 cores: 0.5, 1.0, ... 4.0 s, 2.25 s on average.
    result = run("titan", workload("sleep", count=16, **FIXED), nodes=1, launcher=launcher(schedules_per_s=2.0))

    assert result.makespan_s == pytest.approx(108.0)
    assert result.core_s.scheduling == pytest.approx(sum(0.5 * number for number in range(1, 17)))


@pytest.mark.parametrize("words", [WORDS_2018, WORDS_2021_TITAN, WORDS_2021_SUMMIT])
def test_each_part_of_core_time_is_in_one_word(words):
    fields = [field for fields in words.values() for field in fields]

    assert sorted(fields) == sorted(set(ResourceTime.__struct_fields__) - {"offered"})


def test_a_workload_for_fewer_nodes_has_as_many_fewer_tasks_of_each_class():
    whole = read_workload("heterogeneous")
    part = for_fewer(whole, "summit", 64, 1024)

    assert [each.count for each in part.classes] == [max(1, int(each.count[1024] * 64 // 1024)) for each in whole.classes]


def test_orte_has_the_delays_of_the_nearest_published_size():
    assert titan.orte(4096).acknowledge_s.value == 135.0
    assert titan.orte(4096).acknowledge_s.spread == 107.0
    assert titan.orte(3000).acknowledge_s.value == 59.0
    assert titan.orte(32).prepare_s.value == 37.0


def test_time_to_completion_is_without_the_startup_of_the_pilot():
    result = titan.generations(1024, 32, "modelled")

    assert titan.ttx_s(result, "modelled") == pytest.approx(result.makespan_s - 100.0)
    assert titan.ttx_s(result, "ideal") == result.makespan_s


def test_weak_scaling_gets_worse_with_a_published_launcher_and_not_with_an_ideal_one():
    few, many = (titan.generations(cores, cores // 32, "modelled") for cores in (1024, 65536))
    assert many.makespan_s > few.makespan_s + 100.0

    few, many = (titan.generations(cores, cores // 32, "ideal") for cores in (1024, 65536))
    assert many.makespan_s < few.makespan_s + 20.0


def test_the_ceiling_of_srun_halves_the_use_of_four_nodes():
    findings: Findings = EXPERIMENTS["E40"].run(True, lambda line: None)

    assert findings.value("most", 4, "modelled") == 112
    assert findings.value("ru", 4, "modelled") == pytest.approx(50.0, abs=0.5)
    assert findings.value("makespan", 4, "modelled") == pytest.approx(8 * 180.0, abs=5.0)
    assert findings.value("most", 4, "ideal") == 224
    assert findings.value("makespan", 4, "ideal") == pytest.approx(4 * 180.0)


def test_a_microbenchmark_of_a_policy_places_two_generations():
    assert special.placement_us("homogeneous", 1024, 32) > 0.0


def test_rates_are_those_that_the_launcher_has():
    findings = EXPERIMENTS["E43"].run(True, lambda line: None)

    assert findings.value("rate", 4, "modelled") == pytest.approx(343.0, rel=0.01)


def test_results_are_the_same_each_time():
    one, other = (titan.generations(8192, 256, "modelled") for _ in range(2))

    assert isinstance(one, Result)
    assert (one.makespan_s, one.core_s) == (other.makespan_s, other.core_s)
