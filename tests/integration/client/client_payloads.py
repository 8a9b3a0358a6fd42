"""Functions that the tests have run by a pilot."""

from __future__ import annotations

import time


def double(value: int) -> int:
    return 2 * value


def fail(value: int) -> int:
    raise ValueError(f"{value} is not liked")


def fail_at(value: int) -> int:
    if value == 7:
        raise ValueError("seven")
    return value


def big(size: int) -> bytes:
    return b"x" * size


def doze(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def apply(self, value: int) -> int:
        return self.factor * value


def unopenable() -> object:
    import threading

    return threading.Lock()
