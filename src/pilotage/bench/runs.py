"""A pilot to measure on: started and active before the measurement, ended after it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pilotage as rp

MEMORY_FOLDER = Path("/dev/shm") if Path("/dev/shm").is_dir() else None
"""Where files cost no disk; None where the machine has no such place. A disk is slower for minutes after many deletions."""


class Bench:
    """An active pilot with its manager of tasks, and where its processes hang."""

    def __init__(self, session: rp.Session, pilot: rp.Pilot, tasks: rp.TaskManager) -> None:
        self.session = session
        self.pilot = pilot
        self.tasks = tasks
        self.pids = [os.getpid()]

    def run(self, descriptions: list[rp.TaskDescription]) -> list[rp.Task]:
        """Submit, wait, and insist that all are done."""
        tasks = self.tasks.submit_tasks(descriptions)
        self.tasks.wait_tasks([task.uid for task in tasks])
        failed = [task for task in tasks if task.state != rp.DONE]
        if failed:
            raise RuntimeError(f"{len(failed)} of {len(tasks)} tasks failed; the first: {failed[0].exception}")
        return tasks


@contextmanager
def bench_pilot(*, folder: Path | None = None, **pilot: Any) -> Iterator[Bench]:
    """Give an active pilot; its session lies in ``folder``, or in a temporary folder that goes away."""
    base = Path(tempfile.mkdtemp(prefix="pilotage-bench-", dir=folder))
    description = rp.PilotDescription(**{"resource": "local.localhost", "cores": 2, "runtime": 60, **pilot})
    try:
        with rp.Session(base=base) as session:
            pilots, tasks = rp.PilotManager(session=session), rp.TaskManager(session=session)
            handle = pilots.submit_pilots(description)
            tasks.add_pilots(handle)
            handle.wait(state=rp.PMGR_ACTIVE)
            yield Bench(session, handle, tasks)
    finally:
        shutil.rmtree(base, ignore_errors=True)
