"""Pilots whose time is over before their tasks are: these are told, given back, and go on in other pilots."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, outcome_of, shell

import pilotage as rp
from pilotage.core.client.successors import FRUITLESS
from pilotage.model.outcome import Ending

SECOND = 1 / 60
"""Of a runtime, which is in minutes."""

THREE_TIMES = r"""
echo "$PILOTAGE_ATTEMPT $PILOTAGE_PILOT_ID $PILOTAGE_END_TIME" >> attempts
echo x >> state
[ "$(wc -l < state)" -lt 3 ] || exit 0
trap 'echo saved >> saved; exit 7' USR1
while :; do sleep 0.05; done
"""


def start(fresh: Campaign, **pilot: object) -> rp.Pilot:
    """Submit a pilot and add it; by the time that it is active its time may be over on a busy machine."""
    found = fresh.pilots.submit_pilots({"resource": "local.localhost", **pilot})
    fresh.tasks.add_pilots(found)
    return found


def finished(fresh: Campaign, *tasks: rp.Task) -> None:
    """Wait for tasks that may take some pilots' time."""
    until = time.monotonic() + 3 * PATIENCE_S
    fresh.tasks.wait_tasks([task.uid for task in tasks], timeout=3 * PATIENCE_S)
    assert time.monotonic() < until, "these tasks hang"


def test_a_task_goes_on_where_it_was_in_pilots_that_follow(fresh: Campaign, caplog: pytest.LogCaptureFixture) -> None:
    began = time.time()
    start(fresh, runtime=7 * SECOND, drain_s=3, checkpoint_signal="USR1", successors=9, cores=1)
    task = fresh.tasks.submit_tasks(shell(THREE_TIMES, restart="continue"))
    finished(fresh, task)
    assert task.state == rp.DONE
    sandbox = Path(task.sandbox)
    assert (sandbox / "saved").read_text() == "saved\n" * 2, "each attempt but the last was told once"
    attempts = [line.split() for line in (sandbox / "attempts").read_text().splitlines()]
    numbers, pilots, ends = zip(*attempts, strict=True)
    assert [int(number) for number in numbers] == sorted({int(number) for number in numbers})
    assert len(set(pilots)) == 3 and sandbox.parent.parent.name == pilots[0]
    assert began < float(ends[0]) < float(ends[1]) < float(ends[2])
    followers = [uid for uid in fresh.pilots.list_pilots() if uid.startswith(f"{pilots[0]}.")]
    assert pilots[-1] in followers and len(followers) <= 9
    assert f"pilot {followers[0]!r} follows it, successor 1 of at most 9" in caplog.text


def test_what_may_not_begin_again_ends_as_out_of_walltime_not_as_a_crash(fresh: Campaign) -> None:
    pilot = start(fresh, runtime=6 * SECOND, cores=1)
    runs, waits = fresh.tasks.submit_tasks([shell("sleep 600"), shell("true", cores_per_rank=1)])
    finished(fresh, runs, waits)
    assert pilot.wait(timeout=PATIENCE_S) == rp.DONE and "runtime is over" in pilot.reason
    assert (runs.state, outcome_of(runs).ending) == (rp.FAILED, Ending.OUT_OF_WALLTIME)
    assert "runtime is over" in runs.exception
    assert (waits.state, outcome_of(waits).ending) == (rp.FAILED, Ending.OUT_OF_WALLTIME)
    assert "before the task began" in waits.exception


def test_a_fresh_attempt_begins_in_another_pilot_and_a_new_sandbox(fresh: Campaign) -> None:
    short = start(fresh, runtime=8 * SECOND, cores=1)
    task = fresh.tasks.submit_tasks(
        shell("touch here; [ $PILOTAGE_ATTEMPT -gt 1 ] || exec sleep 600; ls", restart="fresh", retries=0)
    )
    task.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    long = start(fresh, runtime=10, cores=1)
    finished(fresh, task)
    assert (task.state, task.pilot) == (rp.DONE, long.uid)
    assert long.uid in task.sandbox and short.uid not in Path(task.sandbox).parts
    assert task.stdout.split()[0] == "here"


def test_a_task_for_which_too_little_time_is_left_waits_for_the_pilot_that_follows(fresh: Campaign) -> None:
    start(fresh, runtime=10 * SECOND, cores=1, successors=9)
    nearly_all = "while [ $(($(date +%s) + 4)) -lt ${PILOTAGE_END_TIME%.*} ]; do sleep 0.05; done"
    tasks = fresh.tasks.submit_tasks([shell(nearly_all, restart="fresh"), shell("true", duration_s=6)])
    finished(fresh, *tasks)
    assert [task.state for task in tasks] == [rp.DONE] * 2, [task.exception for task in tasks]
    assert tasks[0].pilot != tasks[1].pilot


def test_pilots_that_follow_until_all_is_done_end_with_work_that_never_is(fresh: Campaign) -> None:
    start(fresh, runtime=4 * SECOND, cores=1, successors="until_done")
    task = fresh.tasks.submit_tasks(shell("sleep 600", restart="fresh"))
    finished(fresh, task)
    assert (task.state, outcome_of(task).ending) == (rp.FAILED, Ending.OUT_OF_WALLTIME)
    assert len(fresh.pilots.list_pilots()) == FRUITLESS


def test_no_pilot_follows_one_that_has_done_its_work(fresh: Campaign) -> None:
    pilot = start(fresh, runtime=8 * SECOND, drain_s=2, cores=1, successors="until_done")
    task = fresh.shell("echo done")
    assert task.state == rp.DONE
    assert pilot.wait(timeout=PATIENCE_S) == rp.DONE
    assert fresh.pilots.list_pilots() == [pilot.uid]


def test_partitions_drain_too(fresh: Campaign) -> None:
    halves = [{"name": "a", "nodes": 1}, {"name": "b", "nodes": 1}]
    described = {"resource": "local.emulated", "nodes": 2, "cores_per_node": 1, "partitions": halves}
    start(fresh, **described, runtime=8 * SECOND, drain_s=3, checkpoint_signal="USR1", successors=9)
    tasks = fresh.tasks.submit_tasks([shell(THREE_TIMES, restart="continue") for _ in range(2)])
    finished(fresh, *tasks)
    assert [task.state for task in tasks] == [rp.DONE] * 2
    for task in tasks:
        assert (Path(task.sandbox) / "state").read_text() == "x\n" * 3
