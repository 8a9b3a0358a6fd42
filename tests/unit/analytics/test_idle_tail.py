"""What nodes were held for after their last use."""

from __future__ import annotations

from invented_runs import PILOT, InventedRun

from pilotage.analytics.idle_tail import IdleTail
from pilotage.model.ids import PilotUid


def test_each_node_counts_from_its_last_use_to_the_end_of_its_pilot() -> None:
    made = InventedRun(nodes=3, cores=4)
    made.add(110.0, 130.0, node=0)
    made.add(140.0, 150.0, node=0, core=2)
    made.add(110.0, 180.0, node=1)
    # Node 2 is never used: it counts from when the pilot was ready.
    assert made.session().idle_tail() == IdleTail((50 + 20 + 100) * 4.0, (30 + 80) * 4.0, 2)
    assert made.session().figures().idle_tail_core_s == 680.0


def test_a_pilot_that_starts_slowly_is_not_idle_meanwhile() -> None:
    made = InventedRun(nodes=1, cores=2, ready=150.0)
    assert made.session().idle_tail() == IdleTail(100.0)


def test_pilots_are_summed_up() -> None:
    made = InventedRun(nodes=1, cores=2)
    made.add_pilot("pilot.0001", nodes=1, cores=8, end=300.0)
    made.add(100.0, 190.0)
    made.add(100.0, 250.0, pilot="pilot.0001")
    assert made.session().idle_tail() == IdleTail(10 * 2 + 50 * 8)


def test_what_still_runs_is_in_use_and_a_pilot_that_never_held_anything_has_no_tail() -> None:
    made = InventedRun(nodes=1, cores=2)
    made.add(110.0, 0.0, ending=None)
    assert made.session().idle_tail() == IdleTail()
    nothing = InventedRun()
    nothing.run.pilots[PilotUid(PILOT)].nodes = []
    assert nothing.session().idle_tail() == IdleTail()
