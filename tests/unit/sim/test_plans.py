"""Plans: what is said, what follows from the workload and the machine, and what comes of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pilotage.errors import InvalidRequest
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec, PolicySpec
from pilotage.sim.files import read_launcher, read_machine
from pilotage.sim.model import IDEAL, Faults
from pilotage.sim.plans import Plan, PlannedPartition, described_workload, read_plan, settle

MACHINE = """\
description = "a small torus"
nodes = 8
cores_per_node = 4
torus = [2, 4]
[sources]
nodes = "made up"
cores_per_node = "made up"
torus = "made up"
"""
SLEEP = described_workload("sleep")


def test_what_a_plan_leaves_open_follows_from_workload_and_machine() -> None:
    trial = settle(Plan(), SLEEP)
    assert (trial.machine, trial.nodes, trial.launchers) == (read_machine("frontier"), 4, {"": read_launcher("srun")})
    assert (trial.scheduler, trial.pilots, trial.faults, trial.walltime_s, trial.seed) == (PolicySpec(), 1, Faults(), None, 0)


def test_a_machine_with_fewer_nodes_than_the_workload_is_meant_for() -> None:
    trial = settle(Plan(machine="local"), SLEEP)
    assert (trial.nodes, trial.started_by) == (1, "spawner")


def test_what_a_plan_says_counts() -> None:
    plan = Plan(
        name="mine",
        machine="summit",
        nodes=9,
        launcher="ideal",
        scheduler="packed",
        order="backfill",
        pilots=3,
        walltime_min=2,
        seed=5,
    )
    trial = settle(plan, SLEEP)
    assert (trial.name, trial.machine.name, trial.nodes, trial.launchers) == ("mine", "summit", 9, {"": IDEAL})
    assert trial.scheduler == PolicySpec(policy="packed", order="backfill")
    assert (trial.pilots, trial.walltime_s, trial.seed) == (3, 120.0, 5)


def test_one_plan_over_another() -> None:
    under = Plan(name="under", machine="summit", nodes=9, launcher="jsrun")
    assert Plan(nodes=4).over(under) == Plan(name="under", machine="summit", nodes=4, launcher="jsrun")


def test_a_plan_from_a_file_names_files_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "small.toml").write_text(MACHINE)
    (tmp_path / "mine" / "bad-day.toml").write_text("node_losses_per_day = 4")
    path = tmp_path / "mine" / "next.toml"
    path.write_text('machine = "small.toml"\nnodes = 8\nlauncher = "ideal"\nfaults = "bad-day.toml"\nscheduler = "torus"\n')

    plan = read_plan(str(path))
    trial = settle(plan, SLEEP)

    assert (plan.name, trial.machine.name, trial.faults) == ("next", "small", Faults(node_losses_per_day=4.0))
    assert trial.scheduler == PolicySpec(policy="torus", torus=(2, 4))


def test_a_plan_with_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('[scheduler]\npolicy = "torus"\ntorus = [2, 2]\n[faults]\nrestart_s = 1\n')
    trial = settle(read_plan(str(path)), SLEEP)
    assert trial.scheduler == PolicySpec(policy="torus", torus=(2, 2))
    assert trial.faults == Faults(restart_s=1.0)


def test_a_plan_with_partitions(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(
        """
nodes = 8
launcher = "srun"

[[partitions]]
name = "many"
nodes = 6
least_nodes = 2
most_nodes = 8
kinds = ["executable"]
launcher = "flux"
scheduler = { policy = "packed" }

[[partitions]]
name = "rest"
"""
    )
    trial = settle(read_plan(str(path)), SLEEP)
    packed = PolicySpec(policy="packed")
    assert trial.partitions == (
        PartitionSpec(name="many", nodes=6, least_nodes=2, most_nodes=8, kinds=("executable",), scheduler=packed),
        PartitionSpec(name="rest"),
    )
    assert trial.launchers == {"many": read_launcher("flux"), "rest": read_launcher("srun")}
    assert trial.started_by == "flux, srun"
    assert trial.launcher_of("many").name == "flux"


def test_two_partitions_under_srun_have_a_ceiling_each_and_tasks_are_shared_out() -> None:
    halves = (PlannedPartition(name="one"), PlannedPartition(name="two"))
    done = settle(Plan(partitions=halves), SLEEP).run()
    assert done.result.outcomes == {Ending.DONE: 896}
    assert [(each.name, each.nodes, each.starts) for each in done.result.partitions] == [("one", 2, 448), ("two", 2, 448)]
    assert done.result.most_at_once == 224


def test_kinds_of_tasks_go_to_their_partition() -> None:
    parts = (
        PlannedPartition(name="programs", nodes=31, kinds=("executable",), launcher="ibrun"),
        PlannedPartition(name="calls", nodes=1, kinds=("function",), launcher="ideal"),
    )
    done = settle(Plan(partitions=parts), described_workload("colmena")).run()
    assert [(each.name, each.starts) for each in done.result.partitions] == [("programs", 150), ("calls", 300)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[[partitions]]\nname = 'a'\n[[partitions]]\nnmae = 'b'",
            "4: partitions[2].nmae: there is no such field; did you mean",
        ),
        ("[[partitions]]\nname = 'a'\nlauncher = 3", "3: partitions[1].launcher: expected `str`, got `int`, and it is 3"),
        ("nodse = 3", "1: nodse: there is no such field; did you mean 'nodes'?"),
        ("nodes = 0", "1: nodes: expected `int` >= 1, and it is 0"),
        ('name = "x"', "1: name: is no field of the file: it follows from the file's name"),
        (
            'scheduler = "pakced"',
            "1: scheduler: 'pakced' is not one of continuous, homogeneous, packed, spread, tagged, torus; did you mean",
        ),
        ("[scheduler]\npolcy = 'packed'", "2: scheduler.polcy: there is no such field; did you mean 'policy'?"),
        ("walltime_min = 0", "1: walltime_min: expected `float` > 0.0, and it is 0"),
        ("nodes = 4\n[faults]\nmessage_loss = 2", "3: faults.message_loss: is 2; it is a share, give 0.5 or less"),
    ],
)
def test_a_plan_that_is_wrong(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(InvalidRequest) as raised:
        read_plan(str(path))
    assert str(raised.value).startswith(f"plan file {path}:{message}")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(nodes=9409), "nodes=9,409 exceeds the 9,408 nodes of frontier; ask for as many or fewer"),
        (Plan(pilots=5), "pilots=5 cannot share 4 nodes; ask for as many pilots or fewer"),
        (Plan(machine="fronteir"), "no machine is named 'fronteir'; did you mean 'frontier'?"),
        (Plan(launcher="sruns"), "no launcher is named 'sruns'; did you mean 'srun'?"),
        (
            Plan(partitions=(PlannedPartition(name="a", nodes=5),)),
            "partition 'a': nodes=5 exceeds the 4 nodes of the pilot; ask for at most 4",
        ),
        (Plan(partitions=(PlannedPartition(name="a"),), pilots=2), "pilots=2 with 1 partitions: partitions divide one pilot"),
        (
            Plan(partitions=(PlannedPartition(name="a", launcher="fluks"),)),
            "no launcher is named 'fluks'; did you mean 'flux'?",
        ),
        (
            Plan(partitions=(PlannedPartition(name="a"),), faults=Faults(kill_agents_at_s=((1.0, "b"),))),
            "faults: kill_agents_at_s names 'b', which is no pilot or partition; there are pilot.0000, a",
        ),
        (Plan(faults="gone.toml"), "faults 'gone.toml': there is no such file; give the path of one"),
        (Plan(faults=Faults(lose_nodes_at_s=((1.0, 4),))), "faults: node 4 is to be lost, and there are nodes 0 to 3"),
        (
            Plan(faults=Faults(kill_agents_at_s=((1.0, "pilot.1"),))),
            "faults: kill_agents_at_s names 'pilot.1', which is no pilot or partition; did you mean 'pilot.0000'?",
        ),
        (
            Plan(faults=Faults(lose_partitions_at_s=((1.0, "x"),)), pilots=2),
            "faults: lose_partitions_at_s names 'x', which is no pilot or partition; there are pilot.0000, pilot.0001",
        ),
        (Plan(scheduler="torus"), "scheduler 'torus': say how the 4 nodes lie, in a plan's file: "),
    ],
)
def test_a_plan_for_what_is_not_there(plan: Plan, message: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        settle(plan, SLEEP)
    assert str(raised.value).startswith(message)


def test_srun_on_frontier_keeps_half_of_four_nodes_idle() -> None:
    done = settle(Plan(), SLEEP).run()
    assert done.result.outcomes == {Ending.DONE: 896}
    assert done.result.most_at_once == 112
    assert done.result.utilization == pytest.approx(0.5, abs=0.002)
    # Eight waves of 180 s, where four would do.
    assert done.result.makespan_s == pytest.approx(1440, rel=0.002)
    assert done.demand.least_makespan_s(4, done.trial.machine.shape) == pytest.approx(720)


def test_a_launcher_that_comes_up_late_starts_each_task_once() -> None:
    done = settle(Plan(launcher="flux"), SLEEP).run()
    assert (done.result.outcomes, done.result.starts, done.result.most_at_once) == ({Ending.DONE: 896}, 896, 224)
    # 20 s until it is up, 4 s until the last of the first wave runs, four waves.
    assert done.result.makespan_s == pytest.approx(744, abs=1)
    assert done.result.core_s.startup == 20.0 * 224


def test_the_same_plan_gives_the_same_and_the_seed_counts() -> None:
    chance = described_workload("docking")
    runs = [settle(Plan(nodes=2, launcher="ideal", seed=seed), chance).run().result.makespan_s for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_the_walltime_ends_a_run() -> None:
    done = settle(Plan(walltime_min=5), SLEEP).run()
    assert done.result.outcomes == {Ending.DONE: 112, Ending.OUT_OF_WALLTIME: 784}
    assert done.result.makespan_s == 300.0


def test_impeccable_on_256_nodes_takes_what_its_work_takes() -> None:
    done = settle(Plan(launcher="flux"), described_workload("impeccable")).run()
    assert done.result.outcomes == {Ending.DONE: 550}
    assert done.demand.least_makespan_s(256, done.trial.machine.shape) == pytest.approx(14_960, rel=0.02)
    assert done.result.makespan_s == pytest.approx(14_960, rel=0.03)


@pytest.mark.parametrize(("nodes", "published"), [(1024, 0.77), (4097, 0.41)])
def test_the_heterogeneous_workload_under_prrte_uses_summit_as_published(nodes: int, published: float) -> None:
    done = settle(Plan(nodes=nodes, launcher="prrte"), described_workload("heterogeneous")).run()
    assert done.result.utilization == pytest.approx(published, abs=0.03)
    failed = done.result.outcomes.get(Ending.LAUNCH_FAILED, 0)
    assert failed == (0 if nodes == 1024 else pytest.approx(1148, rel=0.1))


def test_sixteen_thousand_tasks_under_orte_take_as_long_as_published() -> None:
    done = settle(Plan(nodes=4096), described_workload("generations")).run()
    assert done.trial.started_by == "orte"
    assert done.result.outcomes == {Ending.DONE: 16_384}
    # Experiment 2 on 65,536 cores.
    assert done.result.makespan_s == pytest.approx(7612, rel=0.04)
