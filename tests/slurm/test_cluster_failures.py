"""Pilots on a real Slurm while parts of it, or of them, fail: the books are right, the rest goes on, and nothing is left.

After each test an outside witness says what ran, and how often (``cluster_books``), and no process and no job is there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_books import NODE_CORES, Begin, Campaign, campaigns
from node_processes import cut_power
from slurm_cluster import PATIENCE_S, SlurmCluster, missing_slurm

from pilotage.wire.keys import read_connection


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A cluster that the tests of this module break, and mend again."""
    if reason := missing_slurm():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with SlurmCluster(tmp_path_factory.mktemp("slurm"), gpus=0) as cluster:
        yield cluster


@pytest.fixture
def begin(cluster: SlurmCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    with campaigns(cluster, tmp_path, monkeypatch) as begin:
        yield begin


def kill(pids: list[int]) -> None:
    """Kill processes at once; some may go with others."""
    assert pids
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def agent_of(campaign: Campaign) -> int:
    return read_connection(Path(campaign.pilot.sandbox) / "connection.json").pid


def lets_all_end_in_their_first_attempt(campaign: Campaign) -> bool:
    """Open the gate, and see that nothing was lost and nothing ran again."""
    campaign.open_gate()
    campaign.finish()
    return all(set(campaign.endings(name)) == {"DONE 1"} for name in ("again", "once", "queued"))


# ----- what costs nothing ---------------------------------------------------------------------------------------------


def test_an_agent_that_is_killed(begin: Begin) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    kill([agent_of(campaign)])
    assert lets_all_end_in_their_first_attempt(campaign), campaign.story()


def test_a_host_that_is_killed(begin: Begin) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    kill(campaign.of_node(campaign.processes("pilotage.nodehost.main", "python"), "node2"))
    assert lets_all_end_in_their_first_attempt(campaign), campaign.story()


def test_a_slurmd_that_is_killed(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    cluster.kill("node2")
    assert lets_all_end_in_their_first_attempt(campaign), campaign.story()
    cluster.start_node("node2")


def test_a_controller_that_is_gone_for_a_while(begin: Begin, cluster: SlurmCluster) -> None:
    campaign, queued = begin(3), begin(4)
    campaign.occupy(3)
    queued.submit("queued", 8)
    queued.until(lambda: queued.pilot.job_state == "queued", "the other pilot is queued")
    # One that is killed has not saved what it was told in its last seconds.
    cluster.kill("slurmctld", signal.SIGTERM)
    assert lets_all_end_in_their_first_attempt(campaign), campaign.story()
    cluster.start_controller()
    cluster.wait_until(cluster.answers, "the controller answers")
    campaign.submit("after", 8)
    campaign.finish()
    assert set(campaign.endings("after")) == {"DONE 1"}, campaign.story()
    campaign.pilot.cancel()
    queued.finish()
    assert set(queued.endings("queued")) == {"DONE 1"}, queued.story()


# ----- what costs what ran there --------------------------------------------------------------------------------------


def test_a_spawner_that_is_killed(begin: Begin) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    kill(campaign.processes("pilotage.spawner.main", "spawner.1"))
    # Those that may run again have no outcome yet.
    campaign.until(lambda: campaign.has_losses or campaign.has_begun_again, "losses are told")
    campaign.open_gate()
    campaign.finish()
    lost = NODE_CORES
    again, once = campaign.endings("again"), campaign.endings("once")
    assert again["DONE 2"] + once["NODE_FAILED 1"] == lost, campaign.story()
    assert again["DONE 1"] + once["DONE 1"] == 2 * lost, campaign.story()


@pytest.mark.parametrize("how", ["scancel", "kill"])
def test_the_step_of_the_hosts_is_ended(begin: Begin, cluster: SlurmCluster, how: str) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    if how == "scancel":
        [step] = [step for step, name in cluster.steps(campaign.pilot.job).items() if name.startswith("pilotage-hosts")]
        cluster.output("scancel", step)
    else:
        kill(campaign.processes("pilotage-hosts", "srun"))
    campaign.until(lambda: not campaign.waiting("once"), "losses are told")
    campaign.open_gate()
    campaign.finish()
    assert set(campaign.endings("again")) == {"DONE 2"}, campaign.story()
    assert campaign.pilot.state == "PMGR_ACTIVE"


@pytest.mark.parametrize("how", ["set down", "lost"])
def test_the_agents_node_is(begin: Begin, cluster: SlurmCluster, how: str) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    other = campaign.have_another_pilot()
    if how == "lost":
        campaign.has_lost_a_log = True
        cut_power(cluster, "node1")
    cluster.set_node("node1", "down")
    campaign.until(lambda: campaign.pilot.state == "FAILED", "the pilot is lost")
    if how == "lost":
        cluster.start_node("node1")
    campaign.open_gate()
    campaign.finish()
    assert campaign.pilot.job_outcome == "NODE_FAILED", campaign.story()
    assert f"its job {campaign.pilot.job} lost a node (node1, where its agent was" in campaign.pilot.reason
    assert set(campaign.endings("once")) == {"NODE_FAILED 1"}, campaign.story()
    for name in ("again", "queued"):
        endings = {ending.split()[0] for ending in campaign.endings(name)}
        assert endings == {"NODE_FAILED" if (how, name) == ("lost", "queued") else "DONE"}, campaign.story()
    assert other.state == "PMGR_ACTIVE"


# ----- what ends the job ----------------------------------------------------------------------------------------------


def test_a_job_that_is_cancelled(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    cluster.output("scancel", campaign.pilot.job)
    campaign.finish()
    campaign.until(lambda: campaign.pilot.job_outcome, "the end of the job is told")
    assert (campaign.pilot.state, campaign.pilot.job_outcome) == ("FAILED", "CANCELLED"), campaign.story()
    assert campaign.has_losses, campaign.story()


def test_a_job_that_is_killed_at_once(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    cluster.output("scancel", "--full", "--signal=KILL", campaign.pilot.job)
    campaign.finish()
    assert campaign.pilot.state == "FAILED", campaign.story()
    assert campaign.has_losses, campaign.story()


def test_a_job_whose_first_process_is_killed(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    kill(campaign.processes("pilotage.agent.bootstrap", "python"))
    campaign.until(lambda: not campaign.processes("pilotage.agent.main"), "the agent ends with its job")
    campaign.finish()
    assert campaign.pilot.state == "FAILED", campaign.story()


def test_a_job_that_is_preempted_and_not_queued_again(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(3, queue="spare", extra_options="--no-requeue")
    campaign.occupy(3)
    cluster.submit("--nodes=4", "--wrap=true")
    campaign.finish()
    campaign.until(lambda: campaign.pilot.job_outcome, "the end of the job is told")
    assert campaign.pilot.job_outcome == "PREEMPTED", campaign.story()


@pytest.mark.parametrize("how", ["preempted", "requeue"])
def test_a_job_that_is_queued_again(begin: Begin, cluster: SlurmCluster, how: str) -> None:
    campaign = begin(3, **({"queue": "spare"} if how == "preempted" else {}))
    campaign.occupy(3)
    if how == "preempted":
        cluster.submit("--nodes=4", "--wrap=true")
    else:
        cluster.output("scontrol", "requeue", campaign.pilot.job)
    # Not before all of the first run has ended.
    campaign.until(lambda: not campaign.processes(), "the first run is over")
    campaign.open_gate()
    campaign.finish()
    assert set(campaign.endings("again")) == {"DONE 2"}, campaign.story()
    assert campaign.pilot.state == "PMGR_ACTIVE"


def test_a_job_whose_agent_cannot_end_in_time(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(3)
    campaign.occupy(3)
    os.kill(agent_of(campaign), signal.SIGSTOP)
    cluster.output("scontrol", "update", f"JobId={campaign.pilot.job}", "EndTime=now+1")
    # Slurm looks every 30 s only whose time is over, and kills it then.
    campaign.finish(patience_s=2 * PATIENCE_S)
    campaign.until(lambda: campaign.pilot.job_outcome, "the end of the job is told")
    assert campaign.pilot.job_outcome == "TIMED_OUT", campaign.story()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_is_set_down(begin: Begin, cluster: SlurmCluster) -> None:
    campaign = begin(4)
    campaign.occupy(4)
    there = {uid for name in ("again", "once") for uid, node in campaign.nodes_of(name).items() if node == "node3"}
    cluster.set_node("node3", "down")
    campaign.until(
        lambda: not campaign.of_node(campaign.processes("pilotage.nodehost.main", "python"), "node3"), "its host is gone"
    )
    campaign.open_gate()
    # What was handed over to it is known to be lost when its host was not heard of for two minutes.
    campaign.finish(patience_s=200.0)
    ended_otherwise = {uid for uid, task in campaign.tasks.items() if task.attempt != 1 or task.state != "DONE"}
    assert there <= ended_otherwise, campaign.story()
    assert set(campaign.endings("again")) <= {"DONE 1", "DONE 2"}, campaign.story()
    assert campaign.pilot.state == "PMGR_ACTIVE"
