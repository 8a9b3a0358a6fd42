"""What it costs to keep what tasks print, by where it is kept: time, and entries of file systems."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pilotage as rp
from pilotage.bench.executables import bare_loops
from pilotage.bench.measure import Row, medians, row
from pilotage.bench.runs import Bench, bench_pilot

_SLOTS = 32
_PROGRAMS = {"null": ["/bin/true"], "echo": ["/bin/echo", "hello"]}
_MODES: dict[str, dict[str, Any]] = {
    "files": {},
    "aggregate": {"output": "aggregate"},
    "aggregate, no sandbox": {"output": "aggregate", "sandbox": "none"},
    "tail, shared sandbox": {"output": "tail", "sandbox": "shared"},
    "discard": {"output": "discard"},
}


def outputs(quick: bool = False) -> list[Row]:
    """Submission to the last final state at the client, for a program that prints nothing and one that prints a line."""
    count, rounds = (600, 2) if quick else (3000, 5)
    rows: list[Row] = []
    for program, command in _PROGRAMS.items():
        with bench_pilot(resource="local.emulated", cores=_SLOTS) as bench:
            _rate(bench, 200, command, {})
            measures: list[Callable[[], float]] = [partial(_rate, bench, count, command, mode) for mode in _MODES.values()]
            measures.append(partial(_bare_rate, count, command))
            *rates, bare = medians(rounds, *measures)
            for name, rate in zip(_MODES, rates, strict=True):
                target = "ratio >= 0.75" if program == "null" else ""
                against = "two bare posix_spawn loops that print to /dev/null"
                rows.append(row(f"{program}, {name}", rate, "tasks/s", baseline=bare, against=against, target=target))
            for name, mode in _MODES.items():
                before = _entries(bench)
                _rate(bench, count, command, mode)
                rows.append(row(f"{program}, {name}: files and folders", (_entries(bench) - before) / count, "per task"))
    return rows


def _rate(bench: Bench, count: int, command: list[str], mode: dict[str, Any]) -> float:
    described = {"executable": command[0], "arguments": command[1:], **mode}
    descriptions = [rp.TaskDescription(described) for _ in range(count)]
    start = time.perf_counter()
    bench.run(descriptions)
    return count / (time.perf_counter() - start)


def _bare_rate(count: int, command: list[str]) -> float:
    """Run the command in bare loops, its output where ours is not."""
    ours, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    try:
        return bare_loops(count, command)[0]
    finally:
        os.dup2(ours, 1)
        os.close(ours)
        os.close(null)


def _entries(bench: Bench) -> int:
    """Return how many files and folders there are of tasks in the pilot's folder."""
    places = [os.path.join(bench.pilot.sandbox, name) for name in ("tasks", "output")]
    return sum(len(folders) + len(files) for place in places for _, folders, files in os.walk(place))
