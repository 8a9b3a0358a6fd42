"""What a launcher model costs, by hand; and that its ceilings hold."""

from __future__ import annotations

from collections import Counter

import pytest
from simulated_tasks import ONE, Tasks, amount, core_seconds, launcher, machine, uids

from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import Row, Template
from pilotage.sim.jobs import RUNNING
from pilotage.sim.model import Arrival, KindCosts, Launcher, Quantity, TaskKind
from pilotage.sim.pilots import SimulatedPilot
from pilotage.sim.world import World


def test_one_start_a_second_and_two_at_once() -> None:
    """t0 starts at 1, t1 at 2; the cores are free at 11 and 12, so that t2 starts at 12 and t3 at 13, and ends at 23."""
    workload = Tasks([10.0] * 4)
    result = World(machine(cores=2), workload, nodes=1, launcher=launcher(starts_per_s=1.0, most_at_once=2)).finish()
    assert [outcome.times.ended - outcome.times.started for outcome, _ in workload.told] == [10.0] * 4
    assert [time_s for _, time_s in workload.told] == [11.0, 12.0, 22.0, 23.0]
    assert core_seconds(result) == {"offered": 46.0, "waiting": 1.0 + 2.0 + 1.0 + 1.0, "running": 40.0, "idle": 1.0}
    assert result.makespan_s == 23.0


def test_a_ceiling_holds_cores_that_do_nothing() -> None:
    """Published of srun: 896 tasks of 180 s on 4 nodes of 56 cores, of which 112 run at once, in 8 waves."""
    result = World(machine(cores=56), Tasks([180.0] * 896), nodes=4, launcher=launcher(most_at_once=112)).finish()
    assert result.makespan_s == 8 * 180.0
    assert result.most_at_once == 112
    assert result.utilization == 0.5
    assert result.core_s.running == 896 * 180.0
    assert result.core_s.waiting + result.core_s.idle == 896 * 180.0


def test_what_waits_for_its_turn_holds_its_resources() -> None:
    result = World(machine(cores=4), Tasks([10.0] * 4), nodes=1, launcher=launcher(most_at_once=1)).finish()
    assert result.makespan_s == 40.0
    assert core_seconds(result) == {"offered": 160.0, "running": 40.0, "waiting": 10.0 + 20.0 + 30.0, "idle": 60.0}


def test_nothing_runs_before_the_launcher_is_up() -> None:
    result = World(machine(cores=2), Tasks([10.0] * 4), nodes=1, launcher=launcher(startup_s=5.0)).finish()
    assert core_seconds(result) == {"offered": 50.0, "startup": 10.0, "running": 40.0}


def test_the_systems_own_scheduler_takes_tasks_one_after_another() -> None:
    result = World(machine(cores=2), Tasks([10.0] * 2), nodes=1, launcher=launcher(schedules_per_s=0.5)).finish()
    assert core_seconds(result) == {"offered": 28.0, "scheduling": 2.0 + 4.0, "running": 20.0, "idle": 2.0}


def test_tasks_prepare_and_are_acknowledged() -> None:
    result = World(machine(), Tasks([10.0] * 2), nodes=1, launcher=launcher(prepare_s=3.0, acknowledge_s=2.0)).finish()
    assert core_seconds(result) == {"offered": 30.0, "preparing": 6.0, "running": 20.0, "acknowledging": 4.0}


def test_those_that_prepare_at_once_are_in_each_others_way() -> None:
    workload = Tasks([10.0] * 3)
    World(machine(cores=3), workload, nodes=1, launcher=launcher(prepare_s=1.0, contention_s=1.0)).finish()
    assert [time_s for _, time_s in workload.told] == [11.0, 12.0, 13.0]


def test_delays_grow_with_the_number_of_tasks_that_run() -> None:
    """The first prepares for 1 s, with nobody else; the second for 4 s, as it comes when two run."""
    slow = Launcher(name="slow", starts_per_s=amount(0.1), prepare_s=Quantity(at={1: 1.0, 2: 4.0}, source="made for tests"))
    workload = Tasks([100.0] * 3)
    World(machine(cores=3), workload, nodes=1, launcher=slow).finish()
    assert [time_s for _, time_s in workload.told] == [111.0, 121.0, 134.0]


def test_a_rate_goes_by_the_size_of_the_partition() -> None:
    rate = Quantity(at={1: 10.0, 4: 0.1}, source="made for tests")
    fast, slow = (
        World(machine(), Tasks([0.0]), nodes=nodes, launcher=Launcher(name="x", starts_per_s=rate)).finish().makespan_s
        for nodes in (1, 4)
    )
    assert (fast, slow) == pytest.approx((0.1, 10.0))


def test_a_share_of_the_starts_fails_and_may_be_tried_again() -> None:
    templates = {ONE: Template(executable="/bin/true", retries=50)}
    world = World(machine(cores=4), Tasks([10.0] * 200, templates), nodes=1, launcher=launcher(failure_share=0.3))
    result = world.finish()
    assert result.outcomes == {Ending.DONE: 200}
    assert result.starts == 200

    lost = World(machine(cores=4), Tasks([10.0] * 1000), nodes=1, launcher=launcher(failure_share=0.3)).finish()
    assert 200 < lost.outcomes[Ending.LAUNCH_FAILED] < 400
    assert lost.starts == lost.outcomes[Ending.DONE] == 1000 - lost.outcomes[Ending.LAUNCH_FAILED]


def test_what_varies_is_drawn_by_the_seed() -> None:
    varying = Launcher(name="varying", prepare_s=amount(3.0, spread=1.0), starts_per_s=amount(5.0, spread=1.0))
    spans = [World(machine(cores=4), Tasks([10.0] * 50), nodes=1, launcher=varying, seed=seed).finish() for seed in (1, 1, 2)]
    assert spans[0].makespan_s == spans[1].makespan_s != spans[2].makespan_s
    assert 50 * 3.0 * 0.7 < spans[0].core_s.preparing < 50 * 3.0 * 1.3


def test_what_is_cancelled_while_it_waits_for_its_turn_lets_others_have_it() -> None:
    workload = Tasks([10.0] * 4)
    world = World(machine(cores=4), workload, nodes=1, launcher=launcher(most_at_once=1, prepare_s=1.0))
    world.run(until_s=5.0)
    world.cancel([TaskUid("t0"), TaskUid("t1")])
    result = world.finish()
    assert result.outcomes == {Ending.DONE: 2, Ending.CANCELLED: 2}
    assert result.starts == 3
    assert result.makespan_s == 5.0 + 2 * 11.0


@pytest.mark.parametrize(
    ("cancelled_s", "end_s"),
    [
        pytest.param(0.5, 13.0, id="scheduling: the system is busy with it until 1"),
        pytest.param(1.5, 13.5, id="starting"),
        pytest.param(3.0, 15.0, id="preparing"),
        pytest.param(7.0, 19.0, id="running"),
        pytest.param(11.5, 24.0, id="acknowledging: it is done"),
    ],
)
def test_a_task_can_be_cancelled_at_every_stage(cancelled_s: float, end_s: float) -> None:
    """It is scheduled at 1 s, started at 2, prepares until 5, runs until 10, and is told at 12; then comes another such."""
    costs = launcher(schedules_per_s=1.0, starts_per_s=1.0, prepare_s=3.0, acknowledge_s=2.0, most_at_once=1)
    world = World(machine(), Tasks([5.0, 5.0]), nodes=1, launcher=costs)
    world.run(until_s=cancelled_s)
    world.cancel(uids(1))
    result = world.finish()
    assert result.outcomes == ({Ending.DONE: 1, Ending.CANCELLED: 1} if cancelled_s < 10.0 else {Ending.DONE: 2})
    assert result.makespan_s == end_s
    parts = core_seconds(result)
    assert parts.pop("offered") == pytest.approx(sum(parts.values()))


def test_a_chain_of_short_tasks_goes_through_the_launcher_one_by_one() -> None:
    result = World(machine(), Tasks([0.001] * 50), nodes=1, launcher=launcher(starts_per_s=100.0)).finish()
    assert result.outcomes == {Ending.DONE: 50}
    assert result.makespan_s == pytest.approx(50 * 0.011)


def test_a_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="lets nothing start"):
        World(machine(), Tasks([1.0]), nodes=1, launcher=launcher(starts_per_s=0.0)).finish()


@pytest.mark.parametrize("most", [1, 3, 17])
def test_no_more_than_the_ceiling_run_at_any_time(most: int) -> None:
    seconds = [1.0 + number % 7 for number in range(300)]
    costly = launcher(most_at_once=most, starts_per_s=20.0, prepare_s=0.25, acknowledge_s=0.1)
    result = World(machine(cores=8), Tasks(seconds), nodes=4, launcher=costly).finish()
    assert result.outcomes == {Ending.DONE: 300}
    assert result.most_at_once <= most
    assert max(result.series.running_tasks) <= most + 1e-9


def test_the_ceiling_of_a_node_keeps_nobody_waiting_on_others() -> None:
    """One at a time on each of two nodes: on the first t0 runs until 100, and t1 after it; on the other t2 and t3."""
    workload = Tasks([100.0, 10.0, 10.0, 10.0])
    result = World(machine(cores=2), workload, nodes=2, launcher=launcher(most_per_node=1)).finish()
    assert [(outcome.task, time_s) for outcome, time_s in workload.told] == [
        ("t2", 10.0),
        ("t3", 20.0),
        ("t0", 100.0),
        ("t1", 110.0),
    ]
    assert core_seconds(result) == {"offered": 440.0, "running": 130.0, "waiting": 110.0, "idle": 200.0}
    assert result.most_at_once == 2


def test_a_task_on_several_nodes_counts_on_each_of_them() -> None:
    """Two at a time on a node: four tasks of two nodes on two nodes run two by two, whatever room there is."""
    templates = {ONE: Template(executable="/bin/true", request=Request(ranks=2, ranks_per_node=1))}
    workload = Tasks([10.0] * 4, templates)
    World(machine(cores=8), workload, nodes=2, launcher=launcher(most_per_node=2)).finish()
    assert [time_s for _, time_s in workload.told] == [10.0, 10.0, 20.0, 20.0]


def test_what_is_cancelled_while_it_waits_for_a_node_lets_others_have_their_turn() -> None:
    world = World(machine(cores=4), Tasks([10.0] * 4), nodes=1, launcher=launcher(most_per_node=1, prepare_s=1.0))
    world.run(until_s=5.0)
    world.cancel([TaskUid("t0"), TaskUid("t1")])
    result = world.finish()
    assert result.outcomes == {Ending.DONE: 2, Ending.CANCELLED: 2}
    assert result.makespan_s == 5.0 + 2 * 11.0


@pytest.mark.parametrize("most", [1, 3, 7])
def test_no_more_than_the_ceiling_of_a_node_run_there_at_any_time(most: int) -> None:
    seconds = [1.0 + number % 7 for number in range(300)]
    costly = launcher(most_per_node=most, starts_per_s=50.0, prepare_s=0.25, acknowledge_s=0.1)
    world = World(machine(cores=8), Tasks(seconds), nodes=4, launcher=costly)
    (pilot,) = world.pilots.values()
    assert isinstance(pilot, SimulatedPilot)
    for until_s in range(1, 200):
        world.run(until_s=until_s)
        running = Counter(
            share.node for job in pilot.launching._jobs.values() if job.stage == RUNNING for share in job.placement
        )
        assert max(running.values(), default=0) <= most
    assert world.finish().outcomes == {Ending.DONE: 300}


def test_tasks_of_some_kinds_cost_less_than_others() -> None:
    """In one queue: a program takes 10 s to start, as ranks of MPI do, which then prepare for 5 s; a function takes 1 s."""
    kinds: dict[TaskKind, KindCosts] = {
        "function": KindCosts(starts_per_s=amount(1.0)),
        "mpi": KindCosts(prepare_s=amount(5.0), acknowledge_s=amount(2.0)),
    }
    costs = Launcher(name="test", starts_per_s=amount(0.1), kinds=kinds)
    templates = {
        ONE: Template(executable="/bin/true"),
        TemplateId(2): Template(mode="function"),
        TemplateId(3): Template(executable="/bin/true", request=Request(ranks=2)),
    }
    names = uids(3)
    arrival = Arrival(0.0, [Row(uid, template) for uid, template in zip(names, templates, strict=True)])
    workload = Tasks((), templates, [arrival], seconds=dict.fromkeys(names, 100.0))
    result = World(machine(cores=4), workload, nodes=1, launcher=costs).finish()
    assert {outcome.task: time_s for outcome, time_s in workload.told} == {
        "t0": 10.0 + 100.0,
        "t2": 20.0 + 5.0 + 100.0 + 2.0,
        "t1": 21.0 + 100.0,
    }
    assert (result.core_s.preparing, result.core_s.acknowledging) == (2 * 5.0, 2 * 2.0)


def test_a_launcher_that_costs_something_for_one_kind_only_is_not_ideal_for_the_others() -> None:
    costs = Launcher(name="test", kinds={"mpi": KindCosts(prepare_s=amount(5.0))})
    workload = Tasks([10.0] * 2)
    World(machine(cores=2), workload, nodes=1, launcher=costs).finish()
    assert [time_s for _, time_s in workload.told] == [10.0, 10.0]
