"""The order in which tasks that wait for each other are sent, and circles among them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.client.dependencies import in_order
from pilotage.core.client.facts import Held
from pilotage.errors import InvalidTask
from pilotage.model.ids import TaskUid


def graph(edges: dict[str, str]) -> dict[TaskUid, Held]:
    """Return what tasks wait for, each as text: ``{"c": "a b"}``."""
    return {TaskUid(uid): Held(tuple(TaskUid(other) for other in others.split())) for uid, others in edges.items()}


def order(uids: str, edges: dict[str, str]) -> str:
    return " ".join(in_order([TaskUid(uid) for uid in uids.split()], graph(edges)))


def test_an_order_that_is_good_stays() -> None:
    assert order("a b c", {}) == "a b c"
    assert order("a b c", {"c": "a", "b": "a"}) == "a b c"
    assert order("a b", {"b": "elsewhere"}) == "a b"


def test_those_that_wait_come_after_those_that_they_wait_for() -> None:
    assert order("d c b a", {"d": "b c", "b": "a", "c": "a"}) == "a b c d"
    assert order("b a x", {"b": "a"}) == "a b x"


def test_services_count_as_well() -> None:
    held = {TaskUid("a"): Held(services=(TaskUid("s"),))}
    assert in_order([TaskUid("a"), TaskUid("s")], held) == ["s", "a"]


@pytest.mark.parametrize(
    ("uids", "edges", "told"),
    [
        ("a b", {"a": "b", "b": "a"}, "a -> b -> a"),
        ("x a b c", {"x": "a", "a": "b", "b": "c", "c": "a"}, "a -> b -> c -> a"),
    ],
)
def test_a_circle_is_shown(uids: str, edges: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidTask, match=f"each for the next: {told}; take one out of after or services"):
        order(uids, edges)


def test_a_chain_may_be_long() -> None:
    uids = [TaskUid(f"t{number}") for number in range(20_000)]
    held = {uid: Held((before,)) for before, uid in zip(uids[1:], uids, strict=False)}
    assert in_order(uids, held) == uids[::-1]


@given(st.integers(1, 12), st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30), st.randoms())
def test_each_comes_once_and_after_all_that_it_waits_for_or_there_is_a_circle(
    count: int, edges: list[tuple[int, int]], random: object
) -> None:
    uids = [TaskUid(str(number)) for number in range(count)]
    random.shuffle(uids)  # type: ignore[attr-defined]
    before: dict[TaskUid, dict[TaskUid, None]] = {}
    for uid, other in edges:
        if uid < count and other < count and uid != other:
            before.setdefault(TaskUid(str(uid)), {})[TaskUid(str(other))] = None
    held = {uid: Held(tuple(others)) for uid, others in before.items()}
    left = dict(before)
    while free := [uid for uid in left if not any(other in left for other in left[uid])]:
        for uid in free:
            del left[uid]
    if left:
        with pytest.raises(InvalidTask, match="wait for each other"):
            in_order(uids, held)
        return
    found = in_order(uids, held)
    assert sorted(found) == sorted(uids)
    assert all(found.index(other) < found.index(uid) for uid, others in before.items() for other in others)
