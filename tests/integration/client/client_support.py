"""Waiting for a condition in tests."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE_S = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, checking often; fail after ``DEADLINE_S``."""
    end = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end, f"not within {DEADLINE_S:g} s: {what}"
        time.sleep(0.005)
