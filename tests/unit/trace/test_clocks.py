"""Clocks that contradict cause and effect are brought together; those that do not are left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from trace_builders import AgentLog, ClientLog, batch, nodes, outcome

from pilotage.core.client import facts as client_facts
from pilotage.model.ids import PilotUid, TaskUid
from pilotage.model.outcome import Ending
from pilotage.trace import Run, read_session
from pilotage.trace.clocks import synchronise

PILOT = PilotUid("pilot.0000")
MOMENTS = ("accepted", "launched", "started", "ended", "collected")


def make_run(session: Path, agent_ahead_s: float = 0.0, node_ahead_s: float = 0.0) -> Run:
    """A task that is bound at 102, accepted at 103, ran on the node from 104 to 106, and is delivered at 108."""
    user, agent = ClientLog(session), AgentLog(session, machine=nodes())
    user.begin(100.0, PILOT)
    ahead = agent_ahead_s
    agent.start(100.5 + ahead, 100.75 + ahead)
    user.write(client_facts.PilotActivated(101.0, PILOT, 1, agent.machine))
    user.submit(102.0, batch(["task.0"]))
    agent.submit(103.0 + ahead, batch(["task.0"]))
    ran = (104.0 + ahead + node_ahead_s, 106.0 + ahead + node_ahead_s)
    agent.ended(107.0 + ahead, ("task.0", *ran))
    user.receive(108.0, [outcome("task.0", 103.0 + ahead, 103.0 + ahead, *ran)])
    agent.writer.close()
    return read_session(session)


def times_of(run: Run) -> list[float]:
    return [getattr(run.tasks, moment)[0] for moment in MOMENTS]


def test_times_that_may_be_of_one_clock_stay_as_they_are(session: Path) -> None:
    run = make_run(session, agent_ahead_s=0.4)
    before = times_of(run)
    offsets = synchronise(run)
    assert [offset.seconds for offset in offsets] == [0.0, 0.0]
    assert times_of(run) == before
    assert not run.remarks


@pytest.mark.parametrize("ahead_s", [3600.0, -50.0])
def test_an_agent_on_another_clock_is_told_in_the_clients_time(session: Path, ahead_s: float) -> None:
    run = make_run(session, agent_ahead_s=ahead_s)
    offset = synchronise(run)[0]
    # Launched at 100 and first heard of at 100.5, active at 101: that is tighter than what the task tells.
    assert (offset.low, offset.high) == pytest.approx((-0.5 - ahead_s, 0.5 - ahead_s))
    assert offset.seconds == pytest.approx(-ahead_s)
    assert times_of(run) == pytest.approx([103.0, 103.0, 104.0, 106.0, 107.0])
    pilot = run.pilots[PILOT]
    assert (pilot.first, pilot.ready, pilot.last) == pytest.approx((100.5, 100.75, 107.0))
    assert list(pilot.attempts.started) == pytest.approx([104.0])
    assert list(pilot.waits.since) == list(pilot.lanes.opened) == pytest.approx([103.0])
    assert f"{-ahead_s:+.3f}" in run.remarks[0] and "agent" in run.remarks[0]


def test_a_node_on_another_clock_is_told_in_its_agents_time(session: Path) -> None:
    run = make_run(session, node_ahead_s=-50.0)
    offsets = synchronise(run)
    # Launched at 103 and started at 104, ended at 106 and collected at 107.
    assert (offsets[1].node, offsets[1].low, offsets[1].high) == pytest.approx((0, 49.0, 51.0))
    assert times_of(run) == pytest.approx([103.0, 103.0, 104.0, 106.0, 107.0])
    assert list(run.pilots[PILOT].attempts.ended) == pytest.approx([106.0])


def test_an_end_that_the_client_wrote_is_not_moved(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session)
    user.begin(100.0, PILOT)
    user.submit(102.0, batch(["task.0"]))
    agent.start(10.0, 10.5)
    agent.submit(11.0, batch(["task.0"]))
    user.write(client_facts.TasksSettled(120.0, Ending.LOST, "the pilot was lost", [TaskUid("task.0")]))
    agent.writer.close()
    run = read_session(session)
    assert synchronise(run)[0].seconds == pytest.approx(91.0)
    assert (run.tasks.accepted[0], run.tasks.ended[0], run.tasks.final[0]) == pytest.approx((102.0, 120.0, 120.0))


def test_a_run_of_which_nothing_is_known_has_no_offsets(session: Path) -> None:
    assert synchronise(read_session(session)) == []
