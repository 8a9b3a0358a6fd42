"""Each core of the pilot is in exactly one state at each moment."""

from __future__ import annotations

import pytest

np = pytest.importorskip("numpy", reason="the demo needs numpy")

from core_time import (  # noqa: E402
    IDLE,
    LAUNCHING,
    PILOT_END,
    PILOT_START,
    WAITING,
    PilotSpan,
    TaskSpan,
    core_time,
    render_table,
    stage_of,
)

PILOT = PilotSpan(cores=2, submitted=100.0, active=101.0, finished=110.0, gone=110.5)
TASKS = [
    TaskSpan("md", 1, accepted=101.0, launched=102.0, started=102.5, ended=106.0),
    TaskSpan("md", 1, accepted=101.0, launched=104.0, started=104.0, ended=108.0),
    TaskSpan("analysis", 1, accepted=108.0, launched=108.0, started=108.0, ended=110.0),
]


def test_every_core_second_is_accounted_for_once() -> None:
    assert core_time(PILOT, TASKS).core_seconds() == pytest.approx(
        {
            PILOT_START: 2.0,
            "md": 3.5 + 4.0,
            "analysis": 2.0,
            LAUNCHING: 0.5,
            # 101 to 102: two cores free, two tasks wait; 102 to 104: one core free, one task waits.
            WAITING: 2.0 + 2.0,
            # 106 to 108 and 108 to 110: one core free, nothing waits.
            IDLE: 2.0 + 2.0,
            PILOT_END: 1.0,
        }
    )


def test_the_states_fill_the_pilot_at_every_moment() -> None:
    spent = core_time(PILOT, TASKS)
    assert sum(spent.cores.values()) == pytest.approx(np.full(len(spent.edges) - 1, 2.0))
    assert (spent.edges[0], spent.edges[-1]) == (0.0, 10.5)


def test_a_pilot_without_tasks_is_idle() -> None:
    seconds = core_time(PILOT, []).core_seconds()
    assert seconds == {PILOT_START: 2.0, LAUNCHING: 0.0, PILOT_END: 1.0, WAITING: 0.0, IDLE: 18.0}


def test_the_table_adds_up_to_the_life_of_the_pilot() -> None:
    *states, total = render_table(core_time(PILOT, TASKS)).splitlines()[1:]
    assert total.split() == ["total", "21.00", "100.0"]
    assert sum(float(line.split()[-1]) for line in states) == pytest.approx(100.0, abs=0.3)


def test_the_stage_is_the_first_part_of_the_name() -> None:
    assert stage_of("round 1: water at 300 K, seed 101") == "round 1"
