"""Partitions that come and go while the pilot runs: added, retired, idle; and who dies in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Programs, eventually, shell
from partition_support import (
    agent_of,
    another,
    expect_done,
    folder_of,
    gate,
    head_of,
    lines,
    runners_of,
    start,
    stopped,
    until_running,
)

import pilotage as rp
from pilotage.cli.observer import Observer
from pilotage.wire.keys import read_connection
from pilotage.wire.runner_settings import SETTINGS_FILE

WHERE = "echo $PILOTAGE_PARTITION"


def states(pilot: rp.Pilot) -> dict[str, str]:
    return {each.name: each.state for each in pilot.partitions()}


def until_states(pilot: rp.Pilot, expected: dict[str, str]) -> None:
    eventually(lambda: states(pilot) == expected, f"partitions are {expected}")


def until_state(pilot: rp.Pilot, name: str, state: str) -> None:
    eventually(lambda: states(pilot).get(name) == state, f"partition {name} is {state}")


@pytest.mark.parametrize("sub_agents", ["processes", "threads"])
def test_a_partition_is_added_works_and_is_retired(fresh, tmp_path, sub_agents):
    pilot = start(fresh, [{"name": "a", "nodes": 1}], 3, sub_agents=sub_agents)
    pilot.add_partition(rp.PartitionSpec(name="b", nodes=2, tags=("more",)))
    pilot.add_partition({"name": "b", "nodes": 2, "tags": ["more"]})
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness, partition="more") for _ in range(6)])
    until_running(tasks[:4], witness)
    told = eventually(
        lambda: [each for each in pilot.partitions() if each.name == "b" and each.running == 4], "four tasks run in b"
    )[0]
    assert (told.state, told.nodes, told.reason) == ("active", 2, "") and told.waiting <= 2
    with pytest.raises(rp.InvalidRequest, match=r"cannot be retired: .* no other partition of this pilot can run"):
        pilot.retire_partition("b", drain=False)
    with pytest.raises(rp.InvalidRequest, match=r"drain is True .* or False .*, not 'no' \(str\)"):
        pilot.retire_partition("b", drain="no")
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)
    assert {task.stdout for task in tasks} == {"b\n"}
    pilot.retire_partition("b")
    pilot.retire_partition("b")
    until_state(pilot, "b", "ended")
    assert [each.reason for each in pilot.partitions() if each.name == "b"] == ["retired by the user"]
    with pytest.raises(rp.InvalidTask, match="no partition is named 'more', or has that tag; name one of a, or none"):
        fresh.tasks.submit_tasks(shell("true", partition="more"))
    expect_done([fresh.run(shell("true"))])


def test_what_a_retired_partition_had_not_begun_goes_elsewhere(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness, restartable=True) for _ in range(12)])
    until_running(tasks[:4], witness)
    pilot.retire_partition("a", drain=False)
    until_state(pilot, "a", "ended")
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)
    assert {task.stdout for task in tasks} == {"b\n"}
    assert len(lines(witness)) == 14, "two ran in the one that was ended, and again"


def test_a_partition_waits_for_the_nodes_of_one_that_drains(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness, partition="a") for _ in range(2)])
    until_running(tasks, witness)
    with pytest.raises(rp.InvalidRequest, match="wants 1 node, and 0 are free"):
        pilot.add_partition({"name": "c"})
    pilot.retire_partition("a")
    pilot.add_partition({"name": "c", "nodes": 1, "kinds": "function"})
    function = fresh.tasks.submit_tasks(rp.TaskDescription(function=os.getenv, args=["PILOTAGE_PARTITION"], partition="c"))
    until_states(pilot, {"a": "retiring", "b": "active", "c": "waiting"})
    door.touch()
    assert function.result(PATIENCE_S) == "c"
    expect_done(tasks)


def test_nodes_for_a_partition_come_from_those_that_can_spare_them(fresh):
    pilot = start(fresh, [{"name": "a", "nodes": 3, "least_nodes": 1, "most_nodes": 3}], 3)
    pilot.add_partition({"name": "b", "nodes": 2})
    task = fresh.run(shell(WHERE, partition="b", ranks=4, use_mpi=False))
    assert task.stdout == "b\n" * 4
    assert {each.name: each.nodes for each in pilot.partitions()} == {"a": 1, "b": 2}


def test_what_is_asked_for_reaches_the_next_head(fresh, monkeypatch):
    pilot = start(fresh, [{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1}], 3)
    before = head_of(pilot)
    with stopped(before):
        # It answers no more, and nobody waits for that here.
        monkeypatch.setattr(fresh.session.engine.questions, "ask", lambda *_, **__: None)
        pilot.add_partition({"name": "c", "nodes": 1})
        pilot.retire_partition("b")
        monkeypatch.undo()
        os.kill(before, signal.SIGKILL)
    another(lambda: head_of(pilot), before)
    expect_done([fresh.run(shell("true", partition="c"))])
    until_state(pilot, "b", "ended")
    until_states(pilot, {"a": "active", "b": "ended", "c": "active"})


def test_changes_survive_the_head_that_made_them(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1}], 3)
    door, witness = tmp_path / "door", tmp_path / "witness"
    pilot.add_partition({"name": "c", "nodes": 1})
    tasks = fresh.tasks.submit_tasks([gate(door, witness, partition="c") for _ in range(2)])
    until_running(tasks, witness)
    pilot.retire_partition("c")
    pilot.add_partition({"name": "d", "nodes": 1})
    until_state(pilot, "c", "retiring")
    agent, before = agent_of(pilot, "c"), head_of(pilot)
    os.kill(before, signal.SIGKILL)
    another(lambda: head_of(pilot), before)
    until_states(pilot, {"a": "active", "b": "active", "c": "retiring", "d": "waiting"})
    assert agent_of(pilot, "c") == agent
    door.touch()
    expect_done([fresh.run(shell("true", partition="d"))])
    expect_done(tasks)
    assert len(lines(witness)) == 2


def test_changes_survive_the_client_that_asked_for_them(base: Path, programs: Programs) -> None:
    program = programs.start(
        """
        import sys, time
        import pilotage as rp
        session = rp.Session("changed.partitions", base=sys.argv[1])
        pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
        described = {"resource": "local.emulated", "nodes": 3, "cores_per_node": 2, "runtime": 10}
        described["partitions"] = [{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1}]
        pilot = pilots.submit_pilots(described)
        tasks.add_pilots(pilot)
        pilot.add_partition({"name": "c", "nodes": 1})
        pilot.retire_partition("b")
        tasks.submit_tasks(rp.TaskDescription(executable="/bin/true", partition="c"))
        print("asked", flush=True)
        time.sleep(600)
        """,
        base,
    )
    assert program.stdout is not None and program.stdout.readline() == "asked\n"
    program.kill()
    program.wait()
    with rp.Session.resume("changed.partitions", base=base) as session:
        manager = session.get_task_managers()[0]
        manager.wait_tasks(timeout=PATIENCE_S)
        expect_done(manager.get_tasks())
        (pilot,) = session.get_pilot_managers()[0].get_pilots()
        pilot.wait(rp.PMGR_ACTIVE, timeout=PATIENCE_S)
        pilot.add_partition({"name": "c", "nodes": 1})
        until_state(pilot, "b", "ended")
        until_states(pilot, {"a": "active", "b": "ended", "c": "active"})


def test_what_a_pilot_that_starts_cannot_have_is_told_later(fresh, caplog):
    pilot = fresh.pilots.submit_pilots(
        {"resource": "local.emulated", "nodes": 2, "runtime": 10, "partitions": [{"name": "a"}, {"name": "b"}]}
    )
    assert {each.reason for each in pilot.partitions()} == {"the pilot is not active yet"}
    with pytest.raises(rp.InvalidRequest, match="'c' wants 1 node, and 0 are free or can be spared"):
        pilot.add_partition({"name": "c", "nodes": 1})
    with pytest.raises(rp.InvalidRequest, match=r"it has no partition 'd'\. It has a, b"):
        pilot.retire_partition("d")
    pilot.retire_partition("b")
    pilot.add_partition({"name": "c", "nodes": 2})
    pilot.wait(rp.PMGR_ACTIVE, timeout=PATIENCE_S)
    until_state(pilot, "c", "refused")
    told = "partition 'c' was not added: partition 'c' wants 2 nodes, and 1 is free"
    eventually(lambda: told in caplog.text, "the user is warned")
    pilot.add_partition({"name": "c", "nodes": 1})
    until_state(pilot, "c", "active")


def test_a_pilot_without_partitions_has_none_to_change(fresh):
    pilot = fresh.start()
    assert pilot.partitions() == []
    with pytest.raises(rp.InvalidRequest, match=r"has no partitions, and takes no partition more: .*partitions=\[\.\.\.\]"):
        pilot.add_partition({"name": "a"})
    with pytest.raises(rp.InvalidRequest, match="has no partitions, and retires no partition"):
        pilot.retire_partition("a")


def test_a_pilot_that_ended_changes_nothing_any_more(fresh):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2)
    pilot.cancel()
    with pytest.raises(rp.PilotFailed, match="has ended, or is about to; it takes no partition more"):
        pilot.add_partition({"name": "c"})
    pilot.wait(rp.FINAL, timeout=PATIENCE_S)
    until_states(pilot, {"a": "ended", "b": "ended"})
    with pytest.raises(rp.PilotFailed, match="it retires no partition"):
        pilot.retire_partition("a")


def test_an_idle_partition_gives_its_nodes_to_those_with_work_and_comes_again(fresh, tmp_path):
    plan = [
        {"name": "busy", "nodes": 1, "least_nodes": 1, "most_nodes": 3, "kinds": ["executable"]},
        {"name": "idle", "nodes": 2, "idle_timeout_s": 0.5, "kinds": ["function"]},
    ]
    pilot = start(fresh, plan, 3)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(12)])
    # Three nodes of two cores.
    until_running(tasks[:6], witness)
    assert states(pilot)["idle"] == "dormant"
    door.touch()
    assert fresh.run(rp.TaskDescription(function=os.getenv, args=["PILOTAGE_PARTITION"])).result(0) == "idle.2"
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)


def test_nodes_on_which_nothing_starts_any_more_are_lost_and_their_tasks_go_elsewhere(fresh, tmp_path, caplog):
    plan = [
        {"name": "a", "nodes": 1, "least_nodes": 1, "most_nodes": 3, "tags": ["work"]},
        {"name": "b", "nodes": 2, "tags": ["work"]},
        {"name": "other"},
    ]
    pilot = start(fresh, plan, 4)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness, partition="work", restartable=True) for _ in range(6)])
    until_running(tasks, witness)
    private = Path(read_connection(folder_of(pilot, "b") / "connection.json").socket).parent
    # New spawners find nothing to go by.
    (private / SETTINGS_FILE).unlink()
    for pid in runners_of(private):
        os.kill(pid, signal.SIGKILL)
    until_state(pilot, "b", "lost")
    (told,) = [each for each in pilot.partitions() if each.name == "b"]
    assert told.nodes == 0 and "5 spawners in a row did not come up" in told.reason
    with Observer.of(Path(pilot.sandbox), Path(fresh.session.path)) as observer:  # type: ignore[union-attr]
        answer = observer.ask()
    assert (answer["lost nodes"], answer["free nodes"]) == (2, 0)
    eventually(lambda: "partition 'b' lost " in caplog.text and "partition 'b' ended: " in caplog.text, "the user is warned")
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)
    assert {task.stdout for task in tasks} == {"a\n"}
    assert {each.name: each.nodes for each in pilot.partitions()} == {"a": 1, "b": 0, "other": 1}


def test_a_pilot_with_partitions_ends_when_nothing_is_left_to_do(fresh):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2, idle_timeout_s=1.0)
    expect_done(fresh.run([shell("true") for _ in range(4)]))
    assert pilot.wait(rp.FINAL, timeout=PATIENCE_S) == rp.DONE
    assert pilot.reason == "nothing was left to do for 1 s, its idle_timeout_s"


def test_tasks_begin_when_so_many_are_there_as_the_barrier_says(fresh, tmp_path):
    witness = tmp_path / "witness"
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2, startup_barrier=6)
    early = fresh.tasks.submit_tasks([shell(f"echo early >> {witness}") for _ in range(3)])
    until_states(pilot, {"a": "active", "b": "active"})
    assert lines(witness) == [] and {task.state for task in early}.isdisjoint(rp.FINAL)
    late = fresh.tasks.submit_tasks([shell(f"echo late >> {witness}") for _ in range(3)])
    fresh.tasks.wait_tasks([task.uid for task in (*early, *late)], timeout=PATIENCE_S)
    expect_done([*early, *late])
    assert len(lines(witness)) == 6


def test_the_command_line_shows_partitions(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 3)
    until_states(pilot, {"a": "active", "b": "active"})
    (tmp_path / "sessions").symlink_to(Path(fresh.session.path).parent)
    command = [sys.executable, "-m", "pilotage.cli", "session", "show", fresh.session.uid]
    environment = {**os.environ, "PILOTAGE_HOME": str(tmp_path)}
    done = subprocess.run([*command, "--format", "json"], env=environment, capture_output=True, text=True, check=True)
    (shown,) = json.loads(done.stdout)["session"]["pilots"]
    assert [(each["name"], each["state"], each["nodes"]) for each in shown["partitions"]] == [
        ("a", "active", 2),
        ("b", "active", 1),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "PARTITION" in done.stdout and "active" in done.stdout


LAB = """
[blue]
emulated = true
cores_per_node = 2

[[blue.partitions]]
name = "small"

[[blue.partitions]]
name = "large"
nodes = 2
tags = ["large"]
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A platform that has a plan."""
    path = tmp_path / "lab.toml"
    path.write_text(LAB)
    monkeypatch.setenv("PILOTAGE_PLATFORMS", str(path))
    return path


def test_a_pilot_is_divided_as_its_platform_says_unless_it_says_so_itself(fresh, lab):
    pilot = fresh.start(resource="lab.blue", nodes=3)
    assert fresh.run(shell(WHERE, partition="large")).stdout == "large\n"
    assert {each.name: each.nodes for each in pilot.partitions()} == {"small": 1, "large": 2}
    assert [each["name"] for each in pilot.description.partitions] == ["small", "large"]
    lab.write_text(LAB.replace('"large"', '"wide"'))
    others = [
        fresh.pilots.submit_pilots({"resource": "lab.blue", "nodes": 1, "runtime": 10, **said})
        for said in ({"partitions": []}, {"scheduler": "spread"}, {"partitions": [{"name": "own"}]})
    ]
    assert [len(other.description.partitions) for other in others] == [0, 0, 1]


def test_a_plan_of_the_platform_that_does_not_fit_names_its_file(fresh, lab):
    with pytest.raises(rp.InvalidPilot) as refused:
        fresh.pilots.submit_pilots({"resource": "lab.blue", "nodes": 1, "runtime": 10})
    assert str(refused.value) == (
        "pilot: partition 'large': nodes=2 exceeds the 1 nodes of the pilot; ask for at most 1. That plan is the default of "
        f"platform 'lab.blue', {lab}:6; give the pilot partitions of its own, or partitions=[] for none"
    )
