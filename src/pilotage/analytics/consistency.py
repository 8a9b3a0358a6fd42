"""Does a trace contradict itself? What must hold of every run, and how often it does not."""

from __future__ import annotations

import polars as pl

from pilotage.analytics.spans import peak_concurrency
from pilotage.model.states import DONE, FINAL
from pilotage.trace.run import STATIONS

GRAIN_S = 0.005
"""Times of different processes on one clock that contradict each other by less are equal: records are dated once a turn."""


def check(tasks: pl.DataFrame, attempts: pl.DataFrame, lanes: pl.DataFrame, pilots: pl.DataFrame) -> pl.DataFrame:
    """Return one row a rule: ``rule``, ``violations`` and one ``example`` (empty if there is none)."""
    rows = [
        ("stations are passed in order", *_out_of_order(tasks)),
        ("a task that is DONE has started and ended", *_of(tasks, _done_without_times())),
        ("a task that is final has an ending, and no other has", *_of(tasks, _ending_against_state())),
        ("an attempt ends after it started", *_of(attempts, pl.col("ended") < pl.col("started") - GRAIN_S, "task")),
        ("an attempt starts after it was launched", *_of(attempts, pl.col("started") < pl.col("launched") - GRAIN_S, "task")),
        ("the attempts of a task do not overlap", *_overlapping(attempts)),
        ("no pilot gives away more than it has", *_overbooked(lanes, pilots)),
    ]
    return pl.DataFrame(rows, schema={"rule": pl.String, "violations": pl.Int64, "example": pl.String}, orient="row")


def _done_without_times() -> pl.Expr:
    return (pl.col("state") == DONE) & (pl.col("started").is_null() | pl.col("ended").is_null())


def _ending_against_state() -> pl.Expr:
    return pl.col("state").is_in(FINAL) != pl.col("ending").is_not_null()


def _of(frame: pl.DataFrame, wrong: pl.Expr, name: str = "uid") -> tuple[int, str]:
    found = frame.filter(wrong.fill_null(False))
    return found.height, str(found[name][0]) if found.height else ""


def _out_of_order(tasks: pl.DataFrame) -> tuple[int, str]:
    # Each station that was passed against the latest of those before it.
    wrong = pl.lit(False)
    for place, station in enumerate(STATIONS[1:], start=1):
        wrong = wrong | (pl.col(station) < pl.max_horizontal(*STATIONS[:place]) - GRAIN_S).fill_null(False)
    return _of(tasks, wrong)


def _overlapping(attempts: pl.DataFrame) -> tuple[int, str]:
    ordered = attempts.filter(pl.col("started").is_not_null()).sort("row", "started")
    before = pl.col("ended").shift(1).over("row")
    return _of(ordered.with_columns(before=before), pl.col("started") < pl.col("before") - GRAIN_S, "task")


def _overbooked(lanes: pl.DataFrame, pilots: pl.DataFrame) -> tuple[int, str]:
    found = []
    for uid, end, *sizes in pilots.select("pilot", "end", "cores", "gpus").iter_rows():
        held = lanes.filter(pl.col("pilot") == uid, pl.col("opened").is_not_null())
        closed = held["closed"].fill_null(end)
        for resource, size in zip(("cores", "gpus"), sizes, strict=True):
            most = peak_concurrency(held["opened"], closed, held[resource])
            if most > size + 1e-6:
                found.append(f"{uid}: {most:g} of {size} {resource}")
    return len(found), found[0] if found else ""
