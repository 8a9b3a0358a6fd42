"""Callbacks: what they hear, in which order, and what they may do."""

from __future__ import annotations

import threading
from pathlib import Path

import client_payloads
import pytest
from client_support import until

import pilotage as rp


def test_all_states_in_order_also_those_that_were_skipped(manager: rp.TaskManager) -> None:
    heard: list[str] = []
    manager.register_callback(lambda task, state: heard.append(state))
    manager.submit_tasks({"executable": "/bin/true"})
    until(lambda: rp.DONE in heard, "the callback hears of DONE")
    from pilotage.model.states import passed_states

    assert heard == list(passed_states(rp.NEW, rp.DONE))


def test_each_task_is_told_final_once_and_cb_data_comes_along(manager: rp.TaskManager) -> None:
    final: list[tuple[str, object]] = []

    def note(task: rp.Task, state: str, cb_data: object) -> None:
        if state in rp.FINAL:
            final.append((task.uid, cb_data))

    manager.register_callback(note, cb_data="mine")
    tasks = manager.submit_tasks([rp.TaskDescription(function=client_payloads.double, args=[number]) for number in range(500)])
    until(lambda: len(final) >= 500, "500 final states")
    assert sorted(final) == sorted((task.uid, "mine") for task in tasks)


def test_submitting_is_allowed_waiting_and_closing_are_not(manager: rp.TaskManager) -> None:
    refused: list[Exception] = []
    second: list[rp.Task] = []

    def follow(task: rp.Task, state: str) -> None:
        if state != rp.DONE or second:
            return
        second.append(manager.submit_tasks({"executable": "/bin/true", "uid": "second"}))
        for forbidden in (second[0].wait, manager.wait_tasks, second[0].result, manager.session.close):
            try:
                forbidden()
            except rp.WaitInCallback as error:
                refused.append(error)

    manager.register_callback(follow)
    manager.submit_tasks({"executable": "/bin/true", "uid": "first"})
    until(lambda: "second" in manager.list_tasks() and len(refused) == 4, "the callback has submitted")
    assert manager.wait_tasks("second", timeout=30) == rp.DONE


def test_one_that_raises_does_not_stop_the_others(manager: rp.TaskManager, caplog: pytest.LogCaptureFixture) -> None:
    heard = threading.Event()

    def bad(task: rp.Task, state: str) -> None:
        raise RuntimeError("a bad callback")

    manager.register_callback(bad)
    manager.register_callback(lambda task, state: heard.set() if state == rp.DONE else None)
    manager.submit_tasks({"executable": "/bin/true"})
    assert heard.wait(30)
    assert "a bad callback" in caplog.text and "Traceback" in caplog.text


def test_registering_for_a_task_that_is_final_tells_at_once(manager: rp.TaskManager) -> None:
    task = manager.submit_tasks({"executable": "/bin/true"})
    task.wait(timeout=30)
    for _ in range(2):
        heard = threading.Event()
        task.register_callback(lambda task, state, heard: heard.set() if state == rp.DONE else None, cb_data=heard)
        assert heard.wait(30)


def test_pilots_and_the_waiting_queue(session: rp.Session) -> None:
    pilot_states: list[str] = []
    waiting: list[int] = []
    pilots = rp.PilotManager(session)
    pilots.register_callback(lambda pilot, state: pilot_states.append(state))
    manager = rp.TaskManager(session)
    manager.register_callback(lambda manager, count: waiting.append(count), metric=rp.WAIT_QUEUE_SIZE)
    manager.submit_tasks([{"executable": "/bin/true"}] * 3)
    manager.add_pilots(pilots.submit_pilots({"resource": "local.localhost", "cores": 1}))
    assert manager.wait_tasks(timeout=30) == [rp.DONE] * 3
    until(lambda: rp.PMGR_ACTIVE in pilot_states and waiting == [3, 0], "pilot states and queue sizes")
    from pilotage.model.states import PILOT_STATES

    assert pilot_states == list(PILOT_STATES)[1:]


def test_what_no_callback_has_heard_is_told_after_a_resume(base: Path) -> None:
    with rp.Session(base=base) as first:
        manager = rp.TaskManager(first)
        manager.add_pilots(rp.PilotManager(first).submit_pilots({"resource": "local.localhost", "cores": 1}))
        manager.submit_tasks({"executable": "/bin/true", "uid": "unheard"}).wait(timeout=30)
        heard = threading.Event()
        one = manager.submit_tasks({"executable": "/bin/true", "uid": "heard"})
        one.register_callback(lambda task, state: heard.set() if state == rp.DONE else None)
        assert heard.wait(30)
    told: list[str] = []
    with rp.Session.resume(first.uid, base=base) as second:
        second.get_task_managers("tmgr.0000").register_callback(
            lambda task, state: told.append(task.uid) if state in rp.FINAL else None
        )
        until(lambda: "unheard" in told, "the unheard state is told")
    assert told == ["unheard"]
