"""Lists of hosts and sets of numbers, as batch systems write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pilotage.platforms.allocations.host_lists import (
    compress_hosts,
    compress_numbers,
    expand_counts,
    expand_hosts,
    expand_numbers,
)

words = st.text("abcxyz-._", min_size=1, max_size=6)
hosts = st.one_of(words, st.builds("{}{}".format, words, st.text("0123456789", min_size=1, max_size=6)))


@given(st.lists(hosts, max_size=40))
def test_what_is_compressed_expands_to_the_same_hosts_in_the_same_order(names: list[str]) -> None:
    assert expand_hosts(compress_hosts(names)) == names


@given(words, st.integers(0, 12_000), st.integers(0, 300), st.integers(0, 6))
def test_a_range_is_padded_as_its_first_number(prefix: str, first: int, more: int, width: int) -> None:
    text = f"{first:0{width}d}"
    expanded = expand_hosts(f"{prefix}[{text}-{first + more}]")
    assert expanded == [f"{prefix}{number:0{len(text)}d}" for number in range(first, first + more + 1)]
    assert compress_hosts(expanded) == (
        f"{prefix}[{expanded[0][len(prefix) :]}-{expanded[-1][len(prefix) :]}]" if more else expanded[0]
    )


@given(st.lists(st.tuples(words, st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=3))
def test_each_dimension_runs_within_the_one_before(dimensions: list[tuple[str, int, int]]) -> None:
    expected = [""]
    for word, first, more in dimensions:
        expected = [f"{before}{word}{number}" for before in expected for number in range(first, first + more + 1)]
    assert expand_hosts("".join(f"{word}[{first}-{first + more}]" for word, first, more in dimensions)) == expected


@given(st.sets(st.integers(0, 2_000), max_size=200))
def test_sets_of_numbers_come_back(numbers: set[int]) -> None:
    if numbers:
        assert expand_numbers(compress_numbers(numbers)) == sorted(numbers)


@given(st.text("abn019[],-x() ", max_size=30))
def test_any_text_is_expanded_or_refused(text: str) -> None:
    for expand in (expand_hosts, expand_numbers, expand_counts):
        try:
            expand(text)
        except ValueError as error:
            assert str(error)


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        # What scontrol of Slurm 22.05 makes of these.
        ("a[1-2]b[03-04],c[008-010],d", ["a1b03", "a1b04", "a2b03", "a2b04", "c008", "c009", "c010", "d"]),
        ("i[08-11,2]", ["i08", "i09", "i10", "i11", "i2"]),
        ("c[1-2],,d", ["c1", "c2", "d"]),
        ("[1-2]", ["1", "2"]),
        (" a , b", ["a", "b"]),
        ("h[9-11]", ["h9", "h10", "h11"]),
        # Slurm knows nothing after a bracket; others do.
        ("rack[1-2]-ib", ["rack1-ib", "rack2-ib"]),
        ("", []),
    ],
)
def test_expanded_as_the_system_does(text: str, expanded: list[str]) -> None:
    assert expand_hosts(text) == expanded


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("b[3-1]", "'3-1' in 'b[3-1]' goes down"),
        ("d[]", "'' in 'd[]' is neither a number nor a range"),
        ("e[1-", "a bracket without its other one in 'e[1-'"),
        ("a,e1]", "a bracket without its other one"),
        ("n[a-b]", "'a-b' in 'n[a-b]' is neither"),
        ("n[1-2000000]", "2000000 hosts, and no list has more than 1000000"),
        ("n[1-5000][1-5000]", "25000000 hosts"),
    ],
)
def test_what_cannot_be_expanded_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError) as raised:
        expand_hosts(text)
    assert said in str(raised.value)


def test_counts_for_nodes() -> None:
    assert expand_counts("8(x3),2") == [8, 8, 8, 2]
    with pytest.raises(ValueError, match=r"'8\(x' is neither a number"):
        expand_counts("8(x")
    with pytest.raises(ValueError, match="no list has more than"):
        expand_counts("1(x99999999)")
