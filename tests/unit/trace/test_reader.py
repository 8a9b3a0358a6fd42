"""What ``read_session`` makes of the logs that client and agents left."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from trace_builders import AgentLog, ClientLog, batch, encode, nodes, outcome

from pilotage.core.agent import events
from pilotage.core.client import facts as client
from pilotage.core.client.applying import apply
from pilotage.core.client.state import ClientState
from pilotage.log.format import list_segments
from pilotage.model.ids import Attempt, Binding, PilotUid, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.resources import Request
from pilotage.model.states import (
    AGENT_EXECUTING,
    AGENT_EXECUTING_PENDING,
    AGENT_SCHEDULING,
    AGENT_STAGING_INPUT_PENDING,
    CANCELED,
    DONE,
    FAILED,
    PMGR_ACTIVE,
    PMGR_LAUNCHING_PENDING,
    TMGR_SCHEDULING,
)
from pilotage.model.workload import Template
from pilotage.trace import read_session
from pilotage.trace.run import Run, TaskTrace

PILOT = PilotUid("pilot.0000")
OTHER = PilotUid("pilot.0001")


def task(run: Run, uid: str) -> TaskTrace:
    return run.tasks.row(run.tasks.index[TaskUid(uid)])


def attempts_of(run: Run, pilot: PilotUid = PILOT) -> list[tuple[str, float, float, float]]:
    made = run.pilots[pilot].attempts
    uids = [run.tasks.uid[i] for i in made.task]
    return list(zip(uids, made.launched, made.started, made.ended, strict=True))


def waits_of(run: Run, pilot: PilotUid = PILOT) -> list[tuple[str, float, float]]:
    waits = run.pilots[pilot].waits
    return [(run.tasks.uid[i], since, until) for i, since, until in zip(waits.task, waits.since, waits.until, strict=True)]


# ------------------------------------------------------------------------------------------------------ tasks and pilots


def test_a_task_has_the_time_of_each_station_it_passed(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session)
    user.begin(100.0, PILOT)
    user.submit(101.0, batch(["task.0"]))
    agent.start(100.5, 100.75)
    agent.submit(102.0, batch(["task.0"]))
    agent.started(103.5, "task.0", 103.0)
    agent.ended(105.0, ("task.0", 103.0, 104.0), ending=Ending.EXITED, exit_code=3)
    user.receive(106.0, [Outcome(TaskUid("task.0"), Binding(1), Attempt(1), Ending.EXITED, 3, times=Times(102, 102, 103, 104))])

    run = read_session(session)

    one = task(run, "task.0")
    stations = (one.submitted, one.bound, one.accepted, one.launched, one.started, one.ended, one.collected, one.final)
    assert stations == (101.0, 101.0, 102.0, 102.0, 103.0, 104.0, 105.0, 106.0)
    assert (one.name, one.kind, one.state, one.ending, one.exit_code) == (
        "name of task.0",
        "executable",
        FAILED,
        Ending.EXITED,
        3,
    )
    assert (one.pilot, one.cores, one.gpus, one.node, one.attempt) == (PILOT, 1, 0.0, 0, 1)
    assert run.remarks == []


def test_a_start_that_was_told_late_is_where_the_outcome_says(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session)
    user.begin(100.0, PILOT)
    user.submit(101.0, batch(["task.0"]))
    agent.start(100.5, 100.75)
    agent.submit(102.0, batch(["task.0"]))
    agent.started(104.5, "task.0", 104.5)
    agent.ended(105.0, ("task.0", 103.0, 104.0))
    user.receive(106.0, [outcome("task.0", 102.0, 102.0, 103.0, 104.0)])

    run = read_session(session)

    assert (task(run, "task.0").started, task(run, "task.0").ended) == (103.0, 104.0)
    assert attempts_of(run) == [("task.0", 102.0, 103.0, 104.0)]


def test_a_task_is_in_the_state_of_the_last_station_that_any_log_tells(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session, machine=nodes(cores=2))
    user.begin(100.0, PILOT)
    uids = ["runs", "launched", "waits", "under way"]
    user.submit(101.0, batch(uids))
    user.submit(101.0, batch(["no pilot"]), pilot="")
    agent.start(100.5, 100.75)
    agent.submit(102.0, batch(uids[:3]))
    agent.started(103.0, "runs", 103.0)

    run = read_session(session)

    assert {uid: task(run, uid).state for uid in run.tasks.uid} == {
        "runs": AGENT_EXECUTING,
        "launched": AGENT_EXECUTING_PENDING,
        "waits": AGENT_SCHEDULING,
        "under way": AGENT_STAGING_INPUT_PENDING,
        "no pilot": TMGR_SCHEDULING,
    }


def test_what_the_client_itself_settled_is_final_without_a_pilot(session: Path) -> None:
    user = ClientLog(session)
    user.begin(100.0)
    user.submit(101.0, batch(["task.0"]), pilot="")
    user.write(client.TasksSettled(102.0, Ending.CANCELLED, "cancelled", [TaskUid("task.0")]))

    one = task(read_session(session), "task.0")

    assert (one.state, one.final, one.started, one.attempt) == (CANCELED, 102.0, 0.0, 0)


def test_a_pilot_is_in_the_state_that_the_client_knows_and_else_in_that_of_its_agent(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session, PILOT)
    user.begin(100.0, PILOT, OTHER)
    agent.start(100.5, 100.75)
    assert read_session(session).pilots[PILOT].state != PMGR_ACTIVE
    user.write(client.PilotActivated(101.0, PILOT, 1, nodes(2)))
    run = read_session(session)
    assert (run.pilots[PILOT].state, run.pilots[PILOT].cores) == (PMGR_ACTIVE, 4)
    agent.finish(102.0)
    pilot = read_session(session).pilots[PILOT]
    assert (pilot.state, pilot.reason, pilot.ending, pilot.ended) == (DONE, "all done", 102.0, 102.0)
    user.write(client.PilotEnded(103.0, PILOT, 1, FAILED, "its node burned"))
    pilot = read_session(session).pilots[PILOT]
    assert (pilot.state, pilot.reason, pilot.begin, pilot.end) == (FAILED, "its node burned", 100.0, 103.0)


def test_a_pilot_that_was_only_asked_for_has_nothing_but_its_submission(session: Path) -> None:
    user = ClientLog(session)
    user.write(client.EpochBegun(99.0, 1), client.ManagerAdded(99.0, "pmgr.0000", "pilots"))
    user.write(client.PilotAccepted(100.0, "pmgr.0000", PILOT, msgspec.Raw(encode({})), nodes()))

    pilot = read_session(session).pilots[PILOT]

    assert (pilot.state, pilot.begin, pilot.end, len(pilot.lanes)) == (PMGR_LAUNCHING_PENDING, 100.0, 100.0, 0)


def test_a_pilot_with_a_sandbox_of_its_own_is_read_where_it_lies(session: Path) -> None:
    user = ClientLog(session)
    user.write(client.EpochBegun(99.0, 1), client.ManagerAdded(99.0, "pmgr.0000", "pilots"))
    sandbox = session.parent / "scratch"
    description = msgspec.Raw(encode({"sandbox": str(sandbox)}))
    user.write(client.PilotAccepted(100.0, "pmgr.0000", PILOT, description, nodes()))
    agent = AgentLog(sandbox / session.name, PILOT)
    agent.start(100.5, 100.75)

    assert read_session(session).pilots[PILOT].ready == 100.75


# ------------------------------------------------------------------------------------------------- attempts and bindings


def test_an_attempt_that_is_repeated_stays_as_one_that_ended_when_that_was_decided(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=1))
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0"], Template(executable="/bin/false", retries=1)))
    agent.started(102.0, "task.0", 101.5)
    agent.ended(103.0, ("task.0", 101.5, 102.5), ending=Ending.EXITED, exit_code=1)
    agent.ended(105.0, ("task.0", 103.5, 104.5))

    run = read_session(session)

    assert attempts_of(run) == [("task.0", 101.0, 101.5, 103.0), ("task.0", 103.0, 103.5, 104.5)]
    one = task(run, "task.0")
    assert (one.attempt, one.launched, one.started, one.ended, one.state) == (2, 103.0, 103.5, 104.5, DONE)


def test_a_task_that_was_given_back_waits_again_and_its_attempt_never_began(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(cores=1))
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0", "task.1"]))
    agent.started(101.75, "task.0", 101.5)
    attempt, _ = agent.running.pop("task.0")
    agent.tell(events.TasksReturned(102.0, agent.spawner, [(TaskUid("task.0"), Attempt(attempt))]))

    run = read_session(session)

    assert attempts_of(run)[0] == ("task.0", 101.0, 0.0, 102.0)
    assert waits_of(run)[:2] == [("task.0", 101.0, 101.0), ("task.1", 101.0, waits_of(run)[1][2])]
    assert ("task.0", 102.0, 0.0) in waits_of(run)
    one = task(run, "task.0")
    assert (one.state, one.launched, one.started) == (AGENT_SCHEDULING, 0.0, 0.0)


def test_a_runner_that_was_lost_says_why_and_its_task_has_its_outcome(session: Path) -> None:
    agent = AgentLog(session)
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0"]))
    agent.started(102.0, "task.0", 101.5)
    agent.tell(events.RunnerLost(103.0, agent.spawner, "signal 9", -9, (TaskUid("task.0"), Attempt(1)), []))

    run = read_session(session)

    runner = run.pilots[PILOT].runners[RunnerId("spawner.0")]
    assert (runner.added, runner.identified, runner.removed) == (100.0, 100.5, 103.0)
    assert "signal 9" in runner.reason
    one = task(run, "task.0")
    assert (one.state, one.collected) == (FAILED, 103.0)
    assert attempts_of(run) == [("task.0", 101.0, 101.5, 103.0)]


def test_a_task_that_went_on_to_another_pilot_is_that_pilots(session: Path) -> None:
    user = ClientLog(session)
    first, second = AgentLog(session, PILOT), AgentLog(session, OTHER)
    user.begin(100.0, PILOT, OTHER)
    user.submit(101.0, batch(["task.0"]))
    for agent in (first, second):
        agent.start(100.0, 100.5)
    first.submit(101.5, batch(["task.0"]))
    first.started(102.0, "task.0", 101.75)
    user.write(client.TasksUnbound(103.0, [TaskUid("task.0")]))

    between = task(read_session(session), "task.0")
    assert (between.state, between.pilot, between.started) == (TMGR_SCHEDULING, "", 0.0)

    user.write(client.TasksBound(104.0, OTHER, Binding(2), [TaskUid("task.0")]))
    second.submit(105.0, batch(["task.0"]), binding=2)
    second.ended(107.0, ("task.0", 105.5, 106.5))
    first.ended(108.0, ("task.0", 101.75, 107.5))

    run = read_session(session)

    one = task(run, "task.0")
    assert (one.pilot, one.bound, one.accepted, one.started, one.ended) == (OTHER, 104.0, 105.0, 105.5, 106.5)
    assert attempts_of(run, PILOT) == [("task.0", 101.5, 101.75, 107.5)]
    assert attempts_of(run, OTHER) == [("task.0", 105.0, 105.5, 106.5)]


def test_a_task_that_came_back_to_its_first_pilot_is_that_pilots_again(session: Path) -> None:
    user = ClientLog(session)
    first, second = AgentLog(session, PILOT), AgentLog(session, OTHER)
    user.begin(100.0, PILOT, OTHER)
    uid = TaskUid("task.0")
    user.submit(101.0, batch([uid]))
    user.write(client.TasksUnbound(102.0, [uid]), client.TasksBound(102.0, OTHER, Binding(2), [uid]))
    user.write(client.TasksUnbound(103.0, [uid]), client.TasksBound(103.0, PILOT, Binding(3), [uid]))
    for agent in (first, second):
        agent.start(100.0, 100.5)
    first.submit(101.5, batch([uid]))
    first.ended(101.75, (uid, 101.5, 101.75))
    first.tell(events.LinkOpened(101.75))
    first.tell(events.OutcomesReceived(102.0, 1))
    second.submit(102.5, batch([uid]), binding=2)
    first.submit(103.5, batch([uid]), binding=3)
    first.started(104.5, uid, 104.0)

    one = task(read_session(session), uid)

    assert (one.pilot, one.accepted, one.started, one.state) == (PILOT, 103.5, 104.0, AGENT_EXECUTING)


def test_an_outcome_of_an_old_binding_or_a_second_one_counts_for_nothing(session: Path) -> None:
    user = ClientLog(session)
    user.begin(100.0, PILOT, OTHER)
    user.submit(101.0, batch(["task.0"]))
    user.write(
        client.TasksUnbound(102.0, [TaskUid("task.0")]), client.TasksBound(103.0, OTHER, Binding(2), [TaskUid("task.0")])
    )
    user.receive(104.0, [outcome("task.0", 1, 1, 1, 1, ending=Ending.EXITED)])
    user.receive(105.0, [outcome("task.0", 103.5, 104, 104, 104.5, binding=2)], pilot=OTHER)
    user.receive(106.0, [outcome("task.0", 2, 2, 2, 2, binding=2, ending=Ending.LOST)], 2, OTHER)

    one = task(read_session(session), "task.0")

    assert (one.state, one.ended, one.final) == (DONE, 104.5, 105.0)


def test_a_lane_holds_its_placement_from_the_launch_until_it_is_closed(session: Path) -> None:
    agent = AgentLog(session, machine=nodes(2, cores=2, gpus=1))
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0"], Template(executable="/bin/true", request=Request(ranks=2, cores=2, gpu_shares=64))))
    agent.ended(103.0, ("task.0", 101.5, 102.5))

    lanes = read_session(session).pilots[PILOT].lanes

    assert (list(lanes.cores), list(lanes.gpu_shares), lanes.nodes, list(lanes.first_core)) == ([4], [128], [2], [0])
    assert (list(lanes.opened), list(lanes.closed)) == ([101.0], [103.0])


# -------------------------------------------------------------------------------------------------------- what is in logs


def make_long_run(session: Path, *, keep_history: bool) -> None:
    """A run whose client and agent replace their records by snapshots while one task runs and one outcome is on its way."""
    user, agent = ClientLog(session, keep_history=keep_history), AgentLog(session, keep_history=keep_history)
    mirror = ClientState()

    def write(*told: client.Fact) -> None:
        user.write(*told)
        for fact in told:
            apply(mirror, fact)

    uids = ["done", "on its way", "runs"]
    write(client.EpochBegun(100.0, 1), client.ManagerAdded(100.0, "pmgr.0000", "pilots"))
    write(client.ManagerAdded(100.0, "tmgr.0000", "tasks"))
    write(client.PilotAccepted(100.0, "pmgr.0000", PILOT, msgspec.Raw(encode({})), nodes()))
    write(client.PilotActivated(100.5, PILOT, 1, nodes()))
    write(client.TasksAccepted(101.0, "tmgr.0000", PilotUid(""), PILOT, msgspec.Raw(encode(batch(uids)))))
    write(client.MetadataKept({TaskUid("runs"): b"a note"}))
    agent.start(100.0, 100.5)
    agent.submit(101.5, batch(uids))
    agent.ended(103.0, ("done", 102.0, 102.5))
    agent.ended(103.5, ("on its way", 102.0, 103.25))
    agent.started(104.0, "runs", 103.75)
    write(client.OutcomesReceived(105.0, PILOT, 1, msgspec.Raw(encode([outcome("done", 101.5, 101.5, 102.0, 102.5)]))))
    user.writer.snapshot(encode(mirror))
    agent.writer.snapshot(encode(agent.core.state))
    agent.ended(107.0, ("runs", 103.75, 106.0))
    user.writer.close()
    agent.writer.close()


def test_records_that_snapshots_replaced_are_read_where_history_was_kept(session: Path) -> None:
    make_long_run(session, keep_history=True)
    run = read_session(session)
    assert run.remarks == []
    assert [task(run, uid).collected for uid in run.tasks.uid] == [103.0, 103.5, 107.0]
    assert len(run.pilots[PILOT].attempts) == 3


def test_without_history_reading_begins_with_the_state_and_says_so(session: Path) -> None:
    make_long_run(session, keep_history=False)

    run = read_session(session)

    assert len(run.remarks) == 2
    assert all("not kept" in remark for remark in run.remarks)
    assert {uid: task(run, uid).state for uid in run.tasks.uid} == {"done": DONE, "on its way": DONE, "runs": DONE}
    assert [task(run, uid).started for uid in run.tasks.uid] == [102.0, 102.0, 103.75]
    pilot = run.pilots[PILOT]
    assert (pilot.state, pilot.submitted, pilot.active) == (PMGR_ACTIVE, 100.0, 100.5)
    assert (pilot.first, pilot.ready) == (101.5, 101.5)
    # Attempts and lanes that were over are gone with their records.
    assert attempts_of(run) == [("runs", pilot.lanes.opened[0], 103.75, 106.0)]


def test_a_snapshot_alone_tells_what_it_holds(session: Path) -> None:
    make_long_run(session, keep_history=False)
    for log in (session / "client", session / PILOT / "log"):
        for segment in list_segments(log):
            segment.path.unlink()
    run = read_session(session)
    assert {uid: task(run, uid).state for uid in run.tasks.uid} == {"done": DONE, "on its way": DONE, "runs": AGENT_EXECUTING}


def test_a_log_that_grows_gives_more_each_time_it_is_read(session: Path) -> None:
    agent = AgentLog(session)
    states = []
    for step in (
        lambda: agent.start(100.0, 100.5),
        lambda: agent.submit(101.0, batch(["task.0"])),
        lambda: agent.started(102.0, "task.0", 101.5),
        lambda: agent.ended(103.0, ("task.0", 101.5, 102.5)),
    ):
        step()
        states.append([one.state for one in read_session(session).tasks])
    assert states == [[], [AGENT_EXECUTING_PENDING], [AGENT_EXECUTING], [DONE]]


def test_a_torn_log_gives_all_that_is_whole_wherever_it_is_cut(session: Path) -> None:
    agent = AgentLog(session)
    agent.start(100.0, 100.5)
    agent.submit(101.0, batch(["task.0"]))
    agent.ended(103.0, ("task.0", 101.5, 102.5))
    agent.writer.close()
    (segment,) = list_segments(session / PILOT / "log")
    whole = segment.path.read_bytes()
    seen = []
    for length in (*range(0, len(whole), 3), len(whole)):
        segment.path.write_bytes(whole[:length])
        seen.append([one.state for one in read_session(session).tasks])
    order: list[list[str]] = [[], [AGENT_EXECUTING_PENDING], [DONE]]
    assert seen == sorted(seen, key=order.index)
    assert {tuple(states) for states in seen} == {tuple(states) for states in order}


def test_a_record_that_does_not_check_ends_the_reading_of_its_log_only(session: Path) -> None:
    user, agent = ClientLog(session), AgentLog(session)
    user.begin(100.0, PILOT)
    user.submit(101.0, batch(["task.0"]))
    agent.start(100.0, 100.5)
    agent.submit(102.0, batch(["task.0"]))
    agent.ended(103.0, ("task.0", 102.5, 102.75))
    user.writer.close()
    agent.writer.close()
    (segment,) = list_segments(session / PILOT / "log")
    whole = bytearray(segment.path.read_bytes())
    whole[whole.index(b"/bin/true")] ^= 1
    segment.path.write_bytes(whole)

    run = read_session(session)

    one = task(run, "task.0")
    assert (one.state, one.accepted) == (AGENT_STAGING_INPUT_PENDING, 0.0)
    assert run.pilots[PILOT].ready == 100.5


def test_a_record_of_another_version_ends_the_reading_of_its_log_with_a_remark(session: Path) -> None:
    user = ClientLog(session)
    user.begin(100.0, PILOT)
    user.writer.append(encode([[99, "a fact of the future"]]))
    user.submit(101.0, batch(["task.0"]))

    run = read_session(session)

    assert (run.opened, list(run.tasks)) == (100.0, [])
    assert len(run.remarks) == 1
    assert "not of this version" in run.remarks[0]


@pytest.mark.parametrize("missing", ["client", PILOT])
def test_one_log_is_enough_to_know_a_task(session: Path, missing: str) -> None:
    user, agent = ClientLog(session), AgentLog(session)
    user.begin(100.0, PILOT)
    user.submit(101.0, batch(["task.0"]))
    agent.start(100.0, 100.5)
    agent.submit(102.0, batch(["task.0"]))
    agent.ended(103.0, ("task.0", 102.25, 102.75))
    user.receive(104.0, [outcome("task.0", 102.0, 102.0, 102.25, 102.75)])
    shutil.rmtree(session / missing)

    run = read_session(session)

    one = task(run, "task.0")
    assert (one.state, one.started, one.ended, run.pilots[PILOT].cores) == (DONE, 102.25, 102.75, 2)
    assert (one.final, one.collected) == ((0.0, 103.0) if missing == "client" else (104.0, 0.0))


def test_a_folder_without_logs_is_an_empty_run_with_a_remark(session: Path) -> None:
    for folder in (session, session / "not there"):
        run = read_session(folder)
        assert (len(run.tasks), run.pilots) == (0, {})
        assert "no log of a session" in run.remarks[0]
