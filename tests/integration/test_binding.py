"""Several managers and pilots, late and early binding, many tasks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import integration_payloads as payloads
import pytest
from integration_support import PATIENCE_S, Campaign, shell

import pilotage as rp


@pytest.fixture(scope="module")
def two(base: Path, _nothing_left: None) -> Iterator[tuple[Campaign, list[rp.Pilot]]]:
    """A session with two pilots of 1 core."""
    campaign = Campaign(base)
    try:
        yield campaign, [campaign.start(cores=1), campaign.start(cores=1)]
    finally:
        campaign.session.close()


def test_tasks_spread_over_the_pilots(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, pilots = two
    tasks = campaign.run([shell("true") for _ in range(100)])
    assert {task.pilot for task in tasks} == {pilot.uid for pilot in pilots}


def test_a_named_pilot(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, pilots = two
    tasks = campaign.run([shell('echo "$PILOTAGE_PILOT_ID"', pilot=pilots[number % 2].uid) for number in range(10)])
    assert [task.stdout.strip() for task in tasks] == [pilots[number % 2].uid for number in range(10)]


def test_submission_to_a_pilot(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    _, pilots = two
    for pilot in pilots:
        task = pilot.submit_tasks(shell("true"))
        assert (task.wait(timeout=PATIENCE_S), task.pilot) == (rp.DONE, pilot.uid)


def test_managers_share_a_pilot_and_know_only_their_own_tasks(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, pilots = two
    managers = [rp.TaskManager(campaign.session) for _ in range(3)]
    for manager in managers:
        manager.add_pilots(pilots[0])
        manager.submit_tasks([shell("true") for _ in range(4)])
    for manager in managers:
        assert manager.wait_tasks(timeout=PATIENCE_S) == [rp.DONE] * 4
        assert len(manager.list_tasks()) == 4
        assert manager.list_pilots() == [pilots[0].uid]


def test_a_removed_pilot_gets_no_more_tasks(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, pilots = two
    manager = rp.TaskManager(campaign.session)
    manager.add_pilots(pilots)
    manager.remove_pilots(pilots[1])
    manager.submit_tasks([shell("true") for _ in range(20)])
    manager.wait_tasks(timeout=PATIENCE_S)
    assert {task.pilot for task in manager.get_tasks()} == {pilots[0].uid}


def test_late_binding(fresh: Campaign) -> None:
    tasks = fresh.tasks.submit_tasks([shell("true") for _ in range(10)])
    assert {(task.state, task.pilot) for task in tasks} == {(rp.TMGR_SCHEDULING, None)}
    fresh.start()
    assert fresh.tasks.wait_tasks(timeout=PATIENCE_S) == [rp.DONE] * 10


def test_binding_to_a_pilot_that_is_not_active_yet(fresh: Campaign) -> None:
    pilot = fresh.pilots.submit_pilots({"resource": "local.localhost", "cores": 1, "runtime": 5})
    task = pilot.submit_tasks(shell("true"))
    assert (task.wait(timeout=PATIENCE_S), task.pilot) == (rp.DONE, pilot.uid)


def test_tasks_of_different_pilots_go_where_they_fit(fresh: Campaign) -> None:
    small = fresh.start(resource="local.emulated", nodes=1, cores_per_node=2, gpus_per_node=0)
    large = fresh.start(resource="local.emulated", nodes=1, cores_per_node=8, gpus_per_node=2)
    assert fresh.run(shell("true", gpus_per_rank=1)).pilot == large.uid
    assert [task.pilot for task in fresh.run([shell("true", cores_per_rank=4) for _ in range(5)])] == [large.uid] * 5
    with pytest.raises(rp.InvalidTask, match="4 cores per rank exceed the 2 cores of a node"):
        fresh.tasks.submit_tasks(shell("true", cores_per_rank=4, pilot=small.uid))


def test_a_second_pilot_takes_over_what_waits(fresh: Campaign) -> None:
    first = fresh.start(cores=1)
    fresh.tasks.submit_tasks(shell("exec sleep 600", pilot=first.uid)).wait(rp.AGENT_EXECUTING, timeout=PATIENCE_S)
    first.cancel()
    first.wait(timeout=PATIENCE_S)
    later = fresh.tasks.submit_tasks([shell("true") for _ in range(5)])
    second = fresh.start(cores=1)
    assert [task.wait(timeout=PATIENCE_S) for task in later] == [rp.DONE] * 5
    assert {task.pilot for task in later} == {second.uid}


def test_a_generator_is_read_as_it_goes(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, _ = two
    tasks = campaign.run(rp.TaskDescription(function=payloads.square, args=[number]) for number in range(3000))
    assert [task.result(0) for task in tasks] == [number**2 for number in range(3000)]


def test_a_generator_that_raises_keeps_what_was_accepted(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, pilots = two
    manager = rp.TaskManager(campaign.session)
    manager.add_pilots(pilots)

    def some() -> Iterator[rp.TaskDescription]:
        yield shell("true")
        raise OSError("the list of inputs cannot be read")

    with pytest.raises(OSError, match="the list of inputs"):
        manager.submit_tasks(some())
    assert set(manager.wait_tasks(timeout=PATIENCE_S)) <= {rp.DONE}


def test_nothing_to_submit(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    assert two[0].tasks.submit_tasks([]) == []


def test_ten_thousand_functions(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, _ = two
    tasks = campaign.run([rp.TaskDescription(function=payloads.square, args=[number]) for number in range(10_000)])
    assert sum(task.result(0) for task in tasks) == sum(number**2 for number in range(10_000))


def test_a_thousand_executables(two: tuple[Campaign, list[rp.Pilot]]) -> None:
    campaign, _ = two
    tasks = campaign.run([rp.TaskDescription(executable="/bin/echo", arguments=[number]) for number in range(1000)])
    assert [task.stdout for task in tasks] == [f"{number}\n" for number in range(1000)]
    assert len({task.sandbox for task in tasks}) == 1000


def test_round_robin_binds_at_once_and_in_turn(fresh: Campaign) -> None:
    tasks = rp.TaskManager(fresh.session, scheduler=rp.SCHEDULER_ROUND_ROBIN)
    described = [{"resource": "local.emulated", "nodes": 1, "cores_per_node": cores, "runtime": 5} for cores in (1, 2, 2)]
    tasks.add_pilots(fresh.pilots.submit_pilots(described))
    submitted = tasks.submit_tasks([shell("true") for _ in range(9)])
    wide = tasks.submit_tasks([shell("true", cores_per_rank=2) for _ in range(4)])
    assert [task.pilot for task in submitted] == ["pilot.0000", "pilot.0001", "pilot.0002"] * 3
    assert [task.pilot for task in wide] == ["pilot.0001", "pilot.0002"] * 2
    assert set(tasks.wait_tasks(timeout=PATIENCE_S)) == {rp.DONE}


def test_backfilling_waits_for_an_active_pilot_even_if_there_is_one_only(fresh: Campaign) -> None:
    tasks = rp.TaskManager(fresh.session, scheduler=rp.SCHEDULER_BACKFILLING)
    tasks.add_pilots(fresh.start(cores=1))
    submitted = tasks.submit_tasks([shell("exec sleep 600") for _ in range(9)])
    assert [task.pilot for task in submitted].count(None) == 7
    tasks.cancel_tasks()
    assert set(tasks.wait_tasks(timeout=PATIENCE_S)) == {rp.CANCELED}


def test_a_scheduler_is_kept_for_those_who_resume(base: Path) -> None:
    with rp.Session(base=base) as session:
        rp.TaskManager(session, uid="dealing", scheduler="round_robin")
        rp.TaskManager(session, uid="plain")
    with rp.Session.resume(session.uid, base=base) as again:
        assert again.get_task_managers("dealing").scheduler == "round_robin"
        assert again.get_task_managers("plain").scheduler is None
    with (
        rp.Session.resume(session.uid, base=base) as again,
        pytest.raises(rp.InvalidRequest, match="manager 'dealing' was made with scheduler='round_robin', which stays"),
    ):
        rp.TaskManager(again, uid="dealing", scheduler="backfilling")
