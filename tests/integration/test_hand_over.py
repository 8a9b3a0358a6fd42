"""Sessions that are left to their pilots: the program is gone, its pilots go on, and who comes back finds what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pilotage as rp

PATIENCE_S = 60.0


def wait_until(there: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


PARTITIONS: dict[str, Any] = {"partitions": [{"name": "one", "nodes": 1}, {"name": "two", "nodes": 1}], "sub_agents": "threads"}


@pytest.mark.parametrize("more", [{}, PARTITIONS], ids=["plain", "partitions"])
@pytest.mark.parametrize("begun", [False, True], ids=["at once", "when it is up"])
def test_tasks_run_with_nobody_there(tmp_path: Path, more: dict[str, Any], begun: bool) -> None:
    described = rp.PilotDescription(
        {
            "resource": "local.emulated",
            "nodes": 2,
            "cores_per_node": 2,
            "on_client_loss": "continue",
            "idle_timeout_s": 1,
            **more,
        }
    )
    session = rp.Session("puddle", base=tmp_path)
    pilot = rp.PilotManager(session).submit_pilots(described)
    tasks = rp.TaskManager(session)
    tasks.add_pilots(pilot)
    if begun:
        assert pilot.wait(rp.PMGR_ACTIVE, PATIENCE_S) == rp.PMGR_ACTIVE
    line = f"echo $PILOTAGE_TASK_ID >>{tmp_path}/ran"
    ran = tasks.submit_tasks([rp.TaskDescription(executable="/bin/sh", arguments=["-c", line]) for _ in range(40)])
    assert session.hand_over() == 0
    assert session.closed
    session.close()

    wait_until(lambda: (tmp_path / "ran").exists() and len((tmp_path / "ran").read_text().split()) == 40, "all run")

    with rp.Session.resume("puddle", base=tmp_path) as again:
        manager = again.get_task_managers(tasks.uid)
        manager.wait_tasks(timeout=PATIENCE_S)
        assert [task.state for task in manager.get_tasks([task.uid for task in ran])] == ["DONE"] * 40
    assert len((tmp_path / "ran").read_text().split()) == 40


def test_tasks_that_no_pilot_has_are_counted_and_go_on_with_who_comes_back(tmp_path: Path) -> None:
    session = rp.Session("puddle", base=tmp_path)
    pilot = rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "nodes": 1, "on_client_loss": "continue"})
    tasks = rp.TaskManager(session)
    tasks.add_pilots(pilot)
    go = tmp_path / "go"
    first = rp.TaskDescription(uid="first", executable="/bin/sh", arguments=["-c", f"until [ -e {go} ]; do sleep 0.05; done"])
    tasks.submit_tasks([first, rp.TaskDescription(uid="second", executable="/bin/true", after=["first"])])
    assert session.hand_over() == 1
    go.touch()
    with rp.Session.resume("puddle", base=tmp_path) as again:
        manager = again.get_task_managers(tasks.uid)
        manager.wait_tasks(timeout=PATIENCE_S)
        assert {task.uid: task.state for task in manager.get_tasks()} == {"first": "DONE", "second": "DONE"}


def test_a_session_is_handed_over_once(tmp_path: Path) -> None:
    session = rp.Session(base=tmp_path)
    assert session.hand_over() == 0
    with pytest.raises(rp.SessionClosed):
        session.hand_over()
