"""Large machines in virtual time, through the real core and scheduler: all tasks end, and all that was held is free again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulated_campaign import SHAPE, campaign

from pilotage.core.scheduling import Scheduler
from pilotage.model.ids import TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import GPU_SHARES, Node, NodeShape, Request
from pilotage.model.services import Service
from pilotage.model.staging import Directive
from pilotage.model.workload import Batch, Extra, Row, Template
from pilotage.testing.virtual_pilot import Report, VirtualPilot


def check_end(pilot: VirtualPilot, report: Report, nodes: int, tasks: int) -> None:
    assert len(report.outcomes) == tasks
    assert {outcome.ending for outcome in report.outcomes.values()} == {Ending.DONE}
    assert isinstance(pilot.policy, Scheduler)
    pilot.policy.check([])
    free = pilot.policy.free()
    assert free.idle_nodes == nodes
    assert (free.cores, free.gpu_shares) == (nodes * SHAPE.cores, nodes * SHAPE.gpus * GPU_SHARES)
    assert (free.memory, free.disk) == (nodes * SHAPE.memory, nodes * SHAPE.disk)
    state = pilot.core.state
    assert not state.tasks and not state.lanes and not state.unsent and not state.undelivered
    assert 0.0 < report.utilization <= 1.0


def test_a_campaign_of_all_kinds_of_tasks_on_two_thousand_nodes() -> None:
    pilot, report = campaign(2000, 20_000)
    check_end(pilot, report, 2000, 20_000)
    assert report.utilization > 0.5, "more than half of all cores are in use, the tail included"


@pytest.mark.slow
def test_a_hundred_thousand_tasks_on_ten_thousand_nodes() -> None:
    pilot, report = campaign(10_000, 100_000)
    check_end(pilot, report, 10_000, 100_000)


def test_the_same_campaign_has_the_same_history_under_every_hash_seed() -> None:
    program = "from simulated_campaign import campaign; print(campaign(50, 1000)[1].history)"
    histories = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert histories == {campaign(50, 1000)[1].history + "\n"}


def one_node(*durations_s: float, cores: int = 1) -> VirtualPilot:
    nodes = [Node(0, "here", NodeShape(cores))]
    names = {TaskUid(f"t{number}"): seconds for number, seconds in enumerate(durations_s)}
    pilot = VirtualPilot(Scheduler(nodes), nodes, names.__getitem__, spawners=1, tick_s=0.5)
    rows = [Row(uid, TemplateId(1)) for uid in names]
    pilot.submit(Batch({TemplateId(1): Template(executable="/bin/true", request=Request())}, rows))
    return pilot


def test_tasks_take_their_time_one_after_another_on_one_core() -> None:
    report = one_node(10.0, 20.0, 5.0).run()
    assert report.makespan_s == pytest.approx(35.0, abs=1.5)
    assert report.busy_core_s == pytest.approx(35.0)


def test_two_cores_halve_the_time() -> None:
    assert one_node(10.0, 10.0, cores=2).run().makespan_s == 10.0


def test_time_stops_where_it_is_asked_to_and_goes_on() -> None:
    pilot = one_node(10.0, 20.0)
    assert list(pilot.run(until=15.0).outcomes) == ["t0"]
    assert list(pilot.run().outcomes) == ["t0", "t1"]


def test_what_is_cancelled_ends_now_and_what_waits_never_begins() -> None:
    pilot = one_node(1000.0, 1000.0)
    pilot.run(until=10.0)
    pilot.cancel([TaskUid("t0"), TaskUid("t1")])
    report = pilot.run()
    assert {outcome.ending for outcome in report.outcomes.values()} == {Ending.CANCELLED}
    assert report.makespan_s < 20.0


def all_kinds() -> VirtualPilot:
    """A service, a task in an environment, and one with files to stage and a sandbox to remove."""
    nodes = [Node(0, "here", NodeShape(2))]
    pilot = VirtualPilot(Scheduler(nodes), nodes, lambda uid: 10.0, spawners=1, tick_s=0.5)
    templates = {
        TemplateId(1): Template(executable="/bin/server", service=Service()),
        TemplateId(2): Template(executable="/bin/true", named_env="conda"),
        TemplateId(3): Template(executable="/bin/true", cleanup=True),
    }
    files = Extra((Directive("pilot:///a", "task:///a"),), (Directive("task:///b", "pilot:///b"),))
    rows = [Row(TaskUid("s"), TemplateId(1)), Row(TaskUid("e"), TemplateId(2)), Row(TaskUid("f"), TemplateId(3), extra=files)]
    pilot.submit(Batch(templates, rows))
    return pilot


def test_files_are_staged_and_environments_prepared_at_once() -> None:
    pilot = all_kinds()
    assert list(pilot.run(until=15.0).outcomes) == ["f"], "nobody has asked for the environment"
    pilot.prepare("conda")
    report = pilot.run(until=30.0)
    assert list(report.outcomes) == ["f", "e"]
    assert report.outcomes[TaskUid("e")].times.ended == 25.0


def test_a_service_is_ready_at_once_and_runs_until_its_pilot_drains() -> None:
    pilot = all_kinds()
    pilot.prepare("conda")
    pilot.run(until=100.0)
    assert pilot.core.state.services == {"s": "virtual"}
    pilot.end(drain=True)
    report = pilot.run()
    assert {outcome.ending for outcome in report.outcomes.values()} == {Ending.DONE}
    assert report.outcomes[TaskUid("s")].times.ended == 100.0
    assert pilot.core.finished


def test_a_service_that_is_cancelled_ends() -> None:
    pilot = all_kinds()
    pilot.run(until=5.0)
    pilot.cancel([TaskUid("s")])
    assert pilot.run(until=6.0).outcomes[TaskUid("s")].ending is Ending.CANCELLED
