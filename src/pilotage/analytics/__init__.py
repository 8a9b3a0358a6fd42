"""The numbers behind a session: durations, concurrency, rates, utilisation, failures, overheads, advice, reports and plots.

    from pilotage.analytics import Session

    session = Session.read("session.20260101-120000.abcdef")  # a uid, or a folder
    session.figures().utilisation
    session.filter(kind="function").concurrency("running", interval_s=1.0)

What the logs tell is read by ``pilotage.trace``; here it becomes polars frames, one row a task, a launch, a wait. polars comes
with the extra ``analytics`` and is imported when something here is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pilotage.analytics.figures import Figures, Overhead, StageTimes
    from pilotage.analytics.session import Session
    from pilotage.analytics.spans import STAGES

__all__ = ["STAGES", "Figures", "Overhead", "Session", "StageTimes"]

_HOMES = {
    "Figures": "figures",
    "Overhead": "figures",
    "STAGES": "spans",
    "Session": "session",
    "StageTimes": "figures",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ImportError as error:
        if error.name != "polars":
            raise
        raise ImportError(
            f"pilotage.analytics needs polars ({error}); install the extra: pip install 'pilotage[analytics]'", name=error.name
        ) from error
