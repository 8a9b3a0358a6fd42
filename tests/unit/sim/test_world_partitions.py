"""Pilots with a plan: the real metascheduler over partitions, each with an agent and a launcher of its own."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from simulated_tasks import ONE, Tasks, core_seconds, launcher, machine, parts_of, rows, uids
from test_world_faults import COSTLY, mixed

from pilotage.core.metascheduler.core import MetaschedulerCore
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.model.resources import Request
from pilotage.model.services import Service
from pilotage.model.workload import Row, Template
from pilotage.sim.metaschedulers import SimulatedMetascheduler
from pilotage.sim.model import IDEAL, Arrival, Faults, Launcher
from pilotage.sim.result import Result
from pilotage.sim.world import World
from planted_faults import Patch, require_noticed

HALVES = [PartitionSpec(name="left", nodes=2), PartitionSpec(name="right", nodes=2)]
BOTH = pytest.mark.parametrize("client", [True, False])


def run(workload: Tasks, plan: Sequence[PartitionSpec] = HALVES, **more: object) -> Result:
    return World(machine(cores=4), workload, nodes=4, plan=plan, **more).finish()  # type: ignore[arg-type]


@BOTH
def test_two_halves_share_the_work(client: bool) -> None:
    result = run(Tasks([10.0] * 32), client=client)
    assert (result.makespan_s, result.outcomes) == (20.0, {Ending.DONE: 32})
    assert [(part.name, part.nodes, part.starts) for part in result.partitions] == [("left", 2, 16), ("right", 2, 16)]
    assert core_seconds(result) == {"offered": 320.0, "running": 320.0}


def test_each_partition_starts_when_its_launcher_is_up() -> None:
    """8 tasks for each: the right one runs them from 0 to 10 s, the left one from 5 to 15."""
    launchers = {"left": launcher(startup_s=5.0), "right": IDEAL}
    result = run(Tasks([10.0] * 16), launcher=launchers)
    assert (result.makespan_s, result.core_s.startup) == (15.0, 8 * 5.0)
    left, right = result.partitions
    assert parts_of(left.core_s) == {"offered": 120.0, "startup": 40.0, "running": 80.0}
    assert parts_of(right.core_s) == {"offered": 120.0, "running": 80.0, "idle": 40.0}


def test_a_ceiling_is_that_of_one_partition() -> None:
    result = run(Tasks([10.0] * 32), launcher=launcher(most_at_once=4))
    assert (result.most_at_once, result.makespan_s) == (8, 40.0)


def test_tasks_go_where_they_are_taken() -> None:
    plan = [
        PartitionSpec(name="functions", nodes=1, kinds=("function",)),
        PartitionSpec(name="rest", nodes=3, kinds=("executable",)),
    ]
    templates = {ONE: Template(mode="function"), TemplateId(2): Template(executable="/bin/true")}
    arrival = Arrival(0.0, [*rows(uids(8)), *rows(uids(24, "e"), TemplateId(2))])
    seconds = dict.fromkeys([*uids(8), *uids(24, "e")], 10.0)
    result = run(Tasks((), templates, [arrival], seconds=seconds), plan)
    assert [(part.name, part.starts) for part in result.partitions] == [("functions", 8), ("rest", 24)]
    assert result.makespan_s == 20.0


def test_nodes_move_to_where_the_work_is() -> None:
    """All work is for one partition of one node, which may grow to four: it does, and what it is offered is counted."""
    plan = [
        PartitionSpec(name="busy", nodes=1, most_nodes=4, kinds=("executable",)),
        PartitionSpec(name="idle", nodes=3, least_nodes=0, most_nodes=3, kinds=("function",)),
    ]
    result = run(Tasks([10.0] * 400), plan)
    assert result.outcomes == {Ending.DONE: 400}
    assert result.makespan_s < 0.5 * 1000.0, "a partition of one node would take 1000 s"
    busy = next(part for part in result.partitions if part.name == "busy")
    assert busy.core_s.offered > 2 * 4 * result.makespan_s
    assert sum(part.core_s.offered for part in result.partitions) <= result.core_s.offered + 1e-6


@BOTH
def test_a_service_in_a_partition_runs_until_all_else_is_done(client: bool) -> None:
    templates = {ONE: Template(executable="/bin/server", service=Service()), TemplateId(2): Template(executable="/bin/true")}
    arrival = Arrival(0.0, [Row(TaskUid("s"), ONE), *rows(uids(31), TemplateId(2))])
    result = run(Tasks((), templates, [arrival], seconds=dict.fromkeys(uids(31), 10.0)), client=client)
    assert result.outcomes == {Ending.DONE: 32}


def test_what_runs_goes_on_when_the_metascheduler_or_an_agent_dies() -> None:
    deaths = ((2.0, "pilot.0000"), (3.0, "left"), (9.0, "right"), (15.0, "pilot.0000"), (15.0, "left"))
    result = run(Tasks([10.0] * 64), faults=Faults(kill_agents_at_s=deaths, restart_s=2.0))
    assert (result.agent_deaths, result.outcomes, result.starts) == (5, {Ending.DONE: 64}, 64)


def test_a_lost_partition_leaves_its_tasks_and_its_nodes_to_the_others() -> None:
    """What ran there is lost, as it may not run twice; what waited there never began, and goes on elsewhere."""
    result = run(Tasks([10.0] * 64), faults=Faults(lose_partitions_at_s=((5.0, "left"),)))
    assert result.outcomes == {Ending.LOST: 8, Ending.DONE: 56}
    assert [part.starts for part in result.partitions][:2] == [8, 56]
    assert result.makespan_s == 70.0


def test_a_node_that_a_partition_loses_is_nobodys_and_tasks_that_need_it_go_elsewhere() -> None:
    """Wide tasks fit one partition only, once a node of the other is gone; what waited there for it goes, too."""
    templates = {ONE: Template(executable="/bin/true", request=Request(ranks=2, cores=4), retries=1)}
    world = World(
        machine(cores=4), Tasks([10.0] * 8, templates), nodes=4, plan=HALVES, faults=Faults(lose_nodes_at_s=((5.0, 0),))
    )
    result = world.finish()
    (pilot,) = world.pilots.values()
    assert isinstance(pilot, SimulatedMetascheduler) and pilot.core is not None
    assert pilot.core.state.lost_nodes == {0: None} and list(pilot.core.state.free_nodes) == [1, 2, 3]
    assert result.outcomes == {Ending.DONE: 8}
    assert [part.starts for part in result.partitions] == [1, 8] and result.makespan_s == 80.0


def test_the_whole_pilot_is_lost_with_its_partitions() -> None:
    result = run(Tasks([10.0] * 64), faults=Faults(lose_partitions_at_s=((15.0, "pilot.0000"),)))
    assert result.outcomes == {Ending.DONE: 16, Ending.LOST: 48}


@pytest.mark.parametrize(
    ("more", "wrong"),
    [
        ({"pilots": 2}, "a plan divides one pilot"),
        ({"launcher": {"left": IDEAL}}, "no launcher is given for partition 'right'"),
        ({"plan": (), "launcher": {"left": IDEAL}}, "there is no plan"),
        ({"plan": (PartitionSpec(name="large", nodes=5),)}, "large"),
        ({"faults": Faults(kill_agents_at_s=((1.0, "middle"),))}, "no pilot or partition 'middle'"),
    ],
)
def test_what_makes_no_sense_is_refused(more: dict[str, object], wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        run(Tasks([1.0]), **more)  # type: ignore[arg-type]


def plans(chance: random.Random) -> tuple[PartitionSpec, ...]:
    """For 4 nodes, in which all kinds of tasks find a place."""
    backfill = PolicySpec(order="backfill")
    return chance.choice(
        [
            (PartitionSpec(name="all", nodes=4),),
            (PartitionSpec(name="a", nodes=2), PartitionSpec(name="b", nodes=2, scheduler=backfill)),
            (PartitionSpec(name="a", nodes=1, most_nodes=3), PartitionSpec(name="b", least_nodes=2, most_nodes=4)),
            (PartitionSpec(name="a", nodes=1, kinds=("function",), most_nodes=2), PartitionSpec(name="b", nodes=3)),
        ]
    )


def everything(seed: int) -> dict[str, object]:
    chance = random.Random(f"partitions {seed}")
    plan = plans(chance)
    names = ["pilot.0000", *(spec.name for spec in plan)]
    costs: Launcher = chance.choice((IDEAL, COSTLY))
    faults = Faults(
        seed=seed,
        lose_nodes_at_s=tuple((chance.uniform(0.0, 120.0), chance.randrange(4)) for _ in range(chance.randint(0, 1))),
        lose_partitions_at_s=((chance.uniform(0.0, 120.0), chance.choice(names[1:])),) if chance.random() < 0.4 else (),
        kill_agents_at_s=tuple((chance.uniform(0.0, 150.0), chance.choice(names)) for _ in range(chance.randint(0, 10))),
        restart_s=chance.choice((0.1, 5.0, 30.0)),
        message_loss=chance.choice((0.0, 0.02, 0.3)),
        message_delay_s=chance.choice((0.0, 0.01, 2.0)),
        clock_skew_s=chance.choice((0.0, 0.5)),
    )
    return {
        "plan": plan,
        "faults": faults,
        "launcher": costs,
        "walltime_s": chance.choice((None, None, 120.0)),
        "client": chance.random() < 0.6,
        "most_open": chance.choice((50, 1000)),
        "seed": seed,
    }


def with_plan(seed: int, **more: object) -> Result:
    return World(machine(cores=8), mixed(seed, widest=4), nodes=4, **everything(seed), **more).finish()  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [*range(40), 75, 167, 174, 287])
def test_the_books_balance_whatever_goes_wrong(seed: int) -> None:
    result = with_plan(seed)
    assert sum(result.outcomes.values()) == result.tasks
    for held in (result.core_s, result.gpu_s):
        parts = {field: getattr(held, field) for field in held.__struct_fields__}
        assert min(parts.values()) >= -1e-6, parts
        assert parts.pop("offered") == pytest.approx(sum(parts.values()))


def test_the_same_seed_has_the_same_history() -> None:
    assert with_plan(3, note_history=True).history == with_plan(3, note_history=True).history != ""


@pytest.mark.parametrize("seed", range(3))
def test_what_a_metascheduler_recovers_is_what_it_was(seed: int) -> None:
    faults = Faults(kill_agents_at_s=((1000.0, "pilot.0000"),))
    world = World(machine(cores=8), mixed(seed), nodes=4, plan=plans(random.Random(seed)), faults=faults)
    for until_s in (10.0, 33.0, 70.0, 101.0):
        world.run(until_s=until_s)
        (pilot,) = world.pilots.values()
        assert isinstance(pilot, SimulatedMetascheduler) and pilot.core is not None
        assert pilot._log.recover() == pilot.core.state
    world.finish()


def forgets_leases(patch: pytest.MonkeyPatch) -> None:
    """A metascheduler recovers without its last records."""
    begin = SimulatedMetascheduler.begin_life

    def short(pilot: SimulatedMetascheduler) -> None:
        del pilot._log._records[-6:]
        begin(pilot)

    patch.setattr(SimulatedMetascheduler, "begin_life", short)


def takes_outcomes_twice(patch: pytest.MonkeyPatch) -> None:
    """Outcomes that a partition tells count, whatever was told before."""
    handle = MetaschedulerCore.handle

    def twice(core: MetaschedulerCore, event: object) -> object:
        step = handle(core, event)  # type: ignore[arg-type]
        step.actions += [action for action in step.actions if type(action).__name__ == "SendOutcomes"]
        return step

    patch.setattr(MetaschedulerCore, "handle", twice)


@pytest.mark.parametrize("fault", [forgets_leases, takes_outcomes_twice])
def test_a_planted_fault_is_caught(fault: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    # It may trip anything: the witness, the numbers of a link, a fold.
    require_noticed(fault, monkeypatch, with_plan, 40, by=Exception)


def test_wide_tasks_go_to_the_partition_that_can_hold_them() -> None:
    plan = [PartitionSpec(name="small", nodes=1), PartitionSpec(name="wide", nodes=3)]
    templates = {ONE: Template(executable="/bin/true", request=Request(ranks=3, cores=4))}
    result = run(Tasks([10.0] * 4, templates), plan)
    assert [part.starts for part in result.partitions] == [0, 4]
