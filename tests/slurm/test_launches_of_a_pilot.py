"""Launches of a whole pilot in a job of a real Slurm: how many at once, and what becomes of them when a spawner dies."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import SlurmCluster
from slurm_pilot import SlurmPilot, shell

from pilotage.model.outcome import Ending
from pilotage.model.workload import ANY_MPI
from pilotage.system.processes import started_ticks

OpenPilot = Callable[..., SlurmPilot]


@pytest.fixture
def open_pilot(slurm: SlurmCluster, tmp_path: Path) -> Iterator[OpenPilot]:
    """Submit a pilot on two nodes; what is left of it is cancelled after the test."""
    opened: list[SlurmPilot] = []

    def open_one(**settings: Any) -> SlurmPilot:
        opened.append(SlurmPilot(slurm, tmp_path / "pilot", nodes=2, **settings))
        return opened[-1]

    yield open_one
    for pilot in opened:
        pilot.close()


def test_no_more_launches_are_under_way_than_the_launcher_bears(open_pilot: OpenPilot) -> None:
    pilot = open_pilot(launcher_options={"srun": {"ceiling": "2"}})
    folder = pilot.folder / "running"
    folder.mkdir()
    script = (
        'if [ $PILOTAGE_RANK = 0 ]; then touch "$1/$PILOTAGE_TASK_ID"; ls "$1" | wc -l; fi; '
        'until [ -e "$2" ]; do sleep 0.05; done; rm -f "$1/$PILOTAGE_TASK_ID"'
    )
    go = pilot.folder / "go"
    ranks = shell(ranks=2, ranks_per_node=1, launch_method=ANY_MPI)
    launched = pilot.submit(*((f"mpi.{number}", ranks, (script, "sh", str(folder), str(go))) for number in range(5)))
    pilot.wait(lambda: len(list(folder.iterdir())) == 2, "two run")

    # Tasks that need no launcher are not kept waiting by those that do.
    plain = pilot.submit(*((f"plain.{number}", shell(), ("exit 0",)) for number in range(4)))
    assert {outcome.ending for outcome in pilot.wait_for(plain)} == {Ending.DONE}
    assert len(list(folder.iterdir())) == 2
    go.touch()

    assert {outcome.ending for outcome in pilot.wait_for(launched)} == {Ending.DONE}
    assert max(int(pilot.output(uid)) for uid in launched) <= 2
    pilot.end()


def test_ranks_on_other_nodes_are_gone_when_their_spawner_is_lost(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot()
    pids_file = pilot.folder / "pids"
    ranks = shell(ranks=2, ranks_per_node=1, launch_method="srun")
    uid = f"task.{os.getpid()}.lost"
    pilot.submit((uid, ranks, ('echo $$ >>"$1"; exec sleep infinity', "sh", str(pids_file))))
    pilot.wait(lambda: pids_file.exists() and len(pids_file.read_text().split()) == 2, "both ranks run")
    pids = {int(pid): started_ticks(int(pid)) for pid in pids_file.read_text().split()}

    os.kill(parent_of_launcher(f"--job-name=pilotage:{uid}:1"), signal.SIGKILL)

    (outcome,) = pilot.wait_for([uid])
    assert outcome.ending is Ending.NODE_FAILED
    assert {pid for pid, ticks in pids.items() if started_ticks(pid) == ticks} == set()
    assert not [name for name in slurm.steps(pilot.job).values() if uid in name]
    # The next one is started by another spawner, where that one was.
    again = pilot.submit(("again", ranks, ("echo $PILOTAGE_NODE",)))
    assert pilot.wait_for(again)[0].ending is Ending.DONE
    pilot.end()


def test_a_pilot_without_any_launcher_that_it_wants_ends_and_says_why(open_pilot: OpenPilot, slurm: SlurmCluster) -> None:
    pilot = open_pilot(launch_methods=["ibrun", "jsrun"])
    slurm.wait_for_job(pilot.job, "COMPLETED", "FAILED")

    assert "launch_methods=ibrun, jsrun: none of these is in PATH" in pilot.story()
    assert slurm.steps(pilot.job) == {}


def parent_of_launcher(argument: str) -> int:
    """Return the parent of the process that has this argument, and whose parent has it not: a launcher's spawner."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in path.read_bytes().split(b"\0"):
                stat = (path.parent / "stat").read_text()
                found[int(path.parent.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
        except OSError:
            continue
    (parent,) = {parent for parent in found.values() if parent not in found}
    return parent
