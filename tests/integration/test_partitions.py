"""Pilots with partitions: a head, an agent for each partition, and what follows when any of them dies."""

from __future__ import annotations

import os
import signal
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from integration_support import PATIENCE_S, Programs, eventually, outcome_of, shell
from partition_support import (
    agent_of,
    another,
    expect_done,
    folder_of,
    gate,
    head_of,
    kill_entirely,
    lines,
    start,
    stopped,
    until_running,
)

import pilotage as rp
from pilotage.agent.claim import claimant
from pilotage.cli.observer import Observer
from pilotage.core.agent import facts
from pilotage.log.reader import read_history
from pilotage.trace.events import read_events
from pilotage.trace.reader import read_session

THREE = [
    {"name": "spread", "nodes": 2, "kinds": ["executable"], "scheduler": "spread", "most_task_nodes": 1},
    {"name": "wide", "nodes": 3, "kinds": ["executable"], "tags": ["large"], "scheduler": "continuous"},
    {"name": "functions", "nodes": 1, "kinds": ["function"]},
]


in_both_forms = pytest.mark.parametrize("sub_agents", ["processes", "threads"])

decode = msgspec.msgpack.Decoder(list[facts.Fact]).decode


@in_both_forms
def test_each_kind_of_task_goes_where_it_fits(fresh, sub_agents):
    pilot = start(fresh, THREE, 6, sub_agents=sub_agents)
    where = "echo $PILOTAGE_PARTITION"
    small = [shell(where) for _ in range(20)]
    large = [shell(where, partition="large", ranks=4, use_mpi=False) for _ in range(3)]
    named = [shell(where, partition="wide") for _ in range(3)]
    functions = [rp.TaskDescription(function=os.getenv, args=["PILOTAGE_PARTITION"]) for _ in range(10)]
    found = fresh.run([*small, *large, *named, *functions])
    expect_done(found)
    printed = [task.stdout for task in found[:26]]
    assert Counter(printed[:20]) == {"spread\n": 20}
    assert {line for text in printed[20:] for line in text.split()} == {"wide"}
    assert {task.result(0) for task in found[26:]} == {"functions"}
    assert [task.partition for task in found[22:26]] == ["large", "wide", "wide", "wide"]
    with pytest.raises(rp.InvalidTask, match="no partition is named 'nowhere', or has that tag; name one of spread, wide,"):
        fresh.tasks.submit_tasks(shell("true", partition="nowhere"))
    with pytest.raises(rp.InvalidTask, match=r"no partition can run it\. partition 'spread': the task needs 2 nodes"):
        fresh.tasks.submit_tasks(shell("true", ranks=3, use_mpi=False))
    assert {path.name for path in (Path(pilot.sandbox) / "partitions").iterdir()} == {"spread", "wide", "functions"}
    one_process = len({head_of(pilot), *(agent_of(pilot, name) for name in ("spread", "wide", "functions"))}) == 1
    assert one_process == (sub_agents == "threads")


@in_both_forms
def test_a_running_task_is_cancelled_in_its_partition_and_waiting_ones_too(fresh, tmp_path, sub_agents):
    start(fresh, [{"name": "a"}, {"name": "b"}], 2, sub_agents=sub_agents)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(20)])
    until_running(tasks[:4], witness)
    fresh.tasks.cancel_tasks([task.uid for task in tasks])
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    assert {task.state for task in tasks} == {rp.CANCELED}


@in_both_forms
def test_a_pilot_that_drains_ends_its_partitions_after_their_tasks(fresh, tmp_path, sub_agents):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2, sub_agents=sub_agents)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(6)])
    until_running(tasks[:4], witness)
    fresh.pilots.drain_pilots(pilot.uid)
    door.touch()
    assert pilot.wait(rp.FINAL, timeout=PATIENCE_S) == rp.DONE
    expect_done(tasks)


def test_a_killed_agent_of_a_partition_is_started_again_and_adopts_what_runs(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(8)])
    until_running(tasks[:4], witness)
    before = agent_of(pilot, "a")
    os.kill(before, signal.SIGKILL)
    another(lambda: agent_of(pilot, "a"), before)
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)
    assert sorted(lines(witness)) == sorted(f"{task.uid} 1" for task in tasks)


def test_the_pilot_goes_on_when_its_head_is_killed(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(8)])
    until_running(tasks[:4], witness)
    agents = agent_of(pilot, "a"), agent_of(pilot, "b")
    before = head_of(pilot)
    os.kill(before, signal.SIGKILL)
    more = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(8)])
    another(lambda: head_of(pilot), before)
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in (*tasks, *more)], timeout=PATIENCE_S)
    expect_done([*tasks, *more])
    assert sorted(lines(witness)) == sorted(f"{task.uid} 1" for task in (*tasks, *more))
    assert (agent_of(pilot, "a"), agent_of(pilot, "b")) == agents


@in_both_forms
def test_head_and_agents_killed_together_come_back(fresh, tmp_path, sub_agents):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2, sub_agents=sub_agents)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(8)])
    until_running(tasks[:4], witness)
    before = head_of(pilot)
    for pid in {agent_of(pilot, "a"), before, agent_of(pilot, "b")}:
        os.kill(pid, signal.SIGKILL)
    another(lambda: head_of(pilot), before)
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)
    assert sorted(lines(witness)) == sorted(f"{task.uid} 1" for task in tasks)


def test_two_of_sixteen_partitions_are_lost_and_the_work_is_done(fresh, tmp_path):
    names = [f"p{number:02}" for number in range(16)]
    pilot = start(fresh, [{"name": name, "nodes": 1} for name in names], 16)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness, restartable=True) for _ in range(72)])
    until_running(tasks[:32], witness)
    lost = names[3], names[11]
    for name in lost:
        (folder_of(pilot, name) / "agent.starts").write_text("4\n")
        pid = agent_of(pilot, name)
        if name == lost[0]:
            # Its log cannot be trusted any more.
            segment = next((folder_of(pilot, name) / "log").glob("segment-*"))
            content = bytearray(segment.read_bytes())
            content[len(content) // 3] ^= 0xFF
            segment.write_bytes(content)
        os.kill(pid, signal.SIGKILL)
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=2 * PATIENCE_S)
    expect_done(tasks)
    ran = Counter(line.split()[0] for line in lines(witness))
    assert set(ran) == {task.uid for task in tasks}
    again = [uid for uid, count in ran.items() if count > 1]
    # Each of them had two running; no task of another partition was touched.
    assert len(again) <= 4 and max(ran.values()) <= 2
    assert not {task.stdout.strip() for task in tasks} & set(lost)


def test_what_may_have_run_in_a_lost_partition_is_lost_unless_it_may_run_again(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1, "tags": ["b"]}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    once = fresh.tasks.submit_tasks([gate(door, witness, partition="b") for _ in range(2)])
    until_running(once, witness)
    waiting = fresh.tasks.submit_tasks([gate(door, witness, partition="b") for _ in range(2)])
    other = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(2)])
    until_running([*once, *other], witness)
    (folder_of(pilot, "b") / "agent.starts").write_text("4\n")
    os.kill(agent_of(pilot, "b"), signal.SIGKILL)
    fresh.tasks.wait_tasks([task.uid for task in (*once, *waiting)], timeout=PATIENCE_S)
    assert {outcome_of(task).ending for task in once} == {rp.Ending.LOST}
    assert "partition 'b' was lost" in str(once[0].exception)
    assert {outcome_of(task).ending for task in waiting} == {rp.Ending.INFEASIBLE}
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in other], timeout=PATIENCE_S)
    expect_done(other)
    assert len(lines(witness)) == 4


def test_an_agent_that_hangs_does_not_keep_the_pilot_from_ending(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(8)])
    until_running(tasks[:4], witness)
    with stopped(agent_of(pilot, "b")):
        pilot.cancel()
        assert pilot.wait(rp.FINAL, timeout=2 * PATIENCE_S) == rp.CANCELED
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    assert {task.state for task in tasks} <= {rp.CANCELED, rp.FAILED}


@in_both_forms
def test_a_pilot_whose_processes_are_all_killed_is_fenced_with_its_partitions(fresh, tmp_path, sub_agents):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2, sub_agents=sub_agents)
    door, witness = tmp_path / "door", tmp_path / "witness"
    done = fresh.run([shell("true") for _ in range(10)])
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(8)])
    until_running(tasks[:4], witness)
    bootstrap = int((Path(pilot.sandbox) / "bootstrap.claim").read_text().split()[0])
    for pid in dict.fromkeys((bootstrap, head_of(pilot), agent_of(pilot, "a"))):
        os.kill(pid, signal.SIGKILL)
    assert pilot.wait(rp.FINAL, timeout=PATIENCE_S) == rp.FAILED
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(done)
    endings = Counter(outcome_of(task).ending for task in tasks)
    assert set(endings) <= {rp.Ending.LOST, rp.Ending.LAUNCH_FAILED}
    # What had begun is lost; what had not may be called so if it had been handed to a spawner.
    assert set(lines(witness)) <= {f"{task.uid} 1" for task in tasks if outcome_of(task).ending is rp.Ending.LOST}
    assert len(lines(witness)) == 4


def test_a_session_is_resumed_while_partitions_work(base: Path, programs: Programs, tmp_path: Path) -> None:
    door, witness = tmp_path / "door", tmp_path / "witness"
    program = programs.start(
        """
        import sys, time
        import pilotage as rp
        base, door, witness = sys.argv[1:]
        session = rp.Session("resumed.partitions", base=base)
        pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
        described = {"resource": "local.emulated", "nodes": 2, "cores_per_node": 2, "runtime": 10}
        described["partitions"] = [{"name": "a"}, {"name": "b"}]
        tasks.add_pilots(pilots.submit_pilots(described))
        script = f'echo "$PILOTAGE_TASK_ID $PILOTAGE_ATTEMPT" >> {witness}; while [ ! -e {door} ]; do sleep 0.05; done'
        tasks.submit_tasks([rp.TaskDescription(executable="/bin/sh", arguments=["-c", script]) for _ in range(8)])
        time.sleep(600)
        """,
        base,
        door,
        witness,
    )
    eventually(lambda: len(lines(witness)) >= 4, "tasks run")
    program.kill()
    program.wait()
    door.touch()
    with rp.Session.resume("resumed.partitions", base=base) as session:
        manager = session.get_task_managers()[0]
        manager.wait_tasks(timeout=PATIENCE_S)
        expect_done(manager.get_tasks())
        assert sorted(lines(witness)) == sorted(f"{task.uid} 1" for task in manager.get_tasks())


@pytest.mark.parametrize(
    ("partitions", "told"),
    [
        (
            [{"name": "a", "nodes": 2}, {"name": "b", "nodes": 3}],
            "the partitions ask for 5 nodes (a 2, b 3), and the pilot has 4",
        ),
        ([{"name": "a"}, {"name": "a"}], "2 partitions are named 'a'"),
        ([], "sub_agents='threads' needs partitions"),
        ([{"name": "a", "node": 2}], "partitions[0] ('a') has no attribute 'node'; did you mean"),
        ([{"name": "a", "scheduler": {"policy": "torus", "torus": (3, 3)}}], "3 x 3 are 9 nodes, and the pilot has 4"),
    ],
)
def test_plans_that_cannot_be_had_are_refused_at_the_callers_line(fresh, partitions, told):
    with pytest.raises(rp.InvalidPilot) as refused:
        described = {"resource": "local.emulated", "nodes": 4, "runtime": 10, "sub_agents": "threads"}
        fresh.pilots.submit_pilots({**described, "partitions": partitions})
    assert told in str(refused.value)
    assert fresh.pilots.list_pilots() == []


def test_what_a_task_waits_for_is_asked_of_its_partition(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}, {"name": "b"}], 2)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(12)])
    until_running(tasks[:4], witness)
    running = lines(witness)[0].split()[0]
    with Observer.of(Path(pilot.sandbox), Path(fresh.session.path)) as observer:  # type: ignore[union-attr]
        answer = observer.ask(running)
        assert answer["partition"] in ("a", "b") and answer["attempt"] == 1
        assert answer["why"].startswith(f"in partition {answer['partition']!r}: ")
        answers = [observer.ask(task.uid) for task in tasks]
        assert {each["state"] for each in answers} >= {"running", "waiting"}
        assert observer.ask()["partitions"] == ["a", "b"]
        with stopped(agent_of(pilot, answer["partition"])):
            # It says nothing; what the head knows is enough.
            assert answer["partition"] in observer.ask(running)["why"]
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)


def test_traces_reports_and_files_know_of_partitions(fresh):
    pilot = start(fresh, [{"name": "a"}, {"name": "b", "kinds": ["function"]}], 3)
    found = fresh.run([*(shell("true") for _ in range(10)), *(rp.TaskDescription(function=os.getpid) for _ in range(5))])
    expect_done(found)
    run = read_session(Path(fresh.session.path))
    assert run.remarks == []
    (traced,) = run.pilots.values()
    assert len(traced.attempts) == 15 and len(traced.waits) >= 15
    assert {name.split("/")[0] for name in traced.runners} == {"a", "b"}
    rows = [run.tasks.row(run.tasks.index[task.uid]) for task in found]
    assert all(row.accepted <= row.launched <= row.started <= row.ended for row in rows if row.started)
    assert {slot["node_index"] for task in found for slot in task.slots} <= {0, 1, 2}
    assert all(task.slots for task in found)
    told = {event.name for event in read_events(Path(fresh.session.path)) if event.entity == found[0].uid}
    assert {"task.accepted", "task.launched", "task.ended"} <= told
    files = {Path(path).relative_to(pilot.sandbox).as_posix() for path in fresh.session.fetch_logfiles()}
    assert {"agent.err", "partitions/a/agent.err", "partitions/b/agent.err", "partitions/a/spawner.0.err"} <= files


@in_both_forms
def test_an_environment_is_prepared_once_for_all_partitions(fresh, tmp_path, sub_agents):
    built = tmp_path / "built"
    environment = {"type": "shell", "pre_exec": [f"echo once >> {built}", "export ANSWER=42"]}
    plan = [{"name": name} for name in ("a", "b", "c")]
    start(fresh, plan, 3, prepare_env={"e": environment}, sub_agents=sub_agents)
    tasks = [shell("echo $ANSWER", named_env="e", partition=name) for name in ("a", "b", "c") for _ in range(2)]
    found = fresh.run(tasks)
    expect_done(found)
    assert {task.stdout for task in found} == {"42\n"}
    assert lines(built) == ["once"]


def test_nodes_go_to_the_partition_that_has_the_work(fresh, tmp_path):
    plan = [
        rp.PartitionSpec(name="busy", nodes=1, least_nodes=1, most_nodes=4, tags=("work",)),
        rp.PartitionSpec(name="idle", nodes=3, least_nodes=1, most_nodes=4),
    ]
    start(fresh, plan, 4)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness, partition="work") for _ in range(12)])
    # All that "idle" may give away: 3 nodes of 2 cores.
    until_running(tasks[:6], witness)
    door.touch()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    expect_done(tasks)
    assert {task.stdout for task in tasks} == {"busy\n"}


def test_an_agent_without_a_head_ends_its_tasks_and_says_nothing_of_them(fresh, tmp_path):
    pilot = start(fresh, [{"name": "a"}], 1)
    door, witness = tmp_path / "door", tmp_path / "witness"
    tasks = fresh.tasks.submit_tasks([gate(door, witness) for _ in range(2)])
    until_running(tasks, witness)
    agent = agent_of(pilot, "a")
    with stopped(int((Path(pilot.sandbox) / "bootstrap.claim").read_text().split()[0])):
        # Nobody starts another head meanwhile.
        kill_entirely(head_of(pilot))
        assert claimant(folder_of(pilot, "a")) == agent
        os.kill(agent, signal.SIGTERM)
        eventually(lambda: claimant(folder_of(pilot, "a")) is None, "the agent is gone")
        log = [fact for _, record in read_history(folder_of(pilot, "a") / "log") for fact in decode(record)]
    assert not [fact for fact in log if isinstance(fact, (facts.PilotEnding, facts.Ended))]
    assert "ends: the agent was told to end by SIGTERM" in (folder_of(pilot, "a") / "agent.err").read_text()
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=PATIENCE_S)
    # The next agent finds that their spawner is gone.
    assert {outcome_of(task).ending for task in tasks} == {rp.Ending.NODE_FAILED}
    assert len(lines(witness)) == 2
