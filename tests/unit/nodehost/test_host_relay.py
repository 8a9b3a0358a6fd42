"""The relay keeps the rules of executors over the distance: what waits for the agent's log, and what it can have heard of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from pilotage.errors import InvariantViolated
from pilotage.executors.base import RunnerListener, RunnerProcess
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import AttemptEnd, Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, RunnerId, TaskUid, TemplateId
from pilotage.model.outcome import Ending
from pilotage.model.resources import NodeShare
from pilotage.model.workload import Row, Template
from pilotage.nodehost.relay import Relay
from pilotage.wire import host_messages as wire

SPAWNER, OTHER = RunnerId("spawner.0"), RunnerId("spawner.1")
A = (TaskUid("a"), Attempt(1))
TEMPLATE = TemplateId(1)
LANE = LaneTasks(LaneId(1), (NodeShare(0, 1, b"\x01"),), [(Attempt(1), Row(TaskUid("a"), TEMPLATE))])


class Recorded:
    """An executor that notes what it is asked, and tells what the test gives it to tell."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.to_tell: list[tuple[Any, ...]] = []
        self.told_on_release: list[tuple[Any, ...]] = []
        self.listener: RunnerListener | None = None

    def start(self, listener: RunnerListener, known: Mapping[RunnerId, RunnerProcess]) -> None:
        self.listener = listener
        self.asked.append(("start", dict(known)))

    def fileno(self) -> int:
        return 7

    def next_deadline(self) -> float | None:
        return 0.0

    def turn(self, now: float) -> None:
        self.asked.append(("turn",))
        to_tell, self.to_tell = self.to_tell, []
        for name, *arguments in to_tell:
            getattr(self.listener, name)(*arguments)

    def flush(self) -> None:
        self.asked.append(("flush",))

    def start_runner(self, runner: RunnerId, beside: RunnerId | None, environment: Mapping[str, str], host: int = 0) -> None:
        self.asked.append(("start_runner", runner, beside, environment, host))

    def stop_runner(self, runner: RunnerId) -> None:
        self.asked.append(("stop_runner", runner))

    def launch(self, runner: RunnerId, lanes: Sequence[LaneTasks], templates: Mapping[TemplateId, Template]) -> None:
        self.asked.append(("launch", runner, list(lanes), dict(templates)))

    def recall(self, runner: RunnerId, executions: Sequence[Execution]) -> None:
        self.asked.append(("recall", runner, executions))

    def end(self, runner: RunnerId, executions: Sequence[Execution], ending: Ending, message: str) -> None:
        self.asked.append(("end", runner, executions, ending, message))

    def define_environment(self, name: str, difference: EnvironmentDifference) -> None:
        self.asked.append(("define_environment", name, difference))

    def release(self, runner: RunnerId, through: int) -> None:
        self.asked.append(("release", runner, through))
        for name, *arguments in self.told_on_release:
            getattr(self.listener, name)(*arguments)

    def close(self, grace_s: float) -> None:
        self.asked.append(("close", grace_s))

    def leave(self) -> None:
        self.asked.append(("leave",))


@pytest.fixture
def executor() -> Recorded:
    return Recorded()


@pytest.fixture
def relay(executor: Recorded) -> Relay:
    relay = Relay(executor)
    relay.start({})
    executor.asked.clear()
    return relay


def orders(*wanted: wire.Order, through: int, logged: int = 0) -> wire.HostOrders:
    """What arrives when an agent sends this."""
    frame = wire.orders_frame(through, logged, [wire.encode(order) for order in wanted])
    message = wire.decode_to_host(frame)
    assert isinstance(message, wire.HostOrders)
    return message


def reports(frames: list[bytes]) -> list[wire.HostReport]:
    """What the agent hears."""
    messages = [wire.decode_from_host(frame) for frame in frames]
    return [message for message in messages if isinstance(message, wire.HostReport)]


def test_each_order_is_the_call_that_it_stands_for(relay: Relay, executor: Recorded) -> None:
    template = Template(executable="/bin/true")
    wanted: list[wire.Order] = [
        wire.StartRunner(SPAWNER, None, {"A": "1"}),
        wire.DefineTemplates({TEMPLATE: template}),
        wire.DefineEnvironment("env", {"B": "2"}, ["C"]),
        wire.LaunchLanes(SPAWNER, [LANE]),
        wire.RecallExecutions(SPAWNER, [A]),
        wire.EndExecutions(SPAWNER, [A], Ending.CANCELLED, "enough"),
        wire.ReleaseRunner(SPAWNER, 3),
        wire.StopRunner(SPAWNER),
    ]
    relay.follow(orders(*wanted, through=len(wanted)))
    assert executor.asked == [
        ("start_runner", SPAWNER, None, {"A": "1"}, 0),
        ("define_environment", "env", EnvironmentDifference({"B": "2"}, ("C",))),
        ("launch", SPAWNER, [LANE], {TEMPLATE: template}),
        ("recall", SPAWNER, [A]),
        ("end", SPAWNER, [A], Ending.CANCELLED, "enough"),
        ("release", SPAWNER, 3),
        ("stop_runner", SPAWNER),
        ("flush",),
    ]


def test_all_that_is_told_is_reported_in_its_order(relay: Relay, executor: Recorded) -> None:
    end = AttemptEnd(*A, Ending.DONE, started=1.0, ended=2.0)
    executor.to_tell = [
        ("tasks_started", SPAWNER, [(*A, 5.0)]),
        ("tasks_ended", SPAWNER, 1, [end]),
        ("tasks_returned", SPAWNER, [A]),
        ("storage_full", SPAWNER, "no room"),
        ("runner_reconciled", SPAWNER, [A]),
        ("runner_lost", OTHER, "killed", -9, A, []),
    ]
    (report,) = reports(relay.turn(0.0))
    assert report.number == 1 and report.sent > 0
    assert report.told == [
        wire.TasksStarted(SPAWNER, [(*A, 5.0)]),
        wire.TasksEnded(SPAWNER, 1, [end]),
        wire.TasksReturned(SPAWNER, [A]),
        wire.StorageFull(SPAWNER, "no room"),
        wire.RunnerReconciled(SPAWNER, [A]),
        wire.RunnerLost(OTHER, "killed", -9, A, []),
    ]
    with pytest.raises(InvariantViolated):
        relay.nodes_lost([0], "it cannot know")


@pytest.mark.parametrize(
    "told", [("runner_connected", SPAWNER, 12, 34, "boot"), ("runner_lost", SPAWNER, "killed", -9, None, [A])]
)
def test_what_a_flush_sets_off_waits_until_the_agent_has_logged_it(
    relay: Relay, executor: Recorded, told: tuple[Any, ...]
) -> None:
    assert relay.turn(0.0) == []
    executor.to_tell = [("tasks_ended", OTHER, 1, [])]
    assert len(relay.turn(0.0)) == 1
    assert not relay.stands_still, "ends wait for nothing"
    executor.to_tell = [told]
    assert len(relay.turn(0.0)) == 1
    executor.asked.clear()
    assert relay.stands_still and relay.next_deadline() is None
    assert relay.turn(0.0) == []
    relay.follow(orders(wire.LaunchLanes(SPAWNER, [LANE]), through=1, logged=1))
    assert executor.asked == [("launch", SPAWNER, [LANE], {})], "only the first report is in the log"
    relay.follow(orders(through=1, logged=2))
    assert executor.asked[1:] == [("flush",)]
    assert not relay.stands_still and relay.next_deadline() == 0.0


def test_a_report_names_the_last_order_before_what_it_tells_though_more_came_with_that(
    relay: Relay, executor: Recorded
) -> None:
    executor.told_on_release = [("runner_reconciled", SPAWNER, [])]
    relay.follow(
        orders(wire.StartRunner(OTHER, None, {}), wire.ReleaseRunner(SPAWNER, 1), wire.LaunchLanes(SPAWNER, [LANE]), through=12)
    )
    executor.to_tell = [("tasks_returned", SPAWNER, [A])]
    first, second = reports(relay.turn(0.0))
    assert (first.number, first.heard, first.told) == (1, 11, [wire.RunnerReconciled(SPAWNER, [])])
    assert (second.number, second.heard, second.told) == (2, 12, [wire.TasksReturned(SPAWNER, [A])])


def test_more_than_a_frame_holds_is_reported_in_several(relay: Relay, executor: Recorded) -> None:
    result = b"x" * (wire.BUNDLE_BYTES // 3)
    ends = [AttemptEnd(TaskUid(f"t{number}"), Attempt(1), Ending.DONE, result=result) for number in range(7)]
    executor.to_tell = [("tasks_ended", SPAWNER, number, [end]) for number, end in enumerate(ends, 1)]
    executor.to_tell.append(("runner_lost", SPAWNER, "killed", -9, None, []))
    frames = relay.turn(0.0)
    assert all(len(frame) < 2 * wire.BUNDLE_BYTES for frame in frames)
    told = [each for report in reports(frames) for each in report.told]
    assert [each.ends for each in told if isinstance(each, wire.TasksEnded)] == [[end] for end in ends]
    last = reports(frames)[-1].number
    relay.follow(orders(through=0, logged=last - 1))
    assert relay.stands_still
    relay.follow(orders(through=0, logged=last))
    assert not relay.stands_still


def test_it_can_be_left_and_closed(relay: Relay, executor: Recorded) -> None:
    assert relay.fileno() == 7
    relay.close(2.5)
    relay.leave()
    assert executor.asked == [("close", 2.5), ("leave",)]


def test_known_runners_are_handed_on(executor: Recorded) -> None:
    known = {SPAWNER: wire.KnownRunner(None, 0, 12, 34, "boot", 5)}
    Relay(executor).start(msgspec.msgpack.decode(msgspec.msgpack.encode(known), type=dict[RunnerId, wire.KnownRunner]))
    assert executor.asked == [("start", known)]
