"""Callbacks: what they are told, in which order, and what they may do."""

from __future__ import annotations

import logging
import threading

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, eventually, shell

import pilotage as rp

ALL_STATES = [
    rp.TMGR_SCHEDULING_PENDING,
    rp.TMGR_SCHEDULING,
    rp.TMGR_STAGING_INPUT_PENDING,
    rp.TMGR_STAGING_INPUT,
    rp.AGENT_STAGING_INPUT_PENDING,
    rp.AGENT_STAGING_INPUT,
    rp.AGENT_SCHEDULING_PENDING,
    rp.AGENT_SCHEDULING,
    rp.AGENT_EXECUTING_PENDING,
    rp.AGENT_EXECUTING,
    rp.AGENT_STAGING_OUTPUT_PENDING,
    rp.AGENT_STAGING_OUTPUT,
    rp.TMGR_STAGING_OUTPUT_PENDING,
    rp.TMGR_STAGING_OUTPUT,
    rp.DONE,
]


@pytest.fixture
def tasks(campaign: Campaign) -> rp.TaskManager:
    """A manager of the test's own, so that callbacks of one test hear nothing of another."""
    manager = rp.TaskManager(campaign.session)
    manager.add_pilots(campaign.pilots.list_pilots())
    return manager


def test_all_states_in_order_with_those_that_were_skipped(tasks: rp.TaskManager) -> None:
    told: dict[str, list[str]] = {}
    tasks.register_callback(lambda task, state: told.setdefault(task.uid, []).append(state))
    submitted = tasks.submit_tasks([shell("true") for _ in range(5)] + [rp.TaskDescription(function=payloads.whoami)] * 5)
    eventually(lambda: sum(states[-1:] == [rp.DONE] for states in told.values()) == 10, "all final states are told")
    assert told == {task.uid: ALL_STATES for task in submitted}


def test_a_failed_task_goes_straight_to_its_end(tasks: rp.TaskManager) -> None:
    told: list[str] = []
    tasks.register_callback(lambda task, state: told.append(state))
    tasks.submit_tasks(shell("exit 1"))
    eventually(lambda: told[-1:] == [rp.FAILED], "the final state is told")
    assert told[:-1] == ALL_STATES[: len(told) - 1]


def test_each_final_state_is_told_once_and_shows_in_the_handle(tasks: rp.TaskManager) -> None:
    told: list[tuple[str, str, object]] = []

    def note(task: rp.Task, state: str) -> None:
        if state in rp.FINAL:
            told.append((task.uid, task.state, task.result()))

    tasks.register_callback(note)
    submitted = tasks.submit_tasks([rp.TaskDescription(function=payloads.square, args=[n]) for n in range(500)])
    eventually(lambda: len(told) >= 500, "all are told")
    tasks.wait_tasks(timeout=PATIENCE_S)
    assert sorted(told) == sorted((task.uid, rp.DONE, number**2) for number, task in enumerate(submitted))


def test_callbacks_run_one_after_another_on_one_thread(tasks: rp.TaskManager) -> None:
    threads: set[int] = set()
    inside = threading.Lock()
    overlaps: list[str] = []
    finals = threading.Semaphore(0)

    def note(task: rp.Task, state: str) -> None:
        threads.add(threading.get_ident())
        if not inside.acquire(blocking=False):
            overlaps.append(task.uid)
            return
        inside.release()
        if state in rp.FINAL:
            finals.release()

    tasks.register_callback(note)
    tasks.submit_tasks([shell("true") for _ in range(30)])
    assert all(finals.acquire(timeout=PATIENCE_S) for _ in range(30))
    assert (overlaps, len(threads)) == ([], 1)
    assert threading.get_ident() not in threads


def test_cb_data_follows_as_the_last_argument(tasks: rp.TaskManager) -> None:
    heard: list[object] = []
    tasks.register_callback(lambda task, state, data: heard.append(data), cb_data={"run": 3})
    tasks.submit_tasks(shell("true"))
    assert eventually(lambda: heard, "the callback is called")[0] == {"run": 3}


def test_callbacks_may_submit_and_cancel(tasks: rp.TaskManager) -> None:
    last = threading.Event()
    sleeper = tasks.submit_tasks(shell("exec sleep 600"))

    def next_round(task: rp.Task, state: str) -> None:
        if state == rp.DONE and task.name.isdigit():
            number = int(task.name) + 1
            if number < 5:
                tasks.submit_tasks(shell("true", name=str(number)))
            else:
                sleeper.cancel()
        if task == sleeper and state == rp.CANCELED:
            last.set()

    tasks.register_callback(next_round)
    tasks.submit_tasks(shell("true", name="0"))
    assert last.wait(PATIENCE_S)
    assert len(tasks.list_tasks()) == 6


def test_waiting_and_closing_in_a_callback_raise(campaign: Campaign, tasks: rp.TaskManager) -> None:
    later = tasks.submit_tasks(shell("exec sleep 600"))
    raised: list[str] = []
    done = threading.Event()

    def wait(task: rp.Task, state: str) -> None:
        if state != rp.DONE:
            return
        uses = [
            later.wait,
            later.result,
            tasks.wait_tasks,
            lambda: campaign.pilots.wait_pilots(state=rp.DONE),
            campaign.session.close,
        ]
        for use in uses:
            try:
                use()
            except rp.WaitInCallback as error:
                raised.append(str(error))
        done.set()

    tasks.register_callback(wait)
    tasks.submit_tasks(shell("true"))
    assert done.wait(PATIENCE_S)
    later.cancel()
    assert len(raised) == 5
    assert all("inside a callback" in told and "let the callback return" in told for told in raised)


def test_a_callback_that_raises_is_logged_and_the_others_go_on(tasks: rp.TaskManager, caplog: pytest.LogCaptureFixture) -> None:
    finals: list[str] = []

    def broken(task: rp.Task, state: str) -> None:
        raise ZeroDivisionError("in my callback")

    tasks.register_callback(broken)
    tasks.register_callback(lambda task, state: finals.append(state) if state in rp.FINAL else None)
    with caplog.at_level(logging.ERROR, "pilotage"):
        tasks.submit_tasks([shell("true") for _ in range(3)])
        eventually(lambda: finals == [rp.DONE] * 3, "the other callback hears all")
    assert "broken" in caplog.text
    assert "in my callback" in caplog.text


def test_callbacks_of_one_task(tasks: rp.TaskManager) -> None:
    told: list[tuple[str, str]] = []
    mine, other = tasks.submit_tasks([shell("read x < wait || sleep 600", name="mine"), shell("exec sleep 600")])
    mine.register_callback(lambda task, state: told.append((task.uid, state)))
    mine.cancel()
    eventually(lambda: told and told[-1][1] in rp.FINAL, "the end is told")
    other.cancel()
    assert {uid for uid, _ in told} == {mine.uid}


def test_who_registers_late_hears_the_final_state(tasks: rp.TaskManager) -> None:
    told: list[str] = []
    task = tasks.submit_tasks(shell("true"))
    tasks.wait_tasks(timeout=PATIENCE_S)
    task.register_callback(lambda task, state: told.append(state))
    eventually(lambda: told[-1:] == [rp.DONE], "the end is told")


def test_the_metric_may_come_second_as_it_did_in_2018(fresh: Campaign) -> None:
    states: list[str] = []
    counts: list[int] = []
    fresh.tasks.register_callback(lambda task, state: states.append(state), rp.TASK_STATE)
    fresh.tasks.register_callback(lambda manager, count: counts.append(count), rp.WAIT_QUEUE_SIZE)
    fresh.pilots.register_callback(lambda pilot, state: states.append(state), rp.PILOT_STATE)
    fresh.tasks.submit_tasks(shell("true"))
    fresh.start()
    eventually(lambda: {rp.DONE, rp.PMGR_ACTIVE} <= set(states) and counts, "all three are told")


def test_unregistered_callbacks_are_silent(tasks: rp.TaskManager) -> None:
    told: list[str] = []
    heard = threading.Event()

    def note(task: rp.Task, state: str) -> None:
        told.append(state)

    tasks.register_callback(note)
    tasks.unregister_callback(note)
    tasks.register_callback(lambda task, state: heard.set() if state == rp.DONE else None)
    tasks.submit_tasks(shell("true"))
    assert heard.wait(PATIENCE_S)
    assert told == []
    with pytest.raises(rp.InvalidRequest, match="is not registered"):
        tasks.unregister_callback(note)


def test_wrong_callbacks_and_metrics(tasks: rp.TaskManager) -> None:
    with pytest.raises(rp.InvalidRequest, match=r"something to call, not 'print' \(str\)"):
        tasks.register_callback("print")
    with pytest.raises(rp.InvalidRequest, match=r"no metric 'TASK_STAT'.*TASK_STATE"):
        tasks.register_callback(print, metric="TASK_STAT")


def test_the_number_of_waiting_tasks(fresh: Campaign) -> None:
    counts: list[int] = []
    fresh.tasks.register_callback(lambda manager, count: counts.append(count), metric=rp.WAIT_QUEUE_SIZE)
    fresh.tasks.submit_tasks([shell("true") for _ in range(7)])
    eventually(lambda: counts[-1:] == [7], "seven wait")
    fresh.start()
    eventually(lambda: counts[-1:] == [0], "none waits")


def test_callbacks_of_pilots(fresh: Campaign) -> None:
    told: list[str] = []
    fresh.pilots.register_callback(lambda pilot, state: told.append(state))
    pilot = fresh.start()
    pilot.cancel()
    eventually(lambda: told[-1:] == [rp.CANCELED], "the end is told")
    assert told == [rp.PMGR_LAUNCHING_PENDING, rp.PMGR_LAUNCHING, rp.PMGR_ACTIVE_PENDING, rp.PMGR_ACTIVE, rp.CANCELED]
