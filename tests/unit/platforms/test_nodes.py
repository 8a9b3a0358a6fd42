"""Which nodes a pilot gets for what it asks."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.client.pilot_description import PilotDescription
from pilotage.errors import InvalidPilot
from pilotage.model.resources import Node, NodeShape
from pilotage.platforms import PilotNodes, Platform, nodes_of
from pilotage.platforms.machine import usable_cores, usable_disk_mib, usable_gpus, usable_memory_mib
from pilotage.platforms.nodes import Machine, this_machine

LOCALHOST = Platform(name="local.localhost")
EMULATED = Platform(
    name="local.emulated", emulated=True, cores_per_node=56, gpus_per_node=8, memory_per_node_mib=6400, disk_per_node_mib=128
)


def laptop(sandbox: str) -> Machine:
    return Machine("laptop", cores=8, gpus=1, memory_mib=16_000, disk_mib=6_400)


def on_localhost(**asked: Any) -> PilotNodes:
    return nodes_of(LOCALHOST, PilotDescription(resource="local.localhost", **asked), machine=laptop)


def emulated(**asked: Any) -> PilotNodes:
    return nodes_of(EMULATED, PilotDescription(resource="local.emulated", **asked), machine=laptop)


def test_one_node_of_localhost_is_the_whole_machine() -> None:
    assert on_localhost(nodes=1) == PilotNodes([Node(0, "laptop", NodeShape(8, 1, 250, 100))], bind=True)


def test_cores_of_localhost_are_a_part_of_the_machine() -> None:
    assert on_localhost(cores=3) == PilotNodes([Node(0, "laptop", NodeShape(3, 0, 250, 100))], bind=True)
    assert on_localhost(cores=3, gpus=1).nodes[0].shape.gpus == 1


def test_more_cores_than_localhost_has_are_accepted_unbound_with_a_warning() -> None:
    with pytest.warns(UserWarning) as warned:
        nodes = on_localhost(cores=64)
    assert nodes == PilotNodes([Node(0, "laptop", NodeShape(64, 0, 250, 100))], bind=False)
    assert [str(one.message) for one in warned] == [
        "the pilot asks for 64 cores, this machine has 8: its tasks share them and are not bound to cores. "
        "To try a larger machine with nodes of its shape, use resource='local.emulated'"
    ]
    assert warned[0].filename == __file__


def test_the_warning_is_given_once_per_line() -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        for _ in range(3):
            on_localhost(cores=64)
    assert len(warned) == 1


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"nodes": 2},
            "pilot: nodes=2 exceeds the 1 node of local.localhost; "
            "ask for nodes=1, or use resource='local.emulated' for any number of nodes",
        ),
        (
            {"cores": 1, "gpus": 2},
            "pilot: gpus=2 exceeds the 1 GPUs of local.localhost; ask for 1 or fewer, or use resource='local.emulated'",
        ),
        (
            {"cores": 1, "memory": 16_001},
            "pilot: memory=16001 exceeds the 16000 MB of local.localhost; "
            "ask for 16000 or fewer, or use resource='local.emulated'",
        ),
        (
            {"cores": 70_000},
            "pilot: cores=70000 exceeds the 65536 cores that one node may have of local.localhost; "
            "ask for 65536 or fewer, or use resource='local.emulated'",
        ),
        (
            {"cores": 1, "cores_per_node": 4},
            "pilot: cores_per_node=4: the nodes of local.localhost are what they are; "
            "leave it out, or use resource='local.emulated'",
        ),
        ({}, "pilot: its size is missing; give nodes, or cores (and gpus)"),
        (
            {"cores": 1, "nodes": 1},
            "pilot: both nodes=1 and cores=1 are given; give nodes alone, or cores and gpus without nodes",
        ),
    ],
)
def test_localhost_refuses_what_it_does_not_have(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPilot) as refused:
        on_localhost(**asked)
    assert str(refused.value) == message


def test_emulated_nodes_have_the_platforms_shape() -> None:
    nodes = emulated(nodes=11)
    assert nodes.bind is False
    assert [node.name for node in nodes.nodes] == [f"node{index:02}" for index in range(11)]
    assert {node.shape for node in nodes.nodes} == {NodeShape(56, 8, 100, 2)}


def test_emulated_nodes_have_the_shape_that_the_pilot_gives() -> None:
    asked = {"nodes": 2, "cores_per_node": 3, "gpus_per_node": 0, "memory_per_node": 640, "disk_per_node": 0}
    assert emulated(**asked).nodes == [Node(0, "node0", NodeShape(3, 0, 10, 0)), Node(1, "node1", NodeShape(3, 0, 10, 0))]


def test_cores_are_spread_over_as_few_emulated_nodes_as_hold_them() -> None:
    assert [node.shape.cores for node in emulated(cores=4).nodes] == [4]
    assert [node.shape.cores for node in emulated(cores=57).nodes] == [29, 29]
    assert [node.shape.gpus for node in emulated(cores=4, gpus=9).nodes] == [5, 5]


def test_with_a_given_shape_emulated_nodes_are_whole() -> None:
    assert [node.shape.cores for node in emulated(cores=5, cores_per_node=4).nodes] == [4, 4]


def test_memory_takes_emulated_nodes_too() -> None:
    assert len(emulated(cores=1, memory=6401).nodes) == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"gpus": 1, "gpus_per_node": 0}, "pilot: gpus=1, but the nodes have none; give gpus_per_node"),
        (
            {"nodes": 2, "memory": 12_801},
            "pilot: memory=12801 exceeds the 12800 MB of 2 nodes with 6400 MB each; ask for less, or for more nodes",
        ),
        ({"nodes": 100_001}, "pilot: 100001 nodes exceed the 100000 that a pilot may have; ask for fewer or larger nodes"),
        (
            {"nodes": 1, "cores_per_node": 65_537},
            "pilot: cores_per_node=65537 exceeds the 65536 cores that one node may have; use more nodes",
        ),
    ],
)
def test_emulated_refuses_what_cannot_be(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPilot) as refused:
        emulated(**asked)
    assert str(refused.value) == message


@given(cores=st.integers(1, 5000), gpus=st.integers(0, 500))
def test_emulated_nodes_hold_what_was_asked_and_little_more(cores: int, gpus: int) -> None:
    nodes = emulated(cores=cores, gpus=gpus).nodes
    assert [node.index for node in nodes] == list(range(len(nodes)))
    assert cores <= sum(node.shape.cores for node in nodes) < cores + len(nodes)
    assert gpus <= sum(node.shape.gpus for node in nodes) < gpus + len(nodes)
    assert all(node.shape.cores <= 56 and node.shape.gpus <= 8 for node in nodes)


def test_this_machine_is_seen_as_it_is(tmp_path: Path) -> None:
    machine = this_machine(str(tmp_path / "not" / "yet"))
    assert machine.cores == len(os.sched_getaffinity(0)) == len(usable_cores())
    assert machine.memory_mib > 0
    assert machine.disk_mib > 0
    assert usable_disk_mib(tmp_path / "no" / "such") > 0


def test_memory_is_the_machines_or_what_its_container_allows(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    assert usable_memory_mib(meminfo, limit) == 0
    meminfo.write_text("MemTotal:        2097152 kB\nMemFree:  1 kB\n")
    assert usable_memory_mib(meminfo, limit) == 2048
    limit.write_text("max\n")
    assert usable_memory_mib(meminfo, limit) == 2048
    limit.write_text(f"{512 * 1024 * 1024}\n")
    assert usable_memory_mib(meminfo, limit) == 512


def test_gpus_are_counted_by_their_devices(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert usable_gpus(tmp_path) == 2
    assert usable_gpus(tmp_path / "none") == 0
