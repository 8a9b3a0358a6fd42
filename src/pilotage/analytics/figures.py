"""The figures of a run that papers and users report, each under one name and with one meaning.

Words that are used in several senses are kept apart: tasks *launched*, *started* and *ended* per second; and times to
completion of the agent, of the workload and of the whole campaign.
"""

from __future__ import annotations

import math

import msgspec
import polars as pl

from pilotage.analytics.spans import STAGES, collapse, most_in_a_second, peak_concurrency
from pilotage.model.states import CANCELED, DONE, FAILED
from pilotage.trace.usage import CoreTime


class Figures(msgspec.Struct, frozen=True):
    """The figures of a run. Times in seconds, rates per second; 0.0 where the logs do not tell."""

    tasks: int
    done: int
    failed: int
    cancelled: int
    unfinished: int
    attempts: int
    """Launches, repeated ones counted."""
    ttx_agent_s: float
    """From the first task that an agent took to the last end that one logged: what the agent needed for the workload."""
    ttx_workload_s: float
    """From the first start of a task to the last end."""
    makespan_s: float
    """From the first submission to the last outcome at the client."""
    ideal_ttx_s: float
    """The least ``ttx_workload_s`` on these resources: the core-time of all tasks over all cores, or the longest task."""
    generations: int
    """How many tasks ran one after another in each place, rounded up: started ones over the peak of concurrency."""
    mean_launch_rate: float
    peak_launch_rate: int
    """Tasks handed to runners in the busiest second."""
    mean_start_rate: float
    """Starts over the time from the first to the last."""
    peak_start_rate: int
    mean_completion_rate: float
    """Ends over ``ttx_workload_s``."""
    peak_completion_rate: int
    peak_concurrency: int
    """Tasks running at a time."""
    mean_concurrency: float
    """Over ``ttx_workload_s``."""
    core_s: float
    """Core-time that the pilots held."""
    utilisation: float
    """Share of it in which tasks ran."""
    overhead: float
    """Share of it that Pilotage took: all but running and idle."""
    overhead_s: float
    """The same in seconds of all cores together."""
    idle: float
    wasted_core_s: float
    """Core-time of attempts that failed, were cancelled or repeated."""
    idle_tail_core_s: float
    """Core-time of nodes from their last use to the end of their pilot: what could have been given back sooner."""
    gpu_utilisation: float | None
    """None where the pilots have no GPUs."""
    functions_busy_s: float
    """Time in which at least one function was handed over and not yet back: what the workers needed, waits left out."""
    function_rate: float
    """Functions over ``functions_busy_s``."""


class Overhead(msgspec.Struct, frozen=True):
    """One kind of overhead: how long at least one task (or pilot) was in it, and the mean of those concerned, in seconds."""

    name: str
    meaning: str
    wall_s: float
    count: int
    mean_s: float


class StageTimes(msgspec.Struct, frozen=True):
    """How long tasks were in a stage, in seconds; ``count`` stays that are over."""

    stage: str
    meaning: str
    count: int
    mean_s: float
    least_s: float
    p05_s: float
    median_s: float
    p95_s: float
    most_s: float
    total_s: float


def figures(
    tasks: pl.DataFrame,
    attempts: pl.DataFrame,
    cores: CoreTime,
    used: float,
    gpus_used: float | None,
    idle_tail_core_s: float,
    now: float,
) -> Figures:
    """Return the figures of these tasks and attempts, with the books of their pilots and the share that they used of them."""
    states = dict(tasks["state"].value_counts().iter_rows())
    final = sum(states.get(state, 0) for state in (DONE, FAILED, CANCELED))
    begun = attempts.filter(pl.col("started").is_not_null())
    ended = begun.filter(pl.col("ended").is_not_null())
    workload_s = _length(begun["started"], ended["ended"])
    ran = pl.max_horizontal(pl.col("ended").fill_null(now) - pl.col("started"), 0.0)
    timed = begun.select("ending", "cores", ran=ran, end=pl.max_horizontal(pl.col("ended").fill_null(now), "started"))
    area = _sum(timed["ran"] * timed["cores"])
    longest = timed["ran"].max()
    bad = timed.filter(pl.col("ending").is_not_null() & (pl.col("ending") != DONE))
    peak = int(peak_concurrency(begun["started"], timed["end"]))
    functions = attempts.filter(pl.col("kind") == "function", pl.col("launched").is_not_null())
    in_hand = functions.select(begin="launched", end=pl.col("ended").fill_null(now)).filter(pl.col("end") > pl.col("begin"))
    busy_s = _sum(collapse(in_hand).select(pl.col("end") - pl.col("begin"))["end"])
    return Figures(
        tasks=tasks.height,
        done=states.get(DONE, 0),
        failed=states.get(FAILED, 0),
        cancelled=states.get(CANCELED, 0),
        unfinished=tasks.height - final,
        attempts=attempts.height,
        ttx_agent_s=_length(tasks["accepted"], tasks["collected"]),
        ttx_workload_s=workload_s,
        makespan_s=_length(tasks["submitted"], tasks["final"]),
        ideal_ttx_s=max(area / cores.capacity, float(longest)) if cores.capacity and isinstance(longest, float) else 0.0,
        generations=math.ceil(begun.height / peak) if peak else 0,
        mean_launch_rate=_mean_rate(attempts["launched"]),
        peak_launch_rate=most_in_a_second(attempts["launched"]),
        mean_start_rate=_mean_rate(begun["started"]),
        peak_start_rate=most_in_a_second(begun["started"]),
        mean_completion_rate=ended.height / workload_s if workload_s else 0.0,
        peak_completion_rate=most_in_a_second(ended["ended"]),
        peak_concurrency=peak,
        mean_concurrency=_sum(timed["ran"]) / workload_s if workload_s else 0.0,
        core_s=cores.held_ticks / 1e6,
        utilisation=used,
        overhead=cores.overhead,
        overhead_s=cores.overhead_s,
        idle=cores.share("idle"),
        wasted_core_s=_sum(bad["ran"] * bad["cores"]),
        idle_tail_core_s=idle_tail_core_s,
        gpu_utilisation=gpus_used,
        functions_busy_s=busy_s,
        function_rate=functions["ended"].drop_nulls().len() / busy_s if busy_s else 0.0,
    )


def stage_times(stage_spans: dict[str, pl.DataFrame]) -> list[StageTimes]:
    """Return the distribution of the lengths of each stage's spans, in the order of stages; empty ones are left out."""
    found = []
    meanings = {stage.name: stage.meaning for stage in STAGES}
    for name, over in stage_spans.items():
        if over.is_empty():
            continue
        length = over["end"] - over["begin"]
        low, middle, high = (float(length.quantile(share, "nearest") or 0.0) for share in (0.05, 0.5, 0.95))
        total = _sum(length)
        ordered = (float(length.min() or 0.0), low, middle, high, float(length.max() or 0.0))
        found.append(StageTimes(name, meanings[name], over.height, total / over.height, *ordered, total))
    return found


def overheads(pilots: pl.DataFrame, runners: pl.DataFrame, stage_spans: dict[str, pl.DataFrame]) -> list[Overhead]:
    """Return what is paid besides the tasks: of a run of null tasks, all that there is.

    ``init`` until pilots take tasks, ``runners`` until a spawner or worker has said hello, ``schedule`` until resources are
    found, ``place`` until a task begins on them, ``collect`` and ``deliver`` until its end is known.
    """
    ready = pl.coalesce("active", "ready")
    init = pilots.filter(ready.is_not_null(), pl.col("begin").is_not_null()).select(begin="begin", end=ready)
    hello = runners.filter(pl.col("added").is_not_null(), pl.col("identified").is_not_null())
    rows = [
        ("init", "from the launch of a pilot until it takes tasks", init),
        ("runners", "from the start of a spawner or worker until it says hello", hello.select(begin="added", end="identified")),
        ("schedule", "tasks wait for resources at the agent", stage_spans["waiting"]),
        ("place", "tasks have resources and have not begun", stage_spans["launching"]),
        ("collect", "tasks are over and the agent does not know yet", stage_spans["collecting"]),
        ("deliver", "outcomes are on their way to the client", stage_spans["delivery"]),
    ]
    return [_overhead(name, meaning, frame) for name, meaning, frame in rows]


def _overhead(name: str, meaning: str, frame: pl.DataFrame) -> Overhead:
    some = frame.select("begin", end=pl.max_horizontal("begin", "end"))
    merged = collapse(some)
    wall_s = _sum(merged["end"] - merged["begin"])
    mean_s = _sum(some["end"] - some["begin"]) / some.height if some.height else 0.0
    return Overhead(name, meaning, wall_s, some.height, mean_s)


def _sum(values: pl.Series) -> float:
    return float(values.sum())


def _length(first: pl.Series, last: pl.Series) -> float:
    begin, end = first.min(), last.max()
    return max(0.0, end - begin) if isinstance(begin, float) and isinstance(end, float) else 0.0


def _mean_rate(times: pl.Series) -> float:
    known = times.drop_nulls()
    length = _length(known, known)
    return len(known) / length if length else 0.0
