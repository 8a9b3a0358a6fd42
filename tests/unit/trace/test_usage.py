"""Where the core-time went: each core is in one state at each instant, and nothing is lost or counted twice."""

from __future__ import annotations

import tempfile
from array import array
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_builders import AgentLog, ClientLog, batch, encode, nodes, random_run

from pilotage.core.agent import events
from pilotage.core.client import facts as client
from pilotage.model.ids import Binding, LaneId, PilotUid, RunnerId, TaskUid
from pilotage.model.outcome import Ending
from pilotage.model.resources import Request
from pilotage.model.workload import Template
from pilotage.trace import read_session
from pilotage.trace.run import PilotTrace, Run, Shape
from pilotage.trace.usage import (
    COLLECTING,
    IDLE,
    LAUNCHING,
    RUNNING,
    SCHEDULING,
    STARTUP,
    TEARDOWN,
    TICKS_PER_S,
    CoreTime,
    core_time,
)

PILOT = PilotUid("pilot.0000")


def seconds(spent: CoreTime) -> dict[str, float]:
    """Core-seconds by state, of the states in which any were spent."""
    return {state: ticks / TICKS_PER_S for state, ticks in spent.ticks.items() if ticks}


def assert_balanced(run: Run, spent: CoreTime) -> None:
    lifetimes = {uid: round((pilot.end - spent.begin) * 1e6) - round((pilot.begin - spent.begin) * 1e6)
                 for uid, pilot in run.pilots.items() if pilot.begin}  # fmt: skip
    assert spent.held_ticks == sum(run.pilots[uid].cores * ticks for uid, ticks in lifetimes.items())
    assert sum(spent.ticks.values()) == spent.held_ticks
    assert {state: sum(row) for state, row in spent.binned.items()} == spent.ticks
    assert all(count >= 0 for row in spent.binned.values() for count in row)
    assert all(sum(column) <= spent.capacity * spent.bin_ticks for column in zip(*spent.binned.values(), strict=True))


# --------------------------------------------------------------------------------------------------------- known stories


def test_each_part_of_a_pilots_life_is_in_its_state(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session, machine=nodes(cores=2))
    user.begin(100.0, PILOT)
    agent.start(101.0, 102.0)
    user.write(client.PilotActivated(103.0, PILOT, 1, nodes(cores=2)))
    agent.submit(105.0, batch(["task.0"]))
    agent.ended(110.0, ("task.0", 106.0, 109.0))
    agent.tell(events.EndRequested(112.0, next(agent.numbers), False, "enough"))
    agent.writer.close()
    user.write(client.PilotEnded(115.0, PILOT, 1, "DONE", ""))

    spent = core_time(read_session(session))

    assert seconds(spent) == {
        STARTUP: 2 * 3.0,
        IDLE: 2 * 2.0 + 5.0 + 2 * 2.0,
        LAUNCHING: 1.0,
        RUNNING: 3.0,
        COLLECTING: 1.0,
        TEARDOWN: 2 * 3.0,
    }
    assert spent.utilisation == 3.0 / 30.0
    assert spent.overhead == pytest.approx((6.0 + 1.0 + 1.0 + 6.0) / 30.0)
    assert spent.overhead_s == pytest.approx(7.0)


def test_a_free_core_is_scheduling_only_as_far_as_waiting_tasks_ask_for_it(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=4))
    agent.start(100.0, 101.0)
    wide = Template(executable="/bin/true", request=Request(cores=3))
    agent.submit(102.0, batch(["task.0", "task.1"], wide))
    agent.ended(106.0, ("task.0", 102.0, 106.0))
    agent.ended(108.0, ("task.1", 106.0, 108.0))
    agent.writer.close()

    spent = core_time(read_session(session))

    # Beside task.0 one core is free, and the waiting task asks for three; beside task.1 nothing waits.
    assert seconds(spent) == {STARTUP: 4.0, IDLE: 4.0 + 2.0, SCHEDULING: 4.0, RUNNING: 3 * 4.0 + 3 * 2.0}


def test_a_task_that_waits_again_after_an_attempt_waits_from_then_on_only(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=2))
    agent.start(100.0, 100.0)
    agent.submit(101.0, batch(["task.0"], Template(executable="/bin/false", retries=1)))
    agent.started(101.0, "task.0", 101.0)
    agent.ended(103.0, ("task.0", 101.0, 103.0), ending=Ending.EXITED, exit_code=1)
    agent.ended(104.0, ("task.0", 103.0, 104.0))
    agent.writer.close()

    spent = core_time(read_session(session))

    # While the first attempt ran nothing waited for the other core.
    assert seconds(spent) == {RUNNING: 3.0, IDLE: 2 * 1.0 + 3.0}


def test_a_task_that_is_cancelled_while_it_waits_waits_no_longer(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=2))
    agent.start(100.0, 100.0)
    agent.submit(100.0, batch(["task.0"]))
    agent.submit(100.0, batch(["wide"], Template(executable="/bin/true", request=Request(cores=2)), 2))
    agent.tell(events.CancelRequested(103.0, next(agent.numbers), [(TaskUid("wide"), Binding(1))]))
    agent.ended(105.0, ("task.0", 100.0, 105.0))
    agent.writer.close()

    assert seconds(core_time(read_session(session))) == {RUNNING: 5.0, SCHEDULING: 3.0, IDLE: 2.0}


def test_a_pilot_that_is_not_ready_starts_up_whatever_waits_for_it() -> None:
    run = Run(Path("invented"))
    pilot = run.pilot(PILOT)
    pilot.nodes, pilot.first, pilot.ready, pilot.last = nodes(cores=2), 100.0, 103.0, 105.0
    run.tasks.extend([(TaskUid("task.0"), "", Shape("executable", 1))])
    pilot.waits.add(0, 101.0)

    assert seconds(core_time(run)) == {STARTUP: 6.0, SCHEDULING: 2.0, IDLE: 2.0}


def test_a_lane_proves_that_the_pilot_was_ready_whatever_the_clients_clock_says(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session, machine=nodes(cores=2))
    user.begin(100.0, PILOT)
    user.write(client.PilotActivated(109.0, PILOT, 1, nodes(cores=2)))
    agent.start(100.0, 101.0)
    agent.submit(102.0, batch(["task.0"]))
    agent.ended(110.0, ("task.0", 102.0, 110.0))

    assert seconds(core_time(read_session(session))) == {STARTUP: 4.0, RUNNING: 8.0, IDLE: 8.0}


def test_a_pilot_that_was_ended_before_it_was_ready_did_nothing_but_start(session: Path) -> None:
    user = ClientLog(session)
    user.begin(100.0, PILOT)
    agent = AgentLog(session)
    agent.begin(101.0)
    agent.tell(events.EndRequested(102.0, 1, False, "enough"))
    user.write(client.PilotEnded(104.0, PILOT, 1, "CANCELED", ""))

    assert seconds(core_time(read_session(session))) == {STARTUP: 8.0}


def test_a_chain_in_one_lane_runs_its_core_once_whatever_waits_behind(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=1))
    agent.start(100.0, 100.0)
    agent.submit(100.0, batch(["first"]))
    agent.ended(100.5, ("first", 100.0, 100.001))
    agent.submit(101.0, batch(["task.0", "task.1", "task.2"]))
    assert list(agent.running) == ["task.0", "task.1"]
    assert len({lane for _, lane in agent.running.values()}) == 1, "short tasks are chained"
    agent.ended(105.0, ("task.0", 101.0, 102.0), ("task.1", 102.5, 104.0))
    agent.ended(106.0, ("task.2", 105.0, 106.0))
    agent.writer.close()
    run = read_session(session)

    spent = core_time(run, labels=["lead" if name == "name of first" else "chain" for name in run.tasks.name])

    # task.1 lay in the lane and did not run from 102 to 102.5.
    assert seconds(spent) == pytest.approx(
        {"running: lead": 0.001, "running: chain": 3.5, LAUNCHING: 0.5, COLLECTING: 1.499, IDLE: 0.5}
    )


def test_an_attempt_that_never_began_is_launching_until_it_is_over(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=1))
    agent.start(100.0, 100.0)
    agent.submit(101.0, batch(["task.0"]))
    agent.ended(103.0, ("task.0", 0.0, 0.0), ending=Ending.LAUNCH_FAILED, exit_code=None)
    agent.writer.close()

    assert seconds(core_time(read_session(session))) == {IDLE: 1.0, LAUNCHING: 2.0}


def test_gpus_are_counted_in_shares(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=2, gpus=1))
    agent.start(100.0, 100.0)
    agent.submit(100.0, batch(["task.0"], Template(executable="/bin/true", request=Request(gpu_shares=16))))
    agent.ended(102.0, ("task.0", 100.0, 102.0))
    agent.writer.close()

    spent = core_time(read_session(session), of="gpus")

    assert spent.capacity == 64
    assert seconds(spent) == {RUNNING: 32.0, IDLE: 96.0}


def test_what_still_runs_runs_up_to_the_last_time_in_the_logs(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=1))
    agent.start(100.0, 100.0)
    agent.submit(101.0, batch(["task.0"]))
    agent.started(104.0, "task.0", 102.0)

    assert seconds(core_time(read_session(session))) == {IDLE: 1.0, LAUNCHING: 1.0, RUNNING: 2.0}


def test_a_run_without_pilots_has_no_core_time(session: Path) -> None:
    spent = core_time(read_session(session))
    assert (spent.held_ticks, spent.utilisation, spent.overhead, spent.overhead_s) == (0, 0.0, 0.0, 0.0)
    assert sum(spent.ticks.values()) == 0


def test_pilots_are_counted_together_or_apart(session: Path) -> None:
    user = ClientLog(session)
    user.write(client.EpochBegun(99.0, 1), client.ManagerAdded(99.0, "pmgr.0000", "pilots"))
    for uid, submitted, cores in ((PILOT, 100.0, 1), (PilotUid("pilot.0001"), 105.0, 3)):
        machine = nodes(cores=cores)
        user.write(client.PilotAccepted(submitted, "pmgr.0000", uid, msgspec.Raw(encode({})), machine))
        user.write(client.PilotEnded(submitted + 10.0, uid, 1, "DONE", ""))
    run = read_session(session)
    both, one = core_time(run), core_time(run, ["pilot.0001"])
    assert (both.held_ticks, both.capacity, both.end - both.begin) == (40_000_000, 4, 15.0)
    assert (one.held_ticks, one.begin, one.end) == (30_000_000, 105.0, 115.0)
    assert_balanced(run, both)


# ------------------------------------------------------------------------------------------------------- any story at all


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32))
def test_the_books_of_any_run_of_the_agents_core_balance(seed: int) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as root:
        agent = random_run(Path(root) / "session.test", seed)
        run = read_session(Path(root) / "session.test")
    assert run.remarks == []
    attempts, lanes = run.pilots[PILOT].attempts, run.pilots[PILOT].lanes
    assert len(run.tasks) == len(run.tasks.index)
    assert all(attempts.lane[row] < len(lanes) for row in range(len(attempts)))
    for labels in (None, run.tasks.uid):
        spent = core_time(run, labels=labels, bins=37)
        assert_balanced(run, spent)
    assert sum(ticks for state, ticks in spent.ticks.items() if state.startswith(RUNNING)) == _ran(run, spent.begin)
    gpus = core_time(run, of="gpus")
    assert sum(gpus.ticks.values()) == gpus.held_ticks
    assert agent.machine == run.pilots[PILOT].nodes


def _ran(run: Run, origin: float) -> int:
    """Core-microseconds in which some attempt of a lane ran: by the union of intervals, lane for lane."""
    pilot = run.pilots[PILOT]
    first, last = round((pilot.begin - origin) * 1e6), round((pilot.end - origin) * 1e6)

    def tick(time: float) -> int:
        return min(max(round((time - origin) * 1e6), first), last)

    total = 0
    for lane in range(len(pilot.lanes)):
        closed = tick(pilot.lanes.closed[lane]) if pilot.lanes.closed[lane] else last
        at = tick(pilot.lanes.opened[lane])
        spans = [
            (max(tick(started), tick(launched)), min(tick(ended) if ended else closed, closed))
            for place, launched, started, ended in zip(
                pilot.attempts.lane, pilot.attempts.launched, pilot.attempts.started, pilot.attempts.ended, strict=True
            )
            if place == lane and started
        ]
        for start, stop in sorted(spans):
            total += max(0, stop - max(start, at)) * pilot.lanes.cores[lane]
            at = max(at, stop)
    return total


moments = st.floats(0.0, 20.0, allow_nan=False).map(lambda time: round(time, 2))


@st.composite
def invented_runs(draw: st.DrawFn) -> Run:
    """A pilot with lanes that share its cores in turn, and attempts whose times agree with nothing, as of broken clocks."""
    run = Run(Path("invented"))
    pilot: PilotTrace = run.pilot(PILOT)
    cores = draw(st.integers(1, 4))
    pilot.nodes = nodes(cores=cores)
    pilot.first = 1000.0
    pilot.last = 1000.0 + draw(moments)
    pilot.ready = 1000.0 + draw(moments)
    pilot.ending = draw(st.sampled_from((0.0, 1000.0))) and 1000.0 + draw(moments)
    for core in range(cores):
        edges = sorted(draw(st.lists(moments, max_size=6)))
        for opened, closed in zip(edges[::2], edges[1::2], strict=False):
            lane = len(pilot.lanes)
            for column, value in (
                (pilot.lanes.uid, LaneId(lane + 1)),
                (pilot.lanes.runner, RunnerId("spawner.0")),
                (pilot.lanes.nodes, 1),
                (pilot.lanes.node, 0),
                (pilot.lanes.first_core, core),
                (pilot.lanes.cores, 1),
                (pilot.lanes.gpu_shares, 0),
                (pilot.lanes.opened, 1000.0 + opened),
                (pilot.lanes.closed, 1000.0 + closed),
            ):
                assert isinstance(column, list | array)
                column.append(value)
            for _ in range(draw(st.integers(0, 3))):
                task = len(run.tasks)
                run.tasks.extend([(TaskUid(f"task.{task}"), "", Shape("executable", 1))])
                row = pilot.attempts.add(task, lane, 1000.0 + draw(moments))
                pilot.attempts.started[row] = draw(st.sampled_from((0.0, 1000.0))) and 1000.0 + draw(moments)
                pilot.attempts.ended[row] = draw(st.sampled_from((0.0, 1000.0))) and 1000.0 + draw(moments)
                pilot.waits.add(task, 1000.0 + draw(moments))
    return run


@settings(max_examples=150, deadline=None, derandomize=True)
@given(run=invented_runs(), bins=st.integers(1, 50))
def test_the_books_balance_whatever_the_clocks_said(run: Run, bins: int) -> None:
    spent = core_time(run, bins=bins)
    assert_balanced(run, spent)
    assert spent.ticks[RUNNING] == _ran(run, spent.begin)
