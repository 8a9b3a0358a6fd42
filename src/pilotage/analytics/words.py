"""Numbers as people read them, in advice and reports."""

from __future__ import annotations


def percent(share: float) -> str:
    """Return a share in percent, with as many digits as mean anything.

    >>> percent(0.9532), percent(0.0042), percent(0), percent(1)
    ('95.3 %', '0.42 %', '0 %', '100 %')
    """
    return f"{number(100 * share)} %"


def count(amount: int, noun: str) -> str:
    """Return a count with its noun.

    >>> count(1, "task"), count(12000, "task")
    ('1 task', '12,000 tasks')
    """
    return f"{amount:,} {noun}{'' if amount == 1 else 's'}"


def number(value: float) -> str:
    """Return a number with three digits that mean something.

    >>> number(0), number(0.01234), number(3.0), number(12.345), number(123456.7)
    ('0', '0.0123', '3', '12.3', '123,457')
    """
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def time(seconds: float) -> str:
    """Return a length of time.

    >>> time(0), time(0.0000123), time(0.0123), time(3.21), time(125), time(7300), time(200000)
    ('0 s', '12.3 µs', '12.3 ms', '3.21 s', '2.08 min', '2.03 h', '2.31 d')
    """
    if seconds <= 0:
        return "0 s"
    for most, divisor, unit in ((1e-3, 1e-6, "µs"), (1, 1e-3, "ms"), (120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < most * 0.9995:
            return f"{number(seconds / divisor)} {unit}"
    return f"{number(seconds / 86400)} d"


def core_time(core_s: float, unit: str = "core") -> str:
    """Return an amount of core-time.

    >>> core_time(0), core_time(0.5), core_time(90), core_time(36000)
    ('0 core-s', '500 core-ms', '90 core-s', '10 core-h')
    """
    if 0 < core_s < 1:
        return f"{number(core_s * 1e3)} {unit}-ms"
    return f"{number(core_s)} {unit}-s" if core_s < 7200 else f"{number(core_s / 3600)} {unit}-h"


def cut(text: str, length: int) -> str:
    """Return a text no longer than ``length``.

    >>> cut("abcdef", 4), cut("abcd", 4)
    ('abc…', 'abcd')
    """
    return text if len(text) <= length else text[: length - 1] + "…"
