"""The descriptions that ship: each is whole, agrees with what Pilotage can do, and says where it is from."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from pilotage.batch.registry import BATCH_SYSTEMS
from pilotage.launchers.method import Installed
from pilotage.launchers.registry import LAUNCH_METHODS, check_installed, launch_method
from pilotage.platforms.gpus_here import GpuFound
from pilotage.platforms.node_here import NodeFound
from pilotage.platforms.node_shape import node_shape
from pilotage.platforms.platform import BATCH_NAMES, METHOD_NAMES, Platform
from pilotage.platforms.registry import SHIPPED, describe_platforms

NOWHERE = {"HOME": "/nonexistent"}
DESCRIBED = describe_platforms(NOWHERE)
CLUSTERS = [name for name in DESCRIBED if not name.startswith("local.")]
OUR_CHOICE = {"status", "status_date", "exclusive", "node_rules.threads_per_core"}
"""What says how we use a machine, rather than what it is."""


def test_the_names_in_files_are_those_of_batch_systems_and_launch_methods() -> None:
    assert ("local", *BATCH_SYSTEMS) == BATCH_NAMES
    assert tuple(LAUNCH_METHODS) == METHOD_NAMES


def test_the_machines_are_there() -> None:
    assert set(CLUSTERS) == {
        "access.bridges2",
        "access.expanse",
        "anl.aurora",
        "anl.polaris",
        "epcc.archer2",
        "ncsa.delta",
        "ncsa.delta_gpu_a100_4way",
        "nersc.perlmutter",
        "nersc.perlmutter_gpu",
        "ornl.frontier",
        "tacc.frontera",
        "tacc.stampede3",
    }


@pytest.mark.parametrize("name", CLUSTERS)
def test_each_says_what_a_pilot_needs_to_know(name: str) -> None:
    found = DESCRIBED[name].platform
    assert found.transport == "tcp"
    assert found.cores_per_node and found.gpus_per_node is not None and found.memory_per_node_mib
    assert found.description and found.launch_methods and (found.queue or found.qos)
    assert not found.queue or not found.queues or found.queue in found.queues
    assert not found.qos or not found.qos_limits or found.qos in found.qos_limits


@pytest.mark.parametrize("name", CLUSTERS)
def test_each_says_where_its_values_are_from_and_when(name: str) -> None:
    described = DESCRIBED[name]
    assert described.platform.status in ("documented", "verified", "retired")
    assert described.platform.status_date is not None
    assert datetime.date(2026, 1, 1) <= described.platform.status_date
    said = {field for field in described.origins if not field.startswith("sources.")} - OUR_CHOICE
    if not described.platform.gpus_per_node:
        said.discard("gpus_per_node")
    named = set(described.platform.sources)
    without = {field for field in said if field not in named and field.partition(".")[0] not in named}
    assert without == set()


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_source_is_named_for_what_is_said_and_nothing_else(name: str) -> None:
    described = DESCRIBED[name]
    said = set(described.origins) | {field.partition(".")[0] for field in described.origins}
    assert {field for field in described.platform.sources if field not in said} == set()


@pytest.mark.parametrize("name", list(DESCRIBED))
def test_launchers_know_their_options(name: str) -> None:
    found = DESCRIBED[name].platform
    for method, options in found.launcher_options.items():
        check_installed(launch_method(method), Installed(path=method, options=options))


def test_no_file_names_an_address() -> None:
    for path in SHIPPED.glob("*.toml"):
        assert "://" not in path.read_text(), path


def test_every_file_is_in_the_package() -> None:
    files = {Path(origin.rpartition(":")[0]) for described in DESCRIBED.values() for origin in described.origins.values()}
    assert files == set(SHIPPED.glob("*.toml"))


def node(cores: int, threads: int, **more: object) -> NodeFound:
    """A node whose second threads are numbered behind all first ones."""
    return NodeFound(
        name="here", cores=tuple(tuple(core + cores * thread for thread in range(threads)) for core in range(cores)), **more
    )


def amd(count: int) -> tuple[GpuFound, ...]:
    return tuple(GpuFound(vendor="amd", index=index) for index in range(count))


def test_on_frontier_each_of_eight_gpus_has_seven_cores_of_its_own() -> None:
    frontier = DESCRIBED["ornl.frontier"].platform
    shaped = node_shape(node(64, 2, gpus=amd(8)), frontier.node_rules)
    assert (shaped.node.shape.cores, shaped.node.shape.gpus) == (frontier.cores_per_node, frontier.gpus_per_node)
    assert [len(cores) for cores in shaped.gpu_cores] == [7] * 8
    assert shaped.core_ids[shaped.gpu_cores[4][0]] == 1, "the GPU beside the first cores is the fourth"
    assert len({core for cores in shaped.gpu_cores for core in cores}) == 56


def test_on_frontier_cores_that_slurm_has_reserved_already_are_not_missed() -> None:
    rules = DESCRIBED["ornl.frontier"].platform.node_rules
    left = tuple(core for core in node(64, 2).cores if core[0] % 8)
    shaped = node_shape(NodeFound(name="here", cores=left, gpus=amd(8)), rules)
    assert shaped.node.shape.cores == 56


def test_on_aurora_a_gpu_is_a_tile_and_near_to_its_socket() -> None:
    aurora = DESCRIBED["anl.aurora"].platform
    gpus = tuple(GpuFound(vendor="intel", index=index) for index in range(6))
    shaped = node_shape(node(104, 2, gpus=gpus), aurora.node_rules)
    assert (shaped.node.shape.cores, shaped.node.shape.gpus) == (aurora.cores_per_node, aurora.gpus_per_node)
    assert shaped.gpu_ids[:3] == ("0.0", "0.1", "1.0")
    assert {shaped.core_ids[core] for core in shaped.gpu_cores[5]} == set(range(1, 52))
    assert {shaped.core_ids[core] for core in shaped.gpu_cores[6]} == set(range(53, 104))


@pytest.mark.parametrize(
    ("name", "cores", "threads", "first"),
    [("anl.polaris", 32, 2, 24), ("ncsa.delta_gpu_a100_4way", 64, 1, 48)],
)
def test_where_gpus_count_downwards_the_first_is_beside_the_last_cores(name: str, cores: int, threads: int, first: int) -> None:
    found: Platform = DESCRIBED[name].platform
    gpus = tuple(GpuFound(vendor="nvidia", index=index) for index in range(4))
    shaped = node_shape(node(cores, threads, gpus=gpus), found.node_rules)
    assert (shaped.node.shape.cores, shaped.node.shape.gpus) == (found.cores_per_node, found.gpus_per_node)
    assert shaped.core_ids[shaped.gpu_cores[0][0]] == first
    assert shaped.core_ids[shaped.gpu_cores[3][0]] == 0
