"""A few of the random rounds with fixed seeds; ``make faults`` plays any number of them."""

from __future__ import annotations

import pytest

from .rounds import play

TASKS = 100


@pytest.mark.parametrize("seed", [6, 7, 9, 102, 105])
def test_a_round_of_random_kills_is_survived(seed: int) -> None:
    play(seed, TASKS)
