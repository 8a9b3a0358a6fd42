"""The timeline: bars of tasks on a small machine, shares of rows on a larger one."""

from __future__ import annotations

from pathlib import Path

import pytest
from invented_runs import PILOT, InventedRun
from trace_builders import random_run

from pilotage.analytics import Session, timeline
from pilotage.model.ids import PilotUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare


def test_on_a_small_machine_each_task_is_a_bar_on_its_cores() -> None:
    made = InventedRun(nodes=2, cores=4)
    made.add(110.0, 120.0, name="md 1", cores=2, core=1)
    made.add(120.0, 0.0, name="analysis", node=1, core=3)
    made.add(130.0, 131.0, name="md 2", ending=Ending.EXITED)
    found = timeline.timeline(made.session())
    assert (found.unit, len(found.cores), found.gpus) == ("core", 8, [])
    assert [row.label for row in found.cores[3:5]] == ["node0 core 3", "node1 core 0"]
    bars = [(bar.row, bar.rows, bar.begin_s, bar.end_s, bar.task, found.groups[bar.group], bar.ending) for bar in found.bars]
    assert bars == [
        (1, 2, 10.0, 20.0, "task.0000", "md #", "DONE"),
        (7, 1, 20.0, 100.0, "task.0001", "analysis", ""),
        (0, 1, 30.0, 31.0, "task.0002", "md #", "EXITED"),
    ]
    assert [(row.busy, row.tasks) for row in found.cores[:4]] == [(0.01, 1), (0.1, 1), (0.1, 1), (0.0, 0)]


def test_cores_that_are_no_neighbours_are_several_bars() -> None:
    made = InventedRun(cores=4)
    made.add(110.0, 120.0, cores=3)
    made.run.pilots[PilotUid(PILOT)].lanes.placement[0] = (NodeShare(0, 1, bytes([0b1011])),)
    assert [(bar.row, bar.rows) for bar in timeline.timeline(made.session()).bars] == [(0, 2), (3, 1)]


@pytest.mark.parametrize(("nodes", "cores", "unit", "rows"), [(2, 40, "node", 2), (100, 2, "nodes", 50)])
def test_on_a_large_machine_rows_are_nodes_or_several_of_them(nodes: int, cores: int, unit: str, rows: int) -> None:
    made = InventedRun(nodes=nodes, cores=cores, end=200.0)
    made.add(100.0, 150.0, node=1, cores=2)
    found = timeline.timeline(made.session())
    assert (found.unit, len(found.cores), found.bars) == (unit, rows, [])
    row = found.cores[1 if unit == "node" else 0]
    assert row.label == ("node1" if unit == "node" else "node0 to node1")
    assert row.busy == pytest.approx(2 * 50 / (row.size * 100))
    assert row.shares[:150] == pytest.approx([round(2 / row.size, 4)] * 150)
    assert not any(row.shares[150:])


def test_with_many_tasks_bars_become_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    made = InventedRun(cores=2)
    made.add(100.0, 150.0)
    made.add(100.0, 200.0, core=1)
    monkeypatch.setattr(timeline, "MOST_BARS", 1)
    found = timeline.timeline(made.session())
    assert (found.unit, found.bars) == ("core", [])
    assert (sum(found.cores[0].shares), sum(found.cores[1].shares)) == pytest.approx((150.0, 300.0))


def test_gpus_have_rows_when_they_are_asked_for() -> None:
    made = InventedRun(cores=2, gpus=2)
    made.add(100.0, 150.0, gpus=2)
    made.add(150.0, 200.0, gpus=0.5)
    found = timeline.timeline(made.session())
    assert [(row.label, row.busy) for row in found.gpus] == [("node0 GPU 0", 0.75), ("node0 GPU 1", 0.5)]
    assert found.gpus[0].shares[200:] == [0.5] * 100


def test_the_rows_of_several_pilots_follow_one_another() -> None:
    made = InventedRun(cores=1)
    made.add_pilot("pilot.0001", cores=2)
    made.add(100.0, 110.0, pilot="pilot.0001", core=1)
    found = timeline.timeline(made.session())
    assert [row.label for row in found.cores] == [f"{PILOT} node0 core 0", "pilot.0001 node0 core 0", "pilot.0001 node0 core 1"]
    assert found.bars[0].row == 2


@pytest.mark.parametrize("seed", range(10))
def test_what_is_drawn_is_the_core_time_of_the_books(session_folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random_run(session_folder, seed)
    session = Session.read(session_folder)
    found = timeline.timeline(session)
    ran = session.ranges("running")
    spent = float(((ran["end"] - ran["begin"]) * ran["cores"]).sum())
    assert sum((bar.end_s - bar.begin_s) * bar.rows for bar in found.bars) == pytest.approx(spent, abs=1e-3)
    monkeypatch.setattr(timeline, "MOST_BARS", -1)
    shares = timeline.timeline(session)
    width = shares.at[1]
    assert sum(sum(row.shares) * row.size for row in shares.cores) * width == pytest.approx(spent, abs=0.01)


def test_a_session_without_pilots_has_no_rows(session_folder: Path) -> None:
    found = timeline.timeline(Session.read(session_folder))
    assert (found.cores, found.gpus, found.bars) == ([], [], [])
