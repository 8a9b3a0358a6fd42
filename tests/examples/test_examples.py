"""Every example runs as it stands, in a folder of its own, as a newcomer would run it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PATIENCE_S = 110

SAYS = {
    "getting_started": "task.000009: DONE, exit code 0",
    "task_details": "it ended as DONE: DONE, exit code 0, attempt 1",
    "failing_tasks": "raised here: ZeroDivisionError('division by zero')",
    "four_pilots": "8,192 tasks are done\ntasks of each pilot: [2048, 2048, 2048, 2048]\n"
    "pilot.0000: DONE, nothing was left to do for 5 s, its idle_timeout_s",
    "several_pilots": "the wide one ran on large, the one that asked for it on small",
    "scheduler_selection": "three ranks on three nodes: ['node0', 'node1', 'node2']",
    "input_data": "task.000002: DONE, read '2 3 5 7 11'",
    "output_data": "results: ['1.dat', '2.dat', '3.dat']",
    "shared_data": "7: the same for all",
    "environment": "DONE: hello from task.000000",
    "mpi": "2 ranks, and the sum of their numbers is 1\nthe mean, by two ranks of a function: 2.5",
    "pre_exec": "rank 1 has more-data",
    "services": "['200', '200', '200']",
    "cancellation": "CANCELED: it said 'saved'",
    "adaptive": "found: 0.7",
    "adaptive_resources": "True: all that was asked for is done",
    "chained_tasks": "DONE     something failed",
}
"""A line (or two) of what each example prints, that only comes out if it did what it shows."""


def test_each_example_is_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == SAYS.keys()


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_and_does_what_it_shows(name: str, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    environment = {**os.environ, "PILOTAGE_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], cwd=here, env=environment, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert SAYS[name] in done.stdout, f"{done.stdout}\n{done.stderr}"
