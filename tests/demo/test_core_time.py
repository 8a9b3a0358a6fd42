"""The demo's account of core-time: the trace's books, with running tasks by stage."""

from __future__ import annotations

from pathlib import Path

import pytest

rp = pytest.importorskip("pilotage")

from core_time import core_seconds, core_time_by_stage, render_table, stage_of  # noqa: E402

from pilotage.model.ids import LaneId, PilotUid, RunnerId, TaskUid  # noqa: E402
from pilotage.model.resources import Node, NodeShape  # noqa: E402
from pilotage.trace import Run  # noqa: E402
from pilotage.trace.run import Shape  # noqa: E402
from pilotage.trace.usage import COLLECTING, IDLE, LAUNCHING, SCHEDULING, STARTUP, TEARDOWN  # noqa: E402

TASKS = [
    # name, core, accepted, launched, started, ended
    ("md: one", 0, 101.0, 102.0, 102.5, 106.0),
    ("md: two", 1, 101.0, 104.0, 104.0, 108.0),
    ("analysis: of both", 0, 108.0, 108.0, 108.0, 110.0),
]


@pytest.fixture
def run() -> Run:
    """Two cores from 100 to 110.5, ready at 101, told to end at 110; three tasks of one core each."""
    run = Run(Path("invented"))
    pilot = run.pilot(PilotUid("pilot.0000"))
    pilot.nodes = [Node(0, "node0", NodeShape(2, 0, 64, 64))]
    pilot.launched, pilot.active, pilot.ending, pilot.final = 100.0, 101.0, 110.0, 110.5
    for i, (name, core, accepted, launched, started, ended) in enumerate(TASKS):
        run.tasks.extend([(TaskUid(f"task.{i}"), name, Shape("executable", 1))])
        lanes = pilot.lanes
        lanes.uid.append(LaneId(i + 1))
        lanes.runner.append(RunnerId("spawner.0"))
        lanes.nodes.append(1)
        for column, value in ((lanes.node, 0), (lanes.first_core, core), (lanes.cores, 1), (lanes.gpu_shares, 0)):
            column.append(value)
        lanes.opened.append(launched)
        lanes.closed.append(ended)
        attempt = pilot.attempts.add(i, i, launched)
        pilot.attempts.started[attempt], pilot.attempts.ended[attempt] = started, ended
        pilot.waits.until[pilot.waits.add(i, accepted)] = launched
    return run


def test_every_core_second_is_accounted_for_once(run: Run) -> None:
    assert core_seconds(core_time_by_stage(run)) == {
        "md": 3.5 + 4.0,
        "analysis": 2.0,
        STARTUP: 2.0,
        LAUNCHING: 0.5,
        COLLECTING: 0.0,
        # 101 to 102: two cores free, two tasks wait; 102 to 104: one core free, one task waits.
        SCHEDULING: 2.0 + 2.0,
        # 106 to 108 and 108 to 110: one core free, nothing waits.
        IDLE: 2.0 + 2.0,
        TEARDOWN: 1.0,
    }


def test_the_table_adds_up_to_the_life_of_the_pilot(run: Run) -> None:
    *states, total = render_table(core_time_by_stage(run)).splitlines()[1:]
    assert total.split() == ["total", "21.00", "100.0"]
    assert sum(float(line.split()[-1]) for line in states) == pytest.approx(100.0, abs=0.3)


def test_the_stage_is_the_first_part_of_the_name() -> None:
    assert stage_of("round 1: water at 300 K, seed 101") == "round 1"
