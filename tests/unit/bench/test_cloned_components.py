"""One task, cloned in a component by itself."""

from __future__ import annotations

import pytest

from pilotage.bench import cloned_runs, cloning
from pilotage.bench.cloning import Course
from pilotage.core.scheduling import Scheduler
from pilotage.model.resources import Request


def test_the_rate_is_that_of_all_clones_in_all_the_time():
    course = Course([(1.0, 10), (4.0, 20)])

    assert course.clones == 20
    assert course.rate == 5.0


def test_the_rate_of_nothing_is_zero():
    assert Course([]).rate == 0.0
    assert Course([]).clones == 0


def test_rates_over_time_are_cut_into_equally_many_clones():
    # 10 in the first second, then 10 in two, 10 in five and 10 in two.
    course = Course([(1.0, 10), (3.0, 20), (8.0, 30), (10.0, 40)])

    assert course.rates(2) == [(3.0, 20 / 3), (10.0, 20 / 7)]
    assert course.rates(4) == [(1.0, 10.0), (3.0, 5.0), (8.0, 2.0), (10.0, 5.0)]


def test_there_are_no_more_parts_than_marks():
    assert len(Course([(1.0, 10), (3.0, 20)]).rates(8)) == 2


def test_a_real_task_is_described_and_split_and_its_clones_differ_in_the_uid_alone():
    template, row = cloning.one_task(cores_per_rank=2, arguments=["a"])
    clones = cloning.clones_of(row, 1001)

    assert template.request == Request(cores=2)
    assert {clone.arguments for clone in clones} == {("a",)}
    assert len({clone.uid for clone in clones}) == 1001
    assert {clone.template for clone in clones} == {row.template}
    assert clones[0].shard == 0 and clones[1000].shard == 1


def test_the_scheduler_fills_a_pilot_and_leaves_the_rest():
    assert cloning.allocation(64, 1000).clones == 64
    assert cloning.allocation(64, 10).clones == 10


def test_the_scheduler_in_the_steady_state_gets_all_clones_through_a_full_pilot():
    course = cloning.steady_state(96, 1000)

    assert course.clones == 1000
    assert [count for _, count in course.marks] == sorted(count for _, count in course.marks)


def test_a_scheduler_that_leaves_cores_idle_is_found_out(monkeypatch):
    placed = Scheduler.schedule
    monkeypatch.setattr(Scheduler, "schedule", lambda self, now, limit: placed(self, now, max(1, limit - 1)))

    with pytest.raises(RuntimeError, match="of 96 cores are in use"):
        cloning.steady_state(96, 640)


@pytest.mark.parametrize("spawners", [1, 3])
def test_real_spawners_run_all_clones(spawners):
    course = cloned_runs.execution(spawners, 40)

    assert course.clones == 40
    assert course.rate > 0.0


def test_a_clone_that_fails_is_no_figure():
    with pytest.raises(RuntimeError, match="EXITED"):
        cloned_runs.execution(1, 4, executable="/bin/false")


def test_the_stager_brings_a_file_for_each_clone():
    assert cloned_runs.staging(50).clones == 50


def test_outcomes_of_all_clones_are_delivered_in_messages():
    course = cloning.delivery(20_000)

    assert course.clones == 20_000
    assert len(course.marks) == 3


def test_the_clients_core_takes_all_clones_and_their_outcomes():
    taken, told = cloning.client_core(5000)

    assert taken.clones == told.clones == 5000
