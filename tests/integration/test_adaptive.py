"""Campaigns that follow what is free: what is told, when more tasks are asked for, and when not."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from integration_support import PATIENCE_S, Campaign, eventually, shell

import pilotage as rp
from pilotage.agent.settings import CONNECTION_FILE
from pilotage.model.ids import PilotUid
from pilotage.wire.keys import read_connection

MACHINE = {"resource": "local.emulated", "nodes": 4, "cores_per_node": 8, "gpus_per_node": 2, "memory_per_node": 640}
"""4 nodes of 8 cores, 2 GPUs and 640 MB."""


def simulated(duration_s: float = 0.05) -> dict[str, Any]:
    return {**MACHINE, "executor": "simulated", "simulated_duration_s": duration_s}


def work(count: int, **more: Any) -> list[rp.TaskDescription]:
    return [rp.TaskDescription(executable="/bin/true", **more) for _ in range(count)]


class Mind:
    """A campaign's callback: gives what it is to give, one after another, and then None."""

    def __init__(self, *given: Any) -> None:
        self.told: list[rp.Resources] = []
        self.threads: set[str] = set()
        self._given = list(given)

    def __call__(self, resources: rp.Resources) -> Any:
        self.told.append(resources)
        self.threads.add(threading.current_thread().name)
        answer = self._given.pop(0) if self._given else None
        if isinstance(answer, Exception):
            raise answer
        return answer


# what is free


def test_a_pilot_tells_what_it_has_and_what_of_that_is_free(fresh: Campaign) -> None:
    pilot = fresh.start(**simulated(600.0))
    idle = pilot.resources()
    assert (idle.pilots, idle.nodes, idle.idle_nodes, idle.cores, idle.free_cores) == (1, 4, 4, 32, 32)
    assert (idle.gpus, idle.free_gpus, idle.memory, idle.free_memory) == (8, 8.0, 2560, 2560)
    assert (idle.running, idle.waiting, idle.missing) == (0, 0, 0)
    fresh.tasks.submit_tasks(work(9, gpus_per_rank=1, cores_per_rank=2))
    busy = eventually(lambda: (now := fresh.tasks.resources()).running == 8 and now, "eight of nine tasks run")
    assert (busy.free_gpus, busy.free_cores, busy.idle_nodes) == (0.0, 16, 0)
    assert (busy.waiting, busy.waiting_cores, busy.waiting_gpus) == (1, 2, 1.0)


def test_what_was_just_submitted_waits(fresh: Campaign) -> None:
    fresh.start(**simulated(600.0))
    fresh.tasks.submit_tasks(work(100))
    now = fresh.tasks.resources()
    assert now.running + now.waiting == 100


def test_several_pilots_are_summed_up_and_those_that_are_not_active_left_out(fresh: Campaign) -> None:
    tasks = rp.TaskManager(fresh.session, scheduler="backfilling")
    tasks.submit_tasks(work(3, cores_per_rank=2, gpus_per_rank=0.5))
    nothing = tasks.resources()
    assert (nothing.pilots, nothing.nodes, nothing.waiting, nothing.waiting_cores, nothing.waiting_gpus) == (0, 0, 3, 6, 1.5)
    pilots = [fresh.start(**simulated()) for _ in range(2)]
    fresh.tasks.add_pilots(pilots)
    assert (fresh.tasks.resources().pilots, fresh.tasks.resources().cores) == (2, 64)
    pilots[0].cancel()
    pilots[0].wait(timeout=PATIENCE_S)
    assert (fresh.tasks.resources().pilots, pilots[0].resources()) == (1, rp.Resources())


# more tasks


def test_more_is_asked_for_when_something_is_idle_until_there_is_none(fresh: Campaign) -> None:
    fresh.start(**simulated())
    mind = Mind(work(32), work(40), rp.TaskDescription(executable="/bin/true"), [])
    campaign = fresh.tasks.adapt(mind, every_s=0.05)
    assert campaign.wait(timeout=PATIENCE_S)
    assert [task.state for task in campaign.tasks] == [rp.DONE] * 73
    assert campaign.stopped
    assert len(mind.told) == 5
    assert all(told.free_cores > 0 and told.waiting == 0 for told in mind.told)
    assert mind.told[0].idle_nodes == 4
    assert mind.threads == {f"pilotage-callbacks-{fresh.session.uid}"}


def test_nothing_is_asked_for_while_tasks_wait(fresh: Campaign) -> None:
    fresh.start(**simulated(600.0))
    mind = Mind(work(33))
    campaign = fresh.tasks.adapt(mind, every_s=0.02)
    eventually(lambda: campaign.unfinished == 33, "the first tasks are submitted")
    eventually(lambda: fresh.tasks.resources().running == 32, "the pilot is full")
    # The pilot has told that it is full, so whoever were asked again would be asked for that.
    assert len(mind.told) == 1
    fresh.tasks.cancel_tasks()
    assert campaign.wait(timeout=PATIENCE_S)
    assert len(mind.told) == 2


def test_a_floor_is_kept(fresh: Campaign) -> None:
    fresh.start(**simulated(0.1))
    missing: list[int] = []

    def more(resources: rp.Resources) -> list[rp.TaskDescription] | None:
        missing.append(resources.missing)
        return work(resources.missing) if sum(missing) < 400 else None

    # 48 of 32 cores: the pilot is never idle, so it is the floor that asks.
    campaign = fresh.tasks.adapt(more, floor=48, every_s=600.0)
    assert campaign.wait(timeout=PATIENCE_S)
    assert missing[0] == 48
    assert all(missing)
    assert len(campaign.tasks) == sum(missing[:-1])
    assert {task.state for task in campaign.tasks} == {rp.DONE}


def test_tasks_one_by_one_come_to_the_floor(fresh: Campaign) -> None:
    fresh.start(**simulated(600.0))
    mind = Mind(*(work(1) for _ in range(40)))
    campaign = fresh.tasks.adapt(mind, floor=40, every_s=600.0)
    eventually(lambda: campaign.unfinished == 40, "there are as many as the floor says")
    assert [told.missing for told in mind.told] == list(range(40, 0, -1))


def test_a_campaign_can_be_stopped_and_its_tasks_go_on(fresh: Campaign) -> None:
    fresh.start(**simulated(0.3))
    asked = threading.Event()

    def more(resources: rp.Resources) -> list[rp.TaskDescription]:
        asked.set()
        return work(8)

    campaign = fresh.tasks.adapt(more, floor=8)
    assert asked.wait(PATIENCE_S)
    eventually(lambda: campaign.tasks, "tasks are submitted")
    campaign.stop()
    campaign.stop()
    assert campaign.wait(timeout=PATIENCE_S)
    assert {task.state for task in campaign.tasks} == {rp.DONE}


def test_what_a_callback_raises_is_logged_and_stops_nothing_else(fresh: Campaign, caplog: pytest.LogCaptureFixture) -> None:
    fresh.start(**simulated())
    heard: list[str] = []
    fresh.tasks.register_callback(lambda task, state: heard.append(state))
    bad = Mind(ZeroDivisionError("not today"), work(2, cores_per_rank=9), ["nothing"], work(3))
    good = Mind(work(4))
    campaigns = [fresh.tasks.adapt(mind, every_s=0.02) for mind in (bad, good)]
    assert [campaign.wait(timeout=PATIENCE_S) for campaign in campaigns] == [True, True]
    assert [len(campaign.tasks) for campaign in campaigns] == [3, 4]
    for told in ("not today", "9 cores per rank exceed the 8 cores of a node", "a task is described by"):
        assert told in caplog.text
    # A wait may be over before callbacks have heard of it.
    eventually(lambda: heard.count(rp.DONE) == 7, "all were told as done")


def test_it_waits_for_a_pilot_and_goes_on_with_another_one(fresh: Campaign) -> None:
    done = threading.Event()

    def more(resources: rp.Resources) -> list[rp.TaskDescription] | None:
        return None if done.is_set() else [shell("sleep 0.05") for _ in range(resources.missing or 1)]

    # More than one pilot is given for a second, as the second may come up long after the first.
    campaign = fresh.tasks.adapt(more, floor=100, every_s=0.05)
    first, second = fresh.start(cores=2), fresh.start(cores=2)
    eventually(lambda: {task.pilot for task in campaign.tasks if task.state == rp.DONE} >= {first.uid, second.uid}, "both ran")
    os.kill(fresh.session.state.pilots[PilotUid(first.uid)].pid, signal.SIGKILL)
    os.kill(read_connection(Path(first.sandbox) / CONNECTION_FILE).pid, signal.SIGKILL)
    assert first.wait(timeout=PATIENCE_S) == rp.FAILED
    before = len(campaign.tasks)
    eventually(lambda: len(campaign.tasks) > before + 20, "the campaign goes on")
    done.set()
    assert campaign.wait(timeout=PATIENCE_S)
    assert {task.pilot for task in campaign.tasks[before + 8 :]} == {second.uid}
    assert {task.state for task in campaign.tasks if task.pilot == second.uid} == {rp.DONE}


def test_the_end_of_the_session_ends_it(base: Path) -> None:
    campaign = Campaign(base)
    campaign.start(**simulated(600.0))
    adaptation = campaign.tasks.adapt(Mind(work(2)), floor=2)
    eventually(lambda: adaptation.tasks, "it has begun")
    campaign.session.close()
    assert adaptation.stopped
    assert adaptation.unfinished == 0
    with pytest.raises(rp.SessionClosed):
        campaign.tasks.resources()
    with pytest.raises(rp.SessionClosed):
        campaign.tasks.adapt(Mind())


def test_waiting_for_it_in_a_callback_is_refused(fresh: Campaign, caplog: pytest.LogCaptureFixture) -> None:
    fresh.start(**simulated())
    found: list[Any] = []

    def more(resources: rp.Resources) -> None:
        found.append(fresh.tasks.resources().cores)
        try:
            fresh.tasks.wait_tasks()
        except rp.WaitInCallback as error:
            found.append(error)

    assert fresh.tasks.adapt(more).wait(timeout=PATIENCE_S)
    assert found[0] == 32
    assert isinstance(found[1], rp.WaitInCallback)


@pytest.mark.parametrize(
    ("more", "how", "told"),
    [
        (None, {}, "adapt() takes something to call, not None (NoneType)"),
        (print, {"floor": -1}, "floor=-1: it is a number of tasks, 0 or more"),
        (print, {"floor": 1.5}, "floor=1.5: it is a number of tasks"),
        (print, {"every_s": 0}, "every_s=0: it is a number of seconds, more than 0"),
        (print, {"every_s": "1"}, "every_s='1': it is a number of seconds"),
    ],
)
def test_bad_input(fresh: Campaign, more: Any, how: dict[str, Any], told: str) -> None:
    with pytest.raises(rp.InvalidRequest) as refused:
        fresh.tasks.adapt(more, **how)
    assert told in str(refused.value)
