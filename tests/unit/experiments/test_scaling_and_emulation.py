"""The models behind the launch methods, the scaling and the emulation of tasks, by hand; and that emulation keeps its word."""

from __future__ import annotations

import statistics

import pytest

import pilotage as rp
from pilotage.bench.runs import bench_pilot
from pilotage.experiments import emulation, launching, scaling
from pilotage.experiments.definition import Findings, Value
from pilotage.experiments.registry import EXPERIMENTS


def curve(*seconds: float) -> Findings:
    return Findings([Value("alps", 2**place, "modelled", value) for place, value in enumerate(seconds)])


@pytest.mark.parametrize(
    ("seconds", "nodes"),
    [
        ((192.0, 192.0, 192.0), None),
        ((192.0, 192.0, 192.0 * 1.1), 3.0),
        ((200.0, 300.0), 1.0 + (1.05 * 192 - 200) / 100),
        ((300.0, 300.0), 1.0),
    ],
)
def test_a_launcher_departs_where_it_is_a_twentieth_late(seconds, nodes):
    found = launching.departure(curve(*seconds), "alps", tuple(2**place for place in range(len(seconds))))

    assert found == (None if nodes is None else pytest.approx(nodes))


def test_launchers_side_by_side():
    findings = EXPERIMENTS["E07"].run(True, lambda line: None)

    for measure in launching.LAUNCHERS:
        assert findings.value(measure, 256, "ideal") == pytest.approx(192.0)
    # 256 starts, five in a second, once: in later generations tasks start one by one, as those before them end.
    assert findings.value("ccm", 256, "modelled") == pytest.approx(192.0 + 256 / 5, abs=0.5)
    # 768 tasks, a hundred at a time.
    assert findings.value("alps", 256, "modelled") >= 8 * 64.0
    assert findings.value("orte-lib", 256, "modelled") < 1.05 * 192.0


def test_a_simulation_scales_as_published():
    assert scaling.duration_s(32) == pytest.approx(828.0)
    assert min(range(1, 129), key=scaling.duration_s) == 32
    efficiency = {cores: scaling.duration_s(1) / scaling.duration_s(cores) / cores for cores in scaling.CORES}
    assert efficiency[8] > 0.9 > efficiency[16] > efficiency[32]


def test_few_tasks_are_done_first_with_the_fastest_size_and_many_with_the_most_efficient():
    findings = EXPERIMENTS["E27"].run(True, lambda line: None)

    for system in ("modelled", "ideal"):
        assert findings.value("few", 32, system) < findings.value("few", 8, system)
        assert findings.value("many", 32, system) > 1.5 * findings.value("many", 8, system)


def test_generated_tasks_are_distributed_as_published():
    seconds = emulation.durations_s(4096)

    assert len(set(seconds)) > 4000
    assert statistics.mean(seconds) == pytest.approx(828.0, abs=1.0)
    assert statistics.stdev(seconds) == pytest.approx(14.0, abs=0.5)
    within = sum(abs(each - 828.0) <= 14.0 for each in seconds) / len(seconds)
    assert within == pytest.approx(0.683, abs=0.03), "a normal distribution"
    assert emulation.durations_s(10) == seconds[:10]
    assert emulation.durations_s(10, seed=1) != seconds[:10]


def test_an_emulated_task_sleeps_no_shorter_than_it_is_told():
    told = [0.03, 0.06]
    with bench_pilot() as bench:
        tasks = bench.run([emulation.sleeping(seconds) for seconds in told])
        ran = emulation.ran_s(tasks)

    assert all(isinstance(task, rp.Task) for task in tasks)
    # The clock by which runs are timed is set by others now and then, by far less than this.
    assert all(took > seconds - 0.01 for took, seconds in zip(ran, told, strict=True))
