"""Concurrency, rates and ranges: exact, whatever the intervals."""

from __future__ import annotations

import random
from itertools import pairwise

import polars as pl
import pytest

from pilotage.analytics.spans import (
    collapse,
    edges,
    mean_concurrency,
    most_in_a_second,
    nice_interval,
    peak_concurrency,
    per_second,
    stage_named,
    station_named,
)
from pilotage.errors import InvalidRequest


def columns(*spans: tuple[float, float]) -> tuple[pl.Series, pl.Series]:
    return pl.Series([begin for begin, _ in spans], dtype=pl.Float64), pl.Series([end for _, end in spans], dtype=pl.Float64)


def random_spans(seed: int, count: int = 60) -> list[tuple[float, float]]:
    chance = random.Random(seed)
    # Quarters, so that begins and ends meet, and spans without length are among them.
    starts = [1000.0 + chance.randint(0, 80) / 4 for _ in range(count)]
    return [(start, start + chance.randint(0, 12) / 4) for start in starts]


def test_concurrency_is_the_mean_of_each_interval() -> None:
    begin, end = columns((100.0, 102.0), (100.5, 101.0), (101.25, 101.5))
    assert mean_concurrency(begin, end, [100.0, 101.0, 102.0, 103.0]) == pytest.approx([1.5, 1.25, 0.0])


def test_weights_count_as_often_as_they_are() -> None:
    begin, end = columns((100.0, 102.0), (100.5, 101.0))
    assert mean_concurrency(begin, end, [100.0, 101.0, 102.0], pl.Series([2, 4])) == pytest.approx([4.0, 2.0])


@pytest.mark.parametrize("seed", range(5))
def test_concurrency_adds_up_to_the_time_that_spans_take(seed: int) -> None:
    spans = random_spans(seed)
    for interval_s in (0.1, 1.0, 7.0, 100.0):
        at = edges(1000.0, 1030.0, interval_s)
        means = mean_concurrency(*columns(*spans), at)
        assert sum(means) * interval_s == pytest.approx(sum(end - begin for begin, end in spans))


@pytest.mark.parametrize("seed", range(5))
def test_the_peak_is_the_most_at_any_moment(seed: int) -> None:
    spans = random_spans(seed)
    moments = {begin for begin, _ in spans}
    most = max(sum(begin <= moment < end for begin, end in spans) for moment in moments)
    assert peak_concurrency(*columns(*spans)) == most


def test_what_ends_makes_room_before_what_begins() -> None:
    assert peak_concurrency(*columns((1.0, 2.0), (2.0, 3.0))) == 1
    assert peak_concurrency(*columns((1.0, 1.0))) == 0
    assert peak_concurrency(*columns()) == 0
    assert peak_concurrency(*columns((1.0, 2.0), (1.5, 3.0)), pl.Series([2.0, 0.5])) == 2.5


def test_rates_count_what_lies_in_each_interval_and_the_last_edge_is_within() -> None:
    times = pl.Series([100.0, 100.1, 100.9, 102.5, 103.0])
    assert per_second(times, [100.0, 101.0, 102.0, 103.0]) == [3.0, 0.0, 2.0]
    assert per_second(times, edges(100.0, 103.0, 0.5)) == [4.0, 2.0, 0.0, 0.0, 0.0, 4.0]


def test_the_busiest_second_need_not_begin_with_an_interval() -> None:
    assert most_in_a_second(pl.Series([100.0, 100.9, 101.1, 101.8, 103.0])) == 3
    # A second is open at its end: what is exactly a second later is in the next.
    assert most_in_a_second(pl.Series([100.0, 101.0, 102.0])) == 1
    assert most_in_a_second(pl.Series([], dtype=pl.Float64)) == 0


@pytest.mark.parametrize("seed", range(5))
def test_collapsed_ranges_are_the_times_in_which_there_is_something(seed: int) -> None:
    spans = random_spans(seed, count=12)
    merged = collapse(pl.DataFrame(spans, schema={"begin": pl.Float64, "end": pl.Float64}, orient="row"))
    found = list(merged.iter_rows())
    assert all(left_end < right_begin for (_, left_end), (right_begin, _) in pairwise(found))
    for moment in (1000.0 + eighth / 8 + 1 / 16 for eighth in range(8 * 25)):
        assert any(a <= moment < b for a, b in found) == any(a <= moment < b for a, b in spans)


def test_intervals_cover_the_time_and_are_round() -> None:
    assert edges(10.0, 12.5, 1.0) == [10.0, 11.0, 12.0, 13.0]
    assert edges(10.0, 10.0, 1.0) == [10.0, 11.0]
    for length in (0.02, 1.0, 13.1, 4000.0, 1e6):
        assert 200 / 2.6 <= length / nice_interval(length) <= 200 or nice_interval(length) == 0.01


def test_stages_have_two_names_and_a_third_is_refused() -> None:
    assert stage_named("running") is stage_named("AGENT_EXECUTING")
    with pytest.raises(InvalidRequest, match="did you mean 'running'"):
        stage_named("runing")
    with pytest.raises(InvalidRequest, match="did you mean 'started'"):
        station_named("startd")
