"""What the agent keeps of a host: what it is still to be told, and what it cannot have heard yet."""

from __future__ import annotations

from pilotage.executors.hosts import HostSettings
from pilotage.executors.remote_host import RemoteHost
from pilotage.model.environments import EnvironmentDifference
from pilotage.model.execution import Execution, LaneTasks
from pilotage.model.ids import Attempt, LaneId, PilotUid, RunnerId, SessionUid, TaskUid, TemplateId
from pilotage.model.resources import Node, NodeShape
from pilotage.model.workload import Row, Template
from pilotage.wire import host_messages as wire
from pilotage.wire.runner_settings import RunnerSettings

SPAWNER, OTHER = RunnerId("spawner.0"), RunnerId("spawner.1")
NODES = [Node(number, f"node{number}", NodeShape(cores=4, gpus=0)) for number in range(3)]
TEMPLATES = {TemplateId(number): Template(executable=f"/bin/{number}") for number in range(1, 4)}


def host(**changes: list[int]) -> RemoteHost:
    settings = RunnerSettings(SessionUid("s"), PilotUid("p"), "/p", "/b", NODES, False, {}, [], "/", **changes)  # type: ignore[arg-type]
    return RemoteHost(HostSettings("node0", settings), 100.0)


def lane(*uids: str, template: int = 1) -> LaneTasks:
    return LaneTasks(LaneId(1), None, [(Attempt(1), Row(TaskUid(uid), TemplateId(template))) for uid in uids])


def execution(uid: str) -> Execution:
    return TaskUid(uid), Attempt(1)


def said(frames: list[bytes]) -> list[wire.ToHost]:
    return [wire.decode_to_host(frame) for frame in frames]


def orders(frames: list[bytes]) -> list[wire.Order]:
    return [order for message in said(frames) if isinstance(message, wire.HostOrders) for order in message.orders]


def report(number: int, heard: int) -> wire.HostReport:
    return wire.HostReport(number, heard, 0.0, [])


def test_it_serves_the_nodes_that_its_settings_name_or_all() -> None:
    assert host(host_nodes=[1, 2]).nodes == [1, 2]
    assert host().nodes == [0, 1, 2]


def test_what_is_asked_goes_in_one_message_in_its_order_when_there_is_a_connection() -> None:
    remote = host()
    remote.start_runner(SPAWNER, None, {"A": "1"})
    remote.launch(SPAWNER, [lane("a")], TEMPLATES)
    assert remote.frames() == []
    remote.welcome(101.0, 1, {})
    (message,) = said(remote.frames())
    assert message == wire.HostOrders(
        3,
        0,
        [
            wire.StartRunner(SPAWNER, None, {"A": "1"}),
            wire.DefineTemplates({TemplateId(1): TEMPLATES[TemplateId(1)]}),
            wire.LaunchLanes(SPAWNER, [lane("a")]),
        ],
    )
    assert remote.frames() == []


def test_a_template_is_told_once_for_all_runners_of_a_connection() -> None:
    remote = host()
    remote.welcome(101.0, 1, {})
    remote.launch(SPAWNER, [lane("a")], TEMPLATES)
    remote.launch(OTHER, [lane("b"), lane("c", template=2)], TEMPLATES)
    defined = [order.templates for order in orders(remote.frames()) if isinstance(order, wire.DefineTemplates)]
    assert [list(templates) for templates in defined] == [[1], [2]]


def test_a_new_connection_is_told_of_environments_and_of_those_templates_that_what_waits_needs() -> None:
    remote = host()
    remote.welcome(101.0, 1, {})
    remote.launch(SPAWNER, [lane("a"), lane("b", template=2)], TEMPLATES)
    remote.frames()
    remote.launch(SPAWNER, [lane("c", template=2)], TEMPLATES)
    remote.disconnected(102.0)
    first = remote.welcome(103.0, 2, {"env": EnvironmentDifference({"A": "1"}, ("B",))})
    assert orders(first) == [
        wire.DefineEnvironment("env", {"A": "1"}, ["B"]),
        wire.DefineTemplates({TemplateId(2): TEMPLATES[TemplateId(2)]}),
    ]
    assert orders(remote.frames()) == [wire.LaunchLanes(SPAWNER, [lane("c", template=2)])]
    remote.launch(SPAWNER, [lane("d")], TEMPLATES)
    assert isinstance(orders(remote.frames())[0], wire.DefineTemplates), "the new executor knows nothing of before"


def test_it_cannot_have_heard_of_launches_behind_the_order_that_its_report_names() -> None:
    remote = host()
    remote.welcome(101.0, 1, {})
    remote.launch(SPAWNER, [lane("a")], TEMPLATES)  # orders 1 (templates) and 2
    remote.launch(OTHER, [lane("x")], TEMPLATES)  # 3
    remote.launch(SPAWNER, [lane("b", "c")], TEMPLATES)  # 4
    remote.frames()
    remote.launch(SPAWNER, [lane("d")], TEMPLATES)  # 5, which waits
    assert remote.not_heard_of(SPAWNER) == [execution(uid) for uid in "abcd"]
    remote.heard(report(1, 2), must_confirm=False)
    assert remote.not_heard_of(SPAWNER) == [execution(uid) for uid in "bcd"]
    remote.heard(report(2, 4), must_confirm=False)
    assert remote.not_heard_of(SPAWNER) == [execution("d")]
    assert remote.not_heard_of(OTHER) == []


def test_what_was_under_way_on_a_broken_connection_is_told_by_runners_and_what_waits_is_not_lost() -> None:
    remote = host()
    remote.welcome(101.0, 1, {})
    remote.launch(SPAWNER, [lane("sent")], TEMPLATES)
    remote.frames()
    remote.launch(SPAWNER, [lane("waits")], TEMPLATES)
    remote.disconnected(102.0)
    assert remote.not_heard_of(SPAWNER) == [execution("waits")]
    remote.welcome(103.0, 1, {})
    remote.heard(report(1, 2), must_confirm=False)
    assert remote.not_heard_of(SPAWNER) == [execution("waits")], "nothing was sent on this connection yet"
    (message,) = said(remote.frames())
    assert isinstance(message, wire.HostOrders)
    remote.heard(report(2, message.through), must_confirm=False)
    assert remote.not_heard_of(SPAWNER) == []


def test_a_welcome_names_the_runners_of_which_a_host_was_told_and_no_others() -> None:
    remote = host()
    remote.start_runner(SPAWNER, None, {})
    first = said(remote.welcome(101.0, 1, {}))[0]
    assert isinstance(first, wire.HostWelcome) and first.known == {}
    remote.frames()
    remote.start_runner(OTHER, None, {})
    remote.disconnected(102.0)
    second = said(remote.welcome(103.0, 4, {}))[0]
    assert isinstance(second, wire.HostWelcome)
    assert second.known.keys() == {SPAWNER} and second.incarnation == 4
    remote.frames()
    remote.forget([SPAWNER])
    remote.disconnected(104.0)
    third = said(remote.welcome(105.0, 4, {}))[0]
    assert isinstance(third, wire.HostWelcome) and third.known.keys() == {OTHER}


def test_that_a_report_is_in_the_log_is_told_when_it_is_waited_for_or_with_the_next_orders() -> None:
    remote = host()
    remote.welcome(101.0, 1, {})
    remote.heard(report(1, 0), must_confirm=False)
    assert remote.frames() == []
    remote.heard(report(2, 0), must_confirm=True)
    assert remote.frames(is_logged=False) == [], "it is not, yet"
    assert said(remote.frames()) == [wire.HostOrders(0, 2, [])]
    assert remote.frames() == []
    remote.heard(report(3, 0), must_confirm=False)
    remote.order(wire.StopRunner(SPAWNER))
    assert said(remote.frames()) == [wire.HostOrders(1, 3, [wire.StopRunner(SPAWNER)])]


def test_orders_larger_than_a_frame_are_divided_and_counted_as_they_are() -> None:
    remote = host()
    remote.welcome(101.0, 1, {})
    large = [
        LaneTasks(
            LaneId(number), None, [(Attempt(1), Row(TaskUid(f"t{number}"), TemplateId(1), ("x" * (wire.BUNDLE_BYTES // 2),)))]
        )
        for number in range(5)
    ]
    remote.launch(SPAWNER, large, TEMPLATES)
    remote.launch(SPAWNER, [lane("last")], TEMPLATES)
    frames = remote.frames()
    messages = [message for message in said(frames) if isinstance(message, wire.HostOrders)]
    assert len(messages) > 2 and all(len(frame) <= 1.1 * wire.BUNDLE_BYTES for frame in frames)
    assert [message.through for message in messages][-1] == sum(len(message.orders) for message in messages) == 7
    launched = [
        row.uid
        for order in orders(frames)
        if isinstance(order, wire.LaunchLanes)
        for each in order.lanes
        for _, row in each.tasks
    ]
    assert launched == ["t0", "t1", "t2", "t3", "t4", "last"]
    assert len(remote.not_heard_of(SPAWNER)) == 6
