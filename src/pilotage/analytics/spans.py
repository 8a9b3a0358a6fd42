"""When tasks were in which stage, how many at a time, and how many came through a second.

A *stage* is the way from one station to the next (``STAGES``); a *span* is one stay of one task in a stage. Tasks that were
launched again have several spans of waiting, launching and running; of the other stages the last counts.

Concurrency is the mean over each interval, exactly: with F(t) = sum of max(0, t - begin) - max(0, t - end), the time that all
spans together have spent until t, the mean between two edges is the difference of F over the length. Both sums come from
sorted columns, so the cost is that of sorting, however long the spans and however many the intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from pilotage.errors import InvalidRequest, nearest
from pilotage.model import states
from pilotage.trace.run import HELD, STAGING_IN, STAGING_OUT, STATIONS


class Stage(NamedTuple):
    """The way to ``target`` from the first of ``sources`` that was passed; ``state`` is RADICAL-Pilot's name for it."""

    name: str
    sources: tuple[str, ...]
    target: str
    state: str
    meaning: str


STAGES = (
    Stage(HELD, ("submitted",), "freed", states.TMGR_SCHEDULING_PENDING, "waits for other tasks, or for services"),
    Stage("binding", ("freed", "submitted"), "bound", states.TMGR_SCHEDULING, "waits for a pilot"),
    Stage("sending", ("bound",), "accepted", states.AGENT_STAGING_INPUT_PENDING, "on its way to the pilot's agent"),
    Stage(STAGING_IN, ("accepted",), "staged_in", states.AGENT_STAGING_INPUT, "its input is brought"),
    Stage("waiting", ("staged_in", "accepted"), "launched", states.AGENT_SCHEDULING, "waits for resources"),
    Stage("launching", ("launched",), "started", states.AGENT_EXECUTING_PENDING, "has resources, or waits for its turn there"),
    Stage("running", ("started",), "ended", states.AGENT_EXECUTING, "runs"),
    Stage("collecting", ("ended",), "collected", states.AGENT_STAGING_OUTPUT_PENDING, "is over, and the agent takes note"),
    Stage(STAGING_OUT, ("collected",), "staged_out", states.AGENT_STAGING_OUTPUT, "its output is taken away"),
    Stage("delivery", ("staged_out", "collected"), "final", states.TMGR_STAGING_OUTPUT_PENDING, "on its way to the client"),
)
"""The stages of a task in order. Few tasks are held, or stage anything."""

ASIDE = (HELD, STAGING_IN, STAGING_OUT)
_OF_ATTEMPTS = ("launching", "running")
SPAN_COLUMNS = ("row", "task", "pilot", "runner", "node", "kind", "group", "cores", "gpus", "begin", "end")


def stage_named(name: str) -> Stage:
    """Return a stage by its name or RADICAL-Pilot's.

    Raises:
        InvalidRequest: there is none.
    """
    for stage in STAGES:
        if name in (stage.name, stage.state):
            return stage
    known = [stage.name for stage in STAGES]
    raise InvalidRequest(f"there is no stage {name!r}{nearest(name, known)}; known are {', '.join(known)}")


def station_named(name: str) -> str:
    """Return the name of a station as it is.

    Raises:
        InvalidRequest: there is none.
    """
    if name not in STATIONS:
        raise InvalidRequest(f"there is no station {name!r}{nearest(name, STATIONS)}; known are {', '.join(STATIONS)}")
    return name


def spans(stage: Stage, tasks: pl.DataFrame, attempts: pl.DataFrame, waits: pl.DataFrame, now: float | None) -> pl.DataFrame:
    """Return the spans of a stage as ``SPAN_COLUMNS``; those that are not over end at ``now``, or are left out (None)."""
    if stage.name in _OF_ATTEMPTS:
        source, target = stage.sources[0], stage.target
        found = attempts.filter(pl.col(source).is_not_null()).with_columns(begin=source, end=target)
        if stage.name == "launching":
            # An attempt that never started stayed in its launch until it was over.
            found = found.with_columns(end=pl.coalesce("started", "ended"))
    elif stage.name == "waiting":
        found = waits.with_columns(begin="since", end="until", runner=pl.lit(""), node=pl.lit(-1, pl.Int64))
        untold = tasks.filter(pl.col("launched").is_not_null(), pl.col("accepted").is_not_null())
        untold = untold.join(waits, on="row", how="anti")
        found = pl.concat([found.select(SPAN_COLUMNS), _of_tasks(stage, untold)])
    else:
        found = _of_tasks(stage, tasks)
    found = found.select(SPAN_COLUMNS)
    found = found.drop_nulls("end") if now is None else found.with_columns(pl.col("end").fill_null(now))
    return found.with_columns(end=pl.max_horizontal("end", "begin"))


def _of_tasks(stage: Stage, tasks: pl.DataFrame) -> pl.DataFrame:
    begin = pl.coalesce(*stage.sources)
    passed = pl.col(stage.target).is_not_null()
    # Who has gone past the stage without its end, or has ended, is not in it.
    beyond = [pl.col(station).is_not_null() for station in STATIONS[STATIONS.index(stage.target) + 1 :]]
    place = pl.col("aside") == stage.name if stage.name in ASIDE else pl.col("aside").is_null()
    stays = pl.col("ending").is_null() & place & ~pl.any_horizontal(pl.lit(False), *beyond)
    found = tasks.filter(begin.is_not_null() & (passed | stays))
    return found.with_columns(task="uid", runner=pl.lit(""), begin=begin, end=stage.target).select(SPAN_COLUMNS)


def edges(begin: float, end: float, interval_s: float) -> list[float]:
    """Return the edges of intervals of ``interval_s`` seconds that cover the time from ``begin`` to ``end``."""
    count = max(1, -int(-(end - begin) // interval_s))
    return [begin + interval_s * place for place in range(count + 1)]


def nice_interval(length_s: float, intervals: int = 200) -> float:
    """Return a round length, of which no more than ``intervals`` cover ``length_s``; at least 10 ms.

    >>> nice_interval(100.0), nice_interval(7200.0), nice_interval(0.0)
    (0.5, 50.0, 0.01)
    """
    least = max(length_s / intervals, 0.01)
    power = 10.0 ** math.floor(math.log10(least))
    return next(round(digit * power, 9) for digit in (1, 2, 5, 10) if digit * power >= least * (1 - 1e-9))


def mean_concurrency(begin: pl.Series, end: pl.Series, at: Sequence[float], weight: pl.Series | None = None) -> list[float]:
    """Return how many spans there were (or the sum of their weights) in each interval between the edges ``at``, as the mean."""
    origin = at[0]
    marks = pl.Series("at", at, pl.Float64) - origin
    weights = weight.cast(pl.Float64) if weight is not None else pl.repeat(1.0, len(begin), eager=True)
    spent = _spent(begin - origin, weights, marks) - _spent(end - origin, weights, marks)
    # A sum over many spans leaves some last digits where there is nothing.
    means: list[float] = (spent.diff() / marks.diff()).slice(1).clip(lower_bound=0.0).round(9).to_list()
    return means


def _spent(since: pl.Series, weights: pl.Series, marks: pl.Series) -> pl.Series:
    """Return for each of ``marks`` the sum of weight times the length from ``since`` to the mark, of all that began before."""
    frame = pl.DataFrame({"since": since, "weight": weights}).sort("since")
    zero = pl.Series([0.0])
    count = pl.concat([zero, frame["weight"].cum_sum()])
    total = pl.concat([zero, (frame["weight"] * frame["since"]).cum_sum()])
    place = frame["since"].search_sorted(marks)
    spent: pl.Series = count.gather(place) * marks - total.gather(place)
    return spent


def peak_concurrency(begin: pl.Series, end: pl.Series, weight: pl.Series | None = None) -> float:
    """Return how many spans there were at a time at the most (or the greatest sum of weights).

    Spans without length do not count; what ends makes room before what begins at the same time.
    """
    weights = weight if weight is not None else pl.repeat(1, len(begin), dtype=pl.Int64, eager=True)
    frame = pl.DataFrame({"begin": begin, "end": end, "change": weights}).filter(pl.col("end") > pl.col("begin"))
    if frame.is_empty():
        return 0
    came = frame.select(time="begin", change="change")
    left = frame.select(time="end", change=-pl.col("change"))
    most = pl.concat([came, left]).sort("time", "change")["change"].cum_sum().max()
    return most if isinstance(most, (int, float)) else 0


def per_second(times: pl.Series, at: Sequence[float]) -> list[float]:
    """Return how many of ``times`` lie in each interval between the edges ``at``, per second; the last edge is within."""
    ordered = times.sort()
    below = ordered.search_sorted(pl.Series(at, dtype=pl.Float64), side="left")
    counts = below.cast(pl.Int64).diff().slice(1).to_list()
    if counts:
        counts[-1] += len(ordered) - ordered.search_sorted(at[-1], side="left")
    return [count / (right - left) for count, left, right in zip(counts, at[:-1], at[1:], strict=True)]


def most_in_a_second(times: pl.Series) -> int:
    """Return how many of ``times`` lie within one second at the most."""
    ordered = times.drop_nulls().sort()
    if ordered.is_empty():
        return 0
    first = ordered.search_sorted(ordered - 1.0, side="right").cast(pl.Int64)
    most = (pl.int_range(1, len(ordered) + 1, eager=True) - first).max()
    return most if isinstance(most, int) else 0


def collapse(found: pl.DataFrame) -> pl.DataFrame:
    """Return the times in which there is at least one span, as ``begin`` and ``end``, in order."""
    ordered = found.select("begin", "end").sort("begin")
    before = pl.col("end").cum_max().shift(1)
    part = (pl.col("begin") > before).fill_null(True).cum_sum()
    return (
        ordered.group_by(part.alias("part"), maintain_order=True).agg(pl.col("begin").min(), pl.col("end").max()).drop("part")
    )
