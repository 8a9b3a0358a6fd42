"""Curves in a bounded number of points: exact in their integrals, however long the run."""

from __future__ import annotations

import random

import pytest

from pilotage.sim.series import FIRST_BIN_S, POINTS, Counts, Levels, Waits


def test_a_level_is_exact_within_bins() -> None:
    level = Levels()
    level.change(0.25 * FIRST_BIN_S, 4.0)
    level.change(1.5 * FIRST_BIN_S, -1.0)
    assert level.means(4) == [3.0, 3.5, 3.0, 3.0]


def test_bins_are_merged_when_time_goes_on_and_nothing_is_lost() -> None:
    level = Levels()
    level.change(0.25 * FIRST_BIN_S, 4.0)
    level.change(1.5 * FIRST_BIN_S, -1.0)
    level.cover(FIRST_BIN_S * POINTS)
    assert level.width_s == 2 * FIRST_BIN_S
    assert level.means(2) == [3.25, 3.0]


@pytest.mark.parametrize("seed", range(20))
def test_the_integral_is_that_of_what_was_noted(seed: int) -> None:
    chance = random.Random(seed)
    level, count = Levels(), Counts()
    until = chance.choice((1.0, 100.0, 1e5))
    spans = [sorted((chance.uniform(0, until), chance.uniform(0, until))) for _ in range(200)]
    changes = [(begin, 1.0) for begin, _ in spans] + [(end, -1.0) for _, end in spans]
    chance.shuffle(changes)
    for at, amount in changes:
        level.change(at, amount)
        count.note(at)
    bins = level.cover(until) + 1
    assert sum(level.means(bins)) * level.width_s == pytest.approx(sum(end - begin for begin, end in spans))
    assert level.means(bins)[-1] == pytest.approx(0.0, abs=200.0)
    count.cover(until)
    assert sum(count.rates(bins)) * count.width_s == pytest.approx(400)
    assert len(level.means(bins)) <= POINTS


def test_quantiles_are_right_to_within_an_eighth() -> None:
    chance = random.Random(3)
    values = sorted(chance.lognormvariate(3.0, 2.0) for _ in range(10_000))
    waits = Waits()
    for value in values:
        waits.note(value)
    assert waits.count == 10_000
    assert waits.mean_s == pytest.approx(sum(values) / 10_000)
    assert waits.quantile_s(1.0) == waits.most_s == values[-1]
    for share in (0.1, 0.5, 0.95, 0.99):
        right = values[int(share * 10_000) - 1]
        assert right <= waits.quantile_s(share) + 0.001
        assert waits.quantile_s(share) <= 1.125 * right + 0.001


def test_nobody_waited() -> None:
    assert (Waits().mean_s, Waits().quantile_s(0.5)) == (0.0, 0.0)


def test_many_wait_equally_long() -> None:
    waits = Waits()
    waits.note(0.0, 99)
    waits.note(8.0)
    assert (waits.count, waits.mean_s, waits.quantile_s(0.5), waits.quantile_s(1.0)) == (100, 0.08, 0.0, 8.0)
