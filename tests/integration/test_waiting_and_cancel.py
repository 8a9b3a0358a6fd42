"""Waiting with and without limits, and cancelling."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, Programs, eventually, outcome_of, shell

import pilotage as rp
from pilotage import Ending


def test_a_wait_that_is_over_before_the_task(campaign: Campaign) -> None:
    task = campaign.tasks.submit_tasks(shell("exec sleep 600"))
    assert task.wait(timeout=0.01) not in rp.FINAL
    assert campaign.tasks.wait_tasks(task.uid, timeout=0) not in rp.FINAL
    with pytest.raises(TimeoutError, match=rf"task '{task.uid}' is not final after 0\.01 s"):
        task.result(timeout=0.01)
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED


def test_waiting_for_a_state_on_the_way(campaign: Campaign, tmp_path: Path) -> None:
    task = campaign.tasks.submit_tasks(shell(f"while [ ! -e {tmp_path}/go ]; do sleep 0.01; done"))
    assert task.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S) == rp.AGENT_EXECUTING
    assert task.wait([rp.AGENT_SCHEDULING, rp.DONE], timeout=PATIENCE_S) == rp.AGENT_EXECUTING
    (tmp_path / "go").touch()
    assert task.wait(timeout=PATIENCE_S) == rp.DONE


def test_wait_tasks_returns_states_in_order(campaign: Campaign) -> None:
    tasks = campaign.tasks.submit_tasks([shell(f"exit {number % 2}") for number in range(4)])
    uids = [task.uid for task in tasks]
    assert campaign.tasks.wait_tasks(uids, timeout=PATIENCE_S) == [rp.DONE, rp.FAILED] * 2
    assert campaign.tasks.wait_tasks(uids[0], timeout=PATIENCE_S) == rp.DONE


def test_many_threads_wait(campaign: Campaign) -> None:
    tasks = campaign.tasks.submit_tasks([shell("true") for _ in range(20)])
    states: list[str] = []
    threads = [threading.Thread(target=lambda task=task: states.append(task.wait(timeout=PATIENCE_S))) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert states == [rp.DONE] * 20


def test_tasks_can_be_awaited(campaign: Campaign) -> None:
    async def campaign_of_two() -> list[object]:
        first = campaign.tasks.submit_tasks(rp.TaskDescription(function=payloads.square, args=[3]))
        more = campaign.tasks.submit_tasks(
            [rp.TaskDescription(function=payloads.square, args=[value]) for value in range(int(await first))]
        )
        return await asyncio.wait_for(asyncio.gather(*more), PATIENCE_S)

    assert asyncio.run(campaign_of_two()) == [number**2 for number in range(9)]


def test_awaiting_a_failed_task_raises(campaign: Campaign) -> None:
    async def fail() -> None:
        await campaign.tasks.submit_tasks(rp.TaskDescription(function=payloads.fail_with_cause))

    with pytest.raises(RuntimeError, match="the input is missing"):
        asyncio.run(fail())


def test_giving_up_an_await_leaves_the_task_alone(campaign: Campaign) -> None:
    task = campaign.tasks.submit_tasks(shell("exec sleep 600"))

    async def give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(_value_of(task), 0.02)

    asyncio.run(give_up())
    assert task.state not in rp.FINAL
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED


async def _value_of(task: rp.Task) -> object:
    return await task


# cancel


def test_a_running_executable(campaign: Campaign) -> None:
    task = campaign.tasks.submit_tasks(shell("echo running; exec sleep 600"))
    eventually(lambda: task.stdout == "running\n", "it runs")
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert (outcome_of(task).ending, task.exit_code) == (Ending.CANCELLED, -signal.SIGTERM)
    with pytest.raises(rp.TaskCancelled, match=f"task '{task.uid}' was cancelled"):
        task.result(0)


def test_an_executable_may_tidy_up_when_it_is_cancelled(campaign: Campaign, tmp_path: Path) -> None:
    trap = f"trap 'echo tidy > {tmp_path}/done; exit 0' TERM; echo ready; while :; do sleep 0.01; done"
    task = campaign.tasks.submit_tasks(shell(trap))
    eventually(lambda: task.stdout == "ready\n", "it runs")
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert (tmp_path / "done").read_text() == "tidy\n"


def test_a_running_function(campaign: Campaign, tmp_path: Path) -> None:
    def run_on(path: str) -> None:
        Path(path).touch()
        time.sleep(600)

    task = campaign.tasks.submit_tasks(rp.TaskDescription(function=run_on, args=[str(tmp_path / "on")], grace=0.2))
    behind = campaign.tasks.submit_tasks([rp.TaskDescription(function=payloads.square, args=[n]) for n in range(50)])
    eventually((tmp_path / "on").exists, "it runs")
    task.cancel()
    assert task.wait(timeout=PATIENCE_S) == rp.CANCELED
    # What was with it on its worker is done by others.
    assert [other.result(PATIENCE_S) for other in behind] == [number**2 for number in range(50)]


def test_tasks_that_wait_for_cores(campaign: Campaign, tmp_path: Path) -> None:
    running = campaign.tasks.submit_tasks(shell("exec sleep 600", cores_per_rank=2))
    running.wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    waiting = campaign.tasks.submit_tasks([shell(f"touch {tmp_path}/ran") for _ in range(10)])
    campaign.tasks.cancel_tasks([task.uid for task in waiting])
    assert set(campaign.tasks.wait_tasks([task.uid for task in waiting], timeout=PATIENCE_S)) == {rp.CANCELED}
    running.cancel()
    assert running.wait(timeout=PATIENCE_S) == rp.CANCELED
    assert not (tmp_path / "ran").exists()


def test_tasks_without_a_pilot(fresh: Campaign) -> None:
    tasks = fresh.tasks.submit_tasks([shell("true") for _ in range(3)])
    fresh.tasks.cancel_tasks()
    assert [task.wait(timeout=PATIENCE_S) for task in tasks] == [rp.CANCELED] * 3


def test_cancelling_what_is_final_changes_nothing(campaign: Campaign) -> None:
    task = campaign.shell("true")
    task.cancel()
    task.cancel()
    assert (task.state, task.exit_code) == (rp.DONE, 0)


def test_cancel_beats_retries(campaign: Campaign) -> None:
    task = campaign.tasks.submit_tasks(shell("echo running; exec sleep 600", retries=5))
    eventually(lambda: task.stdout == "running\n", "it runs")
    task.cancel()
    assert (task.wait(timeout=PATIENCE_S), task.attempt) == (rp.CANCELED, 1)


def test_all_of_a_manager(campaign: Campaign) -> None:
    other = rp.TaskManager(campaign.session)
    other.add_pilots(campaign.pilots.list_pilots())
    mine = other.submit_tasks([shell("exec sleep 600") for _ in range(5)])
    other.cancel_tasks()
    assert other.wait_tasks(timeout=PATIENCE_S) == [rp.CANCELED] * 5
    assert mine[0] in other.get_tasks()


# Ctrl-C

INTERRUPTED = """
import sys
import pilotage as rp
with rp.Session(base=sys.argv[1]) as session:
    pilots, tasks = rp.PilotManager(session), rp.TaskManager(session)
    pilot = pilots.submit_pilots(rp.PilotDescription(resource="local.localhost", cores=1, runtime=5))
    tasks.add_pilots(pilot)
    task = tasks.submit_tasks(rp.TaskDescription(executable="/bin/sleep", arguments=["600"]))
    task.wait(rp.AGENT_EXECUTING, timeout=40)
    try:
        print("waiting", flush=True)
        tasks.wait_tasks(timeout=60)
    except KeyboardInterrupt:
        print("interrupted", pilot.state, task.state, flush=True)
        task.cancel()
        print(task.wait(timeout=40), flush=True)
"""


def test_ctrl_c_interrupts_the_wait_and_not_the_pilot(base: Path, programs: Programs) -> None:
    program = programs.start(INTERRUPTED, base)
    assert program.stdout.readline() == "waiting\n"
    # To the whole group, as a terminal does.
    os.killpg(program.pid, signal.SIGINT)
    out, err = program.communicate(timeout=PATIENCE_S)
    assert out.splitlines() == ["interrupted PMGR_ACTIVE AGENT_EXECUTING", "CANCELED"], err
    assert program.returncode == 0
