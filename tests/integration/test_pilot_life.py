"""Pilots that end when nothing is left to do, and pilots that wait until all tasks have arrived."""

from __future__ import annotations

from pathlib import Path

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, outcome_of, shell

import pilotage as rp
from pilotage.cli.observer import Observer
from pilotage.model.ids import PilotUid
from pilotage.system.processes import is_alive

IDLE_S = 2.0
"""Long enough for tasks to arrive in time on a busy machine."""
IDLE = f"nothing was left to do for {IDLE_S:g} s, its idle_timeout_s"


@pytest.mark.parametrize("executor", ["local", "simulated"])
def test_an_idle_pilot_gives_its_nodes_back_and_another_one_goes_on(fresh: Campaign, executor: str) -> None:
    first = fresh.start(idle_timeout_s=IDLE_S, executor=executor)
    assert {task.state for task in fresh.run([shell("true") for _ in range(5)])} == {rp.DONE}
    assert (first.wait(timeout=PATIENCE_S), first.reason) == (rp.DONE, IDLE)
    later = fresh.tasks.submit_tasks(shell("true"))
    assert (later.state, later.pilot) == (rp.TMGR_SCHEDULING, None)
    second = fresh.start()
    assert (later.wait(timeout=PATIENCE_S), later.pilot) == (rp.DONE, second.uid)


def test_a_service_that_is_ready_does_not_keep_an_idle_pilot(fresh: Campaign) -> None:
    pilot = fresh.start(idle_timeout_s=IDLE_S, services=[{"executable": "/bin/sleep", "arguments": ["600"]}])
    assert (pilot.wait(timeout=PATIENCE_S), pilot.reason) == (rp.DONE, IDLE)
    assert pilot.services[0].wait(timeout=PATIENCE_S) == rp.DONE


def test_tasks_begin_when_all_have_arrived(fresh: Campaign) -> None:
    pilot = fresh.start(startup_barrier=6, cores=1)
    early = fresh.tasks.submit_tasks([shell("true") for _ in range(5)])
    with Observer.of(Path(pilot.sandbox), Path(fresh.session.path)) as agent:  # type: ignore[union-attr]
        told = "waits until 6 tasks have arrived, as startup_barrier says; 5 have so far"
        eventually(lambda: agent.ask(early[4].uid)["why"] == told, "the agent says why they wait")
    last = fresh.tasks.submit_tasks(shell("true"))
    assert set(fresh.tasks.wait_tasks(timeout=PATIENCE_S)) == {rp.DONE}
    assert all(outcome_of(task).times.launched >= outcome_of(last).times.accepted for task in early)


def test_a_barrier_is_reached_through_a_window_of_late_binding(fresh: Campaign) -> None:
    tasks = rp.TaskManager(fresh.session, scheduler="backfilling")
    tasks.add_pilots(fresh.start(startup_barrier=50, cores=1))
    tasks.submit_tasks([shell("true") for _ in range(60)])
    assert set(tasks.wait_tasks(timeout=PATIENCE_S)) == {rp.DONE}


def test_a_barrier_that_is_never_reached_ends_with_the_pilot(fresh: Campaign) -> None:
    pilot = fresh.start(startup_barrier=1000)
    tasks = fresh.tasks.submit_tasks([shell("true") for _ in range(3)])
    fresh.pilots.drain_pilots(pilot.uid)
    assert [task.wait(timeout=PATIENCE_S) for task in tasks] == [rp.DONE] * 3


def test_a_pilot_that_ended_while_nobody_was_there_is_known_to_have(base: Path) -> None:
    campaign = Campaign(base)
    described = {
        "resource": "local.localhost",
        "cores": 1,
        "runtime": 5,
        "idle_timeout_s": IDLE_S,
        "on_client_loss": "continue",
    }
    pilot = campaign.pilots.submit_pilots(described)
    campaign.tasks.add_pilots(pilot)
    task = campaign.tasks.submit_tasks(shell("echo done"))
    task.wait(timeout=PATIENCE_S)
    process = campaign.session.state.pilots[PilotUid(pilot.uid)]
    campaign.session.close(terminate=False)
    eventually(lambda: not is_alive(process.pid, process.started_ticks, process.boot_id), "the pilot has ended")
    with rp.Session.resume(campaign.session.uid, base=base) as again:
        (pilots,) = again.get_pilot_managers()
        found = pilots.get_pilots(pilot.uid)
        assert (found.wait(timeout=PATIENCE_S), found.reason) == (rp.DONE, IDLE)
