"""Pilots with partitions whose job ends around them, or loses nodes, on a real Slurm: the books are right; the rest goes on.

After each test an outside witness says what ran, and how often (``cluster_books``), and no process and no job is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cluster_books import LOSSES, NODE_CORES, Begin, campaigns
from slurm_cluster import OpenSlurm, SlurmCluster
from slurm_pilot import SlurmPilot, shell

from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec

BOTH = pytest.mark.parametrize("sub_agents", ["processes", "threads"])


@pytest.fixture
def begin(slurm: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    with campaigns(slurm, tmp_path, monkeypatch) as begin:
        yield begin


def halves(**fields: Any) -> list[PartitionSpec]:
    return [PartitionSpec(name=name, **fields) for name in ("a", "b")]


# ----- what ends the job ----------------------------------------------------------------------------------------------

SAVES = 'trap "echo saved >saved; exit {code}" USR1; touch ready; while :; do sleep 0.05; done'


@BOTH
def test_who_saves_and_is_done_when_the_job_is_told_to_end_is_done(
    begin: Begin, slurm: SlurmCluster, tmp_path: Path, sub_agents: str
) -> None:
    campaign = begin(2, *halves(), sub_agents=sub_agents, drain_s=60, checkpoint_signal="USR1")
    tasks = {(name, code): campaign.shell(SAVES.format(code=code), partition=name) for name in ("a", "b") for code in (0, 7)}
    campaign.until(lambda: all((Path(task.sandbox) / "ready").exists() for task in tasks.values()), "all tasks run")
    late = campaign.shell("true", ranks=2, partition="a", cores_per_rank=NODE_CORES // 2)

    # Only the script is told, and may take its time; the partitions' agents hear of it by their head.
    slurm.output("scancel", "--batch", "--signal=TERM", campaign.pilot.job)

    campaign.until(lambda: all(task.outcome for task in (*tasks.values(), late)), "all tasks have outcomes")
    found = {key: task.outcome.ending for key, task in tasks.items()}
    assert found == {(name, code): Ending.LOST if code else Ending.DONE for name, code in tasks}, campaign.story()
    assert all((Path(task.sandbox) / "saved").read_text() == "saved\n" for task in tasks.values())
    assert late.outcome.attempt == 0, campaign.story()


@BOTH
def test_a_job_that_is_cancelled(begin: Begin, slurm: SlurmCluster, sub_agents: str) -> None:
    campaign = begin(3, *halves(), sub_agents=sub_agents, drain_s=20)
    campaign.occupy(3)
    slurm.output("scancel", campaign.pilot.job)
    campaign.finish()
    campaign.until(lambda: campaign.pilot.job_outcome, "the end of the job is told")
    assert (campaign.pilot.state, campaign.pilot.job_outcome) == ("FAILED", "CANCELLED"), campaign.story()
    assert set(campaign.endings("once")) == {"LOST 1"}, campaign.story()


@BOTH
@pytest.mark.parametrize("how", ["preempted", "requeue"])
def test_a_job_that_is_queued_again(begin: Begin, slurm: SlurmCluster, how: str, sub_agents: str) -> None:
    queue = {"queue": "spare"} if how == "preempted" else {}
    campaign = begin(3, *halves(), sub_agents=sub_agents, drain_s=20, **queue)
    campaign.occupy(3)
    if how == "preempted":
        slurm.submit("--nodes=4", "--wrap=true")
    else:
        slurm.output("scontrol", "requeue", campaign.pilot.job)
    # Not before all of the first run has ended.
    campaign.until(lambda: not campaign.processes(), "the first run is over")
    campaign.open_gate()
    campaign.finish()
    assert set(campaign.endings("again")) == {"DONE 2"}, campaign.story()
    assert set(campaign.endings("once")) <= {"LOST 1", "NODE_FAILED 1"}, campaign.story()
    assert set(campaign.endings("queued")) <= {"DONE 1", "DONE 2"}, campaign.story()
    assert campaign.pilot.state == "PMGR_ACTIVE"


# ----- nodes that do not come, and nodes that go -----------------------------------------------------------------------

WITHOUT_THE_LAST = """#!/bin/bash
arguments=("${@//--nodelist=node\\[1-3\\]/--nodelist=node[1-2]}")
arguments=("${arguments[@]//--nodes=3/--nodes=2}")
exec srun "${arguments[@]//--ntasks=3/--ntasks=2}"
"""


def test_a_pilot_begins_with_the_nodes_that_come(slurm: SlurmCluster, tmp_path: Path) -> None:
    without = tmp_path / "srun"
    without.write_text(WITHOUT_THE_LAST)
    without.chmod(0o755)
    specs = [PartitionSpec(name="a", nodes=1), PartitionSpec(name="b", nodes=1), PartitionSpec(name="c", nodes=1, tags=("c1",))]
    places = {"launcher_paths": {"srun": str(without)}, "hosts_timeout_s": 8.0}
    pilot = SlurmPilot(slurm, tmp_path / "pilot", nodes=3, partitions=specs, **places)
    try:
        assert [node.name for node in pilot.come_up()] == ["node1", "node2"]
        uids = pilot.submit(
            *((f"of.{name}", shell(partition=name), ("echo $PILOTAGE_PARTITION",)) for name in ("a", "b", "c1")),
            ("large", shell(ranks=2, ranks_per_node=1), ("true",)),
        )
        ended = [(outcome.ending, outcome.message) for outcome in pilot.wait_for(uids)]
        assert [ending for ending, _ in ended] == [Ending.DONE, Ending.DONE, Ending.INFEASIBLE, Ending.INFEASIBLE], ended
        assert [pilot.output(uid).strip() for uid in uids[:2]] == ["a", "b"]
        assert (
            "'c1', which the task names, was lost: no node is left for it: 1 of the pilot's 3 nodes did not come" in ended[2][1]
        )
        pilot.wait(lambda: len(pilot.notices) >= 2, "the user is told")
        assert any("partition 'c' is lost" in notice for notice in pilot.notices), pilot.notices
        assert pilot.end().state == "CANCELED"
    finally:
        pilot.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nodes_that_are_set_down(open_slurm: OpenSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = open_slurm(gpus=0)
    with campaigns(cluster, tmp_path, monkeypatch) as begin:
        campaign = begin(4, *(PartitionSpec(name=name, nodes=count) for name, count in (("a", 1), ("b", 2), ("c", 1))))
        campaign.occupy(4)
        of_b = campaign.shell("true", partition="b", ranks=2, ranks_per_node=1)
        of_c = campaign.shell("true", partition="c")
        there = {uid for name in ("again", "once") for uid, at in campaign.nodes_of(name).items() if at in ("node3", "node4")}
        assert len(there) == 2 * NODE_CORES
        for node in ("node3", "node4"):
            cluster.set_node(node, "down")
        # What was handed over to them is known to be lost when their hosts were not heard of for two minutes.
        campaign.until(lambda: of_b.outcome and of_c.outcome, "those are refused that nobody can run", patience_s=250.0)
        states = {each.name: (each.state, each.nodes) for each in campaign.pilot.partitions()}
        campaign.open_gate()
        campaign.finish()
        assert (of_b.outcome.ending, of_c.outcome.ending) == (Ending.INFEASIBLE, Ending.INFEASIBLE), campaign.story()
        assert "its last node was lost" in of_c.outcome.message, campaign.story()
        assert states == {"a": ("active", 1), "b": ("active", 1), "c": ("lost", 0)}, campaign.story()
        again = {uid for uid in there if uid.startswith("again")}
        assert all(campaign.tasks[uid].attempt == 2 for uid in again), campaign.story()
        assert all(campaign.tasks[uid].outcome.ending in LOSSES for uid in there - again), campaign.story()
        assert campaign.pilot.state == "PMGR_ACTIVE"
