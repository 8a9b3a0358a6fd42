"""The nodes that an agent finds: their shapes, those that are left out, and hosts that have to be started again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec
import pytest

from pilotage.agent.found_nodes import (
    STARTS,
    FoundNodes,
    gather_hosts,
    read_found,
    shaped_nodes,
    write_found,
)
from pilotage.agent.settings import PilotSettings
from pilotage.errors import BackendError
from pilotage.executors.hosts import HostsEnded
from pilotage.model.ids import PilotUid, SessionUid
from pilotage.model.node_rules import NodeRules
from pilotage.model.resources import Node, NodeShape
from pilotage.platforms.allocations import AllocatedNode
from pilotage.platforms.node_here import NodeFound
from pilotage.platforms.node_shape import ShapedNode


def settings_with(**others: object) -> PilotSettings:
    made = PilotSettings(
        session=SessionUid("s"), pilot=PilotUid("p"), session_folder="", pilot_folder="", blob_folder="", nodes=[]
    )
    return msgspec.structs.replace(made, **others)


def node_found(name: str, cores: int = 4) -> NodeFound:
    return NodeFound(name=name, cores=tuple((core,) for core in range(cores)), memory_mib=6400)


ALLOCATED = [AllocatedNode(name=f"n{number}") for number in range(1, 4)]
FOUND = {node.name: node_found(node.name) for node in ALLOCATED}


def test_nodes_are_numbered_in_the_order_of_the_allocation() -> None:
    shaped, notes = shaped_nodes(settings_with(), ALLOCATED, dict(reversed(FOUND.items())), "n1")
    assert [each.node for each in shaped] == [Node(index, f"n{index + 1}", NodeShape(4, 0, 100, 0), 0) for index in range(3)]
    assert notes == []


def test_cores_are_kept_for_the_agent_on_its_own_node_alone() -> None:
    settings = settings_with(node_rules=NodeRules(agent_cores=1, reserved_cores=(0,)))
    shaped, _ = shaped_nodes(settings, ALLOCATED, FOUND, "n2")
    assert [each.core_ids for each in shaped] == [(1, 2, 3), (1, 2), (1, 2, 3)]
    assert [each.agent_core_ids for each in shaped] == [(), (3,), ()]


def test_virtual_nodes_have_what_the_platform_says() -> None:
    shaped, _ = shaped_nodes(settings_with(emulated=NodeShape(56, 8)), ALLOCATED, FOUND, "n1")
    assert [(each.node.shape, each.core_ids) for each in shaped] == [(NodeShape(56, 8), ())] * 3


def test_nodes_that_did_not_come_are_left_out_and_told() -> None:
    shaped, notes = shaped_nodes(settings_with(hosts_timeout_s=30.0), ALLOCATED, {"n2": FOUND["n2"]}, None)
    assert [(each.node.index, each.node.name) for each in shaped] == [(0, "n2")]
    (note,) = notes
    assert note.startswith("2 of 3 nodes did not come within 30 s, and the pilot goes on without them: n[1,3]; ")


def test_a_node_that_the_rules_leave_nothing_of_is_left_out() -> None:
    settings = settings_with(node_rules=NodeRules(reserved_cores=(0, 1)))
    shaped, notes = shaped_nodes(settings, ALLOCATED, {**FOUND, "n2": node_found("n2", cores=2)}, None)
    assert [(each.node.index, each.node.name) for each in shaped] == [(0, "n1"), (1, "n3")]
    assert len(notes) == 1 and notes[0].startswith("node n2: reserved_cores=0-1: no core is left")


def test_a_pilot_without_any_node_is_an_error() -> None:
    with pytest.raises(BackendError, match="none of the 3 nodes of the allocation can be used: 3 of 3 nodes did not come"):
        shaped_nodes(settings_with(), ALLOCATED, {}, None)


def test_what_was_found_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_found(tmp_path) is None
    shaped = ShapedNode(node=Node(0, "n1", NodeShape(4, 1)), core_ids=(0, 2), gpu_ids=("0.1",), gpu_cores=((0, 1),))
    found = FoundNodes(run=1, system="slurm", job="7", nodes=[shaped], end_s=12.5, here=0, notes=["less than asked for"])
    write_found(tmp_path, found)
    assert read_found(tmp_path) == found
    assert [path.name for path in tmp_path.iterdir()] == ["nodes.json"]
    assert (tmp_path / "nodes.json").stat().st_mode & 0o777 == 0o600


class Steps:
    """Hosts that come, or whose steps end, as the test says for each start in turn: names that come, and whether it ends."""

    def __init__(self, *courses: tuple[Collection[str], bool]) -> None:
        self.courses = list(courses)
        self.started: list[list[str]] = []
        self.there: dict[str, NodeFound] = {}
        self.over: list[HostsEnded] = []

    # the starter

    def start(self, nodes: Sequence[str]) -> None:
        self.started.append(list(nodes))
        come, ends = self.courses.pop(0)
        self.there = {name: node_found(name) for name in come}
        if ends:
            self.over.append(HostsEnded(tuple(nodes), 1, f"start {len(self.started)} failed"))

    def ended(self) -> HostsEnded | None:
        return self.over.pop(0) if self.over else None

    def fileno(self) -> int:
        return -1

    def end(self) -> None:
        raise AssertionError("nobody wants it to end")

    leave = end

    # the lobby

    def gather(self, names: Collection[str], timeout_s: float, stop: Callable[[], bool]) -> dict[str, NodeFound]:
        came = {name: found for name, found in self.there.items() if name in names}
        stop()
        return came


def gathered(steps: Steps, told_to_end: Callable[[], bool] = lambda: False) -> dict[str, NodeFound]:
    names = [node.name for node in ALLOCATED]
    steps.start(names)
    return gather_hosts(steps, steps, names, 30.0, told_to_end)  # type: ignore[arg-type]


def test_hosts_that_come_are_all_there_is() -> None:
    steps = Steps((["n1", "n3"], False))
    assert set(gathered(steps)) == {"n1", "n3"}
    assert len(steps.started) == 1


def test_hosts_of_a_step_that_ended_are_started_again_also_those_that_had_come() -> None:
    steps = Steps((["n1"], True), (["n1", "n2", "n3"], False))
    assert set(gathered(steps)) == {"n1", "n2", "n3"}
    assert steps.started == [["n1", "n2", "n3"]] * 2


def test_hosts_that_end_again_and_again_are_an_error_with_what_they_said() -> None:
    steps = Steps(*([(["n1"], True)] * STARTS))
    with pytest.raises(BackendError, match=r"the hosts of 3 nodes ended 3 times .* exit code 1: start 3 failed"):
        gathered(steps)
    assert len(steps.started) == STARTS
