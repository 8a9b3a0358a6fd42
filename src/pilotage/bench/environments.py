"""Null executables in a named environment, against the same without one, in turns on one pilot."""

from __future__ import annotations

import statistics
import time

import pilotage as rp
from pilotage.bench.executables import run_null
from pilotage.bench.measure import Row, row
from pilotage.bench.runs import MEMORY_FOLDER, bench_pilot

_TRUE = "/bin/true"
_COMMANDS = [f"export PILOTAGE_BENCH_{number}=/opt/software/tool-{number}/lib" for number in range(20)]
"""As much as a few modules set."""


def environments(quick: bool = False) -> list[Row]:
    """Rate and CPU with and without, sandboxes in memory; and how long evaluating one takes until a task has run in it."""
    count, rounds = (1000, 4) if quick else (4000, 11)
    with bench_pilot(folder=MEMORY_FOLDER, resource="local.emulated", cores=32) as bench:
        run_null(bench, 200)
        began = time.perf_counter()
        bench.pilot.prepare_env("bench", {"type": "shell", "pre_exec": ["export PATH=/opt/tool/bin:$PATH", *_COMMANDS]})
        bench.run([rp.TaskDescription(executable=_TRUE, named_env="bench")])
        evaluated = time.perf_counter() - began
        taken: dict[str, list[tuple[float, float]]] = {"bench": [], "": []}
        for number in range(rounds):
            # Each goes first every other time, as the speed of a machine drifts.
            for name in ("bench", "") if number % 2 else ("", "bench"):
                taken[name].append(run_null(bench, count, named_env=name))
    return [
        *(
            _compared(what, unit, taken, at, scale, target)
            for what, unit, at, scale, target in (
                ("rate", "tasks/s", 0, 1.0, "ratio >= 0.98"),
                ("CPU", "ms/task", 1, 1e3 / count, "ratio <= 1.02"),
            )
        ),
        row("named environment: from the call to the end of its first task", evaluated * 1e3, "ms"),
    ]


def _compared(what: str, unit: str, taken: dict[str, list[tuple[float, float]]], at: int, scale: float, target: str) -> Row:
    # The ratio of each round, in which load from outside is about the same for both.
    ratio = statistics.median(named[at] / plain[at] for named, plain in zip(taken["bench"], taken[""], strict=True))
    value = statistics.median(named[at] for named in taken["bench"]) * scale
    return row(
        f"null executables in a named environment: {what}",
        value,
        unit,
        baseline=value / ratio,
        against="without, by the median of the rounds' ratios",
        target=target,
    )
