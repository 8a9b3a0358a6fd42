"""What a worker runs for ``Executor.map``: several calls in one task. Few imports, as workers import it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from typing import Any

Answer = tuple[list[Any], Exception | None, str]
"""The results up to the first exception, that exception if there is one, and its traceback."""


def call_each(function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Answer:
    """Call ``function`` with each tuple of arguments, in order, up to the first exception."""
    results = []
    for arguments in calls:
        try:
            results.append(function(*arguments))
        except Exception as error:  # the user's function may raise anything; it belongs to whoever asks for this result
            return results, error, traceback.format_exc()
    return results, None, ""
