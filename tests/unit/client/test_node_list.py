"""Nodes as their user divides them: what is found is taken, what is released is free, and what is wrong says so."""

from __future__ import annotations

import pytest
from description_support import made
from hypothesis import given
from hypothesis import strategies as st

from pilotage.client.constants import BUSY, DOWN, FREE
from pilotage.client.node_list import RO, Node, NodeList, NumaDomain, NumaNode, RankRequirements, Slot, node_list
from pilotage.client.task_slots import slots_of
from pilotage.errors import InvalidRequest, UnknownAttribute
from pilotage.model import resources
from pilotage.model.resources import NodeShape, NodeShare, Request


def nodes(count: int = 2, cores: int = 4, gpus: int = 2) -> NodeList:
    shape = NodeShape(cores, gpus, 16, 32)
    return node_list([resources.Node(index, f"n{index}", shape) for index in range(count)])


def places(slots: list[Slot] | None) -> list[tuple[str, list[int], list[int]]] | None:
    if slots is None:
        return None
    return [(slot.node_name, [core.index for core in slot.cores], [gpu.index for gpu in slot.gpus]) for slot in slots]


def test_slots_are_taken_in_order_and_found_again_once_released() -> None:
    mine = nodes()
    first = mine.find_slots(RankRequirements(n_cores=2, n_gpus=1), n_slots=3)
    assert places(first) == [("n0", [0, 1], [0]), ("n0", [2, 3], [1]), ("n1", [0, 1], [0])]
    assert mine.find_slots(RankRequirements(n_cores=2), n_slots=2) is None
    assert places(mine.find_slots(RankRequirements(n_cores=2))) == [("n1", [2, 3], [])]
    assert first is not None
    mine.release_slots(first)
    assert places(mine.find_slots(RankRequirements(n_cores=4))) == [("n0", [0, 1, 2, 3], [])]


def test_parts_of_gpus_memory_and_disk_are_counted() -> None:
    mine = nodes(1)
    half = RankRequirements(n_cores=1, n_gpus=1, gpu_occupation=0.5, mem=512, lfs=64)
    assert places(mine.find_slots(half, 2)) == [("n0", [0], [0]), ("n0", [1], [0])]
    (node,) = mine
    assert (node.mem, node.lfs) == (0, 32 * 64 - 128)
    assert mine.find_slots(RankRequirements(mem=1)) is None


def test_what_empty_nodes_cannot_hold_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="these 2 nodes have 0 such slots at most"):
        nodes().find_slots(RankRequirements(n_cores=5))
    with pytest.raises(InvalidRequest, match=r"n_slots=9 .*have 8 such slots at most"):
        nodes().find_slots(RankRequirements(), n_slots=9)


def test_cores_that_are_down_are_passed_over() -> None:
    node = Node({"index": 0, "name": "a", "cores": [FREE, DOWN, BUSY, FREE], "gpus": []})
    slot = node.find_slot(RankRequirements(n_cores=2))
    assert slot is not None
    assert [core.index for core in slot.cores] == [0, 3]


def test_a_rank_stays_in_a_numa_domain_if_it_asks_to() -> None:
    domains = {0: NumaDomain(cores=range(2), gpus=[0]), 1: NumaDomain(cores=range(2, 4), gpus=[1])}
    node = NumaNode(next(iter(nodes(1))), domains)
    assert node.find_slot(RankRequirements(n_cores=3, numa=True)) is None
    first = node.find_slot(RankRequirements(n_cores=1, numa=True))
    second = node.find_slot(RankRequirements(n_cores=2, n_gpus=1, numa=True))
    assert places([slot for slot in (first, second) if slot]) == [("n0", [0], []), ("n0", [2, 3], [1])]


def test_the_domains_of_a_pilots_nodes_are_known() -> None:
    (node,) = node_list([resources.Node(0, "n0", NodeShape(8, 4), domain=4)])
    assert {number: (list(domain.cores), list(domain.gpus)) for number, domain in node.domains.items()} == {
        0: ([0, 1, 2, 3], [0, 1]),
        1: ([4, 5, 6, 7], [2, 3]),
    }


def test_a_slot_that_is_not_free_is_not_taken() -> None:
    (node,) = nodes(1)
    node.allocate_slot(Slot(cores=[1]))
    with pytest.raises(InvalidRequest, match=r"node 'n0': core 1 of .* is not there or not free"):
        node.allocate_slot(Slot(cores=[0, 1]))
    with pytest.raises(InvalidRequest, match="gpu 7"):
        node.allocate_slot(Slot(cores=[0], gpus=[7]))
    assert [core.occupation for core in node.cores] == [FREE, BUSY, FREE, FREE]


def test_records_are_read_by_attribute_and_item_and_refuse_unknown_fields() -> None:
    slot = Slot({"node_index": 1, "cores": [{"index": 2}], "gpus": [3]})
    assert (slot.node_index, slot["cores"], slot.get("gpus"), slot.get("nothing", 7)) == (1, [RO(index=2)], [RO(index=3)], 7)
    assert slot.as_dict()["cores"] == [{"index": 2, "occupation": 1.0}]
    assert slot == Slot(slot.as_dict()) != Slot()
    with pytest.raises(UnknownAttribute, match="Slot has no field 'core'; did you mean 'cores'"):
        Slot(core=[1])
    with pytest.raises(KeyError):
        slot["core"]


def test_found_slots_become_the_placement_of_a_task_and_come_back() -> None:
    mine = nodes()
    found = mine.find_slots(RankRequirements(n_cores=2, n_gpus=1, gpu_occupation=0.5), n_slots=3)
    template, _ = made(executable="a", slots=found)
    shares = (NodeShare(0, 1, b"\3", ((0, 32),)), NodeShare(0, 1, b"\x0c", ((0, 32),)), NodeShare(1, 1, b"\3", ((0, 32),)))
    assert template.request == Request(ranks=3, cores=2, gpu_shares=32, slots=shares)
    names = [resources.Node(index, f"n{index}", NodeShape(4, 2)) for index in range(2)]
    assert places(slots_of(shares, template.request, names)) == places(found)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 1), st.integers(1, 3)), max_size=12), st.randoms())
def test_no_core_is_taken_twice_and_all_are_free_in_the_end(requests: list[tuple[int, int, int]], random: object) -> None:
    mine = nodes(3, 4, 2)
    taken: list[list[Slot]] = []
    for cores, gpus, count in requests:
        found = mine.find_slots(RankRequirements(n_cores=cores, n_gpus=gpus), n_slots=count)
        if found is None:
            if taken:
                mine.release_slots(taken.pop(random.randrange(len(taken))))  # type: ignore[attr-defined]
            continue
        taken.append(found)
        for kind in ("cores", "gpus"):
            held = [(slot.node_index, one.index) for slots in taken for slot in slots for one in slot[kind]]
            assert len(held) == len(set(held))
    for slots in taken:
        mine.release_slots(slots)
    assert all(one.occupation == FREE for node in mine for one in (*node.cores, *node.gpus))
