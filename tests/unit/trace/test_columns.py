"""What the columns tell beyond the plain way of a task: shapes, causes of failures, staging, tasks that wait for others."""

from __future__ import annotations

from pathlib import Path

import msgspec
from trace_builders import AgentLog, ClientLog, batch, encode, outcome

from pilotage.core.agent import facts as agent_facts
from pilotage.core.client import facts as client_facts
from pilotage.model.ids import Attempt, Binding, LaneId, PilotUid, RunnerId, TaskUid
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.resources import BLOCK_MIB, NodeShare, Request
from pilotage.model.staging import Directive
from pilotage.model.states import (
    AGENT_EXECUTING_PENDING,
    AGENT_SCHEDULING,
    AGENT_STAGING_INPUT,
    AGENT_STAGING_OUTPUT,
    DONE,
    TMGR_SCHEDULING,
    TMGR_SCHEDULING_PENDING,
)
from pilotage.model.workload import Batch, Extra, Template
from pilotage.trace import read_session

PILOT = PilotUid("pilot.0000")
TASK = TaskUid("task.0")


def test_resources_are_those_of_all_ranks(session: Path) -> None:
    user = ClientLog(session)
    user.begin(1.0, PILOT)
    request = Request(ranks=3, cores=2, gpu_shares=32, memory=5)
    user.submit(2.0, batch([TASK], Template(executable="/bin/true", request=request)))
    task = read_session(session).tasks.row(0)
    assert (task.ranks, task.cores, task.gpus, task.memory_mib) == (3, 6, 1.5, 15 * BLOCK_MIB)


def test_the_kind_is_the_word_that_the_user_said(session: Path) -> None:
    user = ClientLog(session)
    user.begin(1.0, PILOT)
    user.submit(2.0, batch(["task.0"], Template(executable="/bin/sh", form="task.shell")))
    user.submit(2.0, batch(["task.1"], Template(mode="function"), number=2))
    assert read_session(session).tasks.kind == ["shell", "function"]


def test_a_failure_has_its_message_and_the_last_line_of_what_it_said(session: Path) -> None:
    user = ClientLog(session)
    user.begin(1.0, PILOT)
    user.submit(2.0, batch(["task.0", "task.1"]))
    failed = Outcome(
        TASK, Binding(1), Attempt(1), Ending.EXITED, 2, message="exited with code 2", detail="reading\nno such file: in.dat\n\n"
    )
    user.receive(3.0, [failed, outcome("task.1", 2.0, 2.0, 2.0, 3.0)])
    tasks = read_session(session).tasks
    assert tasks.message == ["exited with code 2", ""]
    assert tasks.error_line == ["no such file: in.dat", ""]


def test_a_failure_that_only_the_agent_knows_has_its_message_too(session: Path) -> None:
    agent = AgentLog(session)
    agent.start(1.0, 1.5)
    agent.submit(2.0, batch([TASK]))
    agent.ended(3.0, (TASK, 2.0, 3.0), ending=Ending.EXITED, exit_code=9)
    agent.writer.close()
    tasks = read_session(session).tasks
    assert tasks.ending == [Ending.EXITED]
    assert tasks.message == [agent.core.state.unsent[0].message]


def test_a_task_that_the_client_settled_has_the_reason(session: Path) -> None:
    user = ClientLog(session)
    user.begin(1.0, PILOT)
    user.submit(2.0, batch([TASK]), pilot="")
    user.write(client_facts.TasksSettled(3.0, Ending.INFEASIBLE, "no pilot has 900 cores", [TASK]))
    assert read_session(session).tasks.message == ["no pilot has 900 cores"]


def test_a_task_that_waited_for_others_was_freed(session: Path) -> None:
    user = ClientLog(session)
    user.begin(1.0, PILOT)
    user.submit(2.0, batch(["task.0", "task.1"]), pilot="")
    user.write(client_facts.TasksHeld(2.0, {TaskUid("task.1"): client_facts.Held((TASK,))}))
    assert read_session(session).tasks.state(1) == TMGR_SCHEDULING_PENDING
    user.write(client_facts.TasksFreed(5.0, [TaskUid("task.1")]))
    tasks = read_session(session).tasks
    assert list(tasks.freed) == [0.0, 5.0]
    assert tasks.state(1) == TMGR_SCHEDULING


def staged_batch() -> Batch:
    plain = batch([TASK])
    directive = Directive("a", "b")
    extra = Extra(input_staging=(directive,), output_staging=(directive,))
    return Batch(plain.templates, [msgspec.structs.replace(plain.rows[0], extra=extra)])


def test_staging_has_stations_of_its_own(session: Path) -> None:
    agent = AgentLog(session)
    share = NodeShare(0, 1, b"\x02")
    lane = agent_facts.LaneLaunch(LaneId(1), RunnerId("spawner.0"), (share,), [(TASK, Attempt(1))])
    done = Outcome(TASK, Binding(1), Attempt(1), Ending.DONE, 0, times=Times(2.0, 4.0, 5.0, 6.0))
    states = []
    for fact in (
        agent_facts.TasksAccepted(2.0, 1, Binding(1), staged_batch()),
        agent_facts.InputsStaged(3.5, [TASK]),
        agent_facts.LaunchRequested(4.0, [lane]),
        agent_facts.OutputsBegun(6.25, RunnerId("spawner.0"), 1, [done]),
        agent_facts.Ended(8.0, RunnerId(""), 0, [done]),
    ):
        agent.writer.append(encode([fact]))
        states.append(read_session(session).tasks.state(0))
    agent.writer.close()
    assert states == [AGENT_STAGING_INPUT, AGENT_SCHEDULING, AGENT_EXECUTING_PENDING, AGENT_STAGING_OUTPUT, DONE]
    run = read_session(session)
    task = run.tasks.row(0)
    assert (task.accepted, task.staged_in, task.launched) == (2.0, 3.5, 4.0)
    assert (task.started, task.ended, task.collected, task.staged_out) == (5.0, 6.0, 6.25, 8.0)
    waits = run.pilots[PILOT].waits
    assert list(zip(waits.since, waits.until, strict=True)) == [(3.5, 4.0)]
    assert run.pilots[PILOT].lanes.placement == [(share,)]


def test_output_that_could_not_be_staged_does_not_count_when_the_task_runs_again(session: Path) -> None:
    agent = AgentLog(session)
    share = NodeShare(0, 1, b"\x02")
    lane = agent_facts.LaneLaunch(LaneId(1), RunnerId("spawner.0"), (share,), [(TASK, Attempt(1))])
    failed = Outcome(TASK, Binding(1), Attempt(1), Ending.STAGING_FAILED, 0, times=Times(2.0, 4.0, 5.0, 6.0))
    for fact in (
        agent_facts.TasksAccepted(2.0, 1, Binding(1), batch([TASK])),
        agent_facts.LaunchRequested(4.0, [lane]),
        agent_facts.OutputsBegun(6.25, RunnerId("spawner.0"), 1, [failed]),
        agent_facts.Repeated(8.0, RunnerId(""), 0, [TASK]),
    ):
        agent.writer.append(encode([fact]))
    agent.writer.close()
    run = read_session(session)
    task = run.tasks.row(0)
    assert (task.state, task.launched, task.collected) == (AGENT_SCHEDULING, 0.0, 0.0)
    attempts = run.pilots[PILOT].attempts
    assert (list(attempts.started), list(attempts.ended)) == ([5.0], [6.0])
