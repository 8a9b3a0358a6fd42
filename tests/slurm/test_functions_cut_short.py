"""Functions of a job on a real Slurm that others than its agent end: they begin again, or are lost; none has failed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from slurm_cluster import PATIENCE_S, SlurmCluster

from pilotage.client.pilot_description import PilotDescription
from pilotage.client.pilot_manager import PilotManager
from pilotage.client.session import Session
from pilotage.client.task import Task
from pilotage.client.task_description import TaskDescription
from pilotage.client.task_manager import TaskManager
from pilotage.model.outcome import Ending


def _functions() -> tuple[Callable[[str], str], Callable[[str], str]]:
    """Functions that stay until the gate is there: one that TERM ends with its worker, and one that raises."""

    def stays(folder: str) -> str:
        import os
        import time

        with open(os.path.join(folder, "runs"), "a") as runs:
            runs.write(f"{os.getpid()}\n")
        while not os.path.exists(os.path.join(folder, "gate")):
            time.sleep(0.02)
        return "through"

    def raises(folder: str) -> str:
        import signal

        def handle(*_: object) -> None:
            raise RuntimeError("told to end")

        signal.signal(signal.SIGTERM, handle)
        return stays(folder)

    return stays, raises


class Functions:
    """Four functions that stay, on a pilot: both kinds, which may begin again or not."""

    def __init__(self, session: Session, folder: Path, nodes: int) -> None:
        self._folder = folder
        pilot = PilotDescription(resource="test.cluster", runtime=10, nodes=nodes)
        self.pilot = PilotManager(session).submit_pilots(pilot)
        tasks = TaskManager(session)
        tasks.add_pilots(self.pilot)
        described = [
            TaskDescription(uid=f"{name}.{kind}", function=function, args=[str(folder)], restartable=name == "again")
            for name in ("again", "once")
            for kind, function in zip(("stays", "raises"), _functions(), strict=True)
        ]
        self.tasks: list[Task] = tasks.submit_tasks(described)
        self._until(lambda: len(self.workers()) == 4, PATIENCE_S)

    def workers(self) -> list[int]:
        """The process ids of those that have begun, in order."""
        path = self._folder / "runs"
        return [int(line) for line in path.read_text().splitlines()] if path.exists() else []

    def endings(self) -> dict[str, Ending]:
        """Let those end that have begun again, and return how all have ended."""
        self._until(lambda: len(self.workers()) >= 6, 2 * PATIENCE_S)
        (self._folder / "gate").touch()
        self._until(lambda: all(task.outcome is not None for task in self.tasks), 2 * PATIENCE_S)
        outcomes = [task.outcome for task in self.tasks]
        return {outcome.task: outcome.ending for outcome in outcomes if outcome is not None}

    def _until(self, there: Callable[[], bool], patience_s: float) -> None:
        deadline = time.monotonic() + patience_s
        while not there():
            assert time.monotonic() < deadline, (self.pilot.state, self.workers(), [task.outcome for task in self.tasks])
            time.sleep(0.05)


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize("first", ["workers", "spawner"])
def test_workers_and_their_spawner_are_told_to_end(session: Session, tmp_path: Path, first: str) -> None:
    functions = Functions(session, tmp_path, 1)
    workers = functions.workers()
    spawners = sorted({parent_of(worker) for worker in workers})
    for pid in (*workers, *spawners) if first == "workers" else (*spawners, *workers):
        os.kill(pid, signal.SIGTERM)
    assert functions.endings() == {
        "again.stays": Ending.DONE,
        "again.raises": Ending.DONE,
        "once.stays": Ending.LOST,
        "once.raises": Ending.LOST,
    }
    # Those that could not begin, as the spawner was about to end, have not.
    assert len(functions.workers()) == 6


def test_the_step_of_the_hosts_is_ended(session: Session, slurm: SlurmCluster, tmp_path: Path) -> None:
    functions = Functions(session, tmp_path, 2)
    [step] = [step for step, name in slurm.steps(functions.pilot.job).items() if name.startswith("pilotage-hosts")]
    slurm.output("scancel", step)
    endings = functions.endings()
    assert endings["again.stays"] is endings["again.raises"] is Ending.DONE
    assert {endings["once.stays"], endings["once.raises"]} <= {Ending.LOST, Ending.NODE_FAILED}
