"""Finding and ending processes that nobody looks after, by the mark in their environment."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from executor_support import PATIENCE_S, PILOT, orphaned_sleeper

from pilotage.executors.orphans import end_orphans, marks_of, orphans
from pilotage.model.ids import PilotUid, SessionUid


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SessionUid]:
    uid = SessionUid(f"session.{tmp_path.name}.{os.getpid()}")
    yield uid
    end_orphans(uid, PILOT, (), PATIENCE_S)


def test_sleepers_that_left_their_session_and_forked_twice_are_found_and_ended(session):
    orphaned_sleeper(session, PILOTAGE_TASK_ID="task.0")
    orphaned_sleeper(session, PILOTAGE_WORKER_ID="worker.3")
    assert len(orphans(session, PILOT, ())) == 2
    assert end_orphans(session, PILOT, (), PATIENCE_S)
    assert orphans(session, PILOT, ()) == {}


def test_tasks_of_the_same_name_in_another_session_or_pilot_are_left_alone(session):
    orphaned_sleeper(session, PILOTAGE_TASK_ID="task.0")
    assert end_orphans(SessionUid(f"{session}.other"), PILOT, (), PATIENCE_S)
    assert end_orphans(session, PilotUid("pilot.0001"), (), PATIENCE_S)
    assert len(orphans(session, PILOT, ())) == 1


def test_tasks_of_another_partition_are_left_alone(session):
    orphaned_sleeper(session, PILOTAGE_TASK_ID="task.0", PILOTAGE_PARTITION="left")
    orphaned_sleeper(session, PILOTAGE_TASK_ID="task.1", PILOTAGE_PARTITION="right")
    assert end_orphans(session, PILOT, (), PATIENCE_S, marked=marks_of("left"))
    assert orphans(session, PILOT, (), marked=marks_of("left")) == {}
    assert len(orphans(session, PILOT, (), marked=marks_of("right"))) == 1
    assert len(orphans(session, PILOT, (), marked=marks_of(""))) == 1


def test_what_belongs_to_no_task_and_no_worker_is_left_alone(session):
    unmarked = orphaned_sleeper(session)
    try:
        assert orphans(session, PILOT, ()) == {}
    finally:
        os.kill(unmarked, signal.SIGKILL)
    orphaned_sleeper(session, PILOTAGE_TASK_ID="task.0")
    assert len(orphans(session, PILOT, ())) == 1


def test_what_descends_from_a_living_runner_is_no_orphan(session):
    environment = {**os.environ, "PILOTAGE_SESSION_ID": session, "PILOTAGE_PILOT_ID": PILOT, "PILOTAGE_TASK_ID": "task.0"}
    with subprocess.Popen(["setsid", "sh", "-c", "sleep 1000; true"], env=environment) as runner:
        end = time.monotonic() + PATIENCE_S
        while len(found := orphans(session, PILOT, ())) < 2:
            assert time.monotonic() < end, f"the runner and its child were not found: {found}"
        assert orphans(session, PILOT, {runner.pid}) == {}
        assert end_orphans(session, PILOT, (), PATIENCE_S)
        assert runner.wait() != 0
