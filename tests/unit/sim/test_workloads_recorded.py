"""A session that ran, as a workload."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from pilotage.core.client import facts as client
from pilotage.errors import InvalidRequest
from pilotage.log.writer import LogWriter
from pilotage.model.ids import Attempt, Binding, PilotUid, TaskUid, TemplateId
from pilotage.model.outcome import Ending, Outcome, Times
from pilotage.model.resources import Node, NodeShape, NodeShare, Request
from pilotage.model.services import Service
from pilotage.model.workload import Batch, Hooks, Row, Template
from pilotage.sim.workloads.recorded import RecordedWorkload

PILOT = PilotUid("pilot.0000")
SHAPE = NodeShape(4, 2, 100, 0)
encode = msgspec.msgpack.encode


class Recording:
    """The log of a client, whose tasks are submitted and end as a test says."""

    def __init__(self, session: Path) -> None:
        self.writer = LogWriter.open(session / "client", writer="test")
        self.write(client.EpochBegun(100.0, 1), client.ManagerAdded(100.0, "tmgr.0000", "tasks"))
        machine = [Node(index, f"node{index}", SHAPE) for index in range(3)]
        self.write(client.PilotAccepted(100.0, "pmgr.0000", PILOT, msgspec.Raw(encode({})), machine))

    def write(self, *told: client.Fact) -> None:
        self.writer.append(encode(list(told)))

    def submit(self, at: float, *uids: str, template: Template, number: int = 1) -> None:
        rows = [Row(TaskUid(uid), TemplateId(number), ("secret",)) for uid in uids]
        batch = msgspec.Raw(encode(Batch({TemplateId(number): template}, rows)))
        self.write(client.TasksAccepted(at, "tmgr.0000", PilotUid(""), PILOT, batch))

    def hold(self, at: float, uid: str, *after: str, policy: client.AfterPolicy = "ok") -> None:
        held = client.Held(tuple(TaskUid(other) for other in after), policy)
        self.write(client.TasksHeld(at, {TaskUid(uid): held}))

    def ran(self, uid: str, started: float, ended: float, ending: Ending = Ending.DONE) -> None:
        outcome = Outcome(TaskUid(uid), Binding(1), Attempt(1), ending, times=Times(started, started, started, ended))
        self.write(client.OutcomesReceived(ended, PILOT, 1, msgspec.Raw(encode([outcome]))))


@pytest.fixture
def session(tmp_path: Path) -> Path:
    folder = tmp_path / "session.test"
    folder.mkdir()
    return folder


def arrived(workload: RecordedWorkload) -> list[tuple[float, list[str]]]:
    return [(arrival.time_s, [row.uid for row in arrival.rows]) for arrival in workload.arrivals()]


def end(workload: RecordedWorkload, uid: str, ending: Ending = Ending.DONE) -> list[str]:
    arrival = workload.follow(Outcome(TaskUid(uid), Binding(1), Attempt(1), ending), 7.0)
    return [] if arrival is None else [row.uid for row in arrival.rows]


def test_tasks_come_as_they_were_submitted_and_run_as_long(session: Path) -> None:
    recording = Recording(session)
    recording.submit(110.0, "a", "b", template=Template(executable="/bin/true"))
    recording.submit(115.5, "c", template=Template(executable="/bin/true", request=Request(2, 2, 64)), number=2)
    recording.ran("a", 111.0, 114.0)
    recording.ran("b", 111.0, 111.5, Ending.EXITED)
    recording.ran("c", 120.0, 120.25)

    workload = RecordedWorkload(session)

    assert arrived(workload) == [(0.0, ["a", "b"]), (5.5, ["c"])]
    assert [workload.duration_s(TaskUid(uid)) for uid in "abc"] == [3.0, 0.5, 0.25]
    assert workload.templates[TemplateId(2)].request == Request(2, 2, 64)
    assert (workload.count, workload.left_out) == (3, 0)
    assert (workload.machine.nodes, workload.machine.shape) == (3, SHAPE)


def test_what_did_not_run_to_an_end_is_left_out(session: Path) -> None:
    recording = Recording(session)
    recording.submit(110.0, "ran", "never", "unfinished", template=Template(executable="/bin/true"))
    recording.submit(110.0, "service", template=Template(executable="/bin/true", service=Service()), number=2)
    for uid in ("ran", "service"):
        recording.ran(uid, 111.0, 112.0)
    recording.ran("never", 0.0, 0.0, Ending.INFEASIBLE)

    workload = RecordedWorkload(session)

    assert arrived(workload) == [(0.0, ["ran"])]
    assert workload.left_out == 3


def test_what_means_something_only_there_is_left_out(session: Path) -> None:
    request = Request(2, 1, slots=(NodeShare(0, 1, b"\1"), NodeShare(0, 1, b"\2")), pinned=("node0",), beside="x")
    template = Template(
        executable="/bin/true",
        request=request,
        environment={"TOKEN": "x"},
        named_env="mine",
        hooks=Hooks(pre_exec=((0, "x"),)),
        priority=4,
        duration_s=20.0,
        retries=2,
    )
    recording = Recording(session)
    recording.submit(110.0, "a", template=template)
    recording.ran("a", 111.0, 112.0)

    workload = RecordedWorkload(session)

    kept = Template(executable="/bin/true", request=Request(2, 1), priority=4, duration_s=20.0, retries=2)
    assert workload.templates == {TemplateId(1): kept}
    assert [row for arrival in workload.arrivals() for row in arrival.rows] == [Row(TaskUid("a"), TemplateId(1))]


def test_tasks_that_waited_for_others_do_so_again(session: Path) -> None:
    recording = Recording(session)
    recording.submit(110.0, "a", "b", "both", "any", template=Template(executable="/bin/true"))
    recording.hold(110.0, "both", "a", "b")
    recording.hold(110.0, "any", "a", policy="any")
    for number, uid in enumerate(("a", "b", "both", "any")):
        recording.ran(uid, 120.0 + number, 130.0)

    workload = RecordedWorkload(session)
    assert arrived(workload) == [(0.0, ["a", "b"])]
    assert end(workload, "b") == []
    assert end(workload, "a") == ["both", "any"]

    workload = RecordedWorkload(session)
    assert arrived(workload) == [(0.0, ["a", "b"])]
    assert end(workload, "a", Ending.NODE_FAILED) == ["any"]
    assert end(workload, "b") == []


def test_a_task_that_waited_for_one_that_is_over_before_it_comes(session: Path) -> None:
    recording = Recording(session)
    recording.submit(110.0, "a", template=Template(executable="/bin/true"))
    recording.submit(115.0, "b", template=Template(executable="/bin/true"))
    recording.hold(115.0, "b", "a")
    for uid in ("a", "b"):
        recording.ran(uid, 120.0, 121.0)

    workload = RecordedWorkload(session)
    arrivals = workload.arrivals()
    assert [row.uid for row in next(arrivals).rows] == ["a"]
    assert end(workload, "a") == []
    assert [(arrival.time_s, [row.uid for row in arrival.rows]) for arrival in arrivals] == [(5.0, ["b"])]


def test_a_session_in_which_nothing_ran(session: Path) -> None:
    Recording(session).submit(110.0, "a", template=Template(executable="/bin/true"))
    with pytest.raises(InvalidRequest, match="none of its 1 tasks ran to an end"):
        RecordedWorkload(session)
