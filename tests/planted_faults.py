"""Faults planted in what random walks test: a walk that notices none of them proves nothing.

A fault is a function that replaces something by a broken form of it, for as long as a test lasts. Its name says what goes
wrong, or its docstring does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Patch = Callable[[pytest.MonkeyPatch], None]


def instead(owner: Any, name: str) -> Callable[[Callable[..., Any]], Patch]:
    """Make a fault of a function: it replaces a method, and is given the original first."""

    def planted(fault: Callable[..., Any]) -> Patch:
        original = getattr(owner, name)

        def patch(monkeypatch: pytest.MonkeyPatch) -> None:
            monkeypatch.setattr(owner, name, lambda *args, **options: fault(original, *args, **options))

        patch.__name__ = fault.__name__
        return patch

    return planted


def require_noticed(
    fault: Patch,
    monkeypatch: pytest.MonkeyPatch,
    walk: Callable[[int], object],
    walks: int,
    by: type[Exception] | tuple[type[Exception], ...] = AssertionError,
) -> None:
    """Fail unless one of so many walks, of the seeds from 0 on, raises an error of the kinds ``by`` with the fault planted."""
    fault(monkeypatch)
    for seed in range(walks):
        try:
            walk(seed)
        except by:
            return
    what = fault.__doc__ or fault.__name__.strip("_").replace("_", " ")
    pytest.fail(f"{walks} walks did not notice this fault: {what}")
