"""Partitions of pilots in jobs of a real Slurm: each has steps of its own, nodes come and go, and agents die."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster
from slurm_pilot import SlurmPilot, shell

from pilotage.agent.settings import CONNECTION_FILE
from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.errors import InvalidPilot
from pilotage.model.outcome import Ending
from pilotage.model.partitions import PartitionSpec
from pilotage.wire.keys import read_connection

OpenPilot = Callable[..., SlurmPilot]

WHERE = 'echo $PILOTAGE_PARTITION $PILOTAGE_NODE; while [ ! -e "$1" ]; do sleep 0.05; done'
"""A task that tells where it is, and waits for a file."""
RANK = "echo $PILOTAGE_PARTITION $PILOTAGE_RANK $PILOTAGE_NODE $SLURMD_NODENAME"


@pytest.fixture
def open_pilot(slurm: SlurmCluster, tmp_path: Path) -> Iterator[OpenPilot]:
    """Submit pilots with partitions; what is left of them is cancelled after the test."""
    opened: list[SlurmPilot] = []

    def open_one(*specs: PartitionSpec, **settings: Any) -> SlurmPilot:
        opened.append(SlurmPilot(slurm, tmp_path / f"pilot.{len(opened)}", partitions=[*specs], **settings))
        return opened[-1]

    yield open_one
    for pilot in opened:
        pilot.close()


def halves(**fields: Any) -> list[PartitionSpec]:
    return [PartitionSpec(name=name, **fields) for name in ("a", "b")]


def start(pilot: SlurmPilot, prefix: str, count: int, **fields: Any) -> tuple[list[Any], Path]:
    """Have tasks run that wait; return their uids, and the file that they wait for."""
    go = pilot.folder / f"go.{prefix}"
    one = shell(**fields)
    uids = pilot.submit(*((f"{prefix}.{number}", one, (WHERE, "sh", str(go))) for number in range(count)))
    pilot.wait(lambda: all(uid in pilot.started for uid in uids), f"{count} tasks run")
    return uids, go


def ends_of(pilot: SlurmPilot, uids: list[Any]) -> set[Ending]:
    return {outcome.ending for outcome in pilot.wait_for(uids)}


def places(pilot: SlurmPilot, uids: list[Any]) -> set[tuple[str, str]]:
    """Return the partitions and nodes that tasks have told."""
    return {tuple(pilot.output(uid).split()) for uid in uids}  # type: ignore[misc]


def host_steps(slurm: SlurmCluster, pilot: SlurmPilot) -> list[str]:
    return sorted(name for name in slurm.steps(pilot.job).values() if name.startswith("pilotage-hosts:"))


def pid_of(pilot: SlurmPilot, partition: str = "") -> int:
    folder = pilot.folder / "partitions" / partition if partition else pilot.folder
    return read_connection(folder / CONNECTION_FILE).pid


@pytest.mark.parametrize("sub_agents", ["processes", "threads"])
def test_each_partition_has_one_step_for_its_nodes(open_pilot: OpenPilot, slurm: SlurmCluster, sub_agents: str) -> None:
    pilot = open_pilot(*halves(), sub_agents=sub_agents)
    assert [node.name for node in pilot.come_up()] == [f"node{number}" for number in range(1, 5)]
    uids, go = start(pilot, "task", 32)
    slurm.wait_until(
        lambda: host_steps(slurm, pilot) == ["pilotage-hosts:a.0", "pilotage-hosts:b.0"],
        lambda: f"one step for each partition: {host_steps(slurm, pilot)}",
    )
    go.touch()
    assert ends_of(pilot, uids) == {Ending.DONE}
    assert places(pilot, uids) == {("a", "node1"), ("a", "node2"), ("b", "node3"), ("b", "node4")}
    ranks = [shell(ranks=2, ranks_per_node=1, launch_method="srun", partition=name) for name in ("a", "b")]
    uids = pilot.submit(*((f"ranks.{number}", one, (RANK,)) for number, one in enumerate(ranks)))
    assert ends_of(pilot, uids) == {Ending.DONE}
    assert [sorted(pilot.output(uid).splitlines()) for uid in uids] == [
        [f"{name} {rank} node{first + rank} node{first + rank}" for rank in range(2)] for name, first in (("a", 1), ("b", 3))
    ]
    assert pilot.end().state == "CANCELED"
    slurm.wait_until(lambda: not pids_of(pilot.folder), lambda: f"nothing is left: {pids_of(pilot.folder)}")


def pids_of(folder: Path) -> list[int]:
    """Return the processes that have a pilot's folder among their arguments or in their environment."""
    mark = os.fsencode(folder)
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                told = Path(f"/proc/{entry}/cmdline").read_bytes() + Path(f"/proc/{entry}/environ").read_bytes()
            except OSError:
                continue
            if mark in told:
                found.append(int(entry))
    return found


def test_nodes_move_to_where_tasks_need_them(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(*halves(nodes=2, least_nodes=1, most_nodes=3))
    pilot.come_up()
    # First it gets a node from its neighbour, and then that one gets it back, with another.
    for number, name in enumerate(("a", "b", "a")):
        three = shell(ranks=3, ranks_per_node=1, launch_method="srun", partition=name)
        (uid,) = pilot.submit((f"ranks.{number}", three, (RANK,)))
        assert ends_of(pilot, [uid]) == {Ending.DONE}
        told = [line.split() for line in pilot.output(uid).splitlines()]
        assert {partition for partition, *_ in told} == {name}
        assert len({node for *_, node in told}) == 3
    steps = {name: len([*(pilot.folder / "partitions" / name / "hosts").glob("step.*")]) for name in ("a", "b")}
    assert steps["a"] >= 3 and steps["b"] >= 2
    assert pilot.end().state == "CANCELED"
    slurm.wait_until(lambda: not pids_of(pilot.folder), lambda: f"nothing is left: {pids_of(pilot.folder)}")


def test_a_partition_is_retired_and_another_added(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(*halves())
    pilot.come_up()
    uids, go = start(pilot, "task", 32)
    pilot.retire_partition("a")
    pilot.add_partition(PartitionSpec(name="c", nodes=2))
    go.touch()
    assert ends_of(pilot, uids) == {Ending.DONE}
    uids = pilot.submit(*((f"late.{number}", shell(partition="c"), (WHERE, "sh", str(go))) for number in range(16)))
    assert ends_of(pilot, uids) == {Ending.DONE}
    assert places(pilot, uids) <= {("c", "node1"), ("c", "node2")}
    slurm.wait_until(
        lambda: host_steps(slurm, pilot) == ["pilotage-hosts:b.0", "pilotage-hosts:c.0"], lambda: f"{host_steps(slurm, pilot)}"
    )
    pilot.end()


def test_partitions_share_what_the_launcher_bears_as_they_come_and_go(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(*halves(), launcher_options={"srun": {"ceiling": "2"}})
    pilot.come_up()
    folder, go = pilot.folder / "running", pilot.folder / "go"
    folder.mkdir()
    script = (
        'if [ $PILOTAGE_RANK = 0 ]; then touch "$1/$PILOTAGE_TASK_ID"; ls "$1" | wc -l; touch "$2.$PILOTAGE_TASK_ID"; fi; '
        'until [ -e "$2" ]; do sleep 0.05; done; rm -f "$1/$PILOTAGE_TASK_ID"'
    )
    ranks = shell(ranks=2, ranks_per_node=1, launch_method="srun", partition="a")
    uids = pilot.submit(*((f"ranks.{number}", ranks, (script, "sh", str(folder), str(go))) for number in range(4)))
    pilot.wait(lambda: len(list(folder.iterdir())) == 1, "one runs")
    plain = pilot.submit(*((f"plain.{number}", shell(partition="a"), ("true",)) for number in range(8)))
    assert ends_of(pilot, plain) == {Ending.DONE}
    assert len(list(folder.iterdir())) == 1, "the other launch is the other partition's"
    pilot.retire_partition("b")
    # Not before both have counted: one that is told to go is gone for the other.
    pilot.wait(lambda: len(list(pilot.folder.glob("go.*"))) == 2, "both launches are those of the partition that is left")
    go.touch()
    assert ends_of(pilot, uids) == {Ending.DONE}
    assert max(int(pilot.output(uid)) for uid in uids) == 2
    pilot.end()


def test_an_agent_of_a_partition_dies(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(*halves())
    pilot.come_up()
    uids, go = start(pilot, "task", 32)
    before = pid_of(pilot, "a")
    os.kill(before, signal.SIGKILL)
    pilot.wait(lambda: pid_of(pilot, "a") != before, "another agent comes")
    go.touch()
    outcomes = pilot.wait_for(uids)
    assert {(outcome.ending, outcome.attempt) for outcome in outcomes} == {(Ending.DONE, 1)}
    assert host_steps(slurm, pilot) == ["pilotage-hosts:a.0", "pilotage-hosts:b.0"]
    more, go = start(pilot, "more", 32)
    go.touch()
    assert ends_of(pilot, more) == {Ending.DONE}
    pilot.end()


@pytest.mark.parametrize("sub_agents", ["processes", "threads"])
def test_the_head_dies(open_pilot: OpenPilot, slurm: SlurmCluster, sub_agents: str) -> None:
    pilot = open_pilot(*halves(), sub_agents=sub_agents)
    pilot.come_up()
    uids, go = start(pilot, "task", 32)
    os.kill(pid_of(pilot), signal.SIGKILL)
    pilot.wait(lambda: pilot.incarnation == 2, "another head says hello")
    go.touch()
    outcomes = pilot.wait_for(uids)
    assert {(outcome.ending, outcome.attempt) for outcome in outcomes} == {(Ending.DONE, 1)}
    more, go = start(pilot, "more", 32)
    go.touch()
    assert ends_of(pilot, more) == {Ending.DONE}
    assert host_steps(slurm, pilot) == ["pilotage-hosts:a.0", "pilotage-hosts:b.0"]
    assert pilot.end().state == "CANCELED"


def test_a_partition_whose_agents_die_is_ended_on_all_its_nodes(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(*halves())
    pilot.come_up()
    kept, go = start(pilot, "kept", 4, partition="b")
    alive = pilot.folder / "alive"
    lost = pilot.submit(("lost", shell(partition="a"), (f"echo $$ >{alive}; exec sleep 1000",)))
    pilot.wait(lambda: lost[0] in pilot.started and alive.exists() and alive.read_text(), "it runs")
    killed: set[int] = set()

    def kill() -> bool:
        pid = pid_of(pilot, "a")
        if pid not in killed:
            killed.add(pid)
            os.kill(pid, signal.SIGKILL)
        return any("was lost" in notice for notice in pilot.notices)

    pilot.wait(kill, "the partition is lost")
    assert not Path(f"/proc/{alive.read_text().strip()}").exists()
    assert ends_of(pilot, lost) == {Ending.LOST}
    assert len(killed) == 4
    slurm.wait_until(lambda: host_steps(slurm, pilot) == ["pilotage-hosts:b.0"], lambda: f"{host_steps(slurm, pilot)}")
    go.touch()
    assert ends_of(pilot, kept) == {Ending.DONE}
    pilot.end()


def test_a_job_that_is_begun_again_goes_on_from_the_logs_of_all(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(*halves())
    pilot.come_up()
    before = pilot.submit(*((f"before.{number}", shell(), ("true",)) for number in range(8)))
    assert ends_of(pilot, before) == {Ending.DONE}
    again, go = start(pilot, "again", 8, restartable=True)
    slurm.output("scontrol", "requeue", pilot.job)
    pilot.wait(lambda: pilot.incarnation > 4, "a head of the later run says hello")
    go.touch()
    assert ends_of(pilot, again) == {Ending.DONE}
    assert {pilot.outcomes[uid].attempt for uid in again} == {2}
    more = pilot.submit(*((f"more.{number}", shell(partition=name), ("true",)) for number, name in enumerate(("a", "b"))))
    assert ends_of(pilot, more) == {Ending.DONE}
    assert pilot.end().state == "CANCELED"


def test_a_program_divides_a_pilot_that_is_a_job(session: Session) -> None:
    manager = PilotManager(session)
    described = {"resource": "test.cluster", "runtime": 10, "nodes": 3}
    with pytest.raises(InvalidPilot, match="the partitions ask for 4 nodes"):
        manager.submit_pilots(PilotDescription(described, partitions=halves(nodes=2)))
    plan = [PartitionSpec(name="a", nodes=2), PartitionSpec(name="b")]
    pilot = manager.submit_pilots(PilotDescription(described, partitions=plan))
    tasks = TaskManager(session)
    tasks.add_pilots(pilot)
    where = {"executable": "/bin/sh", "arguments": ["-c", "echo $PILOTAGE_PARTITION"]}
    handles = tasks.submit_tasks([TaskDescription(where, partition=name) for name in ("a", "b")])
    assert tasks.wait_tasks(timeout=PATIENCE_S) == ["DONE", "DONE"]
    assert [task.stdout.strip() for task in handles] == ["a", "b"]
    pilot.retire_partition("b")
    pilot.add_partition({"name": "c", "nodes": 1})
    late = tasks.submit_tasks(TaskDescription(where, partition="c"))
    assert late.wait(timeout=PATIENCE_S) == "DONE"
    assert {each.name: each.state for each in pilot.partitions()} == {"a": "active", "b": "ended", "c": "active"}
