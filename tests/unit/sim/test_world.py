"""Simulations small enough to be done by hand, to the second."""

from __future__ import annotations

import pytest
from simulated_tasks import ONE, Tasks, core_seconds, machine, parts_of, rows, uids, wanting

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import GPU_SHARES, Request
from pilotage.model.services import Service
from pilotage.model.staging import Directive
from pilotage.model.workload import Extra, Row, Template
from pilotage.sim.model import Arrival
from pilotage.sim.world import Progress, World

BOTH = pytest.mark.parametrize("client", [True, False])


@BOTH
def test_four_tasks_of_ten_seconds_on_two_cores_take_twenty(client: bool) -> None:
    result = World(machine(cores=2), Tasks([10.0] * 4), nodes=1, client=client).finish()
    assert result.makespan_s == 20.0
    assert result.outcomes == {Ending.DONE: 4}
    assert core_seconds(result) == {"offered": 40.0, "running": 40.0}
    assert (result.utilization, result.starts, result.most_at_once) == (1.0, 4, 2)
    assert (result.waits.mean_s, result.waits.most_s) == (5.0, 10.0)


def test_one_core_takes_tasks_one_after_another() -> None:
    workload = Tasks([10.0, 20.0, 5.0])
    assert World(machine(), workload, nodes=1).finish().makespan_s == 35.0
    assert [time_s for _, time_s in workload.told] == [10.0, 30.0, 35.0]


def test_what_is_not_in_use_is_idle() -> None:
    result = World(machine(cores=2), Tasks([10.0, 30.0]), nodes=2).finish()
    assert core_seconds(result) == {"offered": 120.0, "running": 40.0, "idle": 80.0}
    assert result.utilization == pytest.approx(1 / 3)


def test_gpus_have_books_of_their_own() -> None:
    workload = Tasks([10.0] * 3, wanting(cores=2, gpu_shares=GPU_SHARES // 2))
    result = World(machine(cores=4, gpus=1), workload, nodes=1).finish()
    assert core_seconds(result) == {"offered": 80.0, "running": 60.0, "idle": 20.0}
    assert parts_of(result.gpu_s) == {"offered": 20.0, "running": 15.0, "idle": 5.0}


def test_a_task_that_has_its_node_to_itself_holds_all_of_it() -> None:
    result = World(machine(cores=8, gpus=2), Tasks([10.0], wanting(exclusive=True)), nodes=1).finish()
    assert core_seconds(result) == {"offered": 80.0, "running": 80.0}
    assert parts_of(result.gpu_s) == {"offered": 20.0, "running": 20.0}


def test_tasks_come_when_they_come_and_wait_from_then_on() -> None:
    names = uids(3)
    arrivals = [Arrival(0.0, rows(names[:1])), Arrival(4.0, rows(names[1:2])), Arrival(100.0, rows(names[2:]))]
    workload = Tasks(arrivals=arrivals, seconds=dict.fromkeys(names, 10.0))
    result = World(machine(), workload, nodes=1).finish()
    assert result.makespan_s == 110.0
    assert (result.waits.mean_s, result.waits.most_s) == (2.0, 6.0)


def test_the_users_program_goes_on_with_what_it_hears() -> None:
    more = {TaskUid("t0"): Arrival(25.0, rows([TaskUid("next")]))}
    workload = Tasks([10.0], follow=lambda outcome, now: more.get(outcome.task))
    workload.seconds[TaskUid("next")] = 5.0
    result = World(machine(), workload, nodes=1).finish()
    assert (result.makespan_s, result.outcomes) == (30.0, {Ending.DONE: 2})


@BOTH
def test_the_users_program_never_has_more_open_than_it_may(client: bool) -> None:
    most = 0
    workload = Tasks([1.0] * 200)

    def look(outcome: object, now: float) -> None:
        nonlocal most
        most = max(most, len(world.stage.witness.open))

    workload._follow = look
    world = World(machine(cores=4), workload, nodes=1, most_open=16, client=client)
    result = world.finish()
    assert most <= 16
    assert (result.makespan_s, result.outcomes) == (50.0, {Ending.DONE: 200})


def test_the_walltime_ends_what_is_left() -> None:
    result = World(machine(), Tasks([10.0] * 5), nodes=1, walltime_s=25.0).finish()
    assert result.outcomes == {Ending.DONE: 2, Ending.OUT_OF_WALLTIME: 3}
    assert result.makespan_s == 25.0


@BOTH
def test_what_comes_after_the_walltime_is_not_waited_for(client: bool) -> None:
    names = uids(2)
    arrivals = [Arrival(0.0, rows(names[:1])), Arrival(1000.0, rows(names[1:]))]
    workload = Tasks(arrivals=arrivals, seconds=dict.fromkeys(names, 10.0))
    result = World(machine(), workload, nodes=1, walltime_s=25.0, client=client).finish()
    assert (result.tasks, result.outcomes) == (1, {Ending.DONE: 1})


def test_time_stops_where_it_is_asked_to_and_goes_on() -> None:
    workload = Tasks([10.0, 20.0])
    world = World(machine(), workload, nodes=1)
    world.run(until_s=15.0)
    assert world.timeline.now == 15.0
    assert [outcome.task for outcome, _ in workload.told] == ["t0"]
    assert world.finish().makespan_s == 30.0


@BOTH
def test_what_is_cancelled_ends_now_and_what_waits_never_begins(client: bool) -> None:
    world = World(machine(), Tasks([1000.0, 1000.0]), nodes=1, client=client)
    world.run(until_s=10.0)
    world.cancel(uids(2))
    result = world.finish()
    assert result.outcomes == {Ending.CANCELLED: 2}
    assert (result.makespan_s, result.starts) == (10.0, 1)
    assert core_seconds(result) == {"offered": 10.0, "running": 10.0}


def test_a_timeout_ends_a_task() -> None:
    templates = {ONE: Template(executable="/bin/sleep", timeout_s=7.0)}
    result = World(machine(), Tasks([10.0, 5.0], templates), nodes=1).finish()
    assert (result.makespan_s, result.outcomes) == (12.0, {Ending.DONE: 1, Ending.TIMED_OUT: 1})


def test_what_fits_nowhere_is_refused() -> None:
    result = World(machine(cores=4), Tasks([10.0], wanting(cores=5)), nodes=2).finish()
    assert (result.starts, result.outcomes) == (0, {Ending.INFEASIBLE: 1})


def test_functions_run_in_workers_of_their_own() -> None:
    templates = {ONE: Template(mode="function")}
    result = World(machine(cores=2), Tasks([10.0] * 4, templates), nodes=2).finish()
    assert (result.makespan_s, result.outcomes) == (10.0, {Ending.DONE: 4})


def test_short_tasks_are_chained_and_each_takes_its_time() -> None:
    result = World(machine(), Tasks([0.001] * 100), nodes=1).finish()
    assert result.makespan_s == pytest.approx(0.1)
    assert core_seconds(result)["running"] == pytest.approx(0.1)


def test_several_pilots_share_the_nodes_and_the_work() -> None:
    result = World(machine(), Tasks([10.0] * 6), nodes=3, pilots=3).finish()
    assert result.makespan_s == 20.0
    assert [(part.name, part.nodes, part.starts) for part in result.partitions] == [
        ("pilot.0000", 1, 2),
        ("pilot.0001", 1, 2),
        ("pilot.0002", 1, 2),
    ]


def test_files_are_staged_and_environments_prepared_at_once() -> None:
    files = Extra((Directive("pilot:///a", "task:///a"),), (Directive("task:///b", "pilot:///b"),))
    templates = {ONE: Template(executable="/bin/true", cleanup=True), TemplateId(2): Template(named_env="conda")}
    names = uids(2)
    arrival = Arrival(0.0, [Row(names[0], ONE, extra=files), Row(names[1], TemplateId(2))])
    result = World(machine(), Tasks((), templates, [arrival], seconds=dict.fromkeys(names, 10.0)), nodes=1).finish()
    assert (result.makespan_s, result.outcomes) == (20.0, {Ending.DONE: 2})


@BOTH
def test_a_service_runs_until_all_else_is_done(client: bool) -> None:
    templates = {ONE: Template(executable="/bin/server", service=Service()), TemplateId(2): Template(executable="/bin/true")}
    arrival = Arrival(0.0, [Row(TaskUid("s"), ONE), *rows(uids(3), TemplateId(2))])
    workload = Tasks((), templates, [arrival], seconds=dict.fromkeys(uids(3), 10.0))
    result = World(machine(cores=2), workload, nodes=1, client=client).finish()
    assert (result.makespan_s, result.outcomes) == (30.0, {Ending.DONE: 4})
    assert core_seconds(result) == {"offered": 60.0, "running": 60.0}


def test_an_agent_knows_what_its_service_is_known_by() -> None:
    templates = {ONE: Template(executable="/bin/server", service=Service())}
    world = World(machine(), Tasks((), templates, [Arrival(0.0, rows([TaskUid("s")]))], seconds={}), nodes=1)
    world.run(until_s=5.0)
    (pilot,) = world.pilots.values()
    assert pilot.core is None or pilot.core.finished or pilot.core.state.services == {"s": "simulated"}
    assert world.finish().outcomes == {Ending.DONE: 1}


def test_the_curves_have_what_the_books_have() -> None:
    workload = Tasks([7.0, 11.0, 3.0, 20.0, 1.0, 9.0], wanting(cores=2, gpu_shares=GPU_SHARES))
    result = World(machine(cores=4, gpus=2), workload, nodes=1).finish()
    series = result.series
    for curve, total in (
        (series.running_tasks, 51.0),
        (series.held_tasks, 51.0),
        (series.running_cores, 102.0),
        (series.running_gpus, 51.0),
        (series.starts_per_s, 6.0),
        (series.ends_per_s, 6.0),
    ):
        assert sum(curve) * series.width_s == pytest.approx(total)
    assert len(series.running_tasks) * series.width_s >= result.makespan_s


def test_many_tasks_are_told_together_and_the_books_stay_exact() -> None:
    """Ends are told in ticks: what a core is held for beyond its task is booked, and the sum of all is what there was."""
    seconds = [100.0 + number % 17 for number in range(2000)]
    result = World(machine(cores=50), Tasks(seconds), nodes=20).finish()
    assert result.outcomes == {Ending.DONE: 2000}
    assert result.core_s.running == pytest.approx(sum(seconds))
    assert result.core_s.acknowledging < 0.02 * result.core_s.running
    parts = core_seconds(result)
    assert parts.pop("offered") == pytest.approx(sum(parts.values()))
    assert 200.0 <= result.makespan_s < 238.0


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [({"nodes": 1001}, "has 1000 nodes"), ({"nodes": 0}, "nodes=0"), ({"pilots": 3}, "pilots=3"), ({"pilots": 0}, "pilots=0")],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, int], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        World(machine(), Tasks([1.0]), nodes=changes.get("nodes", 2), pilots=changes.get("pilots", 1)).finish()


def test_without_a_client_there_is_one_pilot() -> None:
    with pytest.raises(ValueError, match="client=True, or one pilot"):
        World(machine(), Tasks([1.0]), nodes=2, pilots=2, client=False).finish()


def test_requests_of_many_nodes_are_placed_by_the_real_scheduler() -> None:
    templates = {ONE: Template(request=Request(ranks=4, cores=2, ranks_per_node=1)), TemplateId(2): Template()}
    names = uids(3)
    arrival = Arrival(0.0, [*rows(names[:2]), Row(names[2], TemplateId(2))])
    result = World(machine(cores=3), Tasks((), templates, [arrival], seconds=dict.fromkeys(names, 10.0)), nodes=4).finish()
    assert result.makespan_s == 20.0, "two cores of each node, twice, and the small one beside the first"
    assert core_seconds(result) == {"offered": 240.0, "running": 170.0, "idle": 70.0}


def test_who_watches_is_told_how_far_it_is() -> None:
    seen: list[Progress] = []
    arrivals = [Arrival(100.0 * part, rows(uids(500, f"p{part}."))) for part in range(3)]
    seconds = {row.uid: 10.0 for arrival in arrivals for row in arrival.rows}
    result = World(machine(cores=7), Tasks((), None, arrivals, seconds=seconds), nodes=5).finish(seen.append)

    assert result.outcomes == {Ending.DONE: 1500}
    assert len(seen) > 5
    assert seen == sorted(seen, key=lambda each: (each.time_s, each.final))
    assert all(0 <= each.final <= each.submitted <= 1500 and each.time_s <= result.makespan_s for each in seen)
    assert seen[0].submitted == 500 and seen[-1].submitted == 1500 and seen[-1].final > 1000
