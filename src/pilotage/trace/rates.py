"""How fast and how wide a run went: concurrency, rates, durations between stations, and the figures that papers report.

Words that are used in several senses are kept apart: the rate at which tasks start and that at which they complete; and three
times to completion, of the agent, of the workload and of the whole campaign (``Figures``).
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import msgspec

from pilotage.model.outcome import state_of
from pilotage.model.states import CANCELED, DONE, FAILED
from pilotage.trace.run import Run, Tasks

LEGS = (
    ("binding", "submitted", "bound"),
    ("submission", "bound", "accepted"),
    ("waiting for resources", "accepted", "launched"),
    ("launch", "launched", "started"),
    ("run", "started", "ended"),
    ("collection", "ended", "collected"),
    ("delivery", "collected", "final"),
)
"""The ways between stations. Launch includes the time behind other tasks of the same lane."""


class Leg(msgspec.Struct, frozen=True):
    """How long tasks took from one station to the next, in seconds; ``count`` of them passed both."""

    name: str
    count: int
    mean_s: float
    median_s: float
    p95_s: float
    longest_s: float


class Series(msgspec.Struct, frozen=True):
    """Values in equal intervals of ``interval_s`` seconds from ``begin`` (seconds since the epoch) on."""

    begin: float
    interval_s: float
    values: list[float]


class Figures(msgspec.Struct, frozen=True):
    """The figures of a run.

    ``ttx_agent_s``: from the first task that an agent took to the last outcome that one logged. ``ttx_workload_s``: from the
    first start to the last end of a task. ``makespan_s``: from the first submission to the last outcome at the client.
    """

    tasks: int
    done: int
    failed: int
    cancelled: int
    unfinished: int
    ttx_agent_s: float
    ttx_workload_s: float
    makespan_s: float
    mean_start_rate: float
    """Tasks started per second, between the first start and the last."""
    peak_start_rate: float
    """Tasks started in the busiest second."""
    mean_completion_rate: float
    """Tasks ended per second of ``ttx_workload_s``."""
    peak_completion_rate: float
    peak_concurrency: int
    """Tasks running at a time."""


def concurrency(run: Run, interval_s: float = 1.0, kind: str | None = None) -> Series:
    """Return how many tasks (of a kind) ran, as the mean of each interval.

    A task that has not ended counts up to the last time in the logs.
    """
    tasks = run.tasks
    last = _last_time(run)
    spans = [
        (start, end or max(last, start))
        for start, end, each in zip(tasks.started, tasks.ended, tasks.kind, strict=True)
        if start and (kind is None or each == kind)
    ]
    begin, count = _intervals(run, interval_s)
    # The mean of an interval from sums alone: whole intervals by a running count, parts of intervals as they are.
    whole = [0.0] * (count + 1)
    parts = [0.0] * (count + 1)
    for start, end in spans:
        first, final = (start - begin) / interval_s, max(end - begin, start - begin) / interval_s
        low, high = int(first), min(int(final), count)
        if low == high:
            parts[low] += final - first
            continue
        parts[low] += low + 1 - first
        parts[high] += final - high
        whole[low + 1] += 1
        whole[high] -= 1
    return Series(begin, interval_s, [full + part for full, part in zip(accumulate(whole), parts, strict=True)][:count])


def start_rate(run: Run, interval_s: float = 1.0) -> Series:
    """Return how many tasks started per second in each interval."""
    return _rate(run, "started", interval_s)


def completion_rate(run: Run, interval_s: float = 1.0) -> Series:
    """Return how many tasks that had started ended per second in each interval."""
    return _rate(run, "ended", interval_s)


def legs(run: Run) -> list[Leg]:
    """Return how long tasks took between stations."""
    found = []
    for name, source, target in LEGS:
        starts, stops = getattr(run.tasks, source), getattr(run.tasks, target)
        times = sorted(stop - start for start, stop in zip(starts, stops, strict=True) if start and stop)
        if times:
            count = len(times)
            middle, high = times[count // 2], times[min(count - 1, count * 95 // 100)]
            found.append(Leg(name, count, sum(times) / count, middle, high, times[-1]))
    return found


def figures(run: Run) -> Figures:
    """Return the figures of the run; times and rates are 0.0 where the logs do not tell."""
    tasks = run.tasks
    states = Counter(state_of(ending) for ending in tasks.ending if ending is not None)
    started = sorted(filter(None, tasks.started))
    ended = sorted(end for start, end in zip(tasks.started, tasks.ended, strict=True) if start and end)
    workload = ended[-1] - started[0] if ended else 0.0
    starting = started[-1] - started[0] if started else 0.0
    return Figures(
        tasks=len(tasks),
        done=states[DONE],
        failed=states[FAILED],
        cancelled=states[CANCELED],
        unfinished=len(tasks) - sum(states.values()),
        ttx_agent_s=_between(tasks, "accepted", "collected"),
        ttx_workload_s=workload,
        makespan_s=_between(tasks, "submitted", "final"),
        mean_start_rate=len(started) / starting if starting else 0.0,
        peak_start_rate=_most_in_a_second(started),
        mean_completion_rate=len(ended) / workload if workload else 0.0,
        peak_completion_rate=_most_in_a_second(ended),
        peak_concurrency=_most_at_a_time(tasks),
    )


def _between(tasks: Tasks, source: str, target: str) -> float:
    first = min(filter(None, getattr(tasks, source)), default=0.0)
    last = max(getattr(tasks, target), default=0.0)
    return max(0.0, last - first) if first and last else 0.0


def _most_in_a_second(times: list[float]) -> float:
    """Return how many of ascending ``times`` lie within one second at the most."""
    most = first = 0
    for last, time in enumerate(times):
        while times[first] <= time - 1.0:
            first += 1
        most = max(most, last - first + 1)
    return float(most)


def _most_at_a_time(tasks: Tasks) -> int:
    changes = []
    for start, end in zip(tasks.started, tasks.ended, strict=True):
        if start:
            changes.append((start, 1))
            if end:
                changes.append((max(start, end), -1))
    # At equal times ends come first, so a lane's chain counts once.
    return max(accumulate(change for _, change in sorted(changes)), default=0)


def _last_time(run: Run) -> float:
    return max((pilot.end for pilot in run.pilots.values()), default=0.0)


def _intervals(run: Run, interval_s: float) -> tuple[float, int]:
    """Return where the first start lies, and the number of intervals up to the last start or end of a task that started.

    While one of them runs they reach up to the last time in the logs.
    """
    spans = [(start, end) for start, end in zip(run.tasks.started, run.tasks.ended, strict=True) if start]
    begin = min((start for start, _ in spans), default=0.0)
    end = max((max(start, end or _last_time(run)) for start, end in spans), default=0.0)
    return begin, int((end - begin) / interval_s) + 1 if begin else 0


def _rate(run: Run, station: str, interval_s: float) -> Series:
    tasks = run.tasks
    begin, count = _intervals(run, interval_s)
    values = [0.0] * count
    weight = 1.0 / interval_s
    for time, started in zip(getattr(tasks, station), tasks.started, strict=True):
        if time and started:
            values[max(0, int((time - begin) / interval_s))] += weight
    return Series(begin, interval_s, values)
