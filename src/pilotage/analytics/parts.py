"""Into which parts core-time is divided: the books of ``trace.usage`` in the words of those who ask.

The seven states of the books are the finest division. The schemes here merge them:

``summary``  useful work, what the pilot system took, and what nobody wanted
``origin``   whose doing it was: the tasks', Pilotage's own, that of whatever starts processes, nobody's
``phases``   in the order in which a resource passes them: the pilot starts, warms up, prepares, executes, drains
``tasks``    by what the task on the resource was doing
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from pilotage.errors import InvalidRequest, nearest
from pilotage.model.resources import GPU_SHARES
from pilotage.trace.usage import (
    COLLECTING,
    IDLE,
    LAUNCHING,
    RUNNING,
    SCHEDULING,
    STARTUP,
    STATES,
    TEARDOWN,
    TICKS_PER_S,
    CoreTime,
    Resource,
)

STATES_SCHEME = "states"

SCHEMES: Mapping[str, Mapping[str, str]] = {
    STATES_SCHEME: {state: state for state in STATES},
    "summary": {
        RUNNING: "workload",
        **dict.fromkeys((STARTUP, SCHEDULING, LAUNCHING, COLLECTING, TEARDOWN), "overhead"),
        IDLE: "idle",
    },
    "origin": {
        RUNNING: "workload",
        **dict.fromkeys((STARTUP, SCHEDULING, COLLECTING, TEARDOWN), "pilot system"),
        LAUNCHING: "launcher",
        IDLE: "idle",
    },
    "phases": {
        STARTUP: "pilot startup",
        SCHEDULING: "warmup",
        LAUNCHING: "prepare exec",
        RUNNING: "exec cmd",
        COLLECTING: "drain",
        TEARDOWN: "drain",
        IDLE: "idle",
    },
    "tasks": {
        SCHEDULING: "scheduled",
        LAUNCHING: "launching",
        RUNNING: "running",
        COLLECTING: "running",
        **dict.fromkeys((STARTUP, TEARDOWN, IDLE), "idle"),
    },
}
"""For each scheme, the part to which each state belongs."""


def scheme_named(name: str) -> Mapping[str, str]:
    """Return a scheme.

    Raises:
        InvalidRequest: there is none of this name.
    """
    if name not in SCHEMES:
        raise InvalidRequest(f"there is no scheme {name!r}{nearest(name, SCHEMES)}; known are {', '.join(SCHEMES)}")
    return SCHEMES[name]


def totals(spent: CoreTime, of: Resource, scheme: Mapping[str, str]) -> pl.DataFrame:
    """Return ``part``, ``core_s`` (or ``gpu_s``) and ``share``; the shares add up to 1."""
    parts = part_of_states(spent, scheme)
    seconds: dict[str, int] = dict.fromkeys(parts.values(), 0)
    for state, ticks in spent.ticks.items():
        seconds[parts[state]] += ticks
    held = spent.held_ticks or 1
    return pl.DataFrame(
        {
            "part": pl.Series(list(seconds), dtype=pl.String),
            unit_seconds(of): pl.Series([ticks / TICKS_PER_S / scale(of) for ticks in seconds.values()], dtype=pl.Float64),
            "share": pl.Series([ticks / held for ticks in seconds.values()], dtype=pl.Float64),
        }
    )


def over_time(spent: CoreTime, of: Resource, scheme: Mapping[str, str]) -> pl.DataFrame:
    """Return ``time`` (the begin of each interval) and a column for each part: how many cores (GPUs) were in it, as the mean.

    The last interval may reach beyond the end of the last pilot.
    """
    parts = part_of_states(spent, scheme)
    times = [spent.begin + place * spent.bin_ticks / TICKS_PER_S for place in range(spent.bins)]
    columns = {"time": pl.Series(times, dtype=pl.Float64)}
    for state, ticks in spent.binned.items():
        busy = pl.Series(ticks, dtype=pl.Float64) / (spent.bin_ticks * scale(of))
        part = parts[state]
        columns[part] = columns[part] + busy if part in columns else busy
    return pl.DataFrame(columns)


def part_of_states(spent: CoreTime, scheme: Mapping[str, str]) -> dict[str, str]:
    """Return the part of each state of these books; running time of a label keeps its label."""
    return {
        state: scheme[RUNNING] + state.removeprefix(RUNNING) if state.startswith(RUNNING) else scheme[state]
        for state in spent.ticks
    }


def scale(of: Resource) -> int:
    """Return by what the counts of the books are divided to be cores, or whole GPUs."""
    return 1 if of == "cores" else GPU_SHARES


def unit_seconds(of: Resource) -> str:
    """Return the name of the column of totals."""
    return "core_s" if of == "cores" else "gpu_s"
