"""The components of the system, each by itself under all the load that it can bear, beside what was published of RADICAL-Pilot.

See ``cloning`` for how. The published figures are of 2018, on Blue Waters, where each component had a core to itself; the
launchers there were ORTE's, which started tasks on all nodes of a pilot. Ours are of this machine.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from pilotage.bench import cloned_runs, cloning
from pilotage.bench.cloning import Course
from pilotage.bench.measure import Row, row

CORES = (1024, 2048, 4096, 8192)
SPAWNERS = (1, 2, 4, 8)

_PAPER_ALLOCATION = {8192: 91.0}
_PAPER_LAUNCHES = {1024: 48.2, 2048: 42.6, 4096: 39.1, 8192: 33.0}


def components(quick: bool = False) -> list[Row]:
    """Scheduler, executor, stager, delivery of outcomes, client's core; one task, cloned in each."""
    clones, rounds = (10_000, 3) if quick else (10_000, 9)
    rows: list[Row] = []
    for cores in CORES:
        rate = middle(rounds, lambda: cloning.allocation(cores, clones))  # noqa: B023
        rows.append(_row(f"scheduler, {cores:,} cores: allocate", rate, "tasks/s", _PAPER_ALLOCATION.get(cores)))
    for cores in CORES:
        rate = middle(rounds, lambda: cloning.steady_state(cores, clones))  # noqa: B023
        # The figure has a scale up to 100 a second and no numbers.
        rows.append(_row(f"scheduler, {cores:,} cores: allocate and free", rate, "tasks/s", 100.0, "at most"))
    for spawners in SPAWNERS:
        rate = middle(1 if quick else 3, lambda: cloned_runs.execution(spawners, 400 if quick else 2000))  # noqa: B023
        rows.append(_row(f"executor, {spawners} spawners: null executables", rate, "tasks/s", _PAPER_LAUNCHES[1024]))
    few = 1000 if quick else 10_000
    rows.append(row("stager: a file for each", middle(rounds, lambda: cloned_runs.staging(few)), "tasks/s"))
    rows.append(row("outcomes: delivered over a socket", middle(rounds, lambda: cloning.delivery(clones)), "tasks/s"))
    both = [cloning.client_core(clones) for _ in range(rounds)]
    taken, told = (statistics.median(course.rate for course in courses) for courses in zip(*both, strict=True))
    rows.append(row("client's core: accept, bind and send", taken, "tasks/s"))
    rows.append(row("client's core: take in outcomes", told, "tasks/s"))
    return rows


def middle(rounds: int, run: Callable[[], Course]) -> float:
    """Return the median of the rates of some rounds."""
    return statistics.median(run().rate for _ in range(rounds))


def _row(case: str, rate: float, unit: str, paper: float | None, word: str = "") -> Row:
    if paper is None:
        return row(case, rate, unit)
    return row(case, rate, unit, baseline=paper, against=f"published{', ' if word else ''}{word}")
