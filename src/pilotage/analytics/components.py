"""Throughput and concurrency of each instance of each component: how many tasks came through it, and how many it had in hand.

A task is in the hands of a component while it is in that component's stage: of the client until it is bound, of an agent's
scheduler while it waits, of a spawner or worker from its launch to its end, of the agent again until its end is noted, and of
the way back until the client has it.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from pilotage.analytics.spans import most_in_a_second, peak_concurrency

COMPONENTS = (
    ("binder", ("binding",), None),
    ("scheduler", ("waiting",), "pilot"),
    ("runner", ("launching", "running"), "runner"),
    ("collector", ("collecting",), "pilot"),
    ("delivery", ("delivery",), "pilot"),
)
"""A component, the stages in which it has tasks in hand, and what its instances are told by (None: there is only one)."""


def components(spans_of: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
    """Return one row an instance.

    ``handled``: how many tasks (attempts, of a runner) it has had in hand; ``rate`` those over the time from its first to its
    last, per second; ``peak_rate`` those in its busiest second; ``concurrency`` and ``peak_concurrency`` what it had in hand
    meanwhile, as the mean and at the most; ``task_s`` how long tasks were in its hands altogether.
    """
    rows: list[tuple[str, str, int, float, int, float, int, float]] = []
    for name, stages, per in COMPONENTS:
        found = _in_hand([spans_of(stage) for stage in stages])
        instance = pl.lit("client") if per is None else pl.col("pilot")
        if per == "runner":
            instance = pl.col("pilot") + "/" + pl.col("runner")
            found = found.filter(pl.col("runner") != "")
        named = found.with_columns(instance=instance).sort("instance", maintain_order=True)
        for part in named.partition_by("instance", maintain_order=True):
            rows.append((name, str(part["instance"][0]), *_measures(part)))
    columns = {
        "component": pl.String,
        "instance": pl.String,
        "handled": pl.Int64,
        "rate": pl.Float64,
        "peak_rate": pl.Int64,
        "concurrency": pl.Float64,
        "peak_concurrency": pl.Int64,
        "task_s": pl.Float64,
    }
    return pl.DataFrame(rows, schema=columns, orient="row")


def _in_hand(stages: list[pl.DataFrame]) -> pl.DataFrame:
    """Return when tasks were in hand: in stages that follow one another, from the begin of the first on."""
    columns = ("row", "pilot", "runner", "begin", "end")
    first, *others = (stage.select(columns) for stage in stages)
    for other in others:
        # A stay in the later stage begins where one in the earlier ended.
        after = other.select("row", "runner", pl.col("begin").alias("end"), pl.col("end").alias("later"))
        joined = first.join(after.unique(["row", "runner", "end"]), on=["row", "runner", "end"], how="left")
        first = joined.with_columns(end=pl.coalesce("later", "end")).select(columns)
    return first


def _measures(part: pl.DataFrame) -> tuple[int, float, int, float, int, float]:
    begin, end = part["begin"], part["end"]
    first, last = begin.min(), end.max()
    length = last - first if isinstance(first, float) and isinstance(last, float) else 0.0
    task_s = float((end - begin).sum())
    return (
        part.height,
        part.height / length if length else 0.0,
        most_in_a_second(end),
        task_s / length if length else 0.0,
        int(peak_concurrency(begin, end)),
        task_s,
    )
