"""The shape that a node has for tasks: threads, reserved cores, cores of the agent, and what a GPU is."""

from __future__ import annotations

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.errors import InvalidRequest
from pilotage.model.resources import Node, NodeShape
from pilotage.platforms.allocations import AllocatedNode
from pilotage.platforms.gpus_here import GpuFound
from pilotage.platforms.node_here import NodeFound
from pilotage.platforms.node_shape import NodeRules, ShapedNode, node_shape


def node_of(cores: int, *, threads: int = 1, numa: int = 1, l3: int = 1, gpus: tuple[GpuFound, ...] = ()) -> NodeFound:
    """Return a node as Linux numbers it: first one thread of each core, then the others."""

    def domains(count: int) -> tuple[tuple[int, ...], ...]:
        width = cores // count
        return tuple(
            tuple(number * width + each + cores * thread for thread in range(threads) for each in range(width))
            for number in range(count)
        )

    return NodeFound(
        name="node1",
        cores=tuple(tuple(core + cores * thread for thread in range(threads)) for core in range(cores)),
        numa_domains=domains(numa),
        l3_domains=domains(l3),
        gpus=gpus,
        memory_mib=524_288,
        disk_mib=6_400,
    )


# Of the GPU dies of a Frontier node, the nearest cores go another way than their numbers.
FRONTIER_GPU_CORES = tuple(tuple(range(8 * l3, 8 * l3 + 8)) for l3 in (6, 7, 2, 3, 0, 1, 4, 5))
FRONTIER = node_of(64, threads=2, numa=4, l3=8, gpus=tuple(GpuFound(vendor="amd", index=index) for index in range(8)))
FRONTIER_RULES = NodeRules(threads_per_core=1, reserved_cores_per_l3=1, gpu_cores=FRONTIER_GPU_CORES)


def test_a_frontier_node_has_56_cores_at_one_thread_and_8_gpus() -> None:
    shaped = node_shape(FRONTIER, FRONTIER_RULES)
    assert shaped.node == Node(0, "node1", NodeShape(56, 8, 8192, 100), domain=14)
    assert shaped.core_ids == tuple(core for core in range(64) if core % 8)
    assert shaped.reserved_core_ids == tuple(chain(range(0, 64, 8), range(64, 128, 8)))
    assert shaped.gpu_ids == ("0", "1", "2", "3", "4", "5", "6", "7")
    assert [tuple(shaped.core_ids[core] for core in near) for near in shaped.gpu_cores[:2]] == [
        tuple(range(49, 56)),
        tuple(range(57, 64)),
    ]


def test_two_dies_can_be_one_gpu() -> None:
    rules = NodeRules(devices_per_gpu=2, gpu_cores=FRONTIER_GPU_CORES, threads_per_core=1)
    shaped = node_shape(FRONTIER, rules)
    assert shaped.gpu_ids == ("0,1", "2,3", "4,5", "6,7")
    assert shaped.gpu_cores[1] == tuple(range(16, 32))


def test_two_threads_of_a_core_are_neighbours() -> None:
    shaped = node_shape(node_of(4, threads=2, numa=2), NodeRules())
    assert shaped.core_ids == (0, 4, 1, 5, 2, 6, 3, 7)
    assert shaped.node == Node(0, "node1", NodeShape(8, 0, 8192, 100), domain=4)


def test_summit_has_42_cores_at_each_smt_level() -> None:
    # 22 cores to a socket, the last of each for the system; four threads of a core are numbered together.
    summit = NodeFound(
        name="a01n01",
        cores=tuple(tuple(range(4 * core, 4 * core + 4)) for core in range(44)),
        numa_domains=(tuple(range(88)), tuple(range(88, 176))),
        gpus=tuple(GpuFound(vendor="nvidia", index=index) for index in range(6)),
    )
    allocated = AllocatedNode(name="a01n01", cores=42, slots=42, gpus=6)
    for threads in (1, 2, 4):
        shaped = node_shape(summit, NodeRules(threads_per_core=threads, reserved_cores=(84, 172)), allocated=allocated)
        assert shaped.node == Node(0, "a01n01", NodeShape(42 * threads, 6), domain=21 * threads)


def test_cores_are_kept_for_the_agent_from_the_end() -> None:
    shaped = node_shape(node_of(8, threads=2, numa=2), NodeRules(agent_cores=1), index=3)
    assert shaped.agent_core_ids == (7, 15)
    assert shaped.node == Node(3, "node1", NodeShape(14, 0, 8192, 100), domain=0)


def test_tiles_and_instances_are_gpus_where_the_rules_say_so() -> None:
    aurora = node_of(104, gpus=tuple(GpuFound(vendor="intel", index=index, parts=2, near=(index,)) for index in range(6)))
    assert node_shape(aurora, NodeRules()).node.shape.gpus == 6
    shaped = node_shape(aurora, NodeRules(gpu_unit="part"))
    assert shaped.gpu_ids[:3] == ("0.0", "0.1", "1.0")
    assert shaped.gpu_cores[:3] == ((0,), (0,), (1,))
    assert shaped.node.shape.gpus == 12
    silent = node_of(8, gpus=(GpuFound(vendor="nvidia", index=0),))
    assert node_shape(silent, NodeRules(gpu_unit="part", gpu_parts=7)).gpu_ids[-1] == "0.6"
    # The batch system counts tiles here, and the job has three of them.
    part = AllocatedNode(name="x1", gpus=3)
    one = node_of(8, gpus=(GpuFound(vendor="intel", index=0, parts=4),))
    assert node_shape(one, NodeRules(gpu_unit="part"), allocated=part).gpu_ids == ("0.0", "0.1", "0.2")


def shaped(allocated: AllocatedNode, found: NodeFound | None = None) -> ShapedNode:
    gpus = tuple(GpuFound(vendor="nvidia", index=index) for index in range(4))
    return node_shape(found or node_of(8, threads=2, gpus=gpus), NodeRules(), allocated=allocated)


def test_a_job_with_a_part_of_a_node_gets_that_part() -> None:
    part = shaped(AllocatedNode(name="n1.cluster", cores=4, gpus=2, gpu_ids=("1", "3"), memory_mib=6_400))
    assert part.core_ids == (0, 8, 1, 9)
    assert part.gpu_ids == ("1", "3")
    assert part.node == Node(0, "n1.cluster", NodeShape(4, 2, 100, 100), domain=4)
    assert shaped(AllocatedNode(name="n1", cores=4, threads_per_core=1)).core_ids == (0, 8, 1, 9, 2, 10, 3, 11)
    assert shaped(AllocatedNode(name="n1", cores=3, core_ids=(2, 3, 11))).core_ids == (2, 3, 11)


@pytest.mark.parametrize("cores", [8, 16, 64, None])
def test_a_number_that_is_all_cores_or_all_threads_is_the_whole_node(cores: int | None) -> None:
    assert shaped(AllocatedNode(name="n1", cores=cores)).node.shape.cores == 16


def test_more_gpus_than_are_to_be_seen_are_taken_on_the_systems_word() -> None:
    assert shaped(AllocatedNode(name="n1", gpus=2, gpu_ids=("4", "6")), node_of(2)).gpu_ids == ("4", "6")
    assert shaped(AllocatedNode(name="n1", gpus=2), node_of(2)).gpu_ids == ("0", "1")
    assert shaped(AllocatedNode(name="n1", gpus=0)).gpu_ids == ()
    assert shaped(AllocatedNode(name="n1", gpus=2)).gpu_ids == ("0", "1")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            NodeRules(threads_per_core=4),
            "node node1: threads_per_core=4: a core has 2 hardware threads that the job may use (0,8)",
        ),
        (NodeRules(agent_cores=8), "node node1: agent_cores=8: 8 cores are left when 0 hardware threads are reserved"),
        (NodeRules(agent_cores=-1), "node node1: agent_cores=-1"),
        (NodeRules(reserved_cores=tuple(range(8))), "node node1: reserved_cores=0-15: no core is left"),
        (
            NodeRules(reserved_cores_per_l3=4),
            "node node1: reserved_cores_per_l3=4: an L3 domain has 4 cores that the job may use",
        ),
        (NodeRules(devices_per_gpu=2), "node node1: devices_per_gpu=2: the job has 3 devices of it"),
        (NodeRules(devices_per_gpu=0), "node node1: devices_per_gpu=0"),
    ],
)
def test_rules_that_a_node_cannot_meet_are_named(rules: NodeRules, said: str) -> None:
    found = node_of(8, threads=2, l3=2, gpus=tuple(GpuFound(vendor="nvidia", index=index) for index in range(3)))
    with pytest.raises(InvalidRequest) as raised:
        node_shape(found, rules)
    assert str(raised.value).startswith(said)


def test_a_node_that_does_not_tell_its_domains_cannot_reserve_by_them() -> None:
    bare = NodeFound(name="node1", cores=((0,), (1,)))
    with pytest.raises(InvalidRequest, match="name the cores in reserved_cores"):
        node_shape(bare, NodeRules(reserved_cores_per_l3=1))


def test_cores_of_the_job_that_this_process_may_not_use() -> None:
    with pytest.raises(InvalidRequest, match="the job has cores 64-65 of it, and this process may use none"):
        shaped(AllocatedNode(name="n1", core_ids=(64, 65)))


@given(
    cores=st.sampled_from([4, 8, 16]),
    threads=st.sampled_from([1, 2, 4]),
    numa=st.sampled_from([1, 2, 4]),
    use=st.integers(0, 4),
    per_l3=st.integers(0, 1),
    agent=st.integers(0, 2),
    held=st.none() | st.integers(1, 80),
)
def test_every_thread_is_for_one_purpose_at_most(
    cores: int, threads: int, numa: int, use: int, per_l3: int, agent: int, held: int | None
) -> None:
    found = node_of(cores, threads=threads, numa=numa, l3=2)
    rules = NodeRules(threads_per_core=use, reserved_cores_per_l3=per_l3, agent_cores=agent)
    try:
        shape = node_shape(found, rules, allocated=AllocatedNode(name="n", cores=held))
    except InvalidRequest as error:
        assert "node n: " in str(error)
        return
    purposes = [*shape.core_ids, *shape.agent_core_ids, *shape.reserved_core_ids]
    assert len(purposes) == len(set(purposes))
    assert set(purposes) <= set(chain.from_iterable(found.cores))
    assert shape.node.shape.cores == len(shape.core_ids) > 0
    domains = [next(index for index, inside in enumerate(found.numa_domains) if core in inside) for core in shape.core_ids]
    assert domains == sorted(domains)
    if shape.node.domain:
        sizes = {domains.count(domain) for domain in set(domains)}
        assert sizes == {shape.node.domain}
