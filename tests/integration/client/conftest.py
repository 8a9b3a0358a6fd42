"""Sessions in a folder of the test, and a check that they leave no process, thread or descriptor behind."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pilotage as rp


def children() -> set[int]:
    return {
        int(pid)
        for task in os.listdir("/proc/self/task")
        for pid in Path(f"/proc/self/task/{task}/children").read_text().split()
    }


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "sessions"


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    threads, processes, descriptors = set(threading.enumerate()), children(), len(os.listdir("/proc/self/fd"))
    yield
    left = [thread.name for thread in threading.enumerate() if thread not in threads]
    assert not left, f"threads left behind: {left}"
    assert children() <= processes, "processes left behind"
    assert len(os.listdir("/proc/self/fd")) <= descriptors, "descriptors left behind"


@pytest.fixture
def session(base: Path) -> Iterator[rp.Session]:
    with rp.Session(base=base) as opened:
        yield opened


@pytest.fixture
def manager(session: rp.Session) -> rp.TaskManager:
    """A task manager with a pilot of two cores."""
    pilot = rp.PilotManager(session).submit_pilots({"resource": "local.localhost", "cores": 2, "runtime": 5})
    manager = rp.TaskManager(session)
    manager.add_pilots(pilot)
    return manager
