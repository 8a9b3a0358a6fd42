"""The benchmark's workload is what it says, and is simulated to its end; how fast is not for tests to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pilotage.bench.simulation import DURATIONS_S, WIDEST, Heterogeneous, mean_nodes, shapes
from pilotage.model.ids import TaskUid


def test_tasks_are_of_all_shapes_and_not_large_on_average() -> None:
    assert 0.1 < mean_nodes() <= 1.5
    requests = [request for _, request in shapes()]
    assert min(request.ranks * request.cores for request in requests) == 1
    assert max(request.ranks // request.ranks_per_node for request in requests if request.ranks_per_node) == WIDEST
    assert any(request.memory for request in requests)


def test_half_of_the_tasks_declare_how_long_they_take_at_the_most_and_all_keep_to_it() -> None:
    workload = Heterogeneous(4000, seed=1)
    rows = [row for arrival in workload.arrivals() for row in arrival.rows]
    declared = {row.uid: workload.templates[row.template].duration_s for row in rows}
    assert 1800 < sum(1 for seconds in declared.values() if seconds) < 2200
    for uid, seconds in declared.items():
        assert DURATIONS_S[0] <= workload.duration_s(uid) <= (seconds or DURATIONS_S[1])
    again = Heterogeneous(4000, seed=1)
    assert [row for arrival in again.arrivals() for row in arrival.rows] == rows
    assert again.duration_s(TaskUid("task.0003999")) == workload.duration_s(TaskUid("task.0003999"))


def test_the_program_tells_its_figures() -> None:
    command = [sys.executable, "-m", "pilotage.bench.simulation", "2000", "256", "7", "client"]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert 0.0 < found["utilization"] <= 1.0
    assert found["peak_mib"] > 10


def test_the_program_runs_workloads_from_files_as_the_command_does(tmp_path: Path) -> None:
    small = tmp_path / "small.toml"
    small.write_text(
        'description = "two sorts"\nsource = "made for this test"\nmachine = "frontier"\nnodes = 16\n'
        '[[classes]]\nname = "one"\ncount = 300\nduration_s = { uniform = [30.0, 90.0] }\n'
        '[[classes]]\nname = "two"\nkind = "function"\ncount = 100\nduration_s = 60.0\n'
    )
    command = [sys.executable, "-m", "pilotage.bench.simulation", str(small)]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert found["tasks"] == 400
    assert 90.0 >= found["makespan_s"] >= 60.0
