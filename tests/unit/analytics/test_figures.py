"""The figures that papers report, each against a run small enough to do in one's head."""

from __future__ import annotations

from pathlib import Path

import pytest
from invented_runs import PILOT, InventedRun, session_of

from pilotage.analytics import Session
from pilotage.model.outcome import Ending
from pilotage.trace.run import Run


def test_figures_of_a_small_run() -> None:
    made = InventedRun(cores=2, ready=101.0, end=110.0)
    made.add(102.0, 106.0, submitted=100.5, accepted=101.0, collected=107.0, final=108.0)
    made.add(102.0, 104.0, core=1, submitted=100.0, accepted=101.5, ending=Ending.EXITED)
    made.add(104.0, 105.0, core=1, ending=Ending.CANCELLED)
    made.add(107.0, 0.0, core=1)
    told = made.session().figures()
    assert (told.tasks, told.done, told.failed, told.cancelled, told.unfinished, told.attempts) == (4, 1, 1, 1, 1, 4)
    assert (told.ttx_agent_s, told.ttx_workload_s, told.makespan_s) == (6.0, 4.0, 8.0)
    assert (told.mean_start_rate, told.peak_start_rate) == (4 / 5, 2)
    assert (told.mean_completion_rate, told.peak_completion_rate) == (0.75, 1)
    # A chain beside the long one, and in the end the one that still runs.
    assert (told.peak_concurrency, told.generations) == (2, 2)
    assert told.mean_concurrency == pytest.approx((4 + 2 + 1 + 3) / 4)
    assert told.core_s == 20.0
    assert told.utilisation == pytest.approx(10 / 20)
    assert told.wasted_core_s == 3.0
    assert told.idle_tail_core_s == 0.0
    assert told.gpu_utilisation is None


def test_ideal_time_of_two_generations_is_twice_that_of_a_task() -> None:
    # The example that the literature gives: 128 tasks of one core and ten minutes on 64 cores take twenty minutes.
    made = InventedRun(nodes=2, cores=32, end=2000.0)
    for number in range(128):
        generation, place = divmod(number, 64)
        begin = 100.0 + generation * 610.0
        made.add(begin, begin + 600.0, node=place // 32, core=place % 32)
    told = made.session().figures()
    assert (told.ideal_ttx_s, told.generations, told.peak_concurrency) == (1200.0, 2, 64)
    assert told.ttx_workload_s == 1210.0


def test_no_run_can_be_shorter_than_its_longest_task() -> None:
    assert session_of((100.0, 160.0), (100.0, 101.0)).figures().ideal_ttx_s == 60.0


def test_the_time_of_functions_leaves_out_when_there_were_none() -> None:
    made = InventedRun()
    made.add(100.0, 104.0, kind="function")
    made.add(102.0, 106.0, kind="function", core=1)
    made.add(150.0, 154.0, kind="function")
    made.add(100.0, 190.0, core=2)
    told = made.session().figures()
    assert (told.functions_busy_s, told.function_rate) == (10.0, 0.3)


def test_nothing_that_ran_has_no_figures() -> None:
    told = Session(Run(Path("/nowhere"))).figures()
    numbers = [getattr(told, name) for name in told.__struct_fields__ if name != "gpu_utilisation"]
    assert numbers == [0] * len(numbers)


def test_stages_have_their_distribution() -> None:
    session = session_of(*((100.0, 100.0 + length) for length in range(1, 21)))
    (running,) = [stage for stage in session.stages() if stage.stage == "running"]
    assert (running.count, running.mean_s, running.least_s, running.most_s) == (20, 10.5, 1.0, 20.0)
    assert (running.p05_s, running.p95_s, running.total_s) == (2.0, 19.0, 210.0)


def test_overheads_of_null_tasks_are_all_there_is() -> None:
    made = InventedRun(cores=1, begin=100.0, ready=103.0, end=120.0)
    # Two null tasks one after the other: half a second to be found a core, a quarter to begin there, an eighth to be noted.
    for begin in (104.0, 106.0):
        made.add(begin, begin, accepted=begin - 0.75, launched=begin - 0.25, collected=begin + 0.125, final=begin + 1.0)
    told = {one.name: (one.wall_s, one.count, one.mean_s) for one in made.session().overheads()}
    assert told == {
        "init": (3.0, 1, 3.0),
        "runners": (3.0, 1, 3.0),
        "schedule": (1.0, 2, 0.5),
        "place": (0.5, 2, 0.25),
        "collect": (0.25, 2, 0.125),
        "deliver": (1.75, 2, 0.875),
    }


def test_throughput_and_concurrency_of_each_component() -> None:
    made = InventedRun(cores=2, end=120.0)
    made.add(104.0, 108.0, submitted=100.0, bound=101.0, accepted=101.0, launched=103.0)
    made.add(106.0, 110.0, submitted=100.0, bound=102.0, accepted=102.0, launched=105.0, core=1, runner="worker.1")
    found = {(row["component"], row["instance"]): row for row in made.session().components().iter_rows(named=True)}
    assert list(found) == [
        ("binder", "client"),
        ("scheduler", PILOT),
        ("runner", f"{PILOT}/spawner.0"),
        ("runner", f"{PILOT}/worker.1"),
        ("collector", PILOT),
        ("delivery", PILOT),
    ]
    binder, scheduler = found["binder", "client"], found["scheduler", PILOT]
    assert (binder["handled"], binder["rate"], binder["peak_concurrency"], binder["task_s"]) == (2, 1.0, 2, 3.0)
    assert (scheduler["concurrency"], scheduler["peak_concurrency"]) == (5 / 4, 2)
    # From the launch at 103 to the end at 108.
    spawner = found["runner", f"{PILOT}/spawner.0"]
    assert (spawner["handled"], spawner["rate"], spawner["concurrency"], spawner["task_s"]) == (1, 1 / 5, 1.0, 5.0)
