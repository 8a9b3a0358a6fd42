"""Concurrency, rates, times between stations and the figures of a run."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.trace.rates import completion_rate, concurrency, figures, legs, start_rate
from pilotage.trace.run import STATIONS, Run, Shape


def run_of(*spans: tuple[float, float], kind: str = "executable", last: float = 0.0) -> Run:
    """A run whose tasks started and ended at these times; an end of 0.0 is that of a task that still runs."""
    run = Run(Path("invented"))
    run.tasks.extend([(TaskUid(f"task.{i}"), "", Shape(kind, 1)) for i in range(len(spans))])
    for i, (start, end) in enumerate(spans):
        run.tasks.started[i], run.tasks.ended[i] = start, end
        run.tasks.ending[i] = Ending.DONE if end else None
    run.pilot(PilotUid("pilot.0000")).last = last
    return run


def test_concurrency_is_the_mean_of_each_interval() -> None:
    series = concurrency(run_of((100.0, 102.0), (100.5, 101.0), (101.25, 101.5)))
    assert (series.begin, series.interval_s) == (100.0, 1.0)
    assert series.values == pytest.approx([1.5, 1.25, 0.0])


def test_concurrency_adds_up_to_the_time_that_tasks_ran() -> None:
    chance = random.Random(7)
    spans = [(start := 1000.0 + 50 * chance.random(), start + 5 * chance.random()) for _ in range(200)]
    for interval_s in (0.1, 1.0, 7.0, 100.0):
        series = concurrency(run_of(*spans), interval_s)
        assert sum(series.values) * interval_s == pytest.approx(sum(end - start for start, end in spans))


def test_a_task_that_still_runs_counts_up_to_the_last_time_in_the_logs() -> None:
    run = run_of((100.0, 101.0), (100.0, 0.0), last=104.0)
    assert concurrency(run).values == pytest.approx([2.0, 1.0, 1.0, 1.0, 0.0])
    assert sum(completion_rate(run).values) == 1.0


def test_concurrency_of_one_kind_leaves_out_the_others() -> None:
    run = run_of((100.0, 101.0), (100.0, 101.0))
    run.tasks.kind[1] = "function"
    assert concurrency(run, kind="function").values[0] == 1.0
    assert concurrency(run, kind="no such kind").values[0] == 0.0


def test_rates_count_starts_and_ends_in_each_interval() -> None:
    run = run_of((100.0, 102.5), (100.1, 101.0), (100.9, 102.9), (0.0, 103.9))
    assert start_rate(run).values == [3.0, 0.0, 0.0]
    assert completion_rate(run).values == [0.0, 1.0, 2.0]
    assert start_rate(run, 0.5).values == [4.0, 2.0, 0.0, 0.0, 0.0, 0.0]


def test_figures_of_a_small_run() -> None:
    run = run_of((100.0, 104.0), (101.0, 102.0), (102.0, 103.0), (103.5, 0.0), last=104.0)
    tasks = run.tasks
    tasks.ending[1], tasks.ending[2] = Ending.EXITED, Ending.CANCELLED
    for column, values in (
        ("submitted", (98.0, 97.0)),
        ("accepted", (99.0, 98.5)),
        ("collected", (105.0, 102.5)),
        ("final", (106.0, 103.0)),
    ):
        for i, value in enumerate(values):
            getattr(tasks, column)[i] = value

    told = figures(run)

    assert (told.tasks, told.done, told.failed, told.cancelled, told.unfinished) == (4, 1, 1, 1, 1)
    assert (told.ttx_agent_s, told.ttx_workload_s, told.makespan_s) == (6.5, 4.0, 9.0)
    assert (told.mean_start_rate, told.peak_start_rate) == (4 / 3.5, 1.0)
    assert (told.mean_completion_rate, told.peak_completion_rate) == (0.75, 1.0)
    # A chain in one lane, one after the other, beside the long one; then the one that still runs.
    assert told.peak_concurrency == 2


def test_the_busiest_second_need_not_begin_with_an_interval() -> None:
    told = figures(run_of((100.0, 110.0), (100.9, 110.0), (101.1, 110.0), (101.8, 110.0), (103.0, 110.0)))
    assert told.peak_start_rate == 3.0


def test_legs_are_between_stations_that_were_both_passed() -> None:
    run = run_of((100.0, 101.0), (100.0, 103.0), (100.0, 0.0), last=101.0)
    assert [(leg.name, leg.count, leg.mean_s, leg.longest_s) for leg in legs(run)] == [("run", 2, 2.0, 3.0)]
    assert [leg.name for leg in legs(passed_all())] == [
        "binding", "submission", "waiting for resources", "launch", "run", "collection", "delivery",
    ]  # fmt: skip


def passed_all() -> Run:
    run = run_of((105.0, 106.0))
    for number, station in enumerate(STATIONS):
        getattr(run.tasks, station)[0] = 100.0 + number
    return run


def test_nothing_that_ran_has_neither_rates_nor_figures() -> None:
    run = run_of((0.0, 0.0))
    assert (concurrency(run).values, start_rate(run).values, completion_rate(run).values, legs(run)) == ([], [], [], [])
    told = figures(run)
    assert (told.unfinished, told.ttx_workload_s, told.mean_start_rate, told.peak_concurrency) == (1, 0.0, 0.0, 0)
