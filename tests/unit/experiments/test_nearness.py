"""How near is near: small cases, by hand."""

from __future__ import annotations

import pytest

from pilotage.experiments.definition import Findings, Measure, Point, Value
from pilotage.experiments.nearness import bend, direction, nearness


def measure(*points: Point) -> Measure:
    return Measure(name="ttx", title="time", unit="s", x="cores", published=points)


def found(*values: tuple[float, float], spread: float = 0.0) -> Findings:
    return Findings([Value("ttx", x, "modelled", value, spread) for x, value in values])


def test_deviations_are_relative_to_what_was_published():
    near = nearness(measure(Point(1, 100.0), Point(2, 200.0)), found((1, 110.0), (2, 160.0)), "modelled")

    assert near is not None
    assert near.points == 2
    assert near.deviation == pytest.approx((0.1 + 0.2) / 2)
    assert near.worst == pytest.approx(0.2)
    assert near.factor == pytest.approx((1.1 * 0.8) ** 0.5)


def test_only_points_that_both_have_are_compared():
    near = nearness(measure(Point(1, 100.0), Point(4, 1.0)), found((1, 100.0), (2, 160.0)), "modelled")

    assert near is not None
    assert (near.points, near.deviation, near.steps) == (1, 0.0, 0)


def test_nothing_to_compare_is_none():
    assert nearness(measure(Point(1, 100.0)), found((2, 100.0)), "modelled") is None
    assert nearness(measure(Point(1, 100.0)), found((1, 100.0)), "ideal") is None


def test_steps_go_up_down_or_are_level():
    assert direction(100.0, 110.0) == 1
    assert direction(110.0, 100.0) == -1
    assert direction(100.0, 104.0) == 0
    assert direction(100.0, 110.0, spread=12.0) == 0


def test_steps_that_go_the_same_way_are_counted():
    published = measure(Point(1, 100.0), Point(2, 200.0), Point(3, 200.0), Point(4, 100.0))
    near = nearness(published, found((1, 1.0), (2, 2.0), (3, 3.0), (4, 2.0)), "modelled")

    assert near is not None
    # Up as published; up where published is level; down as published.
    assert (near.steps, near.steps_alike) == (3, 2)


def test_a_step_within_the_noise_of_either_is_level_for_both():
    published = measure(Point(1, 48.0, 10.0), Point(2, 43.0, 7.0))
    near = nearness(published, found((1, 53.0), (2, 47.0)), "modelled")

    assert near is not None
    assert near.steps_alike == 1
    near = nearness(measure(Point(1, 48.0), Point(2, 43.0)), found((1, 53.0), (2, 47.0), spread=8.0), "modelled")
    assert near is not None
    assert near.steps_alike == 1


def test_a_curve_bends_where_it_is_furthest_from_its_chord():
    flat_then_steep = [(1, 10.0), (10, 10.0), (100, 10.0), (1000, 100.0)]
    # The chord rises by a third of a decade in each step: at 100 the curve is two thirds of a decade below it.
    assert bend(flat_then_steep) == 100


def test_a_straight_line_on_logarithmic_scales_has_no_bend():
    assert bend([(1, 1.0), (10, 10.0), (100, 100.0)]) is None
    assert bend([(1, 5.0), (10, 5.01), (100, 5.0)]) is None


def test_two_points_or_nothing_above_zero_have_no_bend():
    assert bend([(1, 1.0), (10, 100.0)]) is None
    assert bend([(1, 0.0), (10, 1.0), (100, 100.0)]) is None
